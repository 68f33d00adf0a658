from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from contrastive.batching import EpochBatches
from contrastive.data import Collator, Record


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 9), st.integers(0, 9))
def test_each_row_comes_once_an_epoch(num_rows: int, batch_size: int, seed: int, epoch: int) -> None:
    batches = EpochBatches(num_rows, batch_size=batch_size, seed=seed)
    batches.set_epoch(epoch)
    rows = list(batches)
    assert sorted(row for batch in rows for row in batch) == list(range(num_rows))
    assert all(len(batch) == batch_size for batch in rows[:-1])
    assert len(rows) == len(batches)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int, passes: int = 1) -> list[list[int]]:
        batches = EpochBatches(40, batch_size=8, seed=seed)
        batches.set_epoch(epoch)
        for _ in range(passes - 1):
            list(batches)
        return list(batches)

    assert order(0, 1) == order(0, 1, passes=3)
    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_drop_last_leaves_short_batches_out() -> None:
    batches = EpochBatches(10, batch_size=4, seed=0, drop_last=True)
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(batches) == 2


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 6), st.integers(0, 5), st.booleans())
def test_no_batch_holds_an_identity_twice(kinds: list[int], batch_size: int, epoch: int, drop_last: bool) -> None:
    batches = EpochBatches(
        len(kinds), batch_size=batch_size, seed=0, drop_last=drop_last, identities=[(kind,) for kind in kinds]
    )
    batches.set_epoch(epoch)
    rows = list(batches)
    assert all(len({kinds[row] for row in batch}) == len(batch) <= batch_size for batch in rows)
    assert len(rows) == len(batches)
    if drop_last:
        assert all(len(batch) == batch_size for batch in rows)
    else:
        assert sorted(row for batch in rows for row in batch) == list(range(len(kinds)))


def test_identities_of_records_keep_same_questions_and_same_answers_apart() -> None:
    records = [Record("a", "x"), Record("A", "y"), Record("b", "X"), Record("c", "z")]
    batches = EpochBatches(4, batch_size=4, seed=0, identities=Collator(records).identities(records))
    for batch in batches:
        assert not {0, 1} <= set(batch)
        assert not {0, 2} <= set(batch)
    assert len(batches) == 2


def test_lightning_sets_the_epoch() -> None:
    data = pytest.importorskip("lightning.fabric.utilities.data")
    batches = EpochBatches(20, batch_size=4, seed=0)
    loader: DataLoader[int] = DataLoader(range(20), batch_sampler=batches)  # type: ignore[arg-type]
    data._set_sampler_epoch(loader, 3)
    assert batches.epoch == 3


@pytest.mark.parametrize(("num_rows", "batch_size"), [(0, 4), (4, 0)])
def test_empty_batches_are_refused(num_rows: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"got {num_rows} and {batch_size}"):
        EpochBatches(num_rows, batch_size=batch_size, seed=0)


def test_identities_are_needed_for_every_row() -> None:
    with pytest.raises(ValueError, match="expected identities for 3 rows, got 1"):
        EpochBatches(3, batch_size=2, seed=0, identities=[("a",)])
