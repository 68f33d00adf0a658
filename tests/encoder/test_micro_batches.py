import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrastive.data.texts import check_texts
from contrastive.encoder.micro_batches import micro_batches, padded


@given(st.lists(st.integers(1, 40)), st.integers(1, 100))
def test_batches_cover_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = micro_batches(lengths, budget)
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


def test_batches_are_as_large_as_the_budget_allows() -> None:
    assert sorted(len(batch) for batch in micro_batches([4] * 10, 16, of_a_pass=1)) == [2, 4, 4]


def test_short_texts_do_not_go_with_long_ones() -> None:
    assert micro_batches([20, 3, 18, 2, 3], 100, of_a_pass=6) == [[0, 2], [1, 4, 3]]
    assert micro_batches([20, 19, 18], 100, of_a_pass=6) == [[0, 1, 2]]  # cheaper than passes of their own


@given(st.lists(st.integers(1, 12), max_size=7), st.integers(1, 40), st.integers(0, 9))
def test_no_other_cuts_cost_less(lengths: list[int], budget: int, of_a_pass: int) -> None:
    ordered = sorted(lengths, reverse=True)

    def cheapest(start: int) -> float:
        if start == len(ordered):
            return 0.0
        stops = range(start + 1, len(ordered) + 1)
        sizes = [(stop, ordered[start] * (stop - start)) for stop in stops]
        return min(size + of_a_pass + cheapest(stop) for stop, size in sizes if size <= budget or stop == start + 1)

    batches = micro_batches(lengths, budget, of_a_pass=of_a_pass)
    cost = sum(max(lengths[i] for i in batch) * len(batch) + of_a_pass for batch in batches)
    assert cost == pytest.approx(cheapest(0))


def test_pads_on_the_right() -> None:
    inputs = padded([np.array([7]), np.array([5, 6, 7])], padding_id=9)
    input_ids, attention_mask = inputs["input_ids"], inputs["attention_mask"]
    assert input_ids.tolist() == [[7, 9, 9], [5, 6, 7]]
    assert attention_mask.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert input_ids.dtype == attention_mask.dtype == torch.long


def test_refuses_what_is_not_a_sequence_of_strings() -> None:
    with pytest.raises(TypeError, match="expected a sequence of texts, got one text: 'a query'"):
        check_texts("a query")
    with pytest.raises(TypeError, match="got NoneType at index 1: None"):
        check_texts(["a", None])  # type: ignore[list-item]
