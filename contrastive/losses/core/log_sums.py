"""What a softmax loss knows of a row of logits: three log-sums, from which each loss is a line.

With logits `L = s / t`, positives `P_i`, negatives `N_i` and log-weights `log w` of the negatives, a row has

    target     a_i = mean over j in P_i of L_ij
    positives  log sum over j in P_i of exp(L_ij) - a_i           (0 for a single positive)
    negatives  log sum over j in N_i of w_ij exp(L_ij) - a_i

so that InfoNCE is `log(exp(positives) + exp(negatives))` and the decoupled loss is `negatives`.

Notable decisions:

- Positives and negatives are summed apart, each relative to its own largest logit, and the two are given relative to
  the target: a hopeless row keeps its gradient, and a loss near 0 its digits.
- `overwrite` leaves the softmax where the logits were, and `differentiate` the gradient where the softmax was: a block
  is gone over few times and is all the memory there is. A kernel for GPUs would stand in for these two.
- A row without a positive or without a negative has nothing to choose between: it is *unanswered*; what stands in
  its place is finite and gets no gradient if the caller puts 0 there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contrastive.similarity.differentiation import differentiable_once


@dataclass(frozen=True, slots=True)
class LogSums:
    """The log-sums at the top of this module, each [r], and which rows have both a positive and a negative."""

    target: Tensor
    positives: Tensor
    negatives: Tensor
    answered: Tensor


@dataclass(frozen=True, slots=True)
class Judged:
    """What rows lose, [r], by a formula that knows its derivatives by their log-sums: autograd is not asked.

    The derivatives are [r], without a graph, or a number.
    """

    losses: Tensor
    of_positives: Tensor | float
    of_negatives: Tensor | float


def log_sums(
    logits: Tensor, positive: Tensor, negative: Tensor | None = None, log_weights: Tensor | None = None
) -> LogSums:
    """Sum up the rows of a block of logits, with a graph; the logits stay.

    Args:
        logits: Scores divided by the temperature, [r, C], float32 or better.
        positive: The one positive of each row, an index [r]; or which are positive, bool [r, C].
        negative: Which are negatives, bool [r, C]; None for all. A positive is never a negative.
        log_weights: Logarithms of the weights of the negatives, broadcast to [r, C], without a gradient; -inf leaves a
            negative out.
    """
    return LogSums(*_LogSums.apply(logits, positive, negative, log_weights))  # type: ignore[no-untyped-call]


def overwrite(
    logits: Tensor, positive: Tensor, negative: Tensor | None = None, log_weights: Tensor | None = None
) -> LogSums:
    """Sum up the rows without a graph; the arguments are those of `log_sums`.

    In place of the logits then stand the softmax over the negatives of each row and, where rows may have several
    positives, the softmax over these: the derivatives of the two log-sums. In unanswered rows they have no meaning.
    """
    own = positive[:, None]
    if logits.numel() == 0:
        nothing = logits.sum(1)
        return LogSums(nothing, nothing.clone(), nothing.clone(), torch.zeros_like(nothing, dtype=torch.bool))
    answered, softmax_of_positives = None, None
    if positive.dtype == torch.bool:
        answered = positive.any(1)
        target = torch.where(positive, logits, 0).sum(1) / _count(positive, logits)
        softmax_of_positives = logits.masked_fill(~positive, _lowest(logits))
        positives = _log_sum(softmax_of_positives, target).where(answered, 0)
        negative = ~positive if negative is None else negative & ~positive
    else:
        target = logits.gather(1, own)[:, 0]
        positives = torch.zeros_like(target)
    if log_weights is not None:
        log_weights = log_weights.detach().expand_as(logits)
        present = log_weights > -math.inf
        negative = present if negative is None else negative & present
        logits += log_weights.to(logits.dtype)
    if negative is not None:
        logits.masked_fill_(~negative, _lowest(logits))
    if softmax_of_positives is None and logits.shape[1] > 1:
        logits.scatter_(1, own, -math.inf)
    negatives = _log_sum(logits, target)
    if negative is None:
        return LogSums(target, positives, negatives, torch.full_like(target, logits.shape[1] > 1, dtype=torch.bool))
    if softmax_of_positives is None:
        negative = negative.scatter(1, own, value=False)
    else:
        torch.where(positive, softmax_of_positives, logits, out=logits)
    any_negative = negative.any(1)
    answered = any_negative if answered is None else answered & any_negative
    return LogSums(target, positives, negatives.where(any_negative, 0), answered)


def differentiate(
    softmax: Tensor,
    positive: Tensor,
    answered: Tensor,
    of_sums: Sequence[Tensor],
    out: Tensor | None = None,
) -> Tensor:
    """Return the gradient of the logits, by what `overwrite` left and the gradients of target, positives, negatives.

    It may be written `out` over the softmax.
    """
    of_target, of_positives, of_negatives = of_sums
    of_target = of_target - of_negatives  # the negatives are relative to the target
    of_negatives = of_negatives.where(answered, 0)[:, None]
    if positive.dtype != torch.bool:
        return torch.mul(softmax, of_negatives, out=out).scatter_(1, positive[:, None], of_target[:, None])
    of_target = (of_target - of_positives) / _count(positive, softmax)
    of_either = torch.where(positive, of_positives[:, None], of_negatives)
    return torch.mul(softmax, of_either, out=out).add_(positive * of_target[:, None])


class _LogSums(torch.autograd.Function):
    """`overwrite` and `differentiate` on copies."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, positive: Tensor, negative: Tensor | None, log_weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the log-sums of each row, [r]."""
        softmax = logits.clone()
        sums = overwrite(softmax, positive, negative, log_weights)
        ctx.save_for_backward(softmax, positive, sums.answered)
        ctx.mark_non_differentiable(sums.answered)
        return sums.target, sums.positives, sums.negatives, sums.answered

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *of_sums: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits, [r, C]."""
        softmax, positive, answered = ctx.saved_tensors
        return differentiate(softmax, positive, answered, of_sums[:3]), None, None, None


def _log_sum(logits: Tensor, target: Tensor) -> Tensor:
    """Return the log-sum of each row relative to its target, [r], and overwrite the logits with their softmax."""
    largest = logits.amax(1)
    torch.softmax(logits, 1, out=logits)
    # The largest logit is exp(0) of the sum, so its probability is one over the sum.
    return (largest - target) - logits.amax(1).log()


def _lowest(logits: Tensor) -> float:
    """Return what falls away in a softmax; not infinity, which would make NaN of a row that is nothing else."""
    return torch.finfo(logits.dtype).min


def _count(positive: Tensor, like: Tensor) -> Tensor:
    """Return the number of positives of each row, at least 1, [r]."""
    return positive.sum(1, dtype=like.dtype).clamp_min(1)
