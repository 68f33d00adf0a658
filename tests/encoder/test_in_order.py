"""Texts put together again of windows that came in any order."""

import torch

from contrastive.encoder.in_order import tokens_in_order, vectors_in_order


def test_windows_come_back_in_the_order_of_texts_and_of_themselves() -> None:
    pieces = [
        ([(1, 0), (0, 1)], torch.tensor([[[4.0], [5.0]], [[3.0], [0.0]]])),
        ([(0, 0), (2, 0)], torch.tensor([[[1.0], [2.0]], [[6.0], [0.0]]])),
    ]
    texts = tokens_in_order(pieces, torch.tensor([0, 2, 1, 0]), 1)
    assert texts.lengths.tolist() == [3, 1, 2, 3]
    assert texts.vectors[:, 0].tolist() == [1, 2, 3, 6, 4, 5, 1, 2, 3]
    assert len(tokens_in_order([], torch.zeros(0, dtype=torch.long), 4)) == 0


def test_a_text_of_one_window_has_its_vector() -> None:
    pieces = [([(1, 0)], torch.tensor([[4.0]])), ([(0, 0)], torch.tensor([[1.0]]))]
    assert vectors_in_order(pieces, torch.tensor([0, 1, 0]), 1)[:, 0].tolist() == [1, 4, 1]
    assert vectors_in_order([], torch.zeros(0, dtype=torch.long), 4).shape == (0, 4)
