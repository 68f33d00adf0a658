from __future__ import annotations

import math
import pickle
from collections import Counter
from itertools import chain
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from contrastive.data import Collator, Record
from contrastive.data.batching import EpochBatches
from contrastive.training.distributed import RankShare


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


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 6), st.integers(0, 3))
def test_every_epoch_has_the_same_number_of_batches(kinds: list[int], batch_size: int, seed: int) -> None:
    """Lightning counts the batches of the first epoch only, and leaves out what another has more."""
    identities = [(kind, f"other {row % 7}") for row, kind in enumerate(kinds)]
    batches = EpochBatches(len(kinds), batch_size=batch_size, seed=seed, identities=identities)
    for epoch in epochs(batches, 4):
        assert sorted(rows_of(epoch)) == list(range(len(kinds)))
        assert all(len(set(sum((identities[row] for row in batch), ()))) == 2 * len(batch) for batch in epoch)
    assert len({len(epoch) for epoch in epochs(batches, 4)}) == 1


@pytest.mark.parametrize(("found", "expected"), [(4, 3), (2, 3)])
def test_an_epoch_that_cannot_be_packed_as_tightly_or_loosely_as_another(
    found: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packed(count: int) -> list[list[int]]:
        return [list(range(12))[place::count] for place in range(count)]

    monkeypatch.setattr("contrastive.data.batching.epoch_batches.apart", lambda *_: packed(expected))
    batches = EpochBatches(12, batch_size=6, seed=0, identities=[(row,) for row in range(12)])
    monkeypatch.setattr("contrastive.data.batching.epoch_batches.apart", lambda *_: packed(found))
    assert sorted(row for batch in batches for row in batch) == list(range(12))
    assert len(list(batches)) == len(batches) == expected


GROUPS = [row % 7 for row in range(60)]


@given(st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_batches_come_from_one_group_but_for_what_is_left(batch_size: int, seed: int, epoch: int) -> None:
    batches = EpochBatches(60, batch_size=batch_size, seed=seed, groups=GROUPS)
    (found,) = epochs(batches, first=epoch)
    assert sorted(rows_of(found)) == list(range(60))
    whole = sum(count // batch_size for count in Counter(GROUPS).values())
    assert sum(len({GROUPS[row] for row in batch}) == 1 and len(batch) == batch_size for batch in found) >= whole
    assert len(found) == -(-60 // batch_size)


def test_batches_of_groups_come_in_any_order_that_the_seed_decides() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = EpochBatches(70, batch_size=5, seed=seed, groups=[row // 10 for row in range(70)])
        return [batch[0] // 10 for batch in epochs(batches, first=epoch)[0]]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(2)}) == 6
    assert sum(a != b for a, b in zip(order(0, 0), order(0, 0)[1:], strict=False)) > 7  # not group after group


def test_new_groups_count_from_the_next_pass_on() -> None:
    batches = EpochBatches(60, batch_size=5, seed=0, groups=GROUPS)
    told = EpochBatches(60, batch_size=5, seed=0, groups=[row // 10 for row in range(60)])
    batches.regroup([row // 10 for row in range(60)])
    assert epochs(batches, 2) == epochs(told, 2)


def test_groups_within_sources_and_with_identities() -> None:
    batches = EpochBatches(
        60,
        batch_size=5,
        seed=0,
        groups=GROUPS,
        sources="a" * 30 + "b" * 30,
        one_source=True,
        identities=[(row // 2,) for row in range(60)],
    )
    for epoch in epochs(batches, 3):
        assert sorted(rows_of(epoch)) == list(range(60))
        assert all(len({row < 30 for row in batch}) == 1 for batch in epoch)
        assert all(len({row // 2 for row in batch}) == len(batch) for batch in epoch)


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=60), st.sampled_from([(4, 2), (6, 3), (8, 4)]), st.integers(0, 3)
)
def test_batches_have_so_many_rows_of_a_class(classes: list[int], sizes: tuple[int, int], epoch: int) -> None:
    batch_size, rows = sizes
    batches = EpochBatches(len(classes), batch_size=batch_size, seed=0, classes=classes, rows_per_class=rows)
    (found,) = epochs(batches, first=epoch)
    assert sorted(rows_of(found)) == list(range(len(classes)))
    whole = sum(count // rows for count in Counter(classes).values()) * rows // batch_size
    pure = [all(count % rows == 0 for count in Counter(classes[row] for row in batch).values()) for batch in found]
    assert sum(pure) >= whole


def positions() -> Any:
    return st.tuples(st.integers(0, 3), st.integers(0, 8))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"identities": [(row // 2,) for row in range(60)]},
        {"sources": "a" * 40 + "b" * 20, "one_source": True, "temperature": 2.0},
        {"groups": GROUPS},
        {"classes": GROUPS, "rows_per_class": 2},
    ],
    ids=["plain", "identities", "sources", "groups", "classes"],
)
@given(at=positions())
def test_an_interrupted_epoch_goes_on_where_it_was(options: dict[str, Any], at: tuple[int, int]) -> None:
    epoch, taken = at
    batches = EpochBatches(60, batch_size=6, seed=0, **options)
    expected = epochs(batches, 5)
    batches.set_epoch(epoch)
    iterator = iter(batches)
    for _ in range(taken):
        next(iterator)
    state = pickle.loads(pickle.dumps(batches.state_dict()))

    resumed = EpochBatches(60, batch_size=6, seed=0, **options)
    resumed.load_state_dict(state)
    resumed.set_epoch(epoch)  # as Lightning does
    assert resumed.state_dict()["batches"] == taken
    assert len(resumed) == len(expected[epoch])
    assert list(resumed) == expected[epoch][taken:] == list(iterator)
    assert resumed.state_dict()["batches"] == len(expected[epoch])
    assert list(resumed) == expected[epoch]
    resumed.load_state_dict(state)
    resumed.set_epoch(epoch + 1)
    assert resumed.state_dict()["batches"] == 0
    assert list(resumed) == expected[epoch + 1]


def test_groups_that_were_given_later_are_part_of_the_state() -> None:
    batches = EpochBatches(60, batch_size=6, seed=0)
    batches.regroup(GROUPS)
    resumed = EpochBatches(60, batch_size=6, seed=0)
    resumed.load_state_dict(batches.state_dict())
    assert epochs(resumed, 2) == epochs(batches, 2) != epochs(EpochBatches(60, batch_size=6, seed=0), 2)


def test_what_a_loader_fetched_in_advance_is_not_counted_as_used() -> None:
    def collate(rows: list[int]) -> list[int]:
        return rows

    def loader(batches: EpochBatches) -> Any:
        return DataLoader(
            range(60),  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=2,
            prefetch_factor=2,
            multiprocessing_context="fork",
        )

    batches = EpochBatches(60, batch_size=6, seed=0)
    expected = list(batches)
    iterator = iter(loader(batches))
    used = [next(iterator) for _ in range(3)]
    assert batches.state_dict()["batches"] > 3
    state = batches.state_dict(batches=3)
    resumed = EpochBatches(60, batch_size=6, seed=0)
    resumed.load_state_dict(state)
    assert used + list(loader(resumed)) == expected


def test_shares_of_ranks_resume_together() -> None:
    def shares(state: dict[str, Any] | None, rank: int) -> tuple[RankShare, EpochBatches]:
        batches = EpochBatches(60, batch_size=7, seed=0)
        if state is not None:
            batches.load_state_dict(state)
        return RankShare(batches, rank=rank, num_ranks=3), batches

    whole = list(EpochBatches(60, batch_size=7, seed=0))
    share, batches = shares(None, rank=1)
    iterator = iter(share)
    for _ in range(4):
        next(iterator)
    parts = [list(shares(batches.state_dict(), rank)[0]) for rank in range(3)]
    assert [list(chain(*rows)) for rows in zip(*parts, strict=True)] == whole[4:]


@pytest.mark.parametrize("other", [{"num_rows": 59}, {"batch_size": 5}, {"seed": 1}])
def test_the_state_of_other_batches_is_refused(other: dict[str, int]) -> None:
    state = EpochBatches(**{"num_rows": 60, "batch_size": 6, "seed": 0, **other}).state_dict()
    with pytest.raises(ValueError, match=r"expected the state of batches with \{'num_rows': 60, .*, got one with"):
        EpochBatches(60, batch_size=6, seed=0).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [1]}, "expected groups for 60 rows, got 1"),
        ({"classes": [1], "rows_per_class": 2}, "expected classes for 60 rows, got 1"),
        ({"groups": GROUPS, "classes": GROUPS, "rows_per_class": 2}, "groups or classes to make batches of, got both"),
        ({"rows_per_class": 2}, "expected classes for rows_per_class above 1, .* got 2"),
        ({"classes": GROUPS, "rows_per_class": 0}, "at least 1 of it, got 0"),
        ({"classes": GROUPS, "rows_per_class": 4}, "batch_size that is a multiple of 4 rows a class, got 6"),
    ],
)
def test_groups_and_classes_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpochBatches(60, batch_size=6, seed=0, **options)


def test_new_groups_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="expected groups for 60 rows, got 2"):
        EpochBatches(60, batch_size=6, seed=0).regroup([0, 1])
    with pytest.raises(ValueError, match="expected no groups beside classes for 60 rows, got 60"):
        EpochBatches(60, batch_size=6, seed=0, classes=GROUPS, rows_per_class=2).regroup(GROUPS)


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
