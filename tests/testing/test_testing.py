"""The public checks of a loss: what they accept, and that they refuse what is wrong. World size has its own file."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from contrastive.losses import InfoNCELoss, info_nce, triplet
from contrastive.similarity import cosine
from contrastive.testing import assert_gradients, assert_matches_oracle


def by_hand(queries: Tensor, keys: Tensor, temperature: float = 0.05) -> Tensor:
    return cross_entropy(cosine(queries, keys) / temperature, torch.arange(len(queries)))


def test_a_loss_that_is_its_formula_passes_and_is_left_as_it_was() -> None:
    loss = InfoNCELoss(temperature=0.05, learnable_temperature=True)
    assert_matches_oracle(loss, by_hand, tolerance=1e-6)  # the parameter is a float32 logarithm
    assert_matches_oracle(info_nce, by_hand, temperature=0.3)
    assert_gradients(loss)
    assert_gradients(info_nce, weights=torch.tensor([1.0, 2.0, 0.0]))
    assert loss.learnt_temperature.logarithm.dtype == torch.float32
    assert loss.learnt_temperature.logarithm.grad is None


def test_another_value_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"value for queries \[4, 6\], keys \[4, 6\], seed 0: relative error"):
        assert_matches_oracle(InfoNCELoss(temperature=0.06), by_hand)


class _HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / 2


def test_another_gradient_is_refused() -> None:
    def half(queries: Tensor, keys: Tensor) -> Tensor:
        return by_hand(queries, _HalfGradient.apply(keys))

    with pytest.raises(AssertionError, match=r"gradient of the keys for .*relative error 0.5.*cosine 1.000000"):
        assert_matches_oracle(half, by_hand)
    with pytest.raises(AssertionError, match=r"wrong gradient for .*inputs: 0 queries, 1 keys\): Jacobian mismatch"):
        assert_gradients(half)


def test_the_gradient_of_a_parameter_is_checked() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
            return by_hand(queries, keys) * _HalfGradient.apply(self.scale)

    with pytest.raises(AssertionError, match=r"inputs: 0 queries, 1 keys, 2 scale"):
        assert_gradients(Scaled())


def test_another_shape_is_refused() -> None:
    def rows(queries: Tensor, keys: Tensor) -> Tensor:
        return info_nce(queries, keys, reduction="none")

    with pytest.raises(AssertionError, match=r"value for .*: expected shape \[\], got \[4\]"):
        assert_matches_oracle(rows, by_hand)


def test_nan_is_refused() -> None:
    def broken(queries: Tensor, keys: Tensor) -> Tensor:
        return by_hand(queries, keys) * float("nan")

    with pytest.raises(AssertionError, match="relative error nan"):
        assert_matches_oracle(broken, by_hand)


def test_an_oracle_without_gradient_shows_nothing() -> None:
    def inactive(queries: Tensor, keys: Tensor) -> Tensor:
        return triplet(queries, keys, margin=0.0) * 0

    with pytest.raises(AssertionError, match="zero for every input that was tried: the comparison shows nothing"):
        assert_matches_oracle(inactive, inactive)
