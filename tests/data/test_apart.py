from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrastive.data.batching.apart import apart


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(10, 19)), min_size=1, max_size=40),
    st.integers(1, 7),
    st.randoms(use_true_random=False),
)
def test_each_row_comes_once_and_none_meets_its_like(
    identities: list[tuple[int, int]], batch_size: int, generator: random.Random
) -> None:
    order = list(range(len(identities)))
    generator.shuffle(order)
    batches = apart(order, batch_size, identities)
    check(batches, identities)
    assert all(len(batch) <= batch_size for batch in batches)
    assert list(map(len, batches)) == sorted(map(len, batches), reverse=True)


def test_rows_without_conflicts_are_cut_as_they_come() -> None:
    assert apart([3, 0, 4, 1, 2], 2, [(row,) for row in range(5)]) == [[3, 0], [4, 1], [2]]
    assert apart([3, 0, 4, 1, 2], 2) == [[3, 0], [4, 1], [2]]


def test_a_shorter_batch_comes_last() -> None:
    assert apart([0, 1, 2, 3], 3, ["xyz", "x", "y", "z"]) == [[1, 2, 3], [0]]


def test_a_row_does_not_come_twice_in_a_batch() -> None:
    assert apart([0, 0, 1, 1], 2) == [[0, 1], [0, 1]]


def first_fit(order: list[int], batch_size: int, identities: list[tuple[str, str]]) -> list[list[int]]:
    """What a row does that takes the first batch that will have it, and makes one if none will."""
    batches: list[list[int]] = []
    for row in order:
        for batch in batches:
            met = {identity for other in batch for identity in identities[other]}
            if len(batch) < batch_size and met.isdisjoint(identities[row]):
                batch.append(row)
                break
        else:
            batches.append([row])
    return batches


@pytest.mark.parametrize("kinds", [14, 20, 60])
def test_there_are_no_more_batches_than_there_must_be(kinds: int) -> None:
    generator = random.Random(0)
    saved = 0
    for _ in range(100):
        identities = [(f"q{generator.randrange(kinds)}", f"d{generator.randrange(kinds)}") for _ in range(96)]
        order = generator.sample(range(96), 96)
        batches = apart(order, 8, identities)
        check(batches, identities)
        saved += len(first_fit(order, 8, identities)) - len(batches)
        most = max(Counter(identity for own in identities for identity in own).values())
        assert len(batches) == max(12, most) or kinds < 60
    assert saved > 10  # else nothing was shown


def check(batches: list[list[int]], identities: Sequence[Collection[object]]) -> None:
    """Each row comes once, and in no batch an identity twice."""
    assert sorted(row for batch in batches for row in batch) == list(range(len(identities)))
    for batch in batches:
        shared = [identity for row in batch for identity in identities[row]]
        assert len(set(shared)) == len(shared)


def test_what_is_too_frequent_makes_short_batches() -> None:
    batches = apart(list(range(12)), 4, [("a",) if row < 6 else (row,) for row in range(12)])
    assert sorted(map(len, batches)) == [1, 1, 1, 1, 4, 4]
    assert all(sum(row < 6 for row in batch) == 1 for batch in batches)


def test_many_rows_that_all_have_conflicts_fill_their_batches() -> None:
    order = list(range(20_000))
    identities = [(row // 2, f"d{row % 9_000}") for row in order]
    assert len(apart(order, 32, identities)) == 625
