"""Negatives of several sources: exact shares, no document twice, schedules."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from contrastive.data import Record
from contrastive.negatives import BM25, Dense, Filters, Mixed, Moment, Pair, Pool, Random, Refresh
from contrastive.negatives.mixed import apportion


def pool_of(count: int) -> Pool:
    """So many queries that share a word with every document."""
    return Pool.of_records(
        Record(f"job {place}", f"a job with the number {place}", (), f"q{place}", f"d{place:03}")
        for place in range(count)
    )


def sources() -> dict[str, Any]:
    return {"random": Random(), "bm25": BM25()}


@pytest.mark.parametrize(
    ("shares", "count", "pairs", "totals"),
    [
        ([0.5, 0.5], 4, 10, [20, 20]),
        ([0.5, 0.5], 1, 10, [5, 5]),
        ([0.5, 0.5], 1, 9, [5, 4]),
        ([1 / 3, 1 / 3, 1 / 3], 4, 3, [4, 4, 4]),
        ([0.7, 0.2, 0.1], 3, 7, [15, 4, 2]),
        ([1.0], 4, 5, [20]),
        ([0.9, 0.1], 2, 0, [0, 0]),
    ],
)
def test_shares_are_exact_over_pairs_and_rounded_for_each(
    shares: list[float], count: int, pairs: int, totals: list[int]
) -> None:
    quotas = apportion(shares, count, np.random.default_rng(0).permutation(pairs))
    assert quotas.sum(axis=0).tolist() == totals
    assert (quotas.sum(axis=1) == count).all()
    exact = np.array(shares) * count
    assert (quotas >= np.floor(exact + 1e-9)).all()
    assert (quotas <= np.ceil(exact - 1e-9)).all()


def test_each_source_gives_its_share() -> None:
    chosen = Mixed(sources(), mix={"bm25": 3, "random": 1}, count=2)(pool_of(40))
    assert Counter(name for negatives in chosen for name in negatives.sources) == {"bm25": 60, "random": 20}
    for negatives in chosen:
        assert len(set(negatives.ids)) == 2
        assert negatives.positive_score != negatives.positive_score  # the first source, random, has no scores
    assert [c.ids for c in Mixed(sources(), mix={"bm25": 0.75, "random": 0.25}, count=2)(pool_of(40))] == [
        c.ids for c in chosen
    ]


def test_a_pair_has_the_same_share_whatever_the_order_of_pairs() -> None:
    records = [Record(f"job {i}", f"a job {i}", (), f"q{i}", f"d{i}") for i in range(9)]
    strategy = Mixed(sources(), mix={"bm25": 1, "random": 1}, count=1)
    found = [
        {pair.query_id: (c.ids, c.sources) for pair, c in zip(pool.pairs, strategy(pool), strict=True)}
        for pool in (Pool.of_records(records), Pool.of_records(records[::-1]))
    ]
    assert found[0] == found[1]


def test_a_source_without_a_share_is_not_asked() -> None:
    mixed = Mixed({"dense": Dense(), "bm25": BM25()}, mix={"dense": 0, "bm25": 1})  # dense has no encoder
    assert set(mixed(pool_of(5))[0].sources) == {"bm25"}


def test_what_one_source_lacks_another_gives_and_none_twice() -> None:
    documents = {"a": "nurse", "b": "head nurse", "c": "chef", "d": "cook", "e": "Head  Nurse"}
    pool = Pool(documents, [Pair("q", "nurse nights", "a")])
    (chosen,) = Mixed(sources(), mix={"bm25": 1, "random": 1}, count=4, filters=Filters(near_duplicate=None))(pool)
    # BM25 finds b alone, or e with its text; random makes up for what it lacks, of which one is the text of b or e.
    assert len(chosen.ids) == 3
    assert {"c", "d"} < set(chosen.ids)
    assert chosen.sources == tuple(sorted(chosen.sources, key=["random", "bm25"].index))


def test_shares_move_in_a_straight_line() -> None:
    mixed = Mixed(sources(), mix={"random": 1}, final_mix={"random": 1, "bm25": 3}, count=4)
    assert mixed.shares(0) == {"random": 1}
    assert mixed.shares(0.5) == {"random": 0.625, "bm25": 0.375}
    assert mixed.shares(1) == {"random": 0.25, "bm25": 0.75}
    found = mixed(pool_of(10), Moment(progress=1))
    assert Counter(name for c in found for name in c.sources) == {"random": 10, "bm25": 30}


def test_what_a_mixture_depends_on_is_described() -> None:
    mixed = Mixed(sources(), mix={"random": 1}, final_mix={"bm25": 1})
    other = Mixed(sources(), mix={"random": 1})
    assert mixed.describe(Moment()) == other.describe(Moment())
    assert mixed.describe(Moment(progress=0.5)) != mixed.describe(Moment())
    assert Mixed(sources(), mix={"random": 1}, count=2).describe(Moment()) != other.describe(Moment())


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"bm26": 1}, "shares of the sources random, bm25, got one of bm26"),
        ({"bm25": -1, "random": 2}, "shares of at least 0 that are not all 0"),
        ({"bm25": 0}, "shares of at least 0 that are not all 0"),
        ({"bm25": float("nan")}, "shares of at least 0 that are not all 0"),
    ],
)
def test_shares_that_make_no_sense_are_refused(mix: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixed(sources(), mix=mix)
    with pytest.raises(ValueError, match=message):
        Mixed(sources(), mix={"bm25": 1}, final_mix=mix)


def test_a_refresh_is_due_every_so_often() -> None:
    by_steps, by_epochs = Refresh(BM25(), every_n_steps=4), Refresh(BM25(), every_n_epochs=2)
    assert [s for s in range(13) if by_steps.is_due(step=s, steps_an_epoch=3)] == [4, 8, 12]
    assert [s for s in range(13) if by_epochs.is_due(step=s, steps_an_epoch=3)] == [6, 12]
    twice = Refresh(BM25(), every_n_epochs=0.5)
    assert [s for s in range(13) if twice.is_due(step=s, steps_an_epoch=8)] == [4, 8, 12]
    assert [s for s in range(3) if twice.is_due(step=s, steps_an_epoch=1)] == [1, 2]


@pytest.mark.parametrize(
    "every", [{}, {"every_n_steps": 1, "every_n_epochs": 1}, {"every_n_steps": 0}, {"every_n_epochs": 0}]
)
def test_a_refresh_needs_one_interval(every: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected every_n_epochs above 0 or every_n_steps of at least 1"):
        Refresh(BM25(), **every)


def test_a_refresh_chooses_as_its_source_does_now() -> None:
    refresh = Refresh(Random(), every_n_steps=1, count=2)
    pool = pool_of(20)
    first, second = refresh(pool), refresh(pool, Moment(refresh=1))
    assert all(len(negatives.ids) == 2 for negatives in first)
    assert [c.ids for c in first] != [c.ids for c in second]
    assert refresh.describe(Moment()) != refresh.describe(Moment(refresh=1))
