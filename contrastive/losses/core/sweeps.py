"""The one road from embeddings to a loss: blocks of rows are judged one after the other, exact in value and gradient.

Of each block the formula is called, and the gradient is brought to both sides in the same pass: three matrix products
in all, and no [Q, K] tensor unless it is one block. It can be done in the forward pass because the loss is a sum over
the rows: what the caller does to the sum only scales the gradient.

Notable decisions:

- A formula by log-sums alone lets the block be overwritten, by its softmax and then by its gradient. The gradient of
  any other is found by autograd, for one block at a time.
- With `reduction="none"` the incoming gradient is a vector, so the blocks are computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from contrastive.contracts import Reduction
from contrastive.losses.core.blocks import Comparison
from contrastive.losses.core.choice import Rows
from contrastive.losses.core.columns import Columns
from contrastive.losses.core.log_sums import differentiate, overwrite
from contrastive.losses.core.reduction import check_weights, or_one, reduce_rows
from contrastive.similarity import ProductSimilarity, flipped, score_pairs
from contrastive.similarity.differentiation import differentiable_once


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


def sum_of_rows(comparison: Comparison, of_rows: Tensor, columns: Columns | None = None) -> tuple[Tensor, Tensor]:
    """Return the sum of what all rows lose times `of_rows` [R], with a graph if one is wanted, and the counts [R].

    With columns of the same scores, the sum and its graph are those of both.
    """
    if comparison.is_differentiated():
        tensors = comparison.tensors()
        total, counts = _Judged.apply(comparison, of_rows, columns, *tensors)  # type: ignore[no-untyped-call]
        return total, counts
    totals, counts = _sweep(comparison)
    return (of_rows * totals).sum(), counts


class _Judged(torch.autograd.Function):
    """What all rows lose: their sum, whose gradient is made in the forward pass; or each, in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, comparison: Comparison, of_rows: Tensor | None, columns: Columns | None, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the sum, or without `of_rows` the totals [R]; and the counts [R]."""
        ctx.again = None
        if of_rows is None:
            ctx.again = replace(comparison, health=None)
            ctx.save_for_backward(*tensors)
            result, counts = _sweep(comparison)
        else:
            gradients = _places(ctx, tensors, len(comparison.choose.parts))
            totals, counts = _sweep(comparison, of_rows, gradients, columns)
            ctx.save_for_backward(*gradients)
            result = (of_rows * totals).sum()
            result = result if columns is None else result + columns.loss
        ctx.mark_non_differentiable(counts)
        return result, counts

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, of_result: Tensor, _of_counts: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients, which stay as they are for another backward pass; or compute the blocks again."""
        saved: Sequence[Tensor | None] = ctx.saved_tensors
        if ctx.again is None:
            return None, None, None, *(None if gradient is None else gradient * of_result for gradient in saved)
        gradients = _places(ctx, saved, len(ctx.again.choose.parts))
        with torch.autocast(of_result.device.type, enabled=False):
            _sweep(ctx.again, of_result, gradients)
        return None, None, None, *gradients


def _places(ctx: Any, tensors: Sequence[Tensor | None], num_parts: int) -> list[Tensor | None]:
    """Return where the gradients of tensors go, None for those that get none; see `Comparison.tensors`."""
    places: list[Tensor | None] = []
    for i, (tensor, wanted) in enumerate(zip(tensors, ctx.needs_input_grad[3:], strict=True)):
        is_anchors = i < 2 * num_parts and i % 2 == 0  # whose gradients are set and not added to
        make = torch.empty_like if is_anchors else torch.zeros_like
        places.append(make(tensor) if wanted and tensor is not None else None)
    return places


def _sweep(
    comparison: Comparison,
    of_rows: Tensor | None = None,
    gradients: Sequence[Tensor | None] = (),
    columns: Columns | None = None,
) -> tuple[Tensor, Tensor]:
    """Judge block after block and return totals and counts; with `of_rows`, the gradient by them, make gradients."""
    number, widths = 2 * len(comparison.choose.parts), comparison.widths
    of_sides, (of_temperature, *of_parameters) = gradients[:number], gradients[number:] or [None]
    found = list[tuple[Tensor, Tensor]]()
    kept = [] if columns is None else columns.blocks
    for place, rows, add_gradients in kept or comparison.blocks(graph=of_rows is not None):
        if of_rows is None:
            found.append(_judge_block(comparison, rows)[:2])
            continue
        shares = None if columns is None else columns.shares(rows)
        totals, counts, (slopes, *more) = _judge_block(comparison, rows, of_rows[place])
        found.append((totals, counts))
        if columns is not None and shares is not None:
            columns.add_gradient(slopes, shares, place)
        of_parts = zip(slopes.split_with_sizes(widths, 1), of_sides[::2], of_sides[1::2], strict=True)
        for add, (of_scores, of_anchors, of_candidates) in zip(add_gradients, of_parts, strict=True):
            add(of_scores, None if of_anchors is None else of_anchors[place], of_candidates, of_temperature)
        for gradient, added in zip((each for each in of_parameters if each is not None), more, strict=True):
            gradient += added
    totals, counts = (each[0] if len(each) == 1 else torch.cat(each) for each in zip(*found, strict=True))
    return totals, counts


def _judge_block(
    comparison: Comparison, rows: Rows, of_rows: Tensor | None = None
) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """Judge one block: return totals and counts and, with `of_rows`, the gradients of the logits and the parameters."""
    graph, logits = of_rows is not None, rows.logits
    if comparison.health is not None:
        comparison.choose.record(rows, comparison.health)
    with torch.set_grad_enabled(graph):
        if comparison.by_log_sums:
            sums = rows.sum_up(overwrite)
            leaves = [each.requires_grad_(graph) for each in (sums.target, sums.positives, sums.negatives)]
        else:
            rows.logits = logits.detach().requires_grad_(graph)
            leaves = [rows.logits]
        if of_rows is None:
            return *comparison.judge(rows), ()
        totals, counts, slopes = comparison.differentiate(rows, of_rows, leaves)
    if comparison.by_log_sums:
        of_logits = differentiate(logits, rows.positive, sums, slopes[:3], out=logits)
        slopes = (of_logits, *slopes[3:])
    return totals, counts, slopes
