"""The decoupled contrastive loss: InfoNCE whose denominator leaves the positive out.

Shape letters: Q queries, K >= Q keys, D width.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor

from contrastive.losses.core.choice import Rows
from contrastive.losses.core.log_sums import Judged
from contrastive.losses.core.module import LossModule
from contrastive.losses.core.options import SoftmaxOptions
from contrastive.losses.core.ranking import ranking_loss
from contrastive.similarity import MaxSimilarity, check_shapes, cosine, full_precision, named


def decoupled_contrastive(
    queries: Tensor, keys: Tensor, *, sigma: float | None = None, **options: Unpack[SoftmaxOptions]
) -> Tensor:
    r"""Compute the decoupled contrastive loss, DCL; with `sigma`, the weighted one, DCLW.

    .. math:: l_i = -w_i \, s_{ii} / t + \log \sum_{k \in N_i} \exp(s_{ik} / t),
        \quad w_i = 2 - Q \, \frac{\exp(q_i \cdot k_i / \sigma)}{\sum_j \exp(q_j \cdot k_j / \sigma)}

    Yeh et al. 2021 (https://arxiv.org/abs/2110.06848, eq. 6; weights of section 3.3 with sigma 0.5, and 1 without). In
    InfoNCE a positive that is found easily takes the gradient away from its negatives; here it does not, which helps
    small batches most. The weights, by cosine or max_sim, are constants here: no gradient flows through them.
    With several positives the first term is their mean, and there are no weights. The loss has no lower bound.

    The paper holds every view against both views of all others: `symmetric=True, same_side=True`, at temperature 0.1.

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D].
        sigma: Width of the weights, above 0; None for no weights.
        options: See `SoftmaxOptions`; without `positives` if there is a `sigma`.

    Returns:
        The loss in nats, a scalar or [Q].

    Raises:
        ValueError: As `info_nce`, or if sigma is not above 0.

    Example:
        >>> import torch
        >>> decoupled_contrastive(torch.eye(2), torch.eye(2), temperature=1.0)
        tensor(-1.)
    """
    if sigma is None:
        return ranking_loss(_negatives, queries, keys, options, by_log_sums=True)
    if not 0 < sigma < math.inf:
        raise ValueError(f"expected a finite sigma above 0, got {sigma}")
    if options.get("positives") is not None:
        raise ValueError("expected key i to be the one positive of query i with sigma, got `positives`")
    own = named(options.get("similarity", cosine))
    compare = own if isinstance(own, MaxSimilarity) else cosine
    check_shapes(queries, keys, compare)
    with torch.no_grad():
        heads = keys[: len(queries)]
        agreement = compare.of_pairs(queries[: len(heads)], heads) / sigma
        weights = 2 - len(queries) * agreement.softmax(0)

    def weighted(rows: Rows) -> Judged:
        of_target = 1 - full_precision(weights)[rows.rows]
        return Judged(rows.sums.negatives + of_target * rows.sums.target, 0.0, 1.0, of_target)

    return ranking_loss(weighted, queries, keys, options, by_log_sums=True)


def _negatives(rows: Rows) -> Judged:
    return Judged(rows.sums.negatives, of_positives=0.0, of_negatives=1.0)


class DecoupledContrastiveLoss(LossModule, function=decoupled_contrastive):
    """`decoupled_contrastive` as a module.

    Raises:
        TypeError: If there is no such option.
        ValueError: As `decoupled_contrastive`.

    Example:
        >>> DecoupledContrastiveLoss(sigma=0.5)
        DecoupledContrastiveLoss(temperature=0.05, sigma=0.5)
    """
