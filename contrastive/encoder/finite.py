"""No weight that is not finite is kept: whatever writes weights asks `check_weights` first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """Raised where a loss, a gradient, an embedding or a weight is NaN or infinite."""


def check_weights(weights: Mapping[str, Any], what: str) -> None:
    """Refuse to write weights that are not finite.

    Args:
        weights: Tensors by name; what is no tensor of floating point numbers is passed over.
        what: Is to be written, for the message.

    Raises:
        NotFiniteError: If there is a NaN or an infinity in one.

    Example:
        >>> check_weights({"a": torch.ones(2)}, "a model")
    """
    floats = {name: value for name, value in weights.items() if isinstance(value, Tensor) and value.is_floating_point()}
    bad = [name for name, value in floats.items() if not torch.isfinite(value).all()]
    if bad:
        raise NotFiniteError(
            f"expected {what} with finite weights, got NaN or infinity in {len(bad)} of {len(floats)} tensors, "
            f"first in {bad[0]}: it is not written"
        )
