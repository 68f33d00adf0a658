"""Which rows go together: a batch sampler whose order is a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from contrastive.data.batching.apart import apart
from contrastive.data.batching.arranging import in_classes, in_groups
from contrastive.data.batching.sources import draw, interleaved, shares


class EpochBatches(Sampler[list[int]]):
    """Batches of row numbers in an order that is a function of the seed and the epoch alone; each row once an epoch.

    Lightning tells `loader.batch_sampler.sampler` the epoch; here that is the batch sampler itself. Under several
    processes it has to be left as it is (`Trainer(use_distributed_sampler=False)`).

    With `identities`, no two rows of a batch share one; see `apart`. An identity more frequent than there are batches
    makes further, short ones, which come last. Without a temperature, each epoch has the same number of batches.

    With `groups`, such as clusters of similar queries, batches come from one group each but for what groups have beyond
    whole batches, and in any order; with `classes`, each batch has `rows_per_class` rows of a class, but for classes
    with fewer. Rows that `identities` keep apart then join batches of other groups.

    An interrupted epoch goes on after `load_state_dict` as it would have without the interruption.

    With a `temperature` other than 1, an epoch has as many rows, but source i with n_i of them gets the share
    n_i ** (1 / temperature) of it: infinity draws all sources equally. A source is gone through in whole passes, each
    in another order, that carry on from one epoch to the next; no row comes a third time before all came twice, and
    none comes twice in a batch.

    Args:
        num_rows: How many rows there are.
        batch_size: Rows in a batch; the last batch has what is left.
        seed: Seed of the order, not negative.
        drop_last: Whether to leave out batches with fewer rows; in each epoch that concerns other rows.
        identities: For each row, what no other row of its batch may have, see `Collator.identities`.
        sources: For each row, the data set it comes from.
        temperature: Evens out sources of different size, above 0: 1 draws each row once, infinity each source equally.
        one_source: Whether all rows of a batch come from one source; then every source can have a last, shorter batch,
            and the batches come in any order.
        groups: For each row, the group that it should be in a batch with; see also `regroup`.
        classes: For each row, the class for `rows_per_class`.
        rows_per_class: Rows of a class in a batch, K of the P x K batches that losses with batch mining want.

    Attributes:
        epoch: Which epoch the next pass is of.
        start: At which of its batches that begins; 0 unless a state was loaded.

    Example:
        >>> batches = EpochBatches(5, batch_size=2, seed=0)
        >>> sorted(row for batch in batches for row in batch)
        [0, 1, 2, 3, 4]
        >>> batches = EpochBatches(5, batch_size=2, seed=0, sources="aaabb", one_source=True)
        >>> sorted(sorted(batch) for batch in batches if max(batch) > 2)
        [[3, 4]]

    Raises:
        ValueError: If there are no rows, none in a batch, identities, sources, groups or classes for another number of
            rows or none where they are needed, the temperature is not above 0 or asks for a row twice in a batch, a
            source has no full batch and short ones are dropped, there are groups and classes, or batches do not hold
            whole runs of `rows_per_class`.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        batch_size: int,
        seed: int,
        drop_last: bool = False,
        identities: Sequence[Collection[object]] | None = None,
        sources: Sequence[Hashable] | None = None,
        temperature: float = 1.0,
        one_source: bool = False,
        groups: Sequence[Hashable] | None = None,
        classes: Sequence[Hashable] | None = None,
        rows_per_class: int = 1,
    ) -> None:
        if num_rows < 1 or batch_size < 1:
            raise ValueError(
                f"expected at least one row and a batch_size of at least 1, got {num_rows} and {batch_size}"
            )
        told = {"identities": identities, "sources": sources, "groups": groups, "classes": classes}
        for name, given in told.items():
            if given is not None and len(given) != num_rows:
                raise ValueError(f"expected {name} for {num_rows} rows, got {len(given)}")
        _check_classes(groups, classes, rows_per_class, batch_size)
        if not temperature > 0:
            raise ValueError(f"expected a temperature of the sources above 0, got {temperature}")
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.identities = identities
        self.temperature = temperature
        self.one_source = one_source
        self.rows_per_class = rows_per_class
        self.epoch = 0
        self.start = 0
        self._yielded = 0
        self._groups = None if groups is None else _numbered(groups)
        self._classes = _numbered(classes) if classes is not None and rows_per_class > 1 else None
        self._sources = self._draws(sources) if one_source or temperature != 1 else []
        self._possible: list[list[list[int]]] = []
        if identities is not None and temperature == 1:
            # What can be done once can be done in every epoch: Lightning counts the batches of the first only.
            self._possible = [apart(rows.tolist(), batch_size, identities) for rows in self._pools()]

    @property
    def sampler(self) -> EpochBatches:
        """Itself, where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass; another epoch than that of a loaded state begins at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start, self._yielded = epoch, 0, 0

    def regroup(self, groups: Sequence[Hashable]) -> None:
        """Replace the groups from the next pass on, for instance by clusters that are newer.

        Raises:
            ValueError: If there are groups for another number of rows, or classes.
        """
        if len(groups) != self.num_rows or self._classes is not None:
            kind = "groups" if self._classes is None else "no groups beside classes"
            raise ValueError(f"expected {kind} for {self.num_rows} rows, got {len(groups)}")
        self._groups = _numbered(groups)

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Return what it takes to go on where this is: the epoch, batches given out, groups, and what they depend on.

        Args:
            batches: How many batches of the epoch were used, where a loader has asked for more in advance.
        """
        return {
            **self._settings(),
            "epoch": self.epoch,
            "batches": self._yielded if batches is None else batches,
            "groups": None if self._groups is None else torch.from_numpy(self._groups),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next pass where a state was taken, unless another epoch is set; later passes are whole.

        Raises:
            ValueError: If the state is that of other rows, batch size or seed, whose batches would be others.
        """
        settings = self._settings()
        found = {name: state[name] for name in settings}
        if found != settings:
            raise ValueError(f"expected the state of batches with {settings}, got one with {found}")
        self.epoch = state["epoch"]
        self.start = self._yielded = state["batches"]
        if state["groups"] is not None:
            self._groups = state["groups"].numpy()

    def __iter__(self) -> Iterator[list[int]]:
        # Not before the first batch is asked for: resuming, Lightning makes the iterator first and then sets the epoch.
        start, self.start = self.start, 0
        for place, batch in enumerate(self._batches()[start:], start + 1):
            self._yielded = place
            yield batch

    def __len__(self) -> int:
        if self.temperature != 1 or (self.drop_last and self.identities is not None):
            return len(self._batches())
        if self._possible:
            return sum(map(len, self._possible))
        sizes = [len(rows) for rows in self._pools()]
        return sum(size // self.batch_size if self.drop_last else -(-size // self.batch_size) for size in sizes)

    def _pools(self) -> list[NDArray[np.int64]]:
        """Return the rows that are cut into batches together: all, or those of each source."""
        return [rows for rows, _ in self._sources] if self.one_source else [np.arange(self.num_rows)]

    def _settings(self) -> dict[str, int]:
        return {"num_rows": self.num_rows, "batch_size": self.batch_size, "seed": self.seed}

    def _draws(self, sources: Sequence[Hashable] | None) -> list[tuple[NDArray[np.int64], int]]:
        """Return the rows of each source and how many of them an epoch takes; refuse what makes bad batches."""
        if sources is None:
            raise ValueError("expected the source of each row, for one_source or a temperature other than 1, got none")
        rows: dict[Hashable, list[int]] = {}
        for row, source in enumerate(sources):
            rows.setdefault(source, []).append(row)
        counts = shares([len(own) for own in rows.values()], self.temperature)
        most = -(-self.num_rows // self.batch_size)
        for (source, own), count in zip(rows.items(), counts, strict=True):
            if self.one_source and self.drop_last and count and len(own) < self.batch_size:
                raise ValueError(
                    f"expected sources to fill a batch of {self.batch_size}, since short ones are dropped; "
                    f"{source!r} has {len(own)} rows"
                )
            if not self.one_source and count > len(own) * most:
                raise ValueError(
                    f"a temperature of {self.temperature} asks for each row of source {source!r} "
                    f"{count / len(own):.1f} times in {most} batches; lower it, or the batch_size"
                )
        return [(np.array(own), count) for own, count in zip(rows.values(), counts, strict=True) if count]

    def _batches(self) -> list[list[int]]:
        # Not seed + epoch, which would give neighbouring seeds the same orders one epoch apart.
        random = np.random.default_rng((self.seed, self.epoch))
        drawn = [draw(rows, count, self.epoch, (self.seed, place)) for place, (rows, count) in enumerate(self._sources)]
        if not drawn:
            orders = [random.permutation(self.num_rows)]
        else:
            orders = drawn if self.one_source else [interleaved(drawn, random)]
        batches = [batch for place, order in enumerate(orders) for batch in self._cut(place, order, random)]
        if self.one_source or self._groups is not None or self._classes is not None:
            random.shuffle(batches)
        return [batch for batch in batches if len(batch) == self.batch_size] if self.drop_last else batches

    def _cut(self, place: int, order: NDArray[np.int64], random: np.random.Generator) -> list[list[int]]:
        """Cut the rows of a pool, all or those of a source, into batches."""
        size = min(self.batch_size, len(self._sources[place][0])) if self.one_source else self.batch_size
        if self._groups is not None:
            order = in_groups(order, self._groups, size, random)
        elif self._classes is not None:
            order = in_classes(order, self._classes, self.rows_per_class, random)
        rows: list[int] = order.tolist()
        if self.identities is None and self.temperature == 1:
            return [rows[start : start + size] for start in range(0, len(rows), size)]
        batches = apart(rows, size, self.identities)
        if not self._possible:
            return batches
        possible = self._possible[place]
        if len(batches) > len(possible):
            return [list(batch) for batch in possible]
        while len(batches) < len(possible):
            largest = batches.pop(0)
            batches += [largest[::2], largest[1::2]]
        return batches


def _numbered(labels: Sequence[Hashable]) -> NDArray[np.int64]:
    """Number labels from 0 in the order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels])


def _check_classes(
    groups: Sequence[Hashable] | None, classes: Sequence[Hashable] | None, rows_per_class: int, batch_size: int
) -> None:
    if groups is not None and classes is not None:
        raise ValueError("expected groups or classes to make batches of, got both")
    if rows_per_class < 1 or (classes is None and rows_per_class > 1):
        raise ValueError(f"expected classes for rows_per_class above 1, and at least 1 of it, got {rows_per_class}")
    if batch_size % rows_per_class:
        raise ValueError(f"expected a batch_size that is a multiple of {rows_per_class} rows a class, got {batch_size}")
