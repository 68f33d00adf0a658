"""The one road from embeddings to a loss: rows of scores are judged a block at a time, exact in value and gradient.

A loss is a *formula*, what a row loses as a function of its logits and of who counts in it (`Rows`). Here the rows are
cut into blocks. The scores of a block are made, masks and weights are applied, the formula is called, and the gradient
of the block is brought to both sides in the same pass: three matrix products in all, and no [Q, K] tensor unless it is
one block. It can be done in the forward pass because the loss is a sum over the rows: what the caller does to the sum
only scales the gradient.

Notable decisions:

- A formula by log-sums alone lets the block be overwritten, by its softmax and then by its gradient. The gradient of
  any other is found by autograd, for one block at a time.
- With `reduction="none"` the incoming gradient is a vector, so the blocks are computed again in the backward pass.
- The similarity owns how a block of scores is made and how its gradient gets back (`ProductSimilarity.score_block`). A
  callable that only gives scores makes one block of all, which autograd keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from contrastive.contracts import Health, Reduction, Similarity
from contrastive.losses.core.choice import Choice, Rows
from contrastive.losses.core.log_sums import Judged, differentiate, overwrite
from contrastive.losses.core.reduction import check_weights, or_one, reduce_rows
from contrastive.similarity import AddGradients, ProductSimilarity, flipped, score_pairs
from contrastive.similarity.differentiation import differentiable_once

BLOCK_SCORES = 2**22
"""Scores of a block, 16 MiB in float32; small enough for a cache, large enough for the matrix product."""

LEAST_ROWS, MOST_ROWS = 256, 1024
"""Rows of a block all the same: fewer starve the matrix product, more gain nothing."""

GPU_BLOCK_SCORES = 2**26
"""The same on a GPU, 256 MiB, and as many rows as that gives: there a block takes 1 ms to launch, whatever its size."""

Formula = Callable[[Rows], Tensor | tuple[Tensor, Tensor] | Judged]
"""Maps a block of rows to the loss of each, [r]; or to what the terms of each sum to and how many they are."""


class Further(Protocol):
    """What else depends on the scores of a block: see `columns`."""

    loss: Tensor

    def gradient(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return its derivative by the first columns of the logits of some rows, [r, c]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Anchors compared with candidates, and what a row loses by it.

    Attributes:
        formula: What a row loses.
        choose: Who is compared, and who counts in a row.
        similarity: Scores of prepared anchors and candidates, higher is closer.
        by_log_sums: Whether the formula looks at nothing but the log-sums of a row, and which row it is.
        tiled: Whether to work in blocks, or in one; None works in blocks where the similarity can.
        health: Told of every block.
        parameters: Tensors other than the embeddings and the temperature that the formula reads and that are trained.
        average: Whether a row's terms are averaged, and not summed up.

    Raises:
        ValueError: If blocks are wanted of a similarity that is a mere callable.
    """

    formula: Formula
    choose: Choice
    similarity: Similarity
    by_log_sums: bool = False
    tiled: bool | None = None
    health: Health | None = None
    parameters: Sequence[Tensor] = ()
    average: bool = False

    def __post_init__(self) -> None:
        if self.tiled and not isinstance(self.similarity, ProductSimilarity):
            raise ValueError(
                f"expected cosine, dot, euclidean or max_sim similarity with tiled=True, got {self.similarity!r}"
            )

    @property
    def widths(self) -> list[int]:
        """The number of columns of each part."""
        return [part.candidates.shape[0] for part in self.choose.parts]

    def tensors(self) -> list[Tensor | None]:
        """Return what may get gradients: anchors and candidates of every part, a temperature, what else is trained."""
        temperature = self.choose.temperature
        sides = [side for part in self.choose.parts for side in (part.anchors, part.candidates)]
        return [*sides, temperature if isinstance(temperature, Tensor) else None, *self.parameters]

    def is_differentiated(self) -> bool:
        """Whether a gradient is wanted of anything."""
        return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in self.tensors())

    def blocks(self, *, graph: bool) -> Iterator[tuple[slice, Tensor, list[AddGradients]]]:
        """Yield block after block; without any rows, one block of none.

        Each is the rows, their logits [r, C], memory that the next block uses again, and for each part, with `graph`,
        what brings a gradient of its columns to both sides.
        """
        assert isinstance(self.similarity, ProductSimilarity)
        anchors, widths = self.choose.parts[0].anchors, self.widths
        number = anchors.shape[0]
        size = number if self.tiled is False else block_rows(number, sum(widths), anchors.device)
        buffer = anchors.new_empty(size, sum(widths))
        for start in range(0, max(1, number), max(1, size)):
            rows = slice(start, min(start + size, number))
            logits = buffer[: rows.stop - start]
            yield (
                rows,
                logits,
                [
                    self.similarity.score_block(
                        part.anchors[rows],
                        part.candidates,
                        self.choose.temperature,
                        out=out,
                        graph=graph,
                        flipped=part.flipped,
                    )
                    for part, out in zip(self.choose.parts, logits.split_with_sizes(widths, 1), strict=True)
                ],
            )

    def judge(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return what the terms of each row sum to and how many they are, [r]: 0 and 0 if it goes unanswered."""
        return self._count(rows, self.formula(rows))

    def differentiate(
        self, rows: Rows, of_rows: Tensor, leaves: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """Judge rows and return also the gradients of the leaves, and of the parameters, by `of_rows` [r].

        The leaves are the logits, or with `by_log_sums` the three log-sums.
        """
        losses = self.formula(rows)
        totals, counts = self._count(rows, losses)
        if isinstance(losses, Judged):
            of_rows = of_rows * rows.sums.answered
            of_positives, of_negatives = of_rows * losses.of_positives, of_rows * losses.of_negatives
            return totals.detach(), counts, [torch.zeros_like(of_rows), of_positives, of_negatives]
        trained = [each for each in self.parameters if each.requires_grad]
        gradients = torch.autograd.grad(
            (totals * of_rows).sum(), [*leaves, *trained], allow_unused=True, materialize_grads=True
        )
        return totals.detach(), counts, gradients

    def _count(self, rows: Rows, losses: Tensor | tuple[Tensor, Tensor] | Judged) -> tuple[Tensor, Tensor]:
        if isinstance(losses, Judged):
            losses = losses.losses
        totals, counts = losses if isinstance(losses, tuple) else (losses, rows.sums.answered)
        if self.average:
            totals, counts = totals / or_one(counts), counts > 0
        return totals.masked_fill(counts == 0, 0), counts


def block_rows(num_rows: int, num_columns: int, device: torch.device) -> int:
    """Return how many rows make a block."""
    if device.type == "cpu":
        return min(num_rows, max(LEAST_ROWS, min(MOST_ROWS, BLOCK_SCORES // max(num_columns, 1))))
    return min(num_rows, max(LEAST_ROWS, GPU_BLOCK_SCORES // max(num_columns, 1)))


def loss_of_rows(comparison: Comparison, weights: Tensor | None, reduction: Reduction) -> Tensor:
    """Judge all rows and reduce what they lose, as `reduce_rows` does.

    Raises:
        ValueError: If the weights are not one a row, or there is no such reduction.
    """
    # One number a row, or weights that are trained, need the rows one by one.
    by_row = reduction == "none" or (weights is not None and weights.requires_grad)
    if by_row or not isinstance(comparison.similarity, ProductSimilarity):
        return reduce_rows(*judge_each(comparison), weights, reduction)
    anchors = comparison.choose.parts[0].anchors
    check_weights(weights, anchors.shape[0])
    of_rows = anchors.new_ones(anchors.shape[0]) if weights is None else weights.to(anchors)
    if reduction == "sum":
        comparison = replace(comparison, average=True)
    total, counts = sum_of_rows(comparison, of_rows)
    return total / or_one((of_rows * counts).sum()) if reduction == "mean" else total


def judge_each(comparison: Comparison) -> tuple[Tensor, Tensor]:
    """Judge all rows: return what the terms of each sum to and how many they are, [R] each."""
    parts, temperature = comparison.choose.parts, comparison.choose.temperature
    if isinstance(comparison.similarity, ProductSimilarity):
        totals, counts = _Judged.apply(comparison, None, None, *comparison.tensors())  # type: ignore[no-untyped-call]
        return totals, counts
    asked = [flipped(comparison.similarity) if part.flipped else comparison.similarity for part in parts]
    scores = [score_pairs(one, part.anchors, part.candidates) for one, part in zip(asked, parts, strict=True)]
    rows = comparison.choose(torch.cat(scores, 1) / temperature, torch.arange(len(scores[0]), device=scores[0].device))
    if comparison.health is not None:
        comparison.choose.record(rows, comparison.health)
    return comparison.judge(rows)


def sum_of_rows(comparison: Comparison, of_rows: Tensor, further: Further | None = None) -> tuple[Tensor, Tensor]:
    """Return the sum of what all rows lose times `of_rows` [R], with a graph if one is wanted, and the counts [R].

    With something `further` that depends on the scores, the sum and its graph are those of both.
    """
    if comparison.is_differentiated():
        tensors = comparison.tensors()
        total, counts = _Judged.apply(comparison, of_rows, further, *tensors)  # type: ignore[no-untyped-call]
        return total, counts
    totals, counts = _sweep(comparison)
    return (of_rows * totals).sum(), counts


class _Judged(torch.autograd.Function):
    """What all rows lose: their sum, whose gradient is made in the forward pass; or each, in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, comparison: Comparison, of_rows: Tensor | None, further: Further | None, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the sum, or without `of_rows` the totals [R]; and the counts [R]."""
        ctx.again = None
        if of_rows is None:
            ctx.again = replace(comparison, health=None)
            ctx.save_for_backward(*tensors)
            result, counts = _sweep(comparison)
        else:
            gradients = _zeros(ctx, tensors)
            totals, counts = _sweep(comparison, of_rows, gradients, further)
            ctx.save_for_backward(*gradients)
            result = (of_rows * totals).sum()
            result = result if further is None else result + further.loss
        ctx.mark_non_differentiable(counts)
        return result, counts

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, of_result: Tensor, _of_counts: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients, which stay as they are for another backward pass; or compute the blocks again."""
        saved: Sequence[Tensor | None] = ctx.saved_tensors
        if ctx.again is None:
            return None, None, None, *(None if gradient is None else gradient * of_result for gradient in saved)
        gradients = _zeros(ctx, saved)
        with torch.autocast(of_result.device.type, enabled=False):
            _sweep(ctx.again, of_result, gradients)
        return None, None, None, *gradients


def _zeros(ctx: Any, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return where to add the gradients of tensors, None for those that get none."""
    needed = ctx.needs_input_grad[3:]
    return [
        torch.zeros_like(tensor) if wanted and tensor is not None else None
        for tensor, wanted in zip(tensors, needed, strict=True)
    ]


def _sweep(
    comparison: Comparison,
    of_rows: Tensor | None = None,
    gradients: Sequence[Tensor | None] = (),
    further: Further | None = None,
) -> tuple[Tensor, Tensor]:
    """Judge block after block and return totals and counts; with `of_rows`, the gradient by them, add gradients."""
    parts, widths = comparison.choose.parts, comparison.widths
    of_sides, (of_temperature, *of_parameters) = gradients[: 2 * len(parts)], gradients[2 * len(parts) :] or [None]
    found = list[tuple[Tensor, Tensor]]()
    for rows, logits, add_gradients in comparison.blocks(graph=of_rows is not None):
        index = torch.arange(rows.start, rows.stop, device=logits.device)
        if of_rows is None:
            found.append(_judge_block(comparison, logits, index)[:2])
            continue
        of_further = None if further is None else further.gradient(logits, index)
        totals, counts, (slopes, *more) = _judge_block(comparison, logits, index, of_rows[rows])
        found.append((totals, counts))
        if of_further is not None:
            slopes[:, : of_further.shape[1]] += of_further
        for add, of_scores, of_anchors, of_candidates in zip(
            add_gradients,
            slopes.split_with_sizes(widths, 1),
            of_sides[::2],
            of_sides[1::2],
            strict=True,
        ):
            add(of_scores, None if of_anchors is None else of_anchors[rows], of_candidates, of_temperature)
        for gradient, added in zip((each for each in of_parameters if each is not None), more, strict=True):
            gradient += added
    totals, counts = (each[0] if len(each) == 1 else torch.cat(each) for each in zip(*found, strict=True))
    return totals, counts


def _judge_block(
    comparison: Comparison, logits: Tensor, index: Tensor, of_rows: Tensor | None = None
) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """Judge one block: return totals and counts and, with `of_rows`, the gradients of the logits and the parameters."""
    graph = of_rows is not None
    with torch.set_grad_enabled(graph):
        rows = comparison.choose(logits.detach().requires_grad_(graph and not comparison.by_log_sums), index)
        leaves = [rows.logits]
        if comparison.health is not None:
            comparison.choose.record(rows, comparison.health)
        if comparison.by_log_sums:
            sums = rows.sum_up(overwrite)
            leaves = [each.requires_grad_(graph) for each in (sums.target, sums.positives, sums.negatives)]
        if of_rows is None:
            return *comparison.judge(rows), ()
        totals, counts, slopes = comparison.differentiate(rows, of_rows, leaves)
    if comparison.by_log_sums:
        of_logits = differentiate(logits, rows.positive, sums.answered, slopes[:3], out=logits)
        slopes = (of_logits, *slopes[3:])
    return totals, counts, slopes
