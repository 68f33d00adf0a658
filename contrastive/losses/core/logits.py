"""What a softmax loss knows of a row of logits: three log-sums, from which each loss is a line.

With logits `L = s / t`, positives `P_i`, negatives `N_i` and log-weights `log w` of the negatives, a row has

    target     a_i = mean over j in P_i of L_ij
    positives  log sum over j in P_i of exp(L_ij) - a_i           (0 for a single positive)
    negatives  log sum over j in N_i of w_ij exp(L_ij) - a_i

so that InfoNCE is `log(exp(positives) + exp(negatives))` and the decoupled loss is `negatives`.

Notable decisions:

- Positives and negatives are summed apart, each relative to its own largest logit, and the two are given relative to
  the target: a hopeless row keeps its gradient, and a loss near 0 its digits.
- One `autograd.Function` computes all three in as few passes over the block as there can be, and forms the gradient of
  the block in one more; it can be differentiated once.
- A row without a positive or without a negative has nothing to choose between: it is *unanswered*; what stands in
  its place is finite and gets no gradient if the caller puts 0 there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contrastive.losses.core.differentiation import differentiable_once
from contrastive.losses.core.health import Health


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """The log-sums at the top of this module, each [r], and which rows have both a positive and a negative."""

    target: Tensor
    positives: Tensor
    negatives: Tensor
    answered: Tensor


def row_statistics(
    logits: Tensor, positive: Tensor, negative: Tensor | None = None, log_weights: Tensor | None = None
) -> RowStatistics:
    """Sum up the rows of a block of logits, with a graph.

    Args:
        logits: Scores divided by the temperature, [r, C], float32 or better.
        positive: The one positive of each row, an index [r]; or which are positive, bool [r, C].
        negative: Which are negatives, bool [r, C]; None for all. A positive is never a negative.
        log_weights: Logarithms of the weights of the negatives, broadcast to [r, C], without a gradient; -inf leaves a
            negative out.
    """
    if logits.numel() == 0:
        nothing = logits.sum(1)
        return RowStatistics(nothing, nothing, nothing, torch.zeros_like(nothing, dtype=torch.bool))
    negative, log_weights, answered = _settle(logits, positive, negative, log_weights)
    target, positives, negatives = _RowStatistics.apply(  # type: ignore[no-untyped-call]
        logits, positive, negative, log_weights
    )
    return RowStatistics(target, positives, negatives, answered)


def overwrite_with_softmax(
    logits: Tensor, positive: Tensor, negative: Tensor | None = None, log_weights: Tensor | None = None
) -> RowStatistics:
    """Sum up the rows as `row_statistics` does, without a graph, and overwrite the logits.

    What stands in the block afterwards is the softmax over the negatives of each row, which is the derivative of
    `negatives + target`: 0 for the positive, and without a meaning in a row that goes unanswered.

    Args:
        logits: As in `row_statistics`, and so are the others.
        positive: The one positive of each row, an index [r].
        negative: Which are negatives.
        log_weights: Logarithms of their weights.
    """
    negative, log_weights, answered = _settle(logits, positive, negative, log_weights)
    target = logits.gather(1, positive[:, None])[:, 0]
    if log_weights is not None:
        logits += log_weights.to(logits.dtype)
    if negative is not None:
        logits.masked_fill_(~negative, torch.finfo(logits.dtype).min)
    if logits.shape[1] > 1:
        logits.scatter_(1, positive[:, None], -torch.inf)
    largest = logits.amax(1)
    torch.softmax(logits, 1, out=logits)
    negatives = (largest - target) - logits.amax(1).log()
    return RowStatistics(target, torch.zeros_like(target), negatives, answered)


def _settle(
    logits: Tensor, positive: Tensor, negative: Tensor | None, log_weights: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Return negatives without positives and weights of 0, the log-weights, and which rows can be answered."""
    one_each = positive.dtype != torch.bool
    if log_weights is not None:
        log_weights = log_weights.detach().expand_as(logits)
        present = log_weights > -math.inf
        negative = present if negative is None else negative & present
    if not one_each:
        negative = ~positive if negative is None else negative & ~positive
    elif negative is not None:
        negative = negative.scatter(1, positive[:, None], value=False)
    if negative is None:
        has_negative = torch.full_like(logits[:, 0], logits.shape[1] > 1, dtype=torch.bool)
    else:
        has_negative = negative.any(1)
    return negative, log_weights, has_negative if one_each else has_negative & positive.any(1)


class _RowStatistics(torch.autograd.Function):
    """Target, positives and negatives of each row; the gradient of the block is formed in place of the softmax."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, positive: Tensor, negative: Tensor | None, log_weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three numbers of each row, [r]."""
        if positive.dtype == torch.bool:
            counts = positive.sum(1, dtype=logits.dtype).clamp_min(1)
            target = torch.where(positive, logits, 0).sum(1) / counts
            largest, log_sum, softmax = _log_sum(logits, positive, None)
            positives = (largest - target) + log_sum
            ctx.save_for_backward(*_softmax_of_negatives(ctx, logits, target, negative, log_weights), positive)
            ctx.positives = softmax, counts
        else:
            target = logits.gather(1, positive[:, None])[:, 0]
            positives = torch.zeros_like(target)
            ctx.save_for_backward(
                *_softmax_of_negatives(ctx, logits, target, negative, log_weights, positive), positive
            )
        return target, positives, ctx.negatives

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, of_target: Tensor, of_positives: Tensor, of_negatives: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits, [r, C]."""
        softmax, positive = ctx.saved_tensors
        of_target = of_target - of_negatives  # the negatives are relative to the target
        gradient = softmax * of_negatives[:, None]
        if positive.dtype == torch.bool:
            of_target = of_target - of_positives
            softmax_of_positives, counts = ctx.positives
            gradient += softmax_of_positives * of_positives[:, None] + positive * (of_target / counts)[:, None]
        else:
            gradient.scatter_(1, positive[:, None], of_target[:, None])
        return gradient, None, None, None


def _softmax_of_negatives(
    ctx: Any,
    logits: Tensor,
    target: Tensor,
    negative: Tensor | None,
    log_weights: Tensor | None,
    positive: Tensor | None = None,
) -> tuple[Tensor]:
    """Set `ctx.negatives` and return the softmax over the negatives, 0 elsewhere."""
    if positive is not None and negative is None and log_weights is None:
        # The usual case, without a pass for masks: the positives are taken out of the block and put back.
        places = positive[:, None]
        logits.scatter_(1, places, -torch.inf if logits.shape[1] > 1 else 0.0)
        largest, log_sum, softmax = _log_sum(logits, None, None)
        logits.scatter_(1, places, target[:, None])
    else:
        largest, log_sum, softmax = _log_sum(logits, negative, log_weights)
    ctx.negatives = (largest - target) + log_sum
    return (softmax,)


def _log_sum(logits: Tensor, selected: Tensor | None, log_weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest selected logit [r], the log-sum relative to it [r], and the softmax, 0 where not selected.

    A row with nothing selected gets numbers without a meaning, and a softmax of 0.
    """
    if log_weights is not None:
        logits = logits + log_weights.to(logits.dtype)
    if selected is not None:
        # What is not selected falls away in the softmax, but for a row of which nothing is.
        logits = torch.where(selected, logits, torch.finfo(logits.dtype).min)
    softmax = logits.softmax(1)
    largest = logits.amax(1)
    # The largest logit is exp(0) of the sum, so its probability is one over the sum.
    log_sum = -softmax.amax(1).log()
    if selected is not None:
        nothing = ~selected.any(1)
        softmax = softmax.masked_fill(nothing[:, None], 0)
        largest = largest.masked_fill(nothing, 0)
    return largest, log_sum, softmax


def record_rows(
    health: Health,
    logits: Tensor,
    temperature: float | Tensor,
    positive: Tensor,
    eligible: Tensor,
    negative: Tensor,
) -> None:
    """Record what a block of rows tells: similarities, temperature, shares of excluded pairs and unanswered rows.

    `effective_negatives` is the exponential of the entropy of the softmax over a row's negatives: how many of them
    share the gradient.
    """
    with torch.no_grad():
        temperature = torch.as_tensor(temperature).detach()
        scores = logits.detach() * temperature
        health.record("positive_similarity", scores, positive)
        health.record("negative_similarity", scores, negative)
        health.record("temperature", temperature)
        health.record("excluded_share", (~negative).float(), eligible)
        health.record("unanswered", ~(positive.any(1) & negative.any(1)))
        probabilities = torch.where(negative, logits, torch.finfo(logits.dtype).min).softmax(1)
        entropy = torch.special.entr(probabilities).sum(1)
        health.record("effective_negatives", entropy.exp(), negative.any(1))


def masked_mean(values: Tensor, selected: Tensor) -> Tensor:
    """Return the mean of the selected values, NaN if there are none; no data-dependent shapes."""
    return torch.where(selected, values, 0).sum() / selected.sum()
