"""Columns of the scores of rows, block by block: their log-sums, and what they add to the gradient of a block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from contrastive.losses.core.blocks import Block, Comparison
from contrastive.losses.core.choice import Rows
from contrastive.losses.core.log_sums import LogSums, lowest_of
from contrastive.masks import Mask


class Columns:
    """Log-sums of the columns of keys `i < Q`, block by block: the largest so far, and the sum relative to it.

    Args:
        anchors: Prepared queries, [Q, D].
        exclude: Which queries are left out of which columns.

    Attributes:
        blocks: All blocks of rows, if they are kept.
        loss: That of all columns times their weights.
    """

    loss: Tensor

    def __init__(self, anchors: Tensor, exclude: Mask | None) -> None:
        self.exclude = exclude
        self.blocks: list[Block] = []
        self.target = anchors.new_empty(len(anchors))
        self.largest = torch.full_like(self.target, lowest_of(anchors))
        self.sums = torch.zeros_like(self.target)

    def add(self, block: Block, *, keep: bool) -> None:
        """Take in some rows, and keep them if they are to be gone on with."""
        logits, own = block.rows.logits, block.rows.rows[:, None]
        target = logits.gather(1, own)
        counted = self._without_excluded(block.rows).scatter_(1, own, lowest_of(logits))
        largest = torch.maximum(self.largest, counted.amax(0))
        shares = (counted - largest).exp_()
        logits.scatter_(1, own, target)
        self.target[block.place] = target[:, 0]
        self.sums = self.sums * (self.largest - largest).exp() + shares.sum(0)
        self.largest = largest
        if keep:
            self.blocks.append(block)
            self._shares = shares

    def settle(self, comparison: Comparison, weights: Callable[[Tensor], Tensor]) -> None:
        """Find the loss of all columns and its derivatives by their log-sums.

        The weights of the columns follow from which of them are answered, [Q].
        """
        unanswered = self.largest <= lowest_of(self.largest)  # not so of NaN, which is to be seen
        of_columns = weights(~unanswered)
        negatives = ((self.largest - self.target) + self.sums.log()).masked_fill_(unanswered, 0)
        sums = LogSums(self.target, torch.zeros_like(negatives), negatives, ~unanswered)
        leaves = [each.requires_grad_() for each in (sums.target, sums.positives, sums.negatives)]
        everyone = torch.arange(len(negatives), device=negatives.device)
        rows = Rows(everyone, negatives[:0, None], everyone)
        rows.sums = sums
        with torch.enable_grad():
            losses, _, (of_target, _, of_negatives, *_) = comparison.differentiate(rows, of_columns, leaves)
        self.loss = (losses * of_columns).sum()
        self._of_target = (of_target - of_negatives)[:, None]  # the negatives are relative to the target
        self._of_shares = of_negatives.masked_fill(unanswered, 0) / self.sums

    def shares(self, rows: Rows) -> Tensor:
        """Return what the logits of some rows are in the sums of the columns, [r, Q]."""
        if len(self.blocks) == 1:
            return self._shares
        counted = self._without_excluded(rows)
        return (counted - self.largest).exp_().scatter_(1, rows.rows[:, None], 0)

    def add_gradient(self, of_logits: Tensor, shares: Tensor, place: slice) -> None:
        """Add the derivative of the loss by some rows of the columns to that by the logits of these rows, [r, C]."""
        own = torch.arange(place.start, place.stop, device=shares.device)[:, None]
        heads = of_logits[:, : len(self.target)].addcmul_(shares, self._of_shares)
        heads.scatter_add_(1, own, self._of_target[place])

    def _without_excluded(self, rows: Rows) -> Tensor:
        """Return the logits of some rows, [r, Q], themselves or with the lowest there are for the excluded."""
        logits = rows.logits[:, : len(self.target)]
        if self.exclude is None:
            return logits
        everyone = torch.arange(len(self.target), device=logits.device)
        return logits.masked_fill(self.exclude(everyone, rows.rows).T, lowest_of(logits))
