"""How often each of several data sets is drawn, and which of its rows an epoch takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def shares(sizes: Sequence[int], temperature: float) -> list[int]:
    """Deal as many draws as there are rows to sources by size ** (1 / temperature), the largest remainders up."""
    weights = (np.array(sizes) / max(sizes)) ** (1 / temperature)
    exact = weights / weights.sum() * sum(sizes)
    counts = np.floor(exact).astype(int)
    largest = np.argsort(counts - exact, kind="stable")
    counts[largest[: sum(sizes) - counts.sum()]] += 1
    return counts.tolist()  # type: ignore[no-any-return]


def draw(rows: NDArray[np.int64], count: int, epoch: int, seed: tuple[int, int]) -> NDArray[np.int64]:
    """Return the rows of a source that an epoch takes: its piece, of `count` rows, of an endless row of passes.

    Args:
        rows: All rows of the source.
        count: Rows an epoch.
        epoch: Which epoch.
        seed: The seed of the order, and the place of the source among the others.
    """
    first, offset = divmod(epoch * count, len(rows))
    last = -(-(epoch + 1) * count // len(rows))
    seed_of_all, place = seed
    # The place is not 0: numpy takes (seed, number, 0) for (seed, number), which seeds the epochs.
    passes = [
        np.random.default_rng((seed_of_all, number, 1 + place)).permutation(rows) for number in range(first, last)
    ]
    return np.concatenate(passes)[offset : offset + count]


def interleaved(orders: Sequence[NDArray[np.int64]], random: np.random.Generator) -> NDArray[np.int64]:
    """Shuffle several orders into one in which each keeps its own."""
    owners = random.permutation(np.repeat(np.arange(len(orders)), [len(order) for order in orders]))
    rows = np.empty(len(owners), dtype=np.int64)
    rows[np.argsort(owners, kind="stable")] = np.concatenate(orders)
    return rows
