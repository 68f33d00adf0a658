"""Packed vectors of tokens: whatever is done with them, each text keeps its own."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contrastive.similarity import TokenVectors

LENGTHS = st.lists(st.integers(0, 4), max_size=6)


def packed(lengths: list[int], width: int = 3) -> TokenVectors:
    vectors = torch.arange(1.0, 1 + sum(lengths) * width).view(-1, width)
    return TokenVectors.of_lengths(vectors, torch.tensor(lengths, dtype=torch.long))


def as_lists(texts: TokenVectors) -> list[list[list[float]]]:
    return [texts.vectors[start:stop].tolist() for start, stop in pairwise(texts.offsets.tolist())]


@settings(deadline=None)
@given(lengths=LENGTHS)
def test_padding_and_packing_are_inverse(lengths: list[int]) -> None:
    texts = packed(lengths)
    padded = texts.padded()
    assert padded.shape == (len(lengths), max(lengths, default=0), 3)
    assert [row[: len(own)].tolist() for row, own in zip(padded, as_lists(texts), strict=True)] == as_lists(texts)
    assert padded.any(-1).sum(1).tolist() == lengths == texts.lengths.tolist()
    again = TokenVectors.pack(padded)
    assert torch.equal(again.vectors, texts.vectors)
    assert torch.equal(again.offsets, texts.offsets)


@settings(deadline=None, max_examples=40)
@given(lengths=LENGTHS.filter(bool), data=st.data())
def test_rows_are_those_of_a_list_in_the_order_asked_for(lengths: list[int], data: st.DataObject) -> None:
    texts, number = packed(lengths), len(lengths)
    lists = as_lists(texts)
    rows = data.draw(st.lists(st.integers(-number, number - 1), max_size=8))
    assert as_lists(texts[rows]) == [lists[row] for row in rows]
    assert as_lists(texts[torch.tensor(rows, dtype=torch.long)]) == [lists[row] for row in rows]
    chosen = torch.tensor(lengths) > 1
    assert as_lists(texts[chosen]) == [each for each in lists if len(each) > 1]
    start, stop = data.draw(st.tuples(st.integers(-8, 8), st.integers(-8, 8)))
    assert as_lists(texts[start:stop]) == lists[start:stop]
    assert as_lists(texts[::-2]) == lists[::-2]


@settings(deadline=None)
@given(parts=st.lists(LENGTHS, min_size=1, max_size=4))
def test_parts_are_joined_in_order(parts: list[list[int]]) -> None:
    each = [packed(lengths) for lengths in parts]
    assert as_lists(TokenVectors.join(each)) == [text for part in each for text in as_lists(part)]


def test_a_slice_shares_memory_and_gradients_pass_through() -> None:
    texts = packed([2, 0, 3])
    assert texts[1:].vectors.data_ptr() == texts.vectors[2:].data_ptr()
    leaf: Tensor = texts.vectors.clone().requires_grad_()
    of_lengths = TokenVectors.of_lengths(leaf, texts.lengths)
    of_lengths[[2, 2]].padded().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad[:, 0].tolist() == [0, 0, 2, 2, 2]
    assert of_lengths.to(torch.float16).vectors.dtype == torch.float16


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected vectors \[N, D\] and offsets \[B \+ 1\], got \[3\] and \[2\]"):
        TokenVectors(torch.zeros(3), torch.tensor([0, 3]))
    for offsets in ([0, 2], [1, 3], [0, 3, 2, 3]):
        with pytest.raises(ValueError, match="expected offsets that rise from 0 to 3"):
            TokenVectors(torch.zeros(3, 2), torch.tensor(offsets))
