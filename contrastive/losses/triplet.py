"""The triplet loss and four ways of choosing its triplets: explicit, hardest, semi-hard and all.

Shape letters: Q queries, K >= Q keys, D width, P positive pairs (query, positive). The triplets of a pair are its
distance [P, 1] against the distances of its query's negatives [P, K], or [P, 1] when one is mined: never [P, P, K].
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from contrastive.contracts import MaskLike, Reduction
from contrastive.health import Health
from contrastive.logits import masked_mean
from contrastive.losses._rows import check_choice, exclude_mask, key_owners, positive_mask, reduce_rows
from contrastive.masks import dense, owned
from contrastive.similarity import cosine, euclidean, score_pairs, unit

Distance = Literal["cosine", "euclidean"]
Mining = Literal["explicit", "hardest", "semi_hard", "all"]
Average = Literal["all", "active"]


def triplet(
    queries: Tensor,
    keys: Tensor,
    *,
    distance: Distance = "cosine",
    mining: Mining = "hardest",
    margin: float | None = None,
    soft_margin: bool = False,
    average: Average = "all",
    normalize: bool = True,
    positives: MaskLike | None = None,
    exclude: MaskLike | None = None,
    owners: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    health: Health | None = None,
) -> Tensor:
    r"""Compute the triplet loss: a query is to be closer to its positive than to a negative, by a margin.

    .. math:: l = \max(0,\; d(q, p) - d(q, n) + m)  \quad\text{or, soft,}\quad  \log(1 + \exp(d(q, p) - d(q, n)))

    By default the negatives are the positives of other queries, the query's own hard negatives, those of other queries,
    and shared keys. Queries without a positive or a negative are dropped. `mining` chooses the triplets:

    - "explicit": each positive with each of the query's own hard negatives, by `owners` among the keys beyond Q.
    - "hardest": the farthest positive with the nearest negative, one triplet a query: batch-hard, Hermans et al. 2017
      (https://arxiv.org/abs/1703.07737, eq. 5).
    - "semi_hard": each positive with the nearest negative that is farther than it, Schroff et al. 2015
      (https://arxiv.org/abs/1503.03832, eq. 4); where there is none, with the farthest negative. The paper does not say
      what then; this is what TensorFlow's and other implementations do.
    - "all": each positive with each negative: batch-all, Hermans et al. 2017, eq. 6. Most triplets soon have no loss
      and dilute the mean, hence `average="active"` (their BA without zeros).

    Distances are not squared, as Hermans et al. advise; Schroff et al. square theirs.

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D]: the positives of all queries, then further negatives.
        distance: "cosine", 1 - cosine, in [0, 2]; or "euclidean", in [0, 2] on unit vectors, without bound otherwise.
        mining: How triplets are chosen, see above.
        margin: By how much the negative is to be farther. Default 0.2 for both distances on unit vectors (around a
            distance of 1, where unrelated texts lie, the two change alike) and 1.0 for unnormalised Euclidean.
        soft_margin: Use the soft form, which never stops pulling; it has no margin (Hermans et al. 2017, section 2).
        average: "mean" reductions run over "all" triplets chosen, or over the "active" ones, those with a loss above 0.
        normalize: Whether Euclidean distance is between unit vectors. Cosine does not depend on it.
        positives: Which pairs are positive: a mask, a bool tensor [Q, K] or index pairs [P, 2]. Unless there is one a
            query, "semi_hard", "all" and "explicit" list the pairs, which synchronises a GPU.
        exclude: Pairs that are not negatives, such as known positives: a mask or a bool tensor [Q, K]. Positives stay.
        owners: The query each key belongs to, [K], -1 for one that all share; by default key `n Q + i` is query `i`'s.
        weights: Weight of each query, [Q].
        reduction: "mean" over triplets, by the weight of their query; "none" for each query's own mean, [Q]; or "sum"
            of those.
        health: Filled with positive_distance, negative_distance (means over all valid pairs), active_share (of the
            triplets chosen; with a soft margin, those in the wrong order), excluded_share (of the negatives) and
            unanswered (share of queries).

    Returns:
        The loss in units of distance (soft: nats), a scalar or [Q].

    Raises:
        ValueError: If shapes do not match, a word is not known, the margin is negative or cannot be reached (above 2 on
            unit vectors), a soft margin comes with a margin or with `average="active"`, or explicit triplets are asked
            of data without hard negatives.

    Example:
        >>> import torch
        >>> queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> positives = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> triplet(queries, positives, margin=0.5)
        tensor(0.3000)
    """
    margin = check_margin(distance, margin, soft_margin, average, normalize)
    check_choice("mining", mining, get_args(Mining))
    device, shape = keys.device, (len(queries), len(keys))
    positive = dense(positive_mask(positives, *shape, device), *shape, device)
    eligible = ~positive
    if mining == "explicit":
        eligible = eligible & _own_negatives(owners, *shape, device)
    excluded = exclude_mask(exclude, *shape, device)
    negative = eligible if excluded is None else eligible & ~dense(excluded, *shape, device)

    distances = _distances(queries, keys, distance, normalize)
    anchors, positive_distances, negative_distances, valid = _mine(
        distances, positive, negative, mining, one_positive_each=positives is None
    )
    gaps = torch.where(valid, positive_distances - negative_distances, 0)
    losses = torch.where(valid, softplus(gaps) if soft_margin else relu(gaps + margin), 0)

    active = valid & (gaps + margin > 0)
    counted = active if average == "active" else valid
    totals = losses.new_zeros(len(queries)).index_add(0, anchors, losses.sum(1))
    counts = losses.new_zeros(len(queries)).index_add(0, anchors, counted.sum(1, dtype=losses.dtype))
    if health is not None:
        health.record("positive_distance", masked_mean(distances.detach(), positive))
        health.record("negative_distance", masked_mean(distances.detach(), negative))
        health.record("active_share", masked_mean(active.float(), valid))
        health.record("excluded_share", masked_mean((~negative).float(), eligible))
        health.record("unanswered", ~(positive.any(1) & negative.any(1)))
    return reduce_rows(totals, counts, weights, reduction)


class TripletLoss(nn.Module):
    """`triplet` as a module.

    Raises:
        ValueError: As `triplet`, for what can be known before there is a batch.

    Example:
        >>> TripletLoss(mining="semi_hard", margin=0.1)
        TripletLoss(distance=cosine, mining=semi_hard, margin=0.1, average=all, reduction=mean)
    """

    def __init__(
        self,
        distance: Distance = "cosine",
        mining: Mining = "hardest",
        margin: float | None = None,
        soft_margin: bool = False,
        average: Average = "all",
        normalize: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_margin(distance, margin, soft_margin, average, normalize)
        check_choice("mining", mining, get_args(Mining))
        check_choice("reduction", reduction, get_args(Reduction))
        self.distance: Distance = distance
        self.mining: Mining = mining
        self.margin = margin
        self.soft_margin = soft_margin
        self.average: Average = average
        self.normalize = normalize
        self.reduction: Reduction = reduction

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        *,
        positives: MaskLike | None = None,
        exclude: MaskLike | None = None,
        owners: Tensor | None = None,
        weights: Tensor | None = None,
        health: Health | None = None,
    ) -> Tensor:
        """Compute `triplet` of queries [Q, D] and keys [K, D]."""
        return triplet(
            queries,
            keys,
            distance=self.distance,
            mining=self.mining,
            margin=self.margin,
            soft_margin=self.soft_margin,
            average=self.average,
            normalize=self.normalize,
            positives=positives,
            exclude=exclude,
            owners=owners,
            weights=weights,
            reduction=self.reduction,
            health=health,
        )

    def extra_repr(self) -> str:
        """Describe the settings."""
        margin = check_margin(self.distance, self.margin, self.soft_margin, self.average, self.normalize)
        return (
            f"distance={self.distance}{'' if self.normalize else ' (raw)'}, mining={self.mining}, "
            f"margin={'soft' if self.soft_margin else margin}, average={self.average}, reduction={self.reduction}"
        )


def check_margin(
    distance: Distance, margin: float | None, soft_margin: bool, average: Average, normalize: bool
) -> float:
    """Return the margin in use, the distance's default if none is given; 0 stands for a soft one.

    Raises:
        ValueError: If the distance or average is not known, or they do not go with the margin.
    """
    check_choice("distance", distance, get_args(Distance))
    check_choice("average", average, get_args(Average))
    if soft_margin:
        if margin is not None:
            raise ValueError(f"expected a margin or a soft margin, got margin {margin} and soft_margin=True")
        if average == "active":
            raise ValueError("expected average='all' with a soft margin, under which every triplet is active")
        return 0.0
    bounded = distance == "cosine" or normalize
    if margin is None:
        return 0.2 if bounded else 1.0
    if not 0 <= margin <= (2 if bounded else float("inf")):
        reach = f" of at most 2, the largest {distance} distance of unit vectors" if bounded else ""
        raise ValueError(f"expected a margin of at least 0{' and' if bounded else ''}{reach}, got {margin}")
    return margin


def _distances(queries: Tensor, keys: Tensor, distance: Distance, normalize: bool) -> Tensor:
    """Return the distances [Q, K]."""
    if distance == "cosine":
        return 1 - score_pairs(cosine, queries, keys)
    if normalize:
        queries, keys = unit(queries), unit(keys)
    return -score_pairs(euclidean, queries, keys)


def _own_negatives(owners: Tensor | None, num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Select the hard negatives of each query, [Q, K]: keys beyond Q that belong to it."""
    if num_keys <= num_queries and num_queries:
        raise ValueError(
            f"expected hard negatives for explicit triplets, got {num_queries} queries and {num_keys} keys: "
            "the data has no negatives; choose mining 'hardest', 'semi_hard' or 'all', which take them from the batch"
        )
    mine = dense(owned(key_owners(owners, num_queries, num_keys, device)), num_queries, num_keys, device)
    return mine & (torch.arange(num_keys, device=device) >= num_queries)


def _mine(
    distances: Tensor, positive: Tensor, negative: Tensor, mining: Mining, *, one_positive_each: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose the triplets.

    Returns:
        The query of each positive pair, [P]; its distance, [P, 1]; the distances of the negatives it is held against,
        [P, K] or [P, 1]; and which of those are triplets, of the same shape.
    """
    queries = torch.arange(len(distances), device=distances.device)
    if distances.numel() == 0:
        return queries, distances, distances, negative
    if mining == "hardest":
        valid = (positive.any(1) & negative.any(1))[:, None]
        return queries, _farthest(distances, positive), _nearest(distances, negative), valid
    anchors, chosen = (queries, queries) if one_positive_each else positive.nonzero(as_tuple=True)
    positive_distances = distances[anchors, chosen][:, None]
    distances, negative = distances[anchors], negative[anchors]
    if mining == "semi_hard":
        farther = negative & (distances > positive_distances)
        semi_hard = torch.where(
            farther.any(1, keepdim=True), _nearest(distances, farther), _farthest(distances, negative)
        )
        return anchors, positive_distances, semi_hard, negative.any(1, keepdim=True)
    return anchors, positive_distances, distances, negative


def _nearest(distances: Tensor, selected: Tensor) -> Tensor:
    """Return the least selected distance of each row, [.., 1], infinity if there is none; ties share the gradient."""
    return torch.where(selected, distances, torch.inf).amin(1, keepdim=True)


def _farthest(distances: Tensor, selected: Tensor) -> Tensor:
    """Return the greatest selected distance of each row, [.., 1], minus infinity if none; ties share the gradient."""
    return torch.where(selected, distances, -torch.inf).amax(1, keepdim=True)
