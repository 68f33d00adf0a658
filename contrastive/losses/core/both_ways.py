"""The symmetric loss in one go: columns of the same scores are rows of the way back.

A row's log-sum is known when its block is; a column's is known when all blocks are. So the blocks are gone through
twice: once to sum up the columns, of which the loss of the way back and its derivatives by the log-sums follow, [Q]
numbers; and once along the ordinary road of the rows, where the derivative of the way back is added to that of each
block. Three products where the scores are kept in between, and four where they are too many; each direction on its own
takes three, which is why the two are not simply gone through one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from contrastive.contracts import Reduction
from contrastive.losses.core.blocks import Comparison
from contrastive.losses.core.choice import UNSELECTED
from contrastive.losses.core.columns import Columns
from contrastive.losses.core.reduction import check_weights, or_one
from contrastive.losses.core.sweeps import sum_of_rows
from contrastive.similarity import ProductSimilarity

KEPT_SCORES = 2**24
"""Scores that are kept from the first time to the second, 64 MiB in float32: three products up to 4,096 pairs."""


def fits(forth: Comparison, back: Comparison, weights: Tensor | None, reduction: Reduction) -> bool:
    """Whether two directions are done in one go: for a gradient, and by log-sums that need no whole column at once."""
    if reduction == "none" or (weights is not None and weights.requires_grad) or not forth.is_differentiated():
        return False
    if forth.parameters:  # whose gradient by the columns nobody would ask for
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
    keep = forth.block_rows == len(anchors) or (
        isinstance(forth.similarity, ProductSimilarity)
        and forth.similarity.by_products
        and len(anchors) * sum(forth.widths) <= KEPT_SCORES
    )
    with torch.no_grad():
        for block in forth.blocks(graph=keep, keep=keep):
            answered.append(block.rows.count_negatives() > 0)
            columns.add(block, keep=keep)

    def of_each(answered: Tensor) -> Tensor:
        """Return what the loss of each row or column counts for in the whole."""
        return weights / 2 if reduction == "sum" else weights / or_one((weights * answered).sum()) / 2

    columns.settle(back, of_each)
    return sum_of_rows(forth, of_each(torch.cat(answered)), columns)[0]
