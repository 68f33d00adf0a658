"""Orders of rows in which those that belong together follow one another, so that cutting them makes batches of a kind.

Shape letters: n rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def in_groups(order: Numbers, groups: Numbers, batch_size: int, random: np.random.Generator) -> Numbers:
    """Bring the rows of each group together, so that runs of `batch_size` come from one group.

    What a group has beyond whole runs comes at the end, there too group by group: each row comes once, and there are
    no more batches than without groups. In a group the rows keep their order; groups come in a random one.

    Args:
        order: Row numbers, [n].
        groups: The group of each row, by row number, from 0.
        batch_size: Length of a run.
        random: Where the order of the groups comes from.

    Example:
        >>> order = in_groups(np.arange(7), np.array([0, 1, 0, 1, 0, 1, 1]), 2, np.random.default_rng(0))
        >>> order
        array([0, 2, 1, 3, 5, 6, 4])
    """
    by_group, _, place, size = _sorted_by(order, random.permutation(groups.max(initial=0) + 1)[groups])
    remainder = place >= size // batch_size * batch_size
    return np.concatenate([by_group[~remainder], by_group[remainder]])


def in_classes(order: Numbers, classes: Numbers, rows_per_class: int, random: np.random.Generator) -> Numbers:
    """Put `rows_per_class` rows of a class next to one another, for P x K batches.

    Runs of one class are spread evenly over the order, so that a batch rarely has two. Classes, or what is left of
    them, with fewer rows than a run come at the end, each together.

    Args:
        order: Row numbers, [n].
        classes: The class of each row, by row number, from 0.
        rows_per_class: Rows in a run, K of P x K.
        random: Where the order of the runs comes from.

    Example:
        >>> order = in_classes(np.arange(7), np.array([0, 1, 0, 1, 0, 1, 1]), 2, np.random.default_rng(0))
        >>> order
        array([1, 3, 5, 6, 0, 2, 4])
    """
    by_class, label, place, size = _sorted_by(order, classes)
    run = place // rows_per_class
    whole = size // rows_per_class
    phase = random.random(classes.max(initial=0) + 1)[label]
    remainder = run >= whole
    when = np.where(remainder, phase, (run + phase) / np.maximum(whole, 1))
    found: Numbers = by_class[np.lexsort((place, label, when, remainder))]
    return found


def _sorted_by(order: Numbers, labels: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Sort rows by label; return them with the label of each, its place among those of the label, and their number."""
    rows = order[np.argsort(labels[order], kind="stable")]
    label = labels[rows]
    starts = np.searchsorted(label, label)
    return rows, label, np.arange(len(rows)) - starts, np.bincount(label)[label]
