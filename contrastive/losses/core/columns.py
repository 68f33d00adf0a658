"""The symmetric loss: columns of the same scores are rows of the way back, in one matrix product more than rows alone.

A row's log-sum is known when its block is; a column's is known when all blocks are. So the blocks are gone through
twice: once to sum up the columns, of which the loss of the way back and its derivatives by the log-sums follow, [Q]
numbers; and once along the ordinary road of the rows, where the derivative of the way back is added to that of each
block. Four products, where each direction on its own takes three: half again as long from 4,096 pairs up, which is why
the two are not simply gone through one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from contrastive.contracts import Reduction
from contrastive.losses.core.blocks import Comparison, sum_of_rows
from contrastive.losses.core.choice import UNSELECTED, Rows
from contrastive.losses.core.log_sums import LogSums
from contrastive.losses.core.reduction import check_weights, or_one
from contrastive.masks import Mask
from contrastive.similarity import ProductSimilarity


def fits(forth: Comparison, back: Comparison, weights: Tensor | None, reduction: Reduction) -> bool:
    """Whether two directions are done in one go: for a gradient, and by log-sums that need no whole column at once."""
    if reduction == "none" or (weights is not None and weights.requires_grad) or not forth.is_differentiated():
        return False
    choices = (forth.choose, back.choose)
    plain = all(choice.one_each and len(choice.parts) == 1 and choice.selection == UNSELECTED for choice in choices)
    some = len(choices[0].parts[0].anchors) > 0
    return plain and some and forth.by_log_sums and isinstance(forth.similarity, ProductSimilarity)


def loss_of_both(forth: Comparison, back: Comparison, weights: Tensor | None, reduction: Reduction) -> Tensor:
    """Return the mean of the losses of the rows, Q queries against K keys, and of keys `i < Q` against the queries."""
    anchors = forth.choose.parts[0].anchors.detach()
    check_weights(weights, len(anchors))
    weights = anchors.new_ones(len(anchors)) if weights is None else weights.to(anchors)
    columns, answered = Columns(anchors, back.choose.parts[0].exclude), []
    with torch.no_grad():
        for block, logits, _ in forth.blocks(graph=False):
            rows = torch.arange(block.start, block.stop, device=anchors.device)
            answered.append(forth.choose(logits, rows).count_negatives() > 0)
            columns.add(logits[:, : len(anchors)], rows)

    def of_each(answered: Tensor) -> Tensor:
        """Return what the loss of each row or column counts for in the whole."""
        return weights / 2 if reduction == "sum" else weights / or_one((weights * answered).sum()) / 2

    columns.settle(back, of_each(columns.answered))
    return sum_of_rows(forth, of_each(torch.cat(answered)), columns)[0]


class Columns:
    """Log-sums of the columns of keys `i < Q`, block by block: the largest so far, and the sum relative to it.

    Args:
        anchors: Prepared queries, [Q, D].
        exclude: Which queries are left out of which columns.
    """

    def __init__(self, anchors: Tensor, exclude: Mask | None) -> None:
        self.exclude = exclude
        self.target = anchors.new_zeros(len(anchors))
        self.largest = torch.full_like(self.target, torch.finfo(anchors.dtype).min)
        self.sums = torch.zeros_like(self.target)
        self.answered = torch.zeros_like(self.target, dtype=torch.bool)

    def add(self, logits: Tensor, rows: Tensor) -> None:
        """Take in some rows [r], whose logits [r, Q] are overwritten."""
        negative, own = self._negative(rows), (torch.arange(len(rows), device=rows.device), rows)
        self.target[rows] = logits[own]
        if negative is None:
            logits[own] = torch.finfo(logits.dtype).min
            self.answered |= len(self.target) > 1
        else:
            logits.masked_fill_(~negative, torch.finfo(logits.dtype).min)
            self.answered |= negative.any(0)
        largest = torch.maximum(self.largest, logits.amax(0))
        self.sums = self.sums * (self.largest - largest).exp() + logits.sub_(largest).exp_().sum(0)
        self.largest = largest

    def settle(self, comparison: Comparison, of_columns: Tensor) -> None:
        """Find the loss of all columns times `of_columns` [Q], and its derivatives by their log-sums."""
        negatives = (self.largest - self.target) + self.sums.log()
        leaves = [leaf.requires_grad_() for leaf in (self.target.clone(), negatives)]
        everyone = torch.arange(len(negatives), device=negatives.device)
        rows = Rows(everyone, negatives[:0], everyone)
        rows.sums = LogSums(leaves[0], torch.zeros_like(negatives), leaves[1], self.answered)
        with torch.enable_grad():
            losses, _, (of_target, *_, self.of_negatives) = comparison.differentiate(rows, of_columns, leaves)
        self.loss, self.log_sums = (losses * of_columns).sum(), self.largest + self.sums.log()
        self.of_target = of_target - self.of_negatives  # the negatives are relative to the target

    def gradient(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the derivative of the loss by the logits of some rows and the columns, [r, Q]."""
        softmax, negative = (logits[:, : len(self.target)] - self.log_sums).exp_(), self._negative(rows)
        if negative is not None:
            softmax.masked_fill_(~negative, 0)
        return softmax.mul_(self.of_negatives).scatter_(1, rows[:, None], self.of_target[rows, None])

    def _negative(self, rows: Tensor) -> Tensor | None:
        """Return which queries, the rows, are negatives of which keys, [r, Q]; None for all but a key's own."""
        columns = torch.arange(len(self.target), device=rows.device)
        return None if self.exclude is None else ~(self.exclude(columns, rows).T | (rows[:, None] == columns))
