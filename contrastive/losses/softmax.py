"""Losses that pick the positive out of a softmax over keys: InfoNCE, and multiple-negatives ranking, its usual setting.

Shape letters: Q queries, K >= Q keys, D width, P (query, positive) index pairs. Key `i` is the positive of query `i`
unless `positives` says otherwise; keys that are nobody's positive are hard negatives (or a queue).
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from contrastive.contracts import MaskLike, Reduction, Similarity
from contrastive.health import Health
from contrastive.logits import softmax_rows
from contrastive.losses._rows import check_choice, exclude_mask, negative_mask, positive_mask, reduce_rows
from contrastive.losses._temperature import LearntTemperature, check_temperature
from contrastive.masks import dense, everything
from contrastive.similarity import SimilarityName, cosine, flipped, full_precision, named


def info_nce(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float | Tensor = 0.05,
    similarity: Similarity | SimilarityName = cosine,
    symmetric: bool = False,
    others_negatives: bool = True,
    positives: MaskLike | None = None,
    exclude: MaskLike | None = None,
    owners: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    health: Health | None = None,
) -> Tensor:
    r"""Compute InfoNCE: the cross-entropy of finding each query's positive among the keys.

    .. math:: l_i = -\frac{1}{|P_i|} \sum_{j \in P_i} \log
        \frac{\exp(s_{ij} / t)}{\sum_{k \in P_i \cup N_i} \exp(s_{ik} / t)}

    With one positive a query this is eq. 4 of van den Oord et al. 2018 (https://arxiv.org/abs/1807.03748), whose f is
    exp(s / t); several positives are averaged as in SupCon, see `contrastive.logits`. By default the negatives N_i are
    the positives of other queries, the query's own hard negatives, those of other queries, and shared keys (a queue).

    `symmetric` adds the opposite direction, positives looking for their query among all queries, as in CLIP (Radford
    et al. 2021, https://arxiv.org/abs/2103.00020, fig. 3), and takes the mean of the two. Hard negatives look for
    nothing; a query with several positives counts as their mean. Without it, keys never compete for queries.

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D]: the positives of all queries, then further negatives.
        temperature: What scores are divided by, above 0; a number or a 0-dim tensor, which gets a gradient.
        similarity: Scores of queries and keys, higher is closer: a callable, or 'cosine', 'dot' or 'euclidean'.
        symmetric: Whether to average over both directions.
        others_negatives: Whether hard negatives that belong to other queries, by `owners`, count.
        positives: Which pairs are positive: a mask, a bool tensor [Q, K] or index pairs [P, 2].
        exclude: Pairs that are not negatives, such as known positives: a mask or a bool tensor [Q, K]. Positives stay.
        owners: The query each key belongs to, [K], -1 for one that all share; by default key `n Q + i` is query `i`'s.
        weights: Weight of each query, [Q].
        reduction: "mean" over the queries that have a positive and a negative, by weight; "sum"; or "none" for [Q].
        health: Filled with positive_similarity, negative_similarity, temperature, excluded_share (of the negatives) and
            unanswered (share of queries), all of the query-to-key direction.

    Returns:
        The loss in nats, a scalar or [Q]. Queries without a positive or a negative contribute 0.

    Raises:
        ValueError: If shapes do not match, the temperature is not above 0, or a word is not known.

    Example:
        >>> import torch
        >>> queries, positives = torch.eye(2), torch.eye(2)
        >>> hard_negatives = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
        >>> info_nce(queries, torch.cat([positives, hard_negatives]), temperature=1.0)
        tensor(1.0497)
    """
    check_temperature(temperature)
    similarity = named(similarity)
    queries, keys = full_precision(queries), full_precision(keys)  # once, or the two directions' gradients add in bf16
    device, shape = keys.device, (len(queries), len(keys))
    positive = positive_mask(positives, *shape, device)
    negative = negative_mask(positive, owners, *shape, device, others_negatives=others_negatives)
    excluded = exclude_mask(exclude, *shape, device)

    losses, answered = softmax_rows(
        queries,
        keys,
        similarity=similarity,
        temperature=temperature,
        positives=positive,
        negatives=negative,
        exclude=excluded,
        health=health,
    )
    loss = reduce_rows(losses, answered, weights, reduction)
    if not symmetric:
        return loss

    anchors = keys[: len(queries)] if positives is None else keys  # an anchor without a positive would go unanswered
    losses, answered = softmax_rows(
        anchors,
        queries,
        similarity=flipped(similarity),
        temperature=temperature,
        positives=positive.T,
        negatives=everything(),
        exclude=excluded.T if excluded else None,
    )
    found = dense(positive, len(queries), len(anchors), device) & answered
    back = reduce_rows(*_mean_of(losses, found), weights, reduction)
    return (loss + back) / 2


def multiple_negatives_ranking(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float | Tensor | None = None,
    scale: float | None = None,
    similarity: Similarity | SimilarityName = cosine,
    positives: MaskLike | None = None,
    exclude: MaskLike | None = None,
    owners: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    health: Health | None = None,
) -> Tensor:
    """Compute the multiple-negatives ranking loss: one-sided `info_nce` in which every other key is a negative.

    This is Henderson et al. 2017 (https://arxiv.org/abs/1705.00652, section 4.4), with a cosine scaled by 20 in place
    of their dot product: the default of sentence-transformers, hard negatives of other queries included.

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D].
        temperature: What scores are divided by; 0.05 by default.
        scale: 1 / temperature, its customary name for this loss; not together with `temperature`.
        similarity: As in `info_nce`, and so are the arguments that follow.
        positives: As in `info_nce`.
        exclude: As in `info_nce`.
        owners: Of no effect: whose a hard negative is does not matter here.
        weights: As in `info_nce`.
        reduction: As in `info_nce`.
        health: As in `info_nce`.

    Returns:
        The loss in nats, a scalar or [Q].

    Raises:
        ValueError: If both `temperature` and `scale` are given, or as in `info_nce`.

    Example:
        >>> import torch
        >>> multiple_negatives_ranking(torch.eye(2), torch.eye(2), scale=1.0)
        tensor(0.3133)
    """
    return info_nce(
        queries,
        keys,
        temperature=_one_temperature(temperature, scale),
        similarity=similarity,
        positives=positives,
        exclude=exclude,
        owners=owners,
        weights=weights,
        reduction=reduction,
        health=health,
    )


class InfoNCELoss(nn.Module):
    """`info_nce` as a module, with a temperature that is fixed or learnt within `temperature_bounds`.

    Raises:
        ValueError: As `info_nce`, or if a temperature to be learnt is not within its bounds.

    Example:
        >>> import torch
        >>> loss = InfoNCELoss(temperature=0.5, learnable_temperature=True)
        >>> loss(torch.eye(4), torch.eye(4)).backward()
        >>> loss.temperature
        tensor(0.5000, grad_fn=<ExpBackward0>)
    """

    def __init__(
        self,
        temperature: float = 0.05,
        similarity: Similarity | SimilarityName = "cosine",
        symmetric: bool = False,
        others_negatives: bool = True,
        learnable_temperature: bool = False,
        temperature_bounds: tuple[float, float] = (0.01, 1.0),
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        check_choice("reduction", reduction, get_args(Reduction))
        self.similarity = named(similarity)
        self.symmetric = symmetric
        self.others_negatives = others_negatives
        self.reduction: Reduction = reduction
        self.fixed_temperature = temperature
        self.learnt_temperature = LearntTemperature(temperature, temperature_bounds) if learnable_temperature else None

    @property
    def temperature(self) -> float | Tensor:
        """The temperature in use: a number, or a 0-dim tensor with a graph if it is learnt."""
        return self.fixed_temperature if self.learnt_temperature is None else self.learnt_temperature()

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
        """Compute `info_nce` of queries [Q, D] and keys [K, D]."""
        return info_nce(
            queries,
            keys,
            temperature=self.temperature,
            similarity=self.similarity,
            symmetric=self.symmetric,
            others_negatives=self.others_negatives,
            positives=positives,
            exclude=exclude,
            owners=owners,
            weights=weights,
            reduction=self.reduction,
            health=health,
        )

    def extra_repr(self) -> str:
        """Describe the settings."""
        learnt = "" if self.learnt_temperature is None else " (learnt)"
        return (
            f"temperature={torch.as_tensor(self.temperature).item():.4g}{learnt}, similarity={self.similarity!r}, "
            f"symmetric={self.symmetric}, others_negatives={self.others_negatives}, reduction={self.reduction!r}"
        )


class MultipleNegativesRankingLoss(nn.Module):
    """`multiple_negatives_ranking` as a module.

    Raises:
        ValueError: As `multiple_negatives_ranking`.

    Example:
        >>> MultipleNegativesRankingLoss(scale=20.0)
        MultipleNegativesRankingLoss(temperature=0.05, similarity=cosine, reduction='mean')
    """

    def __init__(
        self,
        temperature: float | None = None,
        scale: float | None = None,
        similarity: Similarity | SimilarityName = "cosine",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(Reduction))
        self.temperature = _one_temperature(temperature, scale)
        check_temperature(self.temperature)
        self.similarity = named(similarity)
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
        """Compute `multiple_negatives_ranking` of queries [Q, D] and keys [K, D]."""
        return multiple_negatives_ranking(
            queries,
            keys,
            temperature=self.temperature,
            similarity=self.similarity,
            positives=positives,
            exclude=exclude,
            owners=owners,
            weights=weights,
            reduction=self.reduction,
            health=health,
        )

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"temperature={self.temperature:.4g}, similarity={self.similarity!r}, reduction={self.reduction!r}"


def _mean_of(values: Tensor, selected: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of values [K] over what each row of [Q, K] selects, [Q], and whether it selects any, [Q]."""
    return torch.where(selected, values, 0).sum(1) / selected.sum(1).clamp_min(1), selected.any(1)


def _one_temperature(temperature: float | Tensor | None, scale: float | None) -> float | Tensor:
    if scale is None:
        return 0.05 if temperature is None else temperature
    if temperature is not None:
        raise ValueError(f"expected temperature or scale (1 / temperature), got {temperature} and {scale}")
    if not scale > 0:
        raise ValueError(f"expected a scale above 0, got {scale}")
    return 1 / scale
