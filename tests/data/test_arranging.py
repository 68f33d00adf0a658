from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contrastive.data.batching.arranging import in_classes, in_groups

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60)


@given(LABELS, st.integers(1, 9), st.integers(0, 20))
def test_runs_are_of_one_group_and_only_remainders_are_mixed(labels: list[int], size: int, seed: int) -> None:
    groups = np.array(labels)
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    order = in_groups(shuffled, groups, size, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(labels)))
    whole = sum(count // size for count in Counter(labels).values())
    runs = [order[start : start + size] for start in range(0, len(order), size)]
    assert all(len(set(groups[run].tolist())) == 1 for run in runs[:whole])
    rest = groups[order[whole * size :]].tolist()
    assert len(set(rest)) == 1 + sum(a != b for a, b in pairwise(rest)) or not rest
    for group in set(labels):
        places = {row: place for place, row in enumerate(shuffled.tolist())}
        own = [places[row] for row in order.tolist() if groups[row] == group]
        assert own == sorted(own)


def test_groups_come_in_another_order_each_time() -> None:
    groups = np.arange(8).repeat(2)
    orders = {tuple(in_groups(np.arange(16), groups, 2, np.random.default_rng(seed))) for seed in range(5)}
    assert len(orders) == 5


@given(LABELS, st.integers(1, 5), st.integers(0, 20))
def test_whole_runs_of_a_class_come_first(labels: list[int], size: int, seed: int) -> None:
    classes = np.array(labels)
    order = in_classes(np.random.default_rng(seed).permutation(len(classes)), classes, size, np.random.default_rng(1))
    assert sorted(order.tolist()) == list(range(len(labels)))
    whole = sum(count // size for count in Counter(labels).values())
    runs = [classes[order[start : start + size]] for start in range(0, whole * size, size)]
    assert all(len(set(run.tolist())) == 1 for run in runs)
    rest = classes[order[whole * size :]].tolist()
    assert len(set(rest)) == 1 + sum(a != b for a, b in pairwise(rest)) or not rest


def test_runs_of_a_class_are_spread() -> None:
    classes = np.arange(10).repeat(40)
    for seed in range(5):
        order = in_classes(np.arange(400), classes, 4, np.random.default_rng(seed))
        batches = classes[order].reshape(-1, 10, 4)[:, :, 0]  # P = 10 of 10 classes
        assert all(len(set(batch.tolist())) == 10 for batch in batches)


def test_classes_come_in_another_order_each_time() -> None:
    classes = np.arange(8).repeat(3)
    orders = {tuple(in_classes(np.arange(24), classes, 2, np.random.default_rng(seed))) for seed in range(5)}
    assert len(orders) == 5
