"""Distillation: the student's scores of a query's candidates are to be like a teacher's.

Shape letters: Q queries, K >= Q keys, D width, N own hard negatives of a query.

A teacher, such as a cross-encoder, has scored each query's positive and its own hard negatives, teacher_scores
[Q, 1 + N] in the order of its keys, padded with NaN where a query has fewer; or every query and key, [Q, K], NaN where
it was not asked. Higher is closer. What the teacher did not score is not part of the loss. A query with one candidate
contributes 0 and is counted (`unanswered`); a batch whose queries all have one, by its shape, is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from contrastive.contracts import Health, MaskLike, Reduction, Similarity
from contrastive.losses.core.module import LossModule
from contrastive.losses.core.rows import reduce_rows
from contrastive.losses.core.taught import record_taught, taught_candidates
from contrastive.losses.core.temperature import check_temperature
from contrastive.similarity import SimilarityName


def margin_mse(
    queries: Tensor,
    keys: Tensor,
    *,
    teacher_scores: Tensor,
    similarity: Similarity | SimilarityName = "dot",
    temperature: float | Tensor = 1.0,
    positives: MaskLike | None = None,
    exclude: MaskLike | None = None,
    owners: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    health: Health | None = None,
) -> Tensor:
    r"""Compute MarginMSE: positive and negative are to be as far apart for the student as they are for the teacher.

    .. math:: l = \Bigl(\frac{s_{qp} - s_{qn}}{t} - (\hat s_{qp} - \hat s_{qn})\Bigr)^2

    Hofstätter et al. 2020 (https://arxiv.org/abs/2010.02666, eq. 7), with every negative that the teacher scored.
    Deviation: the temperature, for embeddings of length 1: their margins are at most 2, a cross-encoder's are not. At
    temperature 1 this is the paper's loss, and equal to MarginMSELoss of sentence-transformers.

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D]: the positives of all queries, then further negatives.
        teacher_scores: The teacher's, higher is closer, [Q, 1 + N] or [Q, K], NaN for none; see the module. A column
            count of K is taken for the latter.
        similarity: The student's scores: "dot", "cosine", "euclidean" or a callable.
        temperature: Divides the student's scores, above 0; a number, or a 0-dim tensor, which gets a gradient.
        positives: Which pairs are positive: a mask, a bool tensor [Q, K] or index pairs [P, 2]; by default key `i` for
            query `i`. Several positives are each held against each negative.
        exclude: Pairs that are not negatives, such as known positives: a mask or a bool tensor [Q, K]. Positives stay.
        owners: The query each key belongs to, [K], -1 for one that all share; by default key `n Q + i` is query `i`'s.
        weights: Weight of each query, [Q].
        reduction: "mean" over all (positive, negative), by the weight of their query; "none" for each query's own mean,
            [Q]; or "sum" of those.
        health: Filled with positive_similarity, negative_similarity (the student's scores), excluded_share,
            unanswered (queries without a scored positive and negative), temperature and agreement (share of the others
            whose best candidate is the teacher's).

    Returns:
        The loss in squared units of the teacher's scores, a scalar or [Q].

    Raises:
        ValueError: If shapes do not match or the temperature is not above 0.

    Example:
        >>> import torch
        >>> queries, keys = torch.eye(2), torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.6, 0.8], [1.0, 0.0]])
        >>> teacher_scores = torch.tensor([[0.9, 0.6], [0.7, float("nan")]])  # a negative of query 1 is not known
        >>> margin_mse(queries, keys, teacher_scores=teacher_scores)  # (0.8 - 0.6 - (0.9 - 0.6)) ** 2
        tensor(0.0100)
    """
    check_temperature(temperature)
    candidates = taught_candidates(queries, keys, teacher_scores, similarity, positives, exclude, owners)
    scores, taught, positive, negative, _ = candidates
    errors = torch.where(positive | negative, scores / temperature - taught, 0)
    num_positives, num_negatives = positive.sum(1), negative.sum(1)
    # The sum of (error of p - error of n)^2 over all p and n, around the mean error of p: all terms are squares.
    centres = torch.where(positive, errors, 0).sum(1) / num_positives.clamp_min(1)
    squares = (errors - centres[:, None]).square()
    totals = num_negatives * torch.where(positive, squares, 0).sum(1)
    totals = totals + num_positives * torch.where(negative, squares, 0).sum(1)
    counts = num_positives * num_negatives
    if health is not None:
        record_taught(health, candidates, counts > 0, temperature)
    return reduce_rows(totals, counts, weights, reduction)


def distill_kl(
    queries: Tensor,
    keys: Tensor,
    *,
    teacher_scores: Tensor,
    similarity: Similarity | SimilarityName = "cosine",
    temperature: float | Tensor = 0.05,
    teacher_temperature: float = 1.0,
    positives: MaskLike | None = None,
    exclude: MaskLike | None = None,
    owners: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    health: Health | None = None,
) -> Tensor:
    r"""Compute the divergence of the student's softmax over a query's candidates from the teacher's.

    .. math:: l_q = \sum_c p_{qc} \log \frac{p_{qc}}{\hat p_{qc}}, \qquad
        p = \mathrm{softmax}(\hat s / \hat t), \quad \hat p = \mathrm{softmax}(s / t)

    Hinton et al. 2015 (https://arxiv.org/abs/1503.02531, section 2) for ranking. Deviation: the loss is not multiplied
    by the squared temperature, as they suggest and DistillKLDivLoss of sentence-transformers does, since a temperature
    is to change nothing else; at temperature 1, with dot products, the two are equal. Whether a candidate is a positive
    matters to `exclude`, which leaves out others only, and to the health: the teacher knows.

    The arguments are those of `margin_mse`, and `teacher_temperature`, above 0, which divides the teacher's scores.
    Of these, minus infinity is a candidate that the teacher rules out. Queries with fewer than two candidates are
    unanswered; "mean" is over the others.

    Returns:
        The loss in nats, a scalar or [Q].

    Raises:
        ValueError: If shapes do not match or a temperature is not above 0.

    Example:
        >>> import torch
        >>> queries, keys = torch.eye(2), torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.6, 0.8], [1.0, 0.0]])
        >>> teacher_scores = torch.tensor([[0.8, 0.6], [0.8, 0.0]])  # the student's own cosines
        >>> distill_kl(queries, keys, teacher_scores=teacher_scores, temperature=1.0).abs() < 1e-6
        tensor(True)
    """
    check_temperature(temperature)
    check_temperature(teacher_temperature, "teacher_temperature")
    candidates = taught_candidates(queries, keys, teacher_scores, similarity, positives, exclude, owners)
    candidate = candidates.positive | candidates.negative
    lowest = torch.finfo(candidates.scores.dtype).min  # not infinity, of which a row without candidates would make NaN
    logits, wanted = candidates.scores / temperature, candidates.taught / teacher_temperature
    found = torch.where(candidate, logits, lowest).log_softmax(1)
    wanted = torch.where(candidate, wanted, lowest).softmax(1)
    losses = torch.where(candidate, -torch.special.entr(wanted) - wanted * found, 0).sum(1)
    answered = candidate.sum(1) >= 2
    if health is not None:
        record_taught(health, candidates, answered, temperature)
    return reduce_rows(losses, answered, weights, reduction)


class MarginMSELoss(LossModule, function=margin_mse):
    """`margin_mse` as a module.

    Raises:
        ValueError: As `margin_mse`, for what can be known before there is a batch.

    Example:
        >>> MarginMSELoss()
        MarginMSELoss(temperature=1, similarity=dot, reduction=mean)
    """


class DistillKLLoss(LossModule, function=distill_kl):
    """`distill_kl` as a module.

    Raises:
        ValueError: As `distill_kl`, for what can be known before there is a batch.

    Example:
        >>> DistillKLLoss()
        DistillKLLoss(temperature=0.05, similarity=cosine, teacher_temperature=1.0, reduction=mean)
    """
