"""Which rows go together: a batch sampler whose order is a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


class EpochBatches(Sampler[list[int]]):
    """Batches of row numbers in an order that is a function of the seed and the epoch alone; each row once an epoch.

    Lightning tells `loader.batch_sampler.sampler` the epoch; here that is the batch sampler itself. Under several
    processes it has to be left as it is (`Trainer(use_distributed_sampler=False)`).

    With `identities`, no two rows of a batch share one: a row goes to the first batch with room that has nothing of its
    kind. An identity more frequent than there are batches makes further, short ones, which come last.

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

    Example:
        >>> batches = EpochBatches(5, batch_size=2, seed=0)
        >>> sorted(row for batch in batches for row in batch)
        [0, 1, 2, 3, 4]
        >>> batches = EpochBatches(5, batch_size=2, seed=0, sources="aaabb", one_source=True)
        >>> sorted(sorted(batch) for batch in batches if max(batch) > 2)
        [[3, 4]]

    Raises:
        ValueError: If there are no rows, none in a batch, identities or sources for another number of rows or none
            where they are needed, the temperature is not above 0 or asks for a row twice in a batch, or a source has no
            full batch and short ones are dropped.
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
    ) -> None:
        if num_rows < 1 or batch_size < 1:
            raise ValueError(
                f"expected at least one row and a batch_size of at least 1, got {num_rows} and {batch_size}"
            )
        for name, given in (("identities", identities), ("sources", sources)):
            if given is not None and len(given) != num_rows:
                raise ValueError(f"expected {name} for {num_rows} rows, got {len(given)}")
        if not temperature > 0:
            raise ValueError(f"expected a temperature of the sources above 0, got {temperature}")
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.identities = identities
        self.temperature = temperature
        self.one_source = one_source
        self.epoch = 0
        self._sources = self._draws(sources) if one_source or temperature != 1 else []

    @property
    def sampler(self) -> EpochBatches:
        """Itself, where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        # Not before the first batch is asked for: resuming, Lightning makes the iterator first and then sets the epoch.
        yield from self._batches()

    def __len__(self) -> int:
        if self._sources or self.identities is not None:
            return len(self._batches())
        return self.num_rows // self.batch_size if self.drop_last else -(-self.num_rows // self.batch_size)

    def _draws(self, sources: Sequence[Hashable] | None) -> list[tuple[NDArray[np.int64], int]]:
        """Return the rows of each source and how many of them an epoch takes; refuse what makes bad batches."""
        if sources is None:
            raise ValueError("expected the source of each row, for one_source or a temperature other than 1, got none")
        rows: dict[Hashable, list[int]] = {}
        for row, source in enumerate(sources):
            rows.setdefault(source, []).append(row)
        counts = _shares([len(own) for own in rows.values()], self.temperature)
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
        if not self._sources:
            batches = self._cut(random.permutation(self.num_rows), self.batch_size)
        elif self.one_source:
            batches = []
            for place, (rows, _) in enumerate(self._sources):
                batches += self._cut(self._drawn(place), min(self.batch_size, len(rows)))
            random.shuffle(batches)
        else:
            drawn = [self._drawn(place) for place in range(len(self._sources))]
            batches = self._cut(_interleaved(drawn, random), self.batch_size)
        return [batch for batch in batches if len(batch) == self.batch_size] if self.drop_last else batches

    def _drawn(self, place: int) -> NDArray[np.int64]:
        """Return the rows of a source that this epoch takes: its piece of an endless row of passes."""
        rows, count = self._sources[place]
        first, offset = divmod(self.epoch * count, len(rows))
        last = -(-(self.epoch + 1) * count // len(rows))
        # The place is not 0: numpy takes (seed, number, 0) for (seed, number), which seeds the epochs.
        passes = [
            np.random.default_rng((self.seed, number, 1 + place)).permutation(rows) for number in range(first, last)
        ]
        return np.concatenate(passes)[offset : offset + count]

    def _cut(self, order: NDArray[np.int64], size: int) -> list[list[int]]:
        rows: list[int] = order.tolist()
        if self.identities is None and self.temperature == 1:
            return [rows[start : start + size] for start in range(0, len(rows), size)]
        return _without_duplicates(rows, size, self.identities)


def _shares(sizes: Sequence[int], temperature: float) -> list[int]:
    """Deal as many draws as there are rows to sources by size ** (1 / temperature), the largest remainders up."""
    weights = (np.array(sizes) / max(sizes)) ** (1 / temperature)
    exact = weights / weights.sum() * sum(sizes)
    counts = np.floor(exact).astype(int)
    largest = np.argsort(counts - exact, kind="stable")
    counts[largest[: sum(sizes) - counts.sum()]] += 1
    return counts.tolist()  # type: ignore[no-any-return]


def _interleaved(orders: Sequence[NDArray[np.int64]], random: np.random.Generator) -> NDArray[np.int64]:
    """Shuffle several orders into one in which each keeps its own."""
    owners = random.permutation(np.repeat(np.arange(len(orders)), [len(order) for order in orders]))
    rows = np.empty(len(owners), dtype=np.int64)
    rows[np.argsort(owners, kind="stable")] = np.concatenate(orders)
    return rows


def _without_duplicates(
    order: Sequence[int], batch_size: int, identities: Sequence[Collection[object]] | None
) -> list[list[int]]:
    """Put each row into the first batch that has room for it and neither the row itself nor any of its identities."""
    full: list[list[int]] = []
    open_batches: list[tuple[list[int], set[object]]] = []
    for row in order:
        own: set[object] = {("row", row), *(identities[row] if identities is not None else ())}
        place = next((i for i, (_, taken) in enumerate(open_batches) if taken.isdisjoint(own)), None)
        if place is None:
            place = len(open_batches)
            open_batches.append(([], set()))
        rows, taken = open_batches[place]
        rows.append(row)
        taken.update(own)
        if len(rows) == batch_size:
            full.append(rows)
            del open_batches[place]
    return full + [rows for rows, _ in open_batches]
