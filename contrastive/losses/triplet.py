"""The triplet loss and six ways of choosing its triplets.

Shape letters: Q queries, K >= Q keys, D width, P positive pairs (query, positive).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from contrastive.contracts import Health, MaskLike, Reduction
from contrastive.losses.core.distance import Distance, check_distance, distances
from contrastive.losses.core.mining import Mining, log_inverse_density, mine
from contrastive.losses.core.module import LossModule
from contrastive.losses.core.rows import check_choice, exclude_mask, key_owners, positive_mask, reduce_rows
from contrastive.masks import dense, owned

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

    .. math:: l = \max(0,\; d(q, p) - d(q, n) + m)  \quad\text{or, soft,}\quad  \log(1 + \exp(d(q, p) - d(q, n) + m))

    By default the negatives are the positives of other queries, the query's own hard negatives, those of other queries,
    and shared keys. Queries without a positive or a negative are dropped. `mining` chooses the triplets:

    - "explicit": each positive with each of the query's own hard negatives, by `owners` among the keys beyond Q.
    - "hardest": the farthest positive with the nearest negative, one triplet a query: batch-hard, Hermans et al. 2017
      (https://arxiv.org/abs/1703.07737, eq. 5).
    - "easy_positive": the nearest positive with the nearest negative, one triplet a query, for answers that need not be
      alike: Xuan et al. 2020 (https://arxiv.org/abs/1904.04370), their EPHN. They train it with a softmax over the two,
      which is `soft_margin`, divided by a temperature. Their EPSHN takes the nearest negative farther than that
      positive, and drops queries without one; with one positive a query "semi_hard" is that, but for its fallback.
    - "semi_hard": each positive with the nearest negative that is farther than it, Schroff et al. 2015
      (https://arxiv.org/abs/1503.03832, eq. 4); where there is none, with the farthest negative. The paper does not say
      what then; this is what TensorFlow's and other implementations do.
    - "distance_weighted": each positive with a negative drawn evenly by distance: with a probability inverse to how
      common its distance is between random points on the sphere, Wu et al. 2017 (https://arxiv.org/abs/1706.07567,
      section 4). Deviation: nothing is drawn; the loss is its expectation, each negative's loss times its probability
      (a constant: no gradient flows through it), so value and gradient have no noise and are the same on all ranks.
      Below distance 0.5 all are as likely, beyond 1.4 (Euclidean) none is drawn unless there is no other, as in the
      authors' code. In hundreds of dimensions nearly all the weight is on the nearest ones.
    - "all": each positive with each negative: batch-all, Hermans et al. 2017, eq. 6. Most triplets soon have no loss
      and dilute the mean, hence `average="active"` (their BA without zeros).

    Distances are not squared, as Hermans et al. advise; Schroff et al. square theirs.

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D]: the positives of all queries, then further negatives.
        distance: "cosine", 1 - cosine, in [0, 2]; "euclidean", in [0, 2] on unit vectors, without bound otherwise; or
            "max_sim" of token vectors, 1 - max_sim, in [0, 2].
        mining: How triplets are chosen, see above.
        margin: By how much the negative is to be farther. Default 0.2 for all distances of unit vectors (around a
            distance of 1, where unrelated texts lie, they change alike) and 1.0 for unnormalised Euclidean.
        soft_margin: Use the soft form, which never stops pulling. Its margin is 0, as in the paper (Hermans et al.
            2017, section 2), unless one is given.
        average: "mean" reductions run over "all" triplets chosen, or over the "active" ones, those with a loss above 0.
        normalize: Whether Euclidean distance is between unit vectors. Cosine does not depend on it.
        positives: Which pairs are positive: a mask, a bool tensor [Q, K] or index pairs [P, 2]. Unless there is one a
            query, all but "hardest" and "easy_positive" list the pairs, which synchronises a GPU. Labels are positives
            too: every other text of a query's label, with the query itself in `exclude`.
        exclude: Pairs that are not negatives, such as known positives: a mask or a bool tensor [Q, K]. Positives stay.
        owners: The query each key belongs to, [K], -1 for one that all share; by default key `n Q + i` is query `i`'s.
        weights: Weight of each query, [Q].
        reduction: "mean" over triplets, by the weight of their query; "none" for each query's own mean, [Q]; or "sum"
            of those.
        health: Filled with positive_distance, negative_distance (means over all valid pairs), active_share (of the
            triplets chosen, those on which a hinge of the same margin acts), excluded_share (of the negatives) and
            unanswered (share of queries).

    Returns:
        The loss in units of distance (soft: nats), a scalar or [Q].

    Raises:
        ValueError: If shapes do not match, a word is not known, the margin is negative or cannot be reached (above 2 on
            unit vectors), a soft margin comes with `average="active"`, "distance_weighted" with vectors that are not
            normalised or of tokens, or explicit triplets are asked of data without hard negatives.

    Example:
        >>> import torch
        >>> queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> positives = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> triplet(queries, positives, margin=0.5)
        tensor(0.3000)
    """
    margin = check_settings(distance, mining, margin, soft_margin, average, normalize)
    device, shape = keys.device, (len(queries), len(keys))
    positive = dense(positive_mask(positives, *shape, device), *shape, device)
    eligible = ~positive
    if mining == "explicit":
        eligible = eligible & _own_negatives(owners, *shape, device)
    excluded = exclude_mask(exclude, *shape, device)
    negative = eligible if excluded is None else eligible & ~dense(excluded, *shape, device)

    apart = distances(queries, keys, distance, normalize)
    weighed = _log_weights(apart, distance, queries.shape[1]) if mining == "distance_weighted" else None
    mined = mine(apart, positive, negative, mining, one_positive_each=positives is None, log_weights=weighed)
    valid = mined.shares > 0
    gaps = torch.where(valid, mined.positives - mined.negatives, 0)
    losses = mined.shares * (softplus if soft_margin else relu)(gaps + margin)

    active = valid & (gaps + margin > 0)
    counted = mined.shares * active if average == "active" else mined.shares
    totals = losses.new_zeros(len(queries)).index_add(0, mined.anchors, losses.sum(1))
    counts = losses.new_zeros(len(queries)).index_add(0, mined.anchors, counted.sum(1))
    if health is not None:
        health.record("positive_distance", apart, positive)
        health.record("negative_distance", apart, negative)
        health.record("active_share", (mined.shares * active).sum() / mined.shares.sum())
        health.record("excluded_share", ~negative, eligible)
        health.record("unanswered", ~(positive.any(1) & negative.any(1)))
    return reduce_rows(totals, counts, weights, reduction)


class TripletLoss(LossModule, function=triplet):
    """`triplet` as a module.

    Raises:
        ValueError: As `triplet`, for what can be known before there is a batch.

    Example:
        >>> TripletLoss(mining="semi_hard", margin=0.1).mining
        'semi_hard'
    """


def check_settings(
    distance: Distance, mining: Mining, margin: float | None, soft_margin: bool, average: Average, normalize: bool
) -> float:
    """Return the margin in use: if none is given the distance's default, and 0 for a soft one.

    Raises:
        ValueError: If a word is not known, or two settings do not go together.
    """
    check_choice("mining", mining, get_args(Mining))
    check_choice("average", average, get_args(Average))
    default = 1.0 if distance == "euclidean" and not normalize else 0.2
    check_distance(distance, normalize, default if margin is None else margin)
    if mining == "distance_weighted" and distance == "euclidean" and not normalize:
        raise ValueError("expected normalize=True with mining 'distance_weighted', which is about unit vectors")
    if mining == "distance_weighted" and distance == "max_sim":
        raise ValueError(
            "expected distance 'cosine' or 'euclidean' with mining 'distance_weighted', which is about one vector a "
            "text on a sphere, got 'max_sim' of token vectors; the other ways of mining go by any distance"
        )
    if soft_margin and average == "active":
        raise ValueError("expected average='all' with a soft margin, under which every triplet is active")
    if margin is not None:
        return margin
    return 0.0 if soft_margin else default


def _log_weights(apart: Tensor, distance: Distance, dimension: int) -> Tensor:
    """Return log weights [Q, K] for distances [Q, K] between unit vectors, cosine or Euclidean."""
    apart = apart.detach()
    return log_inverse_density((2 * apart.clamp_min(0)).sqrt() if distance == "cosine" else apart, dimension)


def _own_negatives(owners: Tensor | None, num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Select the hard negatives of each query, [Q, K]: keys beyond Q that belong to it."""
    if num_keys <= num_queries and num_queries:
        raise ValueError(
            f"expected hard negatives for explicit triplets, got {num_queries} queries and {num_keys} keys: "
            "the data has no negatives; choose mining 'hardest', 'semi_hard' or 'all', which take them from the batch"
        )
    mine = dense(owned(key_owners(owners, num_queries, num_keys, device)), num_queries, num_keys, device)
    return mine & (torch.arange(num_keys, device=device) >= num_queries)
