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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contrastive.similarity.differentiation import differentiable_once


@dataclass(frozen=True, slots=True)
class LogSums:
    """The log-sums at the top of this module, each [r], and which rows have both a positive and a negative.

    Where rows may have several positives, the softmax over these, [r, C], goes with them.
    """

    target: Tensor
    positives: Tensor
    negatives: Tensor
    answered: Tensor
    softmax_of_positives: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What rows lose, [r], by a formula that knows its derivatives by their log-sums: autograd is not asked.

    The derivatives are [r], without a graph, or a number.
    """

    losses: Tensor
    of_positives: Tensor | float
    of_negatives: Tensor | float
    of_target: Tensor | float = 0.0


def log_sums(
    logits: Tensor, positive: Tensor, left_out: Tensor | None = None, log_weights: Tensor | None = None
) -> LogSums:
    """Sum up the rows of a block of logits, with a graph; the logits stay.

    Args:
        logits: Scores divided by the temperature, [r, C], float32 or better.
        positive: The one positive of each row, an index [r]; or which are positive, bool [r, C].
        left_out: Which are no negatives, bool [r, C]; None for nobody. A positive is never a negative.
        log_weights: Logarithms of the weights of the negatives, broadcast to [r, C], without a gradient; -inf leaves a
            negative out.
    """
    return LogSums(*_LogSums.apply(logits, positive, left_out, log_weights))  # type: ignore[no-untyped-call]


def overwrite(
    logits: Tensor, positive: Tensor, left_out: Tensor | None = None, log_weights: Tensor | None = None
) -> LogSums:
    """Sum up the rows without a graph; the arguments are those of `log_sums`.

    In place of the logits then stands the softmax over the negatives of each row, the derivative of their log-sum. In
    unanswered rows it has no meaning.
    """
    several = positive.dtype == torch.bool
    if logits.numel() == 0:
        nothing = logits.sum(1)
        answered = torch.zeros_like(nothing, dtype=torch.bool)
        return LogSums(nothing, nothing.clone(), nothing.clone(), answered, logits.clone() if several else None)
    lowest, everybody = lowest_of(logits), left_out is None and log_weights is None
    softmax_of_positives = torch.where(positive, logits, lowest) if several else None
    if softmax_of_positives is not None:
        target = torch.where(positive, logits, 0).sum(1) / _count(positive, logits)
        positives, missing = _log_sum(softmax_of_positives, target)
    else:
        target = logits.gather(1, positive[:, None])[:, 0]
        positives, missing = torch.zeros_like(target), None
    if log_weights is not None:
        logits += log_weights.detach().to(logits.dtype)
    if left_out is not None:
        logits.masked_fill_(left_out, lowest)
    if several:
        logits.masked_fill_(positive, lowest)
    else:
        logits.scatter_(1, positive[:, None], lowest)
    if several and log_weights is not None:
        logits.clamp_min_(lowest)  # of a row without positives all may weigh nothing
    negatives, alone = _log_sum(logits, target, some=not several and everybody and logits.shape[1] > 1)
    if alone is None:
        return LogSums(target, positives, negatives, torch.ones_like(target, dtype=torch.bool))
    unanswered = alone if missing is None else alone | missing
    return LogSums(target, positives, negatives, ~unanswered, softmax_of_positives)


def differentiate(
    softmax: Tensor, positive: Tensor, sums: LogSums, of_sums: Sequence[Tensor], out: Tensor | None = None
) -> Tensor:
    """Return the gradient of the logits, by what `overwrite` left and the gradients of target, positives, negatives.

    It may be written `out` over the softmax.
    """
    of_target, of_positives, of_negatives = of_sums
    of_target = of_target - of_negatives  # the negatives are relative to the target
    of_negatives = (of_negatives * sums.answered)[:, None]
    if sums.softmax_of_positives is None:
        return torch.mul(softmax, of_negatives, out=out).scatter_(1, positive[:, None], of_target[:, None])
    of_target = (of_target - of_positives) / _count(positive, softmax)
    at_positives = torch.addcmul(of_target[:, None], sums.softmax_of_positives, of_positives[:, None])
    return torch.where(positive, at_positives, torch.mul(softmax, of_negatives, out=out), out=out)


class _LogSums(torch.autograd.Function):
    """`overwrite` and `differentiate` on copies."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, positive: Tensor, left_out: Tensor | None, log_weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the log-sums of each row, [r]."""
        softmax = logits.clone()
        sums = overwrite(softmax, positive, left_out, log_weights)
        ctx.save_for_backward(softmax, positive, sums.answered, sums.softmax_of_positives)
        ctx.mark_non_differentiable(sums.answered)
        return sums.target, sums.positives, sums.negatives, sums.answered

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *of_sums: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits, [r, C]."""
        softmax, positive, answered, softmax_of_positives = ctx.saved_tensors
        sums = LogSums(answered, answered, answered, answered, softmax_of_positives)
        return differentiate(softmax, positive, sums, of_sums[:3]), None, None, None


def _log_sum(logits: Tensor, target: Tensor, *, some: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return the log-sum of each row relative to its target, and which are of nothing: 0, [r] both.

    The logits, of which those that do not count are the lowest there are, are overwritten with their softmax. Where it
    is known that some count in every row, nobody looks.
    """
    largest = logits.amax(1)
    torch.softmax(logits, 1, out=logits)
    # The largest logit is exp(0) of the sum, so its probability is one over the sum.
    sums = (largest - target) - logits.amax(1).log()
    if some:
        return sums, None
    nothing = largest <= lowest_of(logits)  # not so of NaN, which is to be seen
    return sums.masked_fill_(nothing, 0), nothing


def lowest_of(logits: Tensor) -> float:
    """Return what falls away in a softmax; not infinity, which would make NaN of a row that is nothing else."""
    return torch.finfo(logits.dtype).min


def _count(positive: Tensor, like: Tensor) -> Tensor:
    """Return the number of positives of each row, at least 1, [r]."""
    return positive.sum(1, dtype=like.dtype).clamp_min(1)
