"""What every loss of pairs shares: the shapes it is called with."""

from __future__ import annotations

from torch import Tensor

from contrastive.losses.core.reduction import check_weights


def check_pairs(left: Tensor, right: Tensor, targets: Tensor, weights: Tensor | None) -> None:
    """Refuse pairs, targets and weights whose shapes do not go together.

    Raises:
        ValueError: Naming the shapes.
    """
    if left.ndim != 2 or left.shape != right.shape:
        raise ValueError(
            f"expected left and right [B, D] of the same shape, got {list(left.shape)} and {list(right.shape)}"
        )
    if targets.shape != left.shape[:1]:
        raise ValueError(f"expected targets [{len(left)}], one a pair, got {list(targets.shape)}")
    check_weights(weights, len(left))
