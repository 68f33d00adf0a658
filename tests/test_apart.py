from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from contrastive.batching.apart import apart


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
    assert sorted(row for batch in batches for row in batch) == list(range(len(identities)))
    for batch in batches:
        shared = [identity for row in batch for identity in identities[row]]
        assert len(set(shared)) == len(shared)
        assert len(batch) <= batch_size
    assert list(map(len, batches)) == sorted(map(len, batches), reverse=True)


def test_rows_without_conflicts_are_cut_as_they_come() -> None:
    assert apart([3, 0, 4, 1, 2], 2, [(row,) for row in range(5)]) == [[3, 0], [4, 1], [2]]
    assert apart([3, 0, 4, 1, 2], 2) == [[3, 0], [4, 1], [2]]


def test_a_row_does_not_come_twice_in_a_batch() -> None:
    assert apart([0, 0, 1, 1], 2) == [[0, 1], [0, 1]]


def test_there_are_no_more_batches_than_there_must_be() -> None:
    generator = random.Random(0)
    needed_swaps = 0
    for _ in range(50):
        identities = [(f"q{generator.randrange(60)}", f"d{generator.randrange(60)}") for _ in range(96)]
        order = generator.sample(range(96), 96)
        fewest = max(12, max(Counter(identity for own in identities for identity in own).values()))
        assert len(apart(order, 8, identities)) == fewest
        greedy: list[set[str]] = []
        sizes: list[int] = []
        for row in order:
            place = next(
                (i for i in range(len(greedy)) if sizes[i] < 8 and greedy[i].isdisjoint(identities[row])), len(greedy)
            )
            if place == len(greedy):
                greedy.append(set())
                sizes.append(0)
            greedy[place] |= set(identities[row])
            sizes[place] += 1
        needed_swaps += len(greedy) > fewest
    assert needed_swaps > 5  # else nothing was shown


def test_what_is_too_frequent_makes_short_batches() -> None:
    batches = apart(list(range(12)), 4, [("a",) if row < 6 else (row,) for row in range(12)])
    assert sorted(map(len, batches)) == [1, 1, 1, 1, 4, 4]
    assert all(sum(row < 6 for row in batch) == 1 for batch in batches)


def test_many_rows_that_all_have_conflicts_fill_their_batches() -> None:
    order = list(range(20_000))
    identities = [(row // 2, f"d{row % 9_000}") for row in order]
    assert len(apart(order, 32, identities)) == 625
