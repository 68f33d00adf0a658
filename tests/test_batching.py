from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given
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


SIZES = {"large": 60, "middle": 20, "small": 8}
SOURCES = [name for name, size in SIZES.items() for _ in range(size)]


def epochs(batches: EpochBatches, count: int = 1, first: int = 0) -> list[list[list[int]]]:
    found = []
    for epoch in range(first, first + count):
        batches.set_epoch(epoch)
        found.append(list(batches))
        assert len(batches) == len(found[-1])
    return found


def rows_of(epoch: list[list[int]]) -> list[int]:
    return [row for batch in epoch for row in batch]


@pytest.mark.parametrize(
    ("temperature", "shares"),
    [
        (1.0, {"large": 60, "middle": 20, "small": 8}),
        (2.0, {"large": 45, "middle": 26, "small": 17}),  # by square roots: 45.30, 26.16, 16.54
        (1e9, {"large": 30, "middle": 29, "small": 29}),
        (float("inf"), {"large": 30, "middle": 29, "small": 29}),
        (0.5, {"large": 78, "middle": 9, "small": 1}),  # squares
        (1e-3, {"large": 88}),
    ],
)
@pytest.mark.parametrize("one_source", [False, True])
def test_temperature_sets_the_share_of_each_source(
    temperature: float, shares: dict[str, int], one_source: bool
) -> None:
    batches = EpochBatches(88, batch_size=8, seed=0, sources=SOURCES, temperature=temperature, one_source=one_source)
    for epoch in epochs(batches, 3):
        assert Counter(SOURCES[row] for row in rows_of(epoch)) == shares


def passes(name: str, seed: int) -> list[list[int]]:
    """The rows of a source over nine epochs, cut after as many as it has; a row a batch, so that none moves."""
    batches = EpochBatches(88, batch_size=1, seed=seed, sources=SOURCES, temperature=2)
    drawn = [row for epoch in epochs(batches, 9) for row in rows_of(epoch) if SOURCES[row] == name]
    return [drawn[start : start + SIZES[name]] for start in range(0, len(drawn) - SIZES[name] + 1, SIZES[name])]


@pytest.mark.parametrize("name", SIZES)
def test_a_source_is_gone_through_in_whole_passes_from_epoch_to_epoch(name: str) -> None:
    found = passes(name, seed=0)
    assert len(found) == {"large": 6, "middle": 11, "small": 19}[name]
    assert all(sorted(order) == [row for row in range(88) if SOURCES[row] == name] for order in found)
    others = passes(name, seed=1)
    assert len(set(map(tuple, found + others))) == len(found) + len(others)


def test_sources_of_one_size_have_orders_of_their_own() -> None:
    batches = EpochBatches(40, batch_size=1, seed=0, sources="a" * 20 + "b" * 20, temperature=2)
    (epoch,) = epochs(batches)
    assert [row for row in rows_of(epoch) if row < 20] != [row - 20 for row in rows_of(epoch) if row >= 20]


@pytest.mark.parametrize("one_source", [False, True])
def test_no_batch_holds_a_row_twice_where_one_pass_meets_the_next(one_source: bool) -> None:
    batches = EpochBatches(
        49, batch_size=8, seed=0, sources="a" * 40 + "b" * 9, temperature=math.inf, one_source=one_source
    )
    for epoch in epochs(batches, 20):
        assert all(len(set(batch)) == len(batch) for batch in epoch)
        assert len(rows_of(epoch)) == 49


def test_a_batch_may_hold_all_rows_of_a_source() -> None:
    batches = EpochBatches(4, batch_size=4, seed=0, sources="aabb", temperature=2)
    assert [sorted(batch) for batch in batches] == [[0, 1, 2, 3]]


def test_a_source_too_small_to_fill_a_batch_may_stand_in_mixed_ones_or_not_be_drawn() -> None:
    mixed = EpochBatches(88, batch_size=9, seed=0, sources=SOURCES, temperature=2, drop_last=True)
    assert {SOURCES[row] for row in rows_of(list(mixed))} == set(SIZES)
    only_large = EpochBatches(
        88, batch_size=9, seed=0, sources=SOURCES, temperature=1e-3, one_source=True, drop_last=True
    )
    assert {SOURCES[row] for row in rows_of(list(only_large))} == {"large"}


def test_sources_are_mixed_within_batches_and_over_the_epoch() -> None:
    batches = EpochBatches(80, batch_size=8, seed=0, sources="a" * 40 + "b" * 40, temperature=2)
    (epoch,) = epochs(batches)
    shares = [sum(row < 40 for row in batch) for batch in epoch]
    assert len(set(shares)) > 1
    assert sum(0 < share < 8 for share in shares) >= 8


def test_a_batch_of_one_source() -> None:
    batches = EpochBatches(88, batch_size=8, seed=0, sources=SOURCES, one_source=True)
    first, second = epochs(batches, 2)
    for epoch in (first, second):
        assert sorted(rows_of(epoch)) == list(range(88))
        assert all(len({SOURCES[row] for row in batch}) == 1 for batch in epoch)
        assert sorted(map(len, epoch)) == [4, 4, *[8] * 10]
    order = [SOURCES[batch[0]] for batch in first]
    assert order != sorted(order, key=list(SIZES).index)
    assert order != [SOURCES[batch[0]] for batch in second]


def test_short_batches_of_every_source_can_be_left_out() -> None:
    batches = EpochBatches(88, batch_size=8, seed=0, sources=SOURCES, one_source=True, drop_last=True)
    (epoch,) = epochs(batches)
    assert [len(batch) for batch in epoch] == [8] * 10


def test_a_source_smaller_than_a_batch_comes_whole() -> None:
    batches = EpochBatches(23, batch_size=10, seed=0, sources="a" * 20 + "b" * 3, one_source=True, temperature=math.inf)
    (epoch,) = epochs(batches)
    small = [sorted(batch) for batch in epoch if max(batch) >= 20]
    assert sorted(map(len, small)) == [2, 3, 3, 3]


@given(
    st.lists(st.sampled_from("aaaabbc"), min_size=1, max_size=60),
    st.integers(1, 9),
    st.sampled_from([0.5, 1.0, 2.0, math.inf]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 30),
)
def test_what_every_mixture_keeps(
    sources: list[str],
    batch_size: int,
    temperature: float,
    one_source: bool,
    drop_last: bool,
    distinct: bool,
    epoch: int,
) -> None:
    def made() -> EpochBatches:
        return EpochBatches(
            len(sources),
            batch_size=batch_size,
            seed=1,
            drop_last=drop_last,
            identities=[(row // 2,) for row in range(len(sources))] if distinct else None,
            sources=sources,
            temperature=temperature,
            one_source=one_source,
        )

    try:
        batches = made()
    except ValueError as error:
        assume("expected sources to fill a batch" not in str(error) and "times in" not in str(error))
        raise
    (found,) = epochs(batches, first=epoch)
    assert all(1 <= len(set(batch)) == len(batch) <= batch_size for batch in found)
    if drop_last:
        assert all(len(batch) == batch_size for batch in found)
    else:
        assert len(rows_of(found)) == len(sources)
    if distinct:
        assert all(len({row // 2 for row in batch}) == len(batch) for batch in found)
    if one_source:
        assert all(len({sources[row] for row in batch}) == 1 for batch in found)
    if temperature == 1:
        assert len(set(rows_of(found))) == len(rows_of(found))
    again = made()
    epochs(again, 2)
    assert epochs(again, first=epoch) == [found]


def test_seeds_change_the_order_of_a_mixture() -> None:
    orders = [
        epochs(EpochBatches(88, batch_size=8, seed=seed, sources=SOURCES, temperature=2, one_source=True))
        for seed in range(3)
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_sources_alone_change_nothing() -> None:
    plain, told = (EpochBatches(88, batch_size=8, seed=0, sources=sources) for sources in (None, SOURCES))
    assert epochs(plain, 2) == epochs(told, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature of the sources above 0, got 0"),
        ({"temperature": -1.0}, r"above 0, got -1\.0"),
        ({"temperature": math.nan}, "above 0, got nan"),
        ({"sources": "ab"}, "expected sources for 88 rows, got 2"),
        ({"sources": None, "temperature": 2}, "expected the source of each row, .* got none"),
        ({"sources": None, "one_source": True}, "expected the source of each row, .* got none"),
        (
            {"one_source": True, "drop_last": True, "batch_size": 9},
            "to fill a batch of 9, since short ones are dropped; 'small' has 8 rows",
        ),
        (
            {"temperature": math.inf, "batch_size": 30},
            r"inf asks for each row of source 'small' 3\.6 times in 3 batches; lower it",
        ),
    ],
)
def test_mixtures_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpochBatches(88, **{"batch_size": 8, "seed": 0, "sources": SOURCES, **options})
