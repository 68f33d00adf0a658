"""What every loss of pairs shares: the shapes it is called with."""

from __future__ import annotations

from torch import Tensor

from contrastive.losses.core.reduction import check_weights
from contrastive.similarity import MaxSimilarity, ProductSimilarity, check_shapes, cosine


def check_pairs(
    left: Tensor, right: Tensor, targets: Tensor, weights: Tensor | None, similarity: ProductSimilarity = cosine
) -> None:
    """Refuse pairs, targets and weights whose shapes do not go together, or are not what a similarity compares.

    Raises:
        ValueError: Naming the shapes.
    """
    of_tokens = isinstance(similarity, MaxSimilarity)
    if of_tokens and {left.ndim, right.ndim} == {3}:
        check_shapes(left, right, similarity)
    elif of_tokens or left.ndim != 2 or left.shape != right.shape:
        kind = "[B, Tl, D] and [B, Tr, D]" if of_tokens else "[B, D] of the same shape"
        raise ValueError(f"expected left and right {kind}, got {list(left.shape)} and {list(right.shape)}")
    if len(left) != len(right):
        raise ValueError(f"expected as many left as right, got {list(left.shape)} and {list(right.shape)}")
    if targets.shape != left.shape[:1]:
        raise ValueError(f"expected targets [{len(left)}], one a pair, got {list(targets.shape)}")
    check_weights(weights, len(left))
