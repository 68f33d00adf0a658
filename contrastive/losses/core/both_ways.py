"""The symmetric loss in blocks: rows and columns of the same scores, in one matrix product more than rows alone.

A row's log-sum is known when its block is; a column's is known when all blocks are. So the blocks are gone through
twice. The first time sums up rows, and columns as they go by; then the loss and its derivative by the log-sums are
known, [Q] numbers a direction. The second time computes the scores again and forms the gradient of both directions
at once: four products, where each direction on its own takes three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from contrastive.contracts import Reduction
from contrastive.losses.core.choice import Choice, Selection
from contrastive.losses.core.differentiation import differentiable_once
from contrastive.losses.core.health import Health
from contrastive.losses.core.logits import RowStatistics, row_statistics
from contrastive.losses.core.reduction import reduce_rows
from contrastive.losses.core.tiles import block_rows, folded
from contrastive.similarity import ProductSimilarity

Formula = Any  # _softmax.Formula, which would be a circle


@dataclass(frozen=True, slots=True)
class BothWays:
    """A loss by log-sums in two directions: Q queries against K keys, and keys `i < Q` against the queries.

    Attributes:
        formula: What a row or column loses, by its log-sums.
        forth: Who counts in a row.
        back: Who counts in a column, as the row of a key.
        weights: Weight of each query, [Q].
        reduction: "mean" or "sum".
        health: Told of the rows.
    """

    formula: Formula
    forth: Choice
    back: Choice
    weights: Tensor | None
    reduction: Reduction
    health: Health | None

    @property
    def fits(self) -> bool:
        """Whether it can be done in one go: two plain parts, and no selection that needs a whole column."""
        choices = (self.forth, self.back)
        trained = self.weights is not None and self.weights.requires_grad
        return (
            all(choice.one_each and len(choice.parts) == 1 and choice.selection == Selection() for choice in choices)
            and self.reduction != "none"
            and not trained
        )

    def __call__(
        self, queries: Tensor, keys: Tensor, similarity: ProductSimilarity, temperature: float | Tensor
    ) -> Tensor:
        """Return the mean of the two directions for queries [Q, D] and keys [K, D]."""
        with torch.autocast(queries.device.type, enabled=False):
            anchors, candidates = folded(queries, keys, similarity, temperature)
            if torch.is_grad_enabled() and (anchors.requires_grad or candidates.requires_grad):
                loss: Tensor = _BothWays.apply(self, anchors, candidates)  # type: ignore[no-untyped-call]
                return loss
            return self.reduce(*self.sum_up(anchors, candidates))

    def sum_up(self, anchors: Tensor, candidates: Tensor) -> tuple[RowStatistics, RowStatistics]:
        """Return the log-sums of the rows and of the columns."""
        found, columns = [], Columns.empty(anchors)
        for rows, logits in self._blocks(anchors, candidates):
            block = self.forth(logits, rows)
            if self.health is not None:
                self.forth.record(block, self.health)
            found.append(row_statistics(logits, block.positive, block.negative, block.log_weights))
            columns.add(logits[:, : len(anchors)], self._negative_of_columns(rows))
        target, positives, negatives, answered = (
            torch.cat([getattr(statistics, field.name) for statistics in found]) for field in fields(RowStatistics)
        )
        back = RowStatistics(target, positives, columns.log_sums() - target, columns.answered)
        return RowStatistics(target, positives, negatives, answered), back

    def reduce(self, forth: RowStatistics, back: RowStatistics) -> Tensor:
        """Return the loss that log-sums come to."""
        losses = [
            reduce_rows(
                torch.where(sums.answered, self.formula(None, sums), 0), sums.answered, self.weights, self.reduction
            )
            for sums in (forth, back)
        ]
        return (losses[0] + losses[1]) / 2

    def differentiate(
        self, forth: RowStatistics, back: RowStatistics, anchors: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss and its gradients by anchors and candidates."""
        leaves = [forth.target, forth.negatives, back.target, back.negatives]
        leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        with torch.enable_grad():
            loss = self.reduce(
                RowStatistics(leaves[0], forth.positives, leaves[1], forth.answered),
                RowStatistics(leaves[2], back.positives, leaves[3], back.answered),
            )
        slopes = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        of_target = slopes[0] - slopes[1] + slopes[2] - slopes[3]  # the negatives are relative to the target
        of_rows, of_columns = slopes[1][:, None], slopes[3][None]
        of_row, of_column = forth.negatives + forth.target, back.negatives + back.target
        gradients = torch.zeros_like(anchors), torch.zeros_like(candidates)
        for rows, logits in self._blocks(anchors, candidates):
            block = self.forth(logits, rows)
            way_back = _softmax(logits[:, : len(anchors)] - of_column, self._negative_of_columns(rows)) * of_columns
            if block.log_weights is not None:
                logits += block.log_weights
            slope = _softmax(logits.sub_(of_row[rows, None]), block.negative).mul_(of_rows[rows])
            slope[:, : len(anchors)] += way_back
            slope.scatter_(1, rows[:, None], of_target[rows, None])
            gradients[0][rows] = slope @ candidates
            gradients[1].addmm_(slope.T, anchors[rows])
        return loss.detach(), *gradients

    def _blocks(self, anchors: Tensor, candidates: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield indices and logits of blocks of rows; the logits are memory that the next block uses again."""
        size = block_rows(len(anchors), len(candidates), anchors.device)
        buffer = anchors.new_empty(size, len(candidates))
        for start in range(0, len(anchors), size):
            rows = torch.arange(start, min(start + size, len(anchors)), device=anchors.device)
            yield rows, torch.mm(anchors[start : start + size], candidates.T, out=buffer[: len(rows)])

    def _negative_of_columns(self, rows: Tensor) -> Tensor | None:
        """Return which queries are negatives of which keys, [r, Q]; None for all but a key's own."""
        (part,) = self.back.parts
        columns = torch.arange(len(part.anchors), device=rows.device)
        if part.exclude is None:
            return None
        return ~(part.exclude(columns, rows).T | (rows[:, None] == columns))


@dataclass(slots=True)
class Columns:
    """Log-sums of columns, block by block: the largest so far, and the sum relative to it."""

    largest: Tensor
    sums: Tensor
    answered: Tensor
    num_rows: int = 0

    @classmethod
    def empty(cls, anchors: Tensor) -> Columns:
        """Start with nothing."""
        lowest = anchors.new_full((len(anchors),), torch.finfo(anchors.dtype).min)
        return cls(lowest, torch.zeros_like(lowest), torch.zeros_like(lowest, dtype=torch.bool))

    def add(self, logits: Tensor, negative: Tensor | None) -> None:
        """Take in some rows, [r, Q], which are overwritten; their own columns follow those of the rows before."""
        lowest = torch.finfo(logits.dtype).min
        if negative is None:
            own = torch.arange(len(logits), device=logits.device)
            logits[own, own + self.num_rows] = lowest
            self.answered |= logits.shape[1] > 1
        else:
            logits.masked_fill_(~negative, lowest)
            self.answered |= negative.any(0)
        self.num_rows += len(logits)
        largest = torch.maximum(self.largest, logits.amax(0))
        self.sums = self.sums * (self.largest - largest).exp() + logits.sub_(largest).exp_().sum(0)
        self.largest = largest

    def log_sums(self) -> Tensor:
        """Return the log-sums, without a meaning where there is no negative."""
        return self.largest + self.sums.log()


class _BothWays(torch.autograd.Function):
    """The loss; its gradient is made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, loss: BothWays, anchors: Tensor, candidates: Tensor) -> Tensor:
        """Return the loss."""
        forth, back = loss.sum_up(anchors, candidates)
        value, *gradients = loss.differentiate(forth, back, anchors, candidates)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, of_value: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients; they stay as they are for another backward pass."""
        return None, *(gradient * of_value for gradient in ctx.saved_tensors)


def _softmax(relative: Tensor, negative: Tensor | None) -> Tensor:
    """Return exp of logits relative to their log-sum, in place, 0 where there is no negative."""
    relative.exp_()
    return relative if negative is None else relative.masked_fill_(~negative, 0)
