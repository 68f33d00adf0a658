from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contrastive.encoder.heads.largest_logits import largest_logits

MASK = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])


def by_loops(hidden: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    rows = []
    for vectors, flags in zip(hidden, mask, strict=True):
        real = [vector @ weight.T for vector, flag in zip(vectors, flags, strict=True) if flag]
        rows.append(torch.stack(real).max(0).values if real else torch.full((len(weight),), -torch.inf))
    return torch.stack(rows)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 4, 3, dtype=dtype, generator=generator)
    return hidden.requires_grad_(), torch.randn(7, 3, dtype=dtype, generator=generator).requires_grad_()


@pytest.mark.parametrize("at_a_time", [1, 14, 21, 1000], ids=["a token", "two", "three", "all"])
def test_equals_a_loop_over_texts_with_its_gradients(at_a_time: int) -> None:
    hidden, weight = inputs()
    largest, expected = largest_logits(hidden, MASK, weight, at_a_time=at_a_time), by_loops(hidden, MASK, weight)
    torch.testing.assert_close(largest, expected)
    towards = torch.randn(4, 7, dtype=torch.float64).masked_fill(MASK.sum(1, keepdim=True) == 0, 0)
    gradients = (torch.autograd.grad((value.relu() * towards).sum(), (hidden, weight)) for value in (largest, expected))
    torch.testing.assert_close(*gradients)


def test_gradients() -> None:
    hidden, weight = inputs()
    assert torch.autograd.gradcheck(lambda h, w: largest_logits(h, MASK, w, at_a_time=14).relu(), (hidden, weight))


def test_of_equal_logits_the_first_gets_the_gradient() -> None:
    hidden = torch.ones(1, 3, 1, requires_grad=True)
    largest_logits(hidden, torch.ones(1, 3), torch.ones(1, 1), at_a_time=1).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.flatten().tolist() == [1, 0, 0]


def test_padding_content_does_not_matter() -> None:
    hidden, weight = inputs()
    spoilt = hidden.detach().masked_fill(MASK.unsqueeze(-1) == 0, torch.nan).requires_grad_()
    largest = largest_logits(spoilt, MASK, weight)
    torch.testing.assert_close(largest, largest_logits(hidden, MASK, weight))
    largest.relu().sum().backward()
    assert spoilt.grad is not None
    assert spoilt.grad.isfinite().all()


def test_autocast_decodes_in_its_precision_and_gives_float32() -> None:
    hidden, weight = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        largest = largest_logits(hidden, MASK, weight)
    assert largest.dtype == torch.float32
    torch.testing.assert_close(largest, largest_logits(hidden, MASK, weight), rtol=0.02, atol=0.05)
    largest.relu().sum().backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


def test_two_backwards() -> None:
    hidden, weight = inputs()
    value = largest_logits(hidden, MASK, weight).relu().sum()
    first = torch.autograd.grad(value, (hidden, weight), retain_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(value, (hidden, weight)))


def test_no_texts() -> None:
    assert largest_logits(torch.zeros(0, 5, 3), torch.zeros(0, 5), torch.zeros(7, 3)).shape == (0, 7)
