"""Matryoshka: any loss, of embeddings and of their leading dimensions, so that short embeddings rank well too."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from contrastive.losses.core.signature import parameters_of


class MatryoshkaLoss(nn.Module):
    r"""Averages a loss over embeddings cut to several widths.

    .. math:: l = \frac{\sum_d w_d\, L(q_{1..d}, k_{1..d})}{\sum_d w_d}

    Kusupati et al. 2022 (https://arxiv.org/abs/2205.13147, eq. 1). Deviation: the mean, where the paper and
    MatryoshkaLoss of sentence-transformers have the sum, so that a learning rate keeps its meaning. With weights of
    which one is not 0 it is the loss of that width.

    Embeddings are cut as they come, and normalised by the loss if it does that: cosine does, "dot" does not, and dot
    products of fewer dimensions are smaller. Everything else, such as guide embeddings, teacher scores or targets, goes
    to the loss as it is. The call takes what the loss takes, and its signature says so.

    `health` is filled once, from the greatest width, and is that of the loss alone.

    Args:
        loss: Called with two matrices of embeddings, queries and keys or left and right, and whatever else it takes.
        dimensions: Widths, the full one among them unless it is not to be trained; in any order.
        weights: Weight of each, 0 or above, in their order; by default all alike.

    Raises:
        ValueError: If the dimensions are not distinct numbers above 0, or weights not one each; when called, if an
            embedding is narrower than a dimension.

    Example:
        >>> import torch
        >>> from contrastive.losses import InfoNCELoss
        >>> loss = MatryoshkaLoss(InfoNCELoss(), dimensions=[4, 2])
        >>> queries, keys = torch.eye(4), torch.eye(4)
        >>> loss(queries, keys) == (InfoNCELoss()(queries, keys) + InfoNCELoss()(queries[:, :2], keys[:, :2])) / 2
        tensor(True)
    """

    def __init__(
        self, loss: Callable[..., Tensor], dimensions: Sequence[int], weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        dimensions = tuple(dimensions)
        if not dimensions or min(dimensions) < 1 or len(set(dimensions)) < len(dimensions):
            raise ValueError(f"expected distinct dimensions above 0, got {list(dimensions)}")
        weights = (1.0,) * len(dimensions) if weights is None else tuple(weights)
        if len(weights) != len(dimensions):
            raise ValueError(f"expected {len(dimensions)} weights, one a dimension, got {len(weights)}")
        if min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise ValueError(f"expected weights of 0 or above, not all of them 0, got {list(weights)}")
        self.loss = loss
        self.dimensions = dimensions
        self.weights = weights
        # What the loss takes, for whoever asks which fields of a batch to pass: this forward takes anything.
        self.__signature__ = inspect.Signature(list(parameters_of(loss).values()))

    @property
    def similarity(self) -> Any:
        """How the loss compares embeddings; None if it does not say."""
        return getattr(self.loss, "similarity", None)

    def forward(self, queries: Tensor, keys: Tensor, *arguments: Any, health: Any = None, **named: Any) -> Tensor:
        """Average the loss of queries [Q, D] and keys [K, D], or of left and right [B, D], over the dimensions.

        Vectors of tokens, [Q, T, D], are each cut.
        """
        widest, width = max(self.dimensions), min(queries.shape[-1], keys.shape[-1])
        if widest > width:
            raise ValueError(f"expected embeddings of at least {widest} dimensions, got {width}")
        terms = []
        for dimension, weight in zip(self.dimensions, self.weights, strict=True):
            filled = {"health": health} if health is not None and dimension == widest else {}
            loss = self.loss(queries[..., :dimension], keys[..., :dimension], *arguments, **named, **filled)
            terms.append(weight / sum(self.weights) * loss)
        return sum(terms[1:], terms[0])

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"dimensions={list(self.dimensions)}, weights={list(self.weights)}"
