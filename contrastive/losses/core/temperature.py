"""The temperature of a softmax: what may be one, and one that is learnt."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def check_temperature(temperature: float | Tensor, name: str = "temperature") -> None:
    """Refuse what cannot be a temperature; a tensor's value is not looked at, which would synchronise.

    Raises:
        ValueError: If a number is not above 0 and finite, or a tensor is not 0-dimensional; it says what the `name` is.
    """
    if isinstance(temperature, Tensor):
        if temperature.ndim:
            raise ValueError(f"expected a {name} of no dimensions, got a tensor {list(temperature.shape)}")
    elif not 0 < temperature < math.inf:
        raise ValueError(f"expected a finite {name} above 0, got {temperature}")


class LearntTemperature(nn.Module):
    """A temperature kept as its logarithm and held within bounds that it can come back from.

    The value is clamped on the way out, so `forward` mutates nothing, however far an optimiser's momentum has carried
    the parameter. At a bound the gradient that pushes further out is dropped, the one that leads back is not.

    Raises:
        ValueError: If not 0 < lowest <= temperature <= highest, or the highest is infinite.

    Example:
        >>> LearntTemperature(0.05, (0.01, 1.0))()
        tensor(0.0500, grad_fn=<ExpBackward0>)
    """

    def __init__(self, temperature: float, bounds: tuple[float, float]) -> None:
        super().__init__()
        lowest, highest = bounds
        if not 0 < lowest <= temperature <= highest < math.inf:
            raise ValueError(
                f"expected 0 < lowest <= temperature <= highest, all finite, got {temperature} in [{lowest}, {highest}]"
            )
        self.log_bounds = math.log(lowest), math.log(highest)
        self.logarithm = nn.Parameter(torch.tensor(math.log(temperature)))

    def forward(self) -> Tensor:
        """Return the temperature, 0-dim, with a graph."""
        bounded: Tensor = _Bound.apply(self.logarithm, *self.log_bounds)  # type: ignore[no-untyped-call]
        return bounded.exp()


class _Bound(torch.autograd.Function):
    """Clamp; beyond a bound, zero only the gradient that pushes further out (a descent step goes against it)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, lowest: float, highest: float) -> Tensor:
        """Return the value within its bounds."""
        ctx.save_for_backward(value)
        ctx.bounds = lowest, highest
        return value.clamp(lowest, highest)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient unless a step against it would lead further out."""
        (value,) = ctx.saved_tensors
        lowest, highest = ctx.bounds
        outward = ((value <= lowest) & (gradient > 0)) | ((value >= highest) & (gradient < 0))
        return gradient.masked_fill(outward, 0), None, None
