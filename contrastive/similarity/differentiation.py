"""A backward pass that can be differentiated once, and says so to whoever tries it twice.

`torch.autograd.function.once_differentiable` says so only if the incoming gradient has a graph of its own. A gradient
that was made in the forward pass depends on the embeddings all the same, and would be taken for a constant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Backward = Callable[..., tuple[Tensor | None, ...]]


class _Refuse(torch.autograd.Function):
    """Passes tensors on, and refuses to be differentiated."""

    @staticmethod
    def forward(_ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors."""
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(_ctx: Any, *_gradients: Tensor) -> tuple[Tensor, ...]:
        """Refuse."""
        raise RuntimeError("expected a first derivative, got a second: contrastive losses can be differentiated once")


def differentiable_once(backward: Backward) -> Backward:
    """Run a backward pass without a graph; where one is wanted (`create_graph=True`), it leads to an error."""

    @functools.wraps(backward)
    def once(ctx: Any, *of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = backward(ctx, *of_outputs)
        if not torch.is_grad_enabled():
            return gradients
        leaves = [None if gradient is None else gradient.detach().requires_grad_() for gradient in gradients]
        refused = iter(_Refuse.apply(*(leaf for leaf in leaves if leaf is not None)))  # type: ignore[no-untyped-call]
        return tuple(None if leaf is None else next(refused) for leaf in leaves)

    return once
