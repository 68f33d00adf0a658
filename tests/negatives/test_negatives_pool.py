"""What is one document or one query, and which documents may not be a query's negatives."""

import numpy as np
import pytest

from contrastive.data import Record
from contrastive.data.store import key_of
from contrastive.negatives import Pair, Pool


def known(pool: Pool, pair: int) -> set[str]:
    """Return the ids of documents known to be relevant, in both ways that the pool can tell."""
    everything = np.arange(len(pool.documents))[None]
    flags = pool.are_known(np.array([pair]), everything)[0]
    found = {pool.document_ids[place] for place in np.flatnonzero(flags)}
    assert found == {pool.document_ids[place] for place in pool.known_places(pair)}
    return found


def test_documents_stand_in_the_order_of_their_ids_whatever_the_order_of_records() -> None:
    records = [Record("q1", "one", ("n",), "q1", "d2", ("d3",)), Record("q2", "two", (), "q2", "d1")]
    pool, other = Pool.of_records(records), Pool.of_records(records[::-1])
    assert pool.document_ids == other.document_ids == ("d1", "d2", "d3")
    assert pool.documents == ("two", "one", "n")
    assert pool.positive_of.tolist() == [1, 0]


def test_known_positives_are_own_graded_and_those_of_the_same_query() -> None:
    records = [
        Record("Nurse", "a", (), "q1", "d1", grades={"d1": 2, "d2": 1, "d3": 0, "elsewhere": 1}),
        Record("chef", "b", (), "q2", "d2"),
        Record("  nurse ", "c", (), "q3", "d3"),
        Record("cook", "e", (), "q1", "d4"),
        Record("cook", "B", (), "q5", "d5"),
    ]
    pool = Pool.of_records(records)
    # q1 and q3 have one text, and the last two records one text with different ids of which one is q1: all are one
    # query but "chef"; d2 and d5 are one text.
    assert known(pool, 1) == {"d2", "d5"}
    for pair in (0, 2, 3, 4):
        assert known(pool, pair) == {"d1", "d2", "d3", "d4", "d5"}
    assert pool.most_known == 5  # with the one that is not in the pool; d2 and d5 are one
    assert known(Pool.of_records(records[:2], only_own=True), 0) == {"d1"}


def test_a_query_is_itself_by_text_in_whatever_case_and_not_by_id() -> None:
    pool = Pool({"d1": "NURSE ", "q2": "chef", "d3": "cook"}, [Pair("q1", "nurse", "d3"), Pair("q2", "nurses", "d3")])
    flags = pool.are_the_query(np.arange(2), np.array([[0, 1, 2]] * 2))
    assert pool.document_ids == ("d1", "d3", "q2")
    assert flags.tolist() == [[True, False, False], [False, False, False]]


def test_missing_ids_are_made_from_the_text_and_missing_positives_put_in() -> None:
    records = [Record("nurse", "a ward", ("a bar",)), Record("chef", "a bar"), Record("cook", "A Ward ")]
    pool = Pool.of_records(records)
    assert len(pool.documents) == 2
    assert known(pool, 0) == known(pool, 2) == {pool.document_ids[pool.positive_of[0]]}
    assert pool.pairs[0].given == (pool.pairs[1].positive_id,)
    assert pool.are_given(np.array([0, 1]), np.array([[0, 1]] * 2)).sum(axis=1).tolist() == [1, 0]
    pool = Pool.of_records(records, corpus={"x": "a bar", "y": "a café"})
    assert len(pool.documents) == 4  # positives are looked for by id, and these have none
    assert known(pool, 1) == {"x", pool.pairs[1].positive_id}


def test_each_distinct_query_is_ranked_once() -> None:
    pairs = [Pair("q1", "nurse", "a"), Pair("q2", "chef", "b"), Pair("q1", "nurse", "b")]
    pool = Pool({"a": "x", "b": "y"}, pairs)
    assert pool.query_texts == ("nurse", "chef")
    assert pool.pairs_of(slice(0, 1)).tolist() == [0, 2]
    assert pool.pairs_of(slice(1, 2)).tolist() == [1]
    assert pool.pairs_of(slice(0, 2)).tolist() == [0, 2, 1]


def test_the_key_depends_on_all_that_is_chosen_from_and_for() -> None:
    pools = [
        Pool({"a": "x", "b": "y"}, [Pair("q", "nurse", "a")]),
        Pool({"a": "x", "b": "z"}, [Pair("q", "nurse", "a")]),
        Pool({"a": "x", "b": "y"}, [Pair("q", "nurse", "b")]),
        Pool({"a": "x", "b": "y"}, [Pair("q", "nurse", "a", known=("b",))]),
        Pool({"a": "x", "b": "y"}, [Pair("q", "nurse", "a", given=("b",))]),
        Pool({"a": "x", "b": "y"}, [Pair("q", "nurses", "a")]),
    ]
    pools.append(Pool({"b": "y", "a": "x"}, [Pair("q", "nurse", "a")]))
    keys = [key_of(None, pool.parts()) for pool in pools]
    assert len(set(keys)) == len(pools) - 1
    assert keys[0] == keys[-1]


def test_one_id_a_negative_is_asked_for() -> None:
    with pytest.raises(ValueError, match="query 'q': expected an id for each of 2 negatives, got 1"):
        Pool.of_records([Record("a", "b", ("c", "d"), "q", "d1", ("n1",))])


def test_a_document_is_asked_for() -> None:
    with pytest.raises(ValueError, match="at least one document to choose negatives from, got none"):
        Pool({}, [Pair("q", "nurse")])
