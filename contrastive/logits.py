"""The masked log-sum-exp that every softmax loss is made of.

One formula, with targets `y` over the positives `P_i` of a row and a softmax over its candidates, the positives and the
negatives `N_i`:

    l_i = - sum_j y_ij s_ij / t  +  log sum over j in P_i and N_i of exp(s_ij / t),    y_ij = 1 / |P_i| for j in P_i

Notable decisions: masks and embeddings come in, not a matrix of scores, so that a tiled path can take the place of this
dense one without any loss noticing. A row without a positive or without a negative has nothing to choose between: it
is *unanswered*, and contributes 0 with a gradient of 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from contrastive.contracts import Similarity
from contrastive.health import Health
from contrastive.masks import Mask, dense
from contrastive.similarity import score_pairs


def softmax_rows(
    queries: Tensor,
    keys: Tensor,
    *,
    similarity: Similarity,
    temperature: float | Tensor,
    positives: Mask,
    negatives: Mask,
    exclude: Mask | None = None,
    health: Health | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of each row, [Q], and which rows could be answered, bool [Q].

    The softmax is the one at the top of this module; averaging log-probabilities over several positives is `L_out` of
    SupCon (Khosla et al. 2020, https://arxiv.org/abs/2004.11362, eq. 2).

    Args:
        queries: The rows' embeddings, [Q, D].
        keys: The candidates' embeddings, [K, D].
        similarity: Scores of queries and keys, higher is closer.
        temperature: What scores are divided by.
        positives: Selects the pairs to be told apart from the rest.
        negatives: Selects the pairs that count against a row; a positive among them stays a positive.
        exclude: Takes pairs out of `negatives`, and never out of `positives`.
        health: Filled with similarities, temperature, and shares of excluded pairs and of unanswered rows.
    """
    scores = score_pairs(similarity, queries, keys)
    shape = len(queries), len(keys)
    positive = dense(positives, *shape, scores.device)
    eligible = dense(negatives, *shape, scores.device) & ~positive
    negative = eligible if exclude is None else eligible & ~dense(exclude, *shape, scores.device)
    answered = positive.any(1) & negative.any(1)
    if health is not None:
        _record(health, scores, temperature, positive, eligible, negative, answered)
    if scores.numel() == 0:  # nothing has no largest logit
        return scores.sum(1), answered

    logits = scores / temperature
    # An unanswered row keeps all its logits: -inf alone would turn to NaN on the way, and trip anomaly detection.
    left_out = ~(positive | negative) & answered[:, None]
    candidates = logits.masked_fill(left_out, -torch.inf)
    # Relative to the largest candidate: log-sum-exp would add it back, and a loss near 0 be lost in its rounding.
    largest = candidates.detach().amax(1, keepdim=True)
    targets = positive / positive.sum(1, keepdim=True, dtype=logits.dtype).clamp_min(1)
    losses = (candidates - largest).logsumexp(1) - (targets * (logits - largest)).sum(1)
    return torch.where(answered, losses, 0), answered


def _record(
    health: Health,
    scores: Tensor,
    temperature: float | Tensor,
    positive: Tensor,
    eligible: Tensor,
    negative: Tensor,
    answered: Tensor,
) -> None:
    """Record what is known about a block; the mean of nothing is NaN, which the summary leaves out."""
    scores = scores.detach()
    health.record("positive_similarity", masked_mean(scores, positive))
    health.record("negative_similarity", masked_mean(scores, negative))
    health.record("temperature", temperature)
    health.record("excluded_share", masked_mean((~negative).float(), eligible))
    health.record("unanswered", ~answered)


def masked_mean(values: Tensor, selected: Tensor) -> Tensor:
    """Return the mean of the selected values, NaN if there are none; no data-dependent shapes."""
    return torch.where(selected, values, 0).sum() / selected.sum()
