"""Losses of pairs that are told apart: contrastive, over all pairs of a batch or over the hard ones only.

Shape letters: B pairs, D width. For graded targets, where only the order matters, see `contrastive.losses.ordinal`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, relu

from contrastive.contracts import Health, Reduction
from contrastive.losses.core.distance import Distance, distances_of_pairs, margin_of_pairs, similarity_of_distance
from contrastive.losses.core.module import LossModule
from contrastive.losses.core.pairs import check_pairs
from contrastive.losses.core.rows import reduce_rows


def contrastive(
    left: Tensor,
    right: Tensor,
    targets: Tensor,
    *,
    distance: Distance = "cosine",
    margin: float | None = None,
    normalize: bool = True,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    health: Health | None = None,
) -> Tensor:
    r"""Compute the contrastive loss: similar pairs are pulled together, others pushed apart up to a margin.

    .. math:: l = \tfrac12\, y\, d^2 + \tfrac12\, (1 - y) \max(0,\; m - d)^2

    Hadsell, Chopra, LeCun 2006 (http://yann.lecun.com/exdb/publis/pdf/hadsell-chopra-lecun-06.pdf, eq. 4), factor 1/2
    included. Deviations: `y` is 1 for similar pairs, as everywhere here, where the paper's is 0; the paper sums over
    pairs, this averages; its distance is Euclidean between unnormalised vectors (`distance="euclidean",
    normalize=False`). Equal to ContrastiveLoss of sentence-transformers with the same margin.

    Args:
        left: Embeddings [B, D].
        right: Embeddings [B, D].
        targets: 1 for a similar pair, 0 for another, [B]. Between the two, a pair is in part pulled and in part pushed.
        distance: "cosine", 1 - cosine, in [0, 2]; "euclidean", in [0, 2] on unit vectors, without bound otherwise; or
            "max_sim" of token vectors, 1 - max_sim, in [0, 2], where left asks and right answers.
        margin: The distance at which a dissimilar pair is far enough. Default 0.5 for cosine and max_sim, 1.0 for
            Euclidean, which on unit vectors is the same angle, 60 degrees.
        normalize: Whether Euclidean distance is between unit vectors. Cosine does not depend on it.
        weights: Weight of each pair, [B].
        reduction: "mean" over pairs, by weight; "sum"; or "none", [B].
        health: Filled with positive_distance, negative_distance (targets from 0.5 on, and below), and active_share (of
            the latter, those closer than the margin).

    Returns:
        The loss in squared units of distance, a scalar or [B]; of an empty batch 0, with a graph.

    Raises:
        ValueError: If shapes do not match, a word is not known, or the margin cannot be reached (above 2 on unit
            vectors).

    Example:
        >>> import torch
        >>> left, right = torch.eye(2), torch.tensor([[0.6, 0.8], [0.8, 0.6]])
        >>> contrastive(left, right, torch.tensor([1, 0]), reduction="none")  # cosines 0.6 and 0.6
        tensor([0.0800, 0.0050])
    """
    margin = margin_of_pairs(distance, margin, normalize)
    check_pairs(left, right, targets, weights, similarity_of_distance(distance, normalize))
    apart = distances_of_pairs(left, right, distance, normalize)
    similar = targets.to(apart)
    losses = (similar * apart.square() + (1 - similar) * relu(margin - apart).square()) / 2
    if health is not None:
        health.record("positive_distance", apart, similar >= 0.5)
        health.record("negative_distance", apart, similar < 0.5)
        health.record("active_share", (apart < margin).float(), similar < 0.5)
    return reduce_rows(losses, torch.ones_like(losses), weights, reduction)


def online_contrastive(
    left: Tensor,
    right: Tensor,
    targets: Tensor,
    *,
    distance: Distance = "cosine",
    margin: float | None = None,
    normalize: bool = True,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    health: Health | None = None,
) -> Tensor:
    r"""Compute the contrastive loss of those pairs only that the batch has in the wrong order.

    .. math:: \sum_{i \in P,\; d_i > \min_N d} d_i^2 \;+ \sum_{j \in N,\; d_j < \max_P d} \max(0,\; m - d_j)^2

    A similar pair counts if some dissimilar one is closer, a dissimilar pair if some similar one is farther. Where a
    batch has pairs of one kind only, those count that are harder than their mean. With `reduction="sum"` this is
    OnlineContrastiveLoss of sentence-transformers, which has no paper and no factor 1/2; the default here is the mean
    over the pairs that count, so that the learning rate keeps its meaning when fewer do.

    Which pairs count depends on the whole batch, and no gradient flows through that choice.

    Args:
        left: Embeddings [B, D].
        right: Embeddings [B, D].
        targets: Similar pairs have 0.5 or more, others less, [B]: usually 1 and 0.
        distance: "cosine", 1 - cosine, in [0, 2]; "euclidean", in [0, 2] on unit vectors, without bound otherwise; or
            "max_sim" of token vectors, 1 - max_sim, in [0, 2], where left asks and right answers.
        margin: The distance at which a dissimilar pair is far enough. Default 0.5, for Euclidean 1.0.
        normalize: Whether Euclidean distance is between unit vectors. Cosine does not depend on it.
        weights: Weight of each pair, [B].
        reduction: "mean" over the pairs that count, by weight; "sum"; or "none", [B], 0 for those that do not count.
        health: Filled with positive_distance, negative_distance (means over all pairs), and active_share (of all pairs,
            those that count).

    Returns:
        The loss in squared units of distance, a scalar or [B]; 0, with a graph, if no pair counts.

    Raises:
        ValueError: As `contrastive`.

    Example:
        >>> import torch
        >>> left, right = torch.eye(2), torch.tensor([[0.6, 0.8], [0.6, 0.8]])
        >>> online_contrastive(left, right, torch.tensor([1, 0]), reduction="none")  # cosines 0.6 and 0.8
        tensor([0.1600, 0.0900])
    """
    margin = margin_of_pairs(distance, margin, normalize)
    check_pairs(left, right, targets, weights, similarity_of_distance(distance, normalize))
    apart = distances_of_pairs(left, right, distance, normalize)
    similar = targets >= 0.5
    counted = _hard(apart.detach(), similar)
    losses = torch.where(similar, apart, relu(margin - apart)).square() * counted
    if health is not None:
        health.record("positive_distance", apart, similar)
        health.record("negative_distance", apart, ~similar)
        health.record("active_share", counted)
    return reduce_rows(losses, counted.to(losses.dtype), weights, reduction)


class ContrastiveLoss(LossModule, function=contrastive):
    """`contrastive` as a module.

    Raises:
        ValueError: As `contrastive`, for what can be known before there is a batch.

    Example:
        >>> ContrastiveLoss(distance="euclidean")
        ContrastiveLoss(distance=euclidean, normalize=True, reduction=mean)
    """


class OnlineContrastiveLoss(LossModule, function=online_contrastive):
    """`online_contrastive` as a module.

    Raises:
        ValueError: As `online_contrastive`, for what can be known before there is a batch.

    Example:
        >>> OnlineContrastiveLoss(margin=0.3)
        OnlineContrastiveLoss(distance=cosine, margin=0.3, normalize=True, reduction=mean)
    """


def _hard(apart: Tensor, similar: Tensor) -> Tensor:
    """Select the pairs that are out of order by their distances [B], or worse than the mean where all are of a kind."""
    means = apart.mean()  # of all pairs, which are then of one kind
    # Padded with what decides nothing, as an empty batch has no extremes.
    farthest = pad(torch.where(similar, apart, -torch.inf), (0, 1), value=-torch.inf).amax()
    nearest = pad(torch.where(similar, torch.inf, apart), (0, 1), value=torch.inf).amin()
    farthest = torch.where(farthest == -torch.inf, means, farthest)
    nearest = torch.where(nearest == torch.inf, means, nearest)
    return torch.where(similar, apart > nearest, apart < farthest)
