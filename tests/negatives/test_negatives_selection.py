"""Filters and sampling on made-up rankings: what is refused, for what reason, and what is taken."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from contrastive.negatives import Candidates, ChosenNegatives, Filters, Pair, Pool, Selection

TEXT = "we look for a kind person who likes work on nights and days in our house by the sea"


def pool_of(count: int, **pair: Any) -> Pool:
    """A query whose positive is the first of so many documents."""
    documents = {f"d{place:03}": f"document {place}" for place in range(count)}
    return Pool(documents, [Pair("q", "a query", "d000", **pair)])


def block(scores: list[float], positive: float | None = 1.0) -> Candidates:
    """Rank the documents in the order of their places."""
    return Candidates(
        slice(0, 1),
        np.arange(len(scores))[None],
        np.array([scores], np.float32),
        None if positive is None else np.array([positive], np.float32),
    )


def choose(pool: Pool, candidates: Candidates, **settings: Any) -> ChosenNegatives:
    (pair, chosen), *others = Selection(**settings)(pool, candidates, source="made up")
    assert (pair, others) == (0, [])
    return chosen


def filtered(scores: list[float], positive: float | None = 1.0, **filters: Any) -> tuple[tuple[int, ...], Any]:
    chosen = choose(pool_of(len(scores)), block(scores, positive), count=10, filters=Filters(**filters))
    return chosen.ranks, {name: count for name, count in chosen.refused.items() if name != "known_positive"}


def test_negatives_are_the_hardest_that_are_not_known_to_be_relevant() -> None:
    pool = pool_of(6, known=("d002",), given=("d003",))
    chosen = choose(pool, block([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], 0.9), count=2)
    assert chosen.ids == ("d001", "d004")
    assert chosen.ranks == (1, 4)
    assert chosen.scores == pytest.approx((0.8, 0.5))
    assert chosen.refused == {"known_positive": 2, "already_given": 1}
    assert chosen.sources == ("made up",) * 2
    assert chosen.positive_score == pytest.approx(0.9)


def test_the_query_itself_is_no_negative() -> None:
    pool = Pool({"a": "x", "b": "A  query", "q": "y", "z": "z"}, [Pair("q", "a query", "a")])
    chosen = choose(pool, block([0.9, 0.8, 0.7, 0.6]))
    assert chosen.ids == ("q", "z")  # an id is no text: y is another document
    assert chosen.refused == {"known_positive": 1, "itself": 1}


@pytest.mark.parametrize(
    ("filters", "positive", "kept", "refused"),
    [
        ({}, 0.5, (1, 2, 3, 4), {}),
        ({"absolute_margin": 0.25}, 0.75, (2, 3, 4), {"absolute_margin": 1}),  # at the margin is far enough
        ({"relative_margin": 0.5}, 0.5, (3, 4), {"relative_margin": 2}),
        ({"relative_margin": 0.5}, -0.125, (4,), {"relative_margin": 3}),  # at most -0.1875
        ({"min_score": 0.0}, 0.5, (1, 2, 3), {"score": 1}),
        ({"max_score": 0.5}, 0.5, (2, 3, 4), {"score": 1}),
        ({"min_rank": 2}, 0.5, (2, 3, 4), {"rank": 1}),
        ({"min_rank": 2, "max_rank": 4}, 0.5, (2, 3), {"rank": 2}),
        ({"min_percent": 40, "max_percent": 60}, 0.5, (2,), {"rank": 3}),
        ({"min_rank": 1, "min_percent": 60, "max_rank": 5, "max_percent": 80}, 0.5, (3,), {"rank": 3}),
    ],
)
def test_filters(filters: dict[str, Any], positive: float, kept: tuple[int, ...], refused: dict[str, int]) -> None:
    assert filtered([0.9, 0.75, 0.5, 0.25, -0.25], positive, **filters) == (kept, refused)


def test_a_relative_margin_is_a_margin_for_negative_scores() -> None:
    # 0.5 below -0.125 is -0.1875; half of it would be above.
    assert filtered([0.9, -0.1, -0.125, -0.18, -0.19], -0.125, relative_margin=0.5)[0] == (4,)


def test_a_candidate_is_counted_by_the_first_filter_that_refuses_it() -> None:
    ranks, refused = filtered([0.9, 0.8, 0.7], 0.9, max_score=0.5, absolute_margin=1.0, min_rank=2)
    assert (ranks, refused) == ((), {"rank": 1, "score": 1})


def test_what_is_not_a_number_is_refused_and_counted() -> None:
    assert filtered([0.9, float("nan"), float("inf"), 0.1]) == ((3,), {"not_finite": 2})


@pytest.mark.parametrize("margin", ["absolute_margin", "relative_margin"])
def test_without_a_positive_score_a_margin_refuses_all(margin: str) -> None:
    assert filtered([0.9, 0.8, 0.7], float("nan"), **{margin: 0.1}) == ((), {"unknown_positive": 2})
    assert filtered([0.9, 0.8, 0.7], float("nan")) == ((1, 2), {})


def test_scores_that_mean_nothing_are_not_judged() -> None:
    limits = {"min_score": 5.0, "absolute_margin": 0.1, "relative_margin": 0.1}
    assert filtered([0.0, 0.0, 0.0], None, **limits, min_rank=2) == ((2,), {"rank": 1})


def test_without_text_there_is_no_negative_and_none_for_a_query() -> None:
    documents = {"a": "x", "b": " ", "c": "z"}
    chosen = choose(Pool(documents, [Pair("q", "a query", "a")]), block([0.9, 0.8, 0.7]))
    assert (chosen.ids, chosen.refused) == (("c",), {"known_positive": 1, "empty_text": 1})
    chosen = choose(Pool(documents, [Pair("q", " ", "a")]), block([0.9, 0.8, 0.7]))
    assert (chosen.ids, chosen.refused["empty_text"]) == ((), 1)  # b, which is as empty, is the query itself


def near_duplicates() -> Pool:
    documents = {"a": TEXT, "b": f"{TEXT} too", "c": "a chef", "d": "A  chef", "e": "a cook"}
    return Pool(documents, [Pair("q", "a query", "a")])


def test_near_duplicates_of_the_query_are_passed_over() -> None:
    pool = Pool({"a": "an answer", "b": f"{TEXT} too", "c": "a chef"}, [Pair("q", TEXT, "a")])
    chosen = choose(pool, block([0.9, 0.8, 0.7]))
    assert (chosen.ids, chosen.refused) == (("c",), {"known_positive": 1, "near_duplicate": 1})
    chosen = choose(pool, block([0.9, 0.8, 0.7]), filters=Filters(near_duplicate=None))
    assert chosen.ids == ("b", "c")


def test_near_duplicates_of_positives_and_repetitions_are_passed_over() -> None:
    chosen = choose(near_duplicates(), block([0.9, 0.8, 0.7, 0.6, 0.5]), count=2)
    assert chosen.ids == ("c", "e")
    assert chosen.refused == {"known_positive": 1, "near_duplicate": 1, "repeated": 1}
    chosen = choose(near_duplicates(), block([0.9, 0.8, 0.7, 0.6, 0.5]), count=2, filters=Filters(near_duplicate=None))
    assert chosen.ids == ("b", "c")
    chosen = choose(near_duplicates(), block([0.9, 0.8, 0.7, 0.6, 0.5]), count=2, filters=Filters(near_duplicate=0.99))
    assert chosen.ids == ("b", "c")


def test_fewer_than_asked_are_given_where_fewer_remain() -> None:
    assert len(choose(pool_of(3), block([0.9, 0.8, 0.7]), count=4).ids) == 2
    assert choose(pool_of(1), block([0.9]), count=4).ids == ()
    missing = Candidates(slice(0, 1), np.array([[1, -1]]), np.array([[0.5, 0.0]], np.float32), None)
    chosen = choose(pool_of(3), missing, count=4)
    assert (chosen.ids, chosen.refused) == (("d001",), {})


def drawn(sampling: str, seed: int, scores: list[float], **settings: Any) -> tuple[int, ...]:
    return choose(pool_of(len(scores)), block(scores), count=3, sampling=sampling, seed=seed, **settings).ranks


@pytest.mark.parametrize("sampling", ["uniform", "softmax"])
def test_a_draw_is_a_function_of_seed_refresh_and_ids(sampling: Any) -> None:
    scores = np.linspace(1, 0, 50).tolist()
    first = drawn(sampling, 0, scores, temperature=10.0)
    assert first == drawn(sampling, 0, scores, temperature=10.0)
    assert first == tuple(sorted(first))
    assert first != drawn(sampling, 1, scores, temperature=10.0)
    pool, candidates = pool_of(50), block(scores)
    selection = Selection(3, sampling=sampling, temperature=10.0)
    again = dict(selection(pool, candidates, source="made up", refresh=1))[0].ids
    assert again != dict(selection(pool, candidates, source="made up"))[0].ids
    # The same documents in another order of ranks, as a source that scores a little differently would give them.
    order = np.random.default_rng(0).permutation(50)
    turned = Candidates(slice(0, 1), order[None], np.zeros((1, 50), np.float32), np.ones(1, np.float32))
    level = Candidates(slice(0, 1), np.arange(50)[None], np.zeros((1, 50), np.float32), np.ones(1, np.float32))
    found = [set(dict(selection(pool, c, source="made up"))[0].ids) for c in (turned, level)]
    assert found[0] == found[1]


def test_softmax_draws_in_proportion_to_the_exponential() -> None:
    scores = [9.0, 2.0, 1.0, 0.0]  # the first is the positive
    pool, candidates = pool_of(4), block(scores)
    selection = [Selection(1, sampling="softmax", temperature=1.0, seed=seed) for seed in range(3000)]
    counts = Counter(dict(one(pool, candidates, source="s"))[0].ranks[0] for one in selection)
    expected = np.exp(scores[1:]) / np.exp(scores[1:]).sum()
    assert [counts[rank] / 3000 for rank in (1, 2, 3)] == pytest.approx(expected.tolist(), abs=0.03)
    uniform = [Selection(1, sampling="uniform", seed=seed) for seed in range(3000)]
    counts = Counter(dict(one(pool, candidates, source="s"))[0].ranks[0] for one in uniform)
    assert [counts[rank] / 3000 for rank in (1, 2, 3)] == pytest.approx([1 / 3] * 3, abs=0.03)


def test_sampling_keeps_to_the_window() -> None:
    scores = np.linspace(1, 0, 50).tolist()
    ranks = [r for seed in range(30) for r in drawn("uniform", seed, scores, filters=Filters(min_rank=10, max_rank=15))]
    assert set(ranks) == {10, 11, 12, 13, 14}


def test_each_pair_of_a_query_has_its_own_margin() -> None:
    pairs = [Pair("q", "a query", "a"), Pair("q", "a query", "b")]
    pool = Pool({"a": "1", "b": "2", "c": "3", "d": "4"}, pairs)
    scores = np.array([[0.9, 0.3, 0.8, 0.2]], np.float32)
    candidates = Candidates(slice(0, 1), np.arange(4)[None], scores, np.array([0.9, 0.3], np.float32))
    found = dict(Selection(filters=Filters(relative_margin=0.05))(pool, candidates, source="made up"))
    assert found[0].ids == ("c", "d")
    assert found[1].ids == ("d",)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"min_rank": -1}, "a rank between 0 and inf, got -1"),
        ({"min_rank": 3, "max_rank": 3}, "min_rank below max_rank, got 3 and 3"),
        ({"max_percent": 101}, "a percent between 0 and 100, got 101"),
        ({"min_percent": 4, "max_percent": 3}, "min_percent below max_percent, got 4 and 3"),
        ({"min_score": 1, "max_score": 0}, "min_score below max_score, got 1 and 0"),
        ({"absolute_margin": -0.1}, "absolute_margin of at least 0, got -0.1"),
        ({"relative_margin": float("nan")}, "relative_margin of at least 0, got nan"),
        ({"near_duplicate": 0}, "near_duplicate above 0 and at most 1, got 0"),
    ],
)
def test_filters_that_make_no_sense_are_refused(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Filters(**filters)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count of at least 1, got 0"),
        ({"sampling": "best"}, "sampling to be top, uniform or softmax, got 'best'"),
        ({"temperature": 0}, "a finite temperature above 0, got 0"),
        ({"temperature": float("inf")}, "a finite temperature above 0, got inf"),
    ],
)
def test_selections_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selection(**settings)


def test_the_depth_suffices_for_what_is_asked() -> None:
    pool = pool_of(5000, known=("d001", "d002"))
    assert Filters().depth(pool, 4) == 103
    assert Filters(relative_margin=0.05).depth(pool, 4) == 1003
    assert Filters().depth(pool, 80) == 163
    assert Filters(max_rank=30).depth(pool, 4) == 30
    assert Filters(min_percent=3, max_percent=4).depth(pool, 4) == 200
    assert Filters(min_percent=3).depth(pool, 4) == 253
    assert Filters().depth(pool_of(3), 4) == 3
