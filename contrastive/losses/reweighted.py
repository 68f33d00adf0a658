"""Losses that correct for what a sample of negatives is: debiased, and weighted towards the hard ones.

Shape letters: Q queries, K >= Q keys, D width. Both are functions of a row's positive and of log-sums over its n
negatives; everything is in logarithms relative to the positive, so nothing overflows at a low temperature.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor

from contrastive.losses.core.blocks import Formula
from contrastive.losses.core.choice import Rows
from contrastive.losses.core.module import LossModule
from contrastive.losses.core.options import SoftmaxOptions
from contrastive.losses.core.ranking import ranking_loss
from contrastive.similarity import cosine, max_sim, named


def debiased_contrastive(
    queries: Tensor,
    keys: Tensor,
    *,
    positive_prior: float = 0.1,
    lowest_score: float | None = None,
    **options: Unpack[SoftmaxOptions],
) -> Tensor:
    r"""Compute the debiased contrastive loss: InfoNCE less what false negatives are expected to add.

    .. math:: l_i = -\log \frac{e^{s_{ii} / t}}{e^{s_{ii} / t} + g_i}, \quad
        g_i = \max\left( \frac{\sum_{k \in N_i} e^{s_{ik} / t} - n \tau^+ e^{s_{ii} / t}}{1 - \tau^+},
        \; n e^{s_{\min} / t} \right)

    Chuang et al. 2020 (https://arxiv.org/abs/2007.00224, eq. 7 and 8), where each of n random negatives is a false one
    with probability tau+. The lower bound of g is what n negatives of the lowest score would give; there the gradient
    of g ends, and none flows to the temperature. Several positives stand for their mean, as the paper's M do. The paper
    holds every view against both views of all others: `symmetric=True, same_side=True`, at temperature 0.5.

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D].
        positive_prior: Probability that a negative is false, tau+, from 0 to below 1; 0 gives `info_nce`.
        lowest_score: Least score there can be; None is -1, for cosine and max_sim. Of unit vectors it is -1 for dot
            products and -2 for Euclidean distances.
        options: See `SoftmaxOptions`.

    Returns:
        The loss in nats, a scalar or [Q].

    Raises:
        ValueError: As `info_nce`, if the probability is not in [0, 1), or if there is no lowest score for a similarity
            that is neither cosine nor max_sim.

    Example:
        >>> import torch
        >>> debiased_contrastive(torch.eye(3), torch.eye(3), temperature=1.0, positive_prior=0.0)
        tensor(0.5514)
    """
    formula = _formula(0.0, positive_prior, _least(lowest_score, options), options.get("temperature", 0.05))
    return ranking_loss(formula, queries, keys, options)


def hard_weighted(
    queries: Tensor,
    keys: Tensor,
    *,
    concentration: float = 1.0,
    positive_prior: float = 0.1,
    lowest_score: float | None = None,
    **options: Unpack[SoftmaxOptions],
) -> Tensor:
    r"""Compute the contrastive loss with hard negative samples: the debiased one, its negatives weighted.

    .. math:: \sum_{k \in N_i} e^{s_{ik} / t} \;\text{ becomes }\; n \,
        \frac{\sum_{k \in N_i} e^{(1 + \beta) s_{ik} / t}}{\sum_{k \in N_i} e^{\beta s_{ik} / t}}

    Robinson et al. 2021 (https://arxiv.org/abs/2010.04592, eq. 4 and section 3.3): importance sampling of negatives
    that are close to the query. As in the authors' code the gradient flows through the weights too. `hardness` of
    `SoftmaxOptions` is another way, with weights that are constants and do not depend on the temperature.

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D].
        concentration: How much the hard ones count, beta, 0 or above; 0 gives `debiased_contrastive`.
        positive_prior: As in `debiased_contrastive`.
        lowest_score: As in `debiased_contrastive`.
        options: See `SoftmaxOptions`.

    Returns:
        The loss in nats, a scalar or [Q].

    Raises:
        ValueError: As `debiased_contrastive`, or if beta is below 0.

    Example:
        >>> import torch
        >>> hard_weighted(torch.eye(3), torch.eye(3), temperature=1.0, positive_prior=0.0)
        tensor(0.5514)
    """
    formula = _formula(concentration, positive_prior, _least(lowest_score, options), options.get("temperature", 0.05))
    return ranking_loss(formula, queries, keys, options)


class DebiasedContrastiveLoss(LossModule, function=debiased_contrastive):
    """`debiased_contrastive` as a module.

    Raises:
        TypeError: If there is no such option.
        ValueError: As `debiased_contrastive`.

    Example:
        >>> DebiasedContrastiveLoss(positive_prior=0.05)
        DebiasedContrastiveLoss(temperature=0.05, positive_prior=0.05)
    """


class HardWeightedLoss(LossModule, function=hard_weighted):
    """`hard_weighted` as a module.

    Raises:
        TypeError: If there is no such option.
        ValueError: As `hard_weighted`.

    Example:
        >>> HardWeightedLoss(concentration=0.5)
        HardWeightedLoss(temperature=0.05, concentration=0.5, positive_prior=0.1)
    """


def _least(lowest_score: float | None, options: SoftmaxOptions) -> float:
    """Return the least score there can be.

    Raises:
        ValueError: If it is not known, or not finite.
    """
    similarity = named(options.get("similarity", cosine))
    if lowest_score is None and similarity not in (cosine, max_sim):
        raise ValueError(
            f"expected lowest_score with similarity {similarity!r}, the least score there can be: -1 for dot products "
            "of vectors of length 1 or of tokens whose weights sum up to 1, -2 for their Euclidean distances; got none"
        )
    lowest = -1.0 if lowest_score is None else lowest_score
    if not math.isfinite(lowest):
        raise ValueError(f"expected a finite lowest_score, got {lowest}")
    return lowest


def _formula(concentration: float, prior: float, lowest_score: float, temperature: float | Tensor) -> Formula:
    """Return the formula of both losses.

    Raises:
        ValueError: If a number is out of its range.
    """
    if not 0 <= prior < 1:
        raise ValueError(f"expected positive_prior from 0 to below 1, got {prior}")
    if not 0 <= concentration < math.inf:
        raise ValueError(f"expected a finite concentration of at least 0, got {concentration}")
    lowest = lowest_score / (temperature.detach() if isinstance(temperature, Tensor) else temperature)

    def formula(rows: Rows) -> Tensor:
        log_count = rows.count_negatives().clamp_min(1).to(rows.logits.dtype).log()
        negatives = rows.sums.negatives
        if concentration:
            # Relative to the positive at (1 + beta), beta and 1: what is taken off cancels.
            tilted = rows.tilted(1 + concentration).negatives - rows.tilted(concentration).negatives
            negatives = log_count + tilted
        if not prior:
            return torch.logaddexp(rows.sums.positives, negatives)
        mean_positive = rows.sums.positives
        if rows.positive.dtype == torch.bool:
            mean_positive = mean_positive - rows.positive.sum(1, dtype=rows.logits.dtype).clamp_min(1).log()
        false = log_count + math.log(prior) + mean_positive
        floor = log_count + lowest - rows.sums.target
        above = false < negatives
        gap = torch.where(above, false - negatives, -1.0)
        true = negatives + (-gap.expm1()).log() - math.log1p(-prior)
        return torch.logaddexp(rows.sums.positives, torch.where(above & (true > floor), true, floor))

    return formula
