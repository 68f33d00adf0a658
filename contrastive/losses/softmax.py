"""Losses that pick the positive out of a softmax over keys: InfoNCE, and multiple-negatives ranking, its usual setting.

Shape letters: Q queries, K >= Q keys, D width, P (query, positive) index pairs. Key `i` is the positive of query `i`
unless `positives` says otherwise; keys that are nobody's positive are hard negatives (or a queue).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor

from contrastive.losses.core.blocks import Formula
from contrastive.losses.core.choice import Rows
from contrastive.losses.core.module import LossModule
from contrastive.losses.core.options import Direction, SoftmaxOptions
from contrastive.losses.core.ranking import cross_entropy, ranking_loss
from contrastive.losses.core.reduction import check_choice

Partition = Literal["joint", "per_direction"]


def info_nce(
    queries: Tensor, keys: Tensor, *, label_smoothing: float = 0.0, **options: Unpack[SoftmaxOptions]
) -> Tensor:
    r"""Compute InfoNCE: the cross-entropy of finding each query's positive among the keys.

    .. math:: l_i = -\frac{1}{|P_i|} \sum_{j \in P_i} \log
        \frac{\exp(s_{ij} / t)}{\sum_{k \in P_i \cup N_i} w_{ik} \exp(s_{ik} / t)}

    With one positive a query and weights w of 1 this is eq. 4 of van den Oord et al. 2018
    (https://arxiv.org/abs/1807.03748), whose f is exp(s / t); several positives are averaged as in SupCon. By default
    the negatives N_i are the positives of other queries, the query's own hard negatives, those of other queries, and
    shared keys (a queue).

    `symmetric` adds the opposite direction, positives looking for their query among all queries, as in CLIP (Radford
    et al. 2021, https://arxiv.org/abs/2103.00020, fig. 3), and takes the mean of the two. `hardness` is the weight of
    LLaVE (Lan et al. 2025, https://arxiv.org/abs/2503.04812, eq. 5: hardness 9, hardened "in_batch") and of
    EmbeddingGemma (Schechter Vera et al. 2025, https://arxiv.org/abs/2509.20354: hardness 5, hardened "hard").

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D]: the positives of all queries, then further negatives.
        label_smoothing: Share of the target that is spread evenly over positives and negatives, from 0 to below 1.
        options: See `SoftmaxOptions`.

    Returns:
        The loss in nats, a scalar or [Q]. Queries without a positive or a negative contribute 0.

    Raises:
        ValueError: If shapes do not match, a number is out of its range, or a word is not known.

    Example:
        >>> import torch
        >>> queries, positives = torch.eye(2), torch.eye(2)
        >>> hard_negatives = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
        >>> info_nce(queries, torch.cat([positives, hard_negatives]), temperature=1.0)
        tensor(1.0497)
    """
    formula = _with_label_smoothing(label_smoothing)
    return ranking_loss(formula, queries, keys, options, by_log_sums=not label_smoothing)


def multiple_negatives_ranking(
    queries: Tensor,
    keys: Tensor,
    *,
    scale: float | None = None,
    directions: Sequence[Direction] = ("query_to_key",),
    partition: Partition = "joint",
    label_smoothing: float = 0.0,
    **options: Unpack[SoftmaxOptions],
) -> Tensor:
    """Compute the multiple-negatives ranking loss: `info_nce` over up to four directions.

    One direction, the default, is Henderson et al. 2017 (https://arxiv.org/abs/1705.00652, section 4.4), with a cosine
    scaled by 20 in place of their dot product. All four in one softmax are the improved contrastive loss of GTE (Li et
    al. 2023, https://arxiv.org/abs/2308.03281, eq. 3), in which the positive pair stands in the denominator twice, once
    from each side. Forth and back per direction are the symmetric loss. All are those of sentence-transformers.

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D].
        scale: 1 / temperature, its customary name for this loss; not together with `temperature`.
        directions: What a query and its positive are compared with: "query_to_key", which is always there,
            "query_to_query", "key_to_query" and "key_to_key" (documents but the query's own).
        partition: One softmax over all directions ("joint"), or the mean over one softmax for each ("per_direction");
            the latter has no "query_to_query" and "key_to_key", where there is no positive to find.
        label_smoothing: As in `info_nce`.
        options: See `SoftmaxOptions`; `symmetric` and `same_side` are said by the directions.

    Returns:
        The loss in nats, a scalar or [Q].

    Raises:
        ValueError: If both `temperature` and `scale` are given, directions and partition do not go together, or as in
            `info_nce`.

    Example:
        >>> import torch
        >>> multiple_negatives_ranking(torch.eye(2), torch.eye(2), scale=1.0)
        tensor(0.3133)
    """
    if scale is not None:
        if "temperature" in options:
            raise ValueError(f"expected temperature or scale, got both {options['temperature']} and {scale}")
        options["temperature"] = _temperature_of(scale)
    for name in ("symmetric", "same_side"):
        if options.get(name):
            raise ValueError(f"expected directions to say what is compared, got {name}=True")
    formula, partitions = _with_label_smoothing(label_smoothing), _partitions(directions, partition)
    return ranking_loss(formula, queries, keys, options, by_log_sums=not label_smoothing, partitions=partitions)


class InfoNCELoss(LossModule, function=info_nce):
    """`info_nce` as a module, with a temperature that is fixed or learnt within `temperature_bounds`.

    Raises:
        TypeError: If there is no such option.
        ValueError: As `info_nce`, or if a temperature to be learnt is not within its bounds.

    Example:
        >>> import torch
        >>> loss = InfoNCELoss(temperature=0.5, learnable_temperature=True)
        >>> loss(torch.eye(4), torch.eye(4)).backward()
        >>> loss.temperature
        tensor(0.5000, grad_fn=<ExpBackward0>)
    """


class MultipleNegativesRankingLoss(LossModule, function=multiple_negatives_ranking, temperature=None):
    """`multiple_negatives_ranking` as a module; one of `temperature` (default 0.05) and `scale` (default 20).

    Raises:
        TypeError: If there is no such option.
        ValueError: As `multiple_negatives_ranking`.

    Example:
        >>> MultipleNegativesRankingLoss(scale=50).temperature
        0.02
    """

    def __init__(self, temperature: float | None = None, *, scale: float | None = None, **settings: Any) -> None:
        if temperature is not None and scale is not None:
            raise ValueError(f"expected temperature or scale, got both {temperature} and {scale}")
        if scale is not None:
            temperature = _temperature_of(scale)
        super().__init__(0.05 if temperature is None else temperature, **settings)


def _with_label_smoothing(label_smoothing: float) -> Formula:
    """Return the formula of the cross-entropy with a smoothed target.

    Raises:
        ValueError: If the share is not in [0, 1).
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"expected label_smoothing from 0 to below 1, got {label_smoothing}")

    def smoothed(rows: Rows) -> Tensor:
        return cross_entropy(rows).losses - label_smoothing * _mean_candidate(rows)

    return smoothed if label_smoothing else cross_entropy


def _mean_candidate(rows: Rows) -> Tensor:
    """Return the mean logit of each row's positives and negatives, relative to its target, [r]."""
    candidate = torch.ones_like(rows.logits, dtype=torch.bool) if rows.left_out is None else ~rows.left_out
    if rows.log_weights is not None:
        candidate = candidate & (rows.log_weights > -torch.inf)
    candidate = candidate | rows.is_positive()
    relative = torch.where(candidate, rows.logits - rows.sums.target[:, None], 0)
    return relative.sum(1) / candidate.sum(1).clamp_min(1)


def _temperature_of(scale: float) -> float:
    if not (0 < scale < math.inf and 1 / scale < math.inf):
        raise ValueError(f"expected a finite scale above 0, got {scale}")
    return 1 / scale


def _partitions(directions: Sequence[Direction], partition: Partition) -> list[list[Direction]]:
    """Return which directions share a softmax.

    Raises:
        ValueError: If a word is not known, a direction is missing or twice there, or has no positive of its own.
    """
    check_choice("partition", partition, get_args(Partition))
    for direction in directions:
        check_choice("directions", direction, get_args(Direction))
    if "query_to_key" not in directions or len(set(directions)) < len(directions):
        raise ValueError(f"expected directions with 'query_to_key', each once, got {list(directions)}")
    ordered = [direction for direction in get_args(Direction) if direction in directions]
    if partition == "joint":
        return [ordered]
    for direction in ("query_to_query", "key_to_key"):
        if direction in directions:
            raise ValueError(f"expected partition='joint' with {direction}, where there is no positive to find")
    return [[direction] for direction in ordered]
