"""Which rows go together: batch samplers whose order is a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class EpochBatches(Sampler[list[int]]):
    """Batches of row numbers in an order that is a function of the seed and the epoch alone; each row once an epoch.

    Lightning tells `loader.batch_sampler.sampler` the epoch; here that is the batch sampler itself. Under several
    processes it has to be left as it is (`Trainer(use_distributed_sampler=False)`).

    With `identities`, no two rows of a batch share one: a row goes to the first batch with room that has nothing of its
    kind. An identity more frequent than there are batches makes further, short ones, which come last.

    Args:
        num_rows: How many rows there are.
        batch_size: Rows in a batch; the last batch has what is left.
        seed: Seed of the order, not negative.
        drop_last: Whether to leave out batches with fewer rows; in each epoch that concerns other rows.
        identities: For each row, what no other row of its batch may have, see `Collator.identities`.

    Example:
        >>> batches = EpochBatches(5, batch_size=2, seed=0)
        >>> sorted(row for batch in batches for row in batch)
        [0, 1, 2, 3, 4]

    Raises:
        ValueError: If there are no rows, none in a batch, or identities for another number of rows.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        batch_size: int,
        seed: int,
        drop_last: bool = False,
        identities: Sequence[Collection[object]] | None = None,
    ) -> None:
        if num_rows < 1 or batch_size < 1:
            raise ValueError(
                f"expected at least one row and a batch_size of at least 1, got {num_rows} and {batch_size}"
            )
        if identities is not None and len(identities) != num_rows:
            raise ValueError(f"expected identities for {num_rows} rows, got {len(identities)}")
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.identities = identities
        self.epoch = 0

    @property
    def sampler(self) -> EpochBatches:
        """Itself, where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches())

    def __len__(self) -> int:
        if self.identities is not None:
            return len(self._batches())
        return self.num_rows // self.batch_size if self.drop_last else -(-self.num_rows // self.batch_size)

    def _batches(self) -> list[list[int]]:
        # Not seed + epoch, which would give neighbouring seeds the same orders one epoch apart.
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_rows).tolist()
        if self.identities is None:
            batches = [order[start : start + self.batch_size] for start in range(0, self.num_rows, self.batch_size)]
        else:
            batches = _without_duplicates(order, self.batch_size, self.identities)
        return [batch for batch in batches if len(batch) == self.batch_size] if self.drop_last else batches


def _without_duplicates(
    order: Sequence[int], batch_size: int, identities: Sequence[Collection[object]]
) -> list[list[int]]:
    """Put each row into the first batch that has room for it and none of its identities."""
    full: list[list[int]] = []
    open_batches: list[tuple[list[int], set[object]]] = []
    for row in order:
        place = next((i for i, (_, taken) in enumerate(open_batches) if taken.isdisjoint(identities[row])), None)
        if place is None:
            place = len(open_batches)
            open_batches.append(([], set()))
        rows, taken = open_batches[place]
        rows.append(row)
        taken.update(identities[row])
        if len(rows) == batch_size:
            full.append(rows)
            del open_batches[place]
    return full + [rows for rows, _ in open_batches]
