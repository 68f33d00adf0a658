import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrastive.micro_batches import check_texts, micro_batches, pad_right


@given(st.lists(st.integers(1, 40)), st.integers(1, 100))
def test_batches_cover_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = micro_batches(lengths, budget)
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


def test_batches_are_as_large_as_the_budget_allows() -> None:
    assert [len(batch) for batch in micro_batches([4] * 10, 16)] == [4, 4, 2]


def test_pads_on_the_right() -> None:
    input_ids, attention_mask = pad_right([[7], [5, 6, 7]], padding_id=9)
    assert input_ids.tolist() == [[7, 9, 9], [5, 6, 7]]
    assert attention_mask.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert input_ids.dtype == attention_mask.dtype == torch.long


def test_refuses_what_is_not_a_sequence_of_strings() -> None:
    with pytest.raises(TypeError, match="expected a sequence of texts, got one text: 'a query'"):
        check_texts("a query")
    with pytest.raises(TypeError, match="got NoneType at index 1: None"):
        check_texts(["a", None])  # type: ignore[list-item]
