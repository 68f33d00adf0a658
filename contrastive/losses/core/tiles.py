"""The tiled path: rows judged in blocks, and the gradient of the embeddings made in the same pass.

Three matrix products and O((Q + K) D) memory, exact in value and gradient: the loss is a sum over the rows, and what
the caller does to the sum only scales the gradient. See `contrastive.losses.core.blocks` for what is judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contrastive.contracts import Reduction, Similarity
from contrastive.losses.core.differentiation import differentiable_once
from contrastive.losses.core.health import Health
from contrastive.losses.core.logits import RowStatistics, overwrite_with_softmax, row_statistics
from contrastive.similarity import ProductSimilarity, check_shapes

if TYPE_CHECKING:
    from contrastive.losses.core.blocks import Judge, Segment

BLOCK_SCORES = 2**22
"""Scores of a block, 16 MiB in float32; small enough for a cache, large enough for the matrix product."""

LEAST_ROWS, MOST_ROWS = 256, 1024
"""Rows of a block all the same: fewer starve the matrix product, more gain nothing."""

GPU_BLOCK_SCORES = 2**26
"""The same on a GPU, 256 MiB, and as many rows as that gives: there a block takes 1 ms to launch, whatever its size."""


def block_rows(num_rows: int, num_columns: int, device: torch.device) -> int:
    """Return how many rows make a block."""
    if device.type == "cpu":
        return min(num_rows, max(LEAST_ROWS, min(MOST_ROWS, BLOCK_SCORES // num_columns)))
    return min(num_rows, max(LEAST_ROWS, GPU_BLOCK_SCORES // num_columns))


@dataclass(frozen=True, slots=True)
class Plan:
    """All that stays the same from block to block."""

    judge: Judge
    num_segments: int
    similarity: ProductSimilarity
    temperature: float | Tensor
    weights: Tensor | None
    reduction: Reduction
    health: Health | None

    def split(self, tensors: Sequence[Any]) -> tuple[list[tuple[Any, Any]], list[Any]]:
        """Return (anchors, candidates) of each segment and the parameters among the tensors, or their gradients."""
        pairs = [(tensors[2 * i], tensors[2 * i + 1]) for i in range(self.num_segments)]
        return pairs, list(tensors[2 * self.num_segments :])

    def weigh(self, totals: Tensor, counts: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Return what a block adds to the sum of the losses, and to what it is divided by."""
        weights = totals.new_ones(len(totals)) if self.weights is None else self.weights[rows].detach().to(totals)
        counts = counts.to(totals)
        if self.reduction == "sum":
            totals = totals / counts.clamp_min(1)
        return (weights * totals).sum(), (weights * counts).sum()

    @property
    def overwrites(self) -> bool:
        """Whether the gradient of a block is made of the softmax that stands in its place."""
        return self.judge.by_log_sums and not self.similarity.lengths_matter


def folded(
    anchors: Tensor, candidates: Tensor, similarity: ProductSimilarity, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return prepared anchors and candidates, whose dot products are the logits unless lengths matter.

    Raises:
        ValueError: If they are not two matrices of the same width.
    """
    check_shapes(anchors, candidates)
    prepared = similarity.prepare(anchors), similarity.prepare(candidates)
    return prepared if similarity.lengths_matter else (prepared[0] / temperature, prepared[1])


def prepare(
    judge: Judge,
    segments: Sequence[Segment],
    similarity: Similarity,
    temperature: float | Tensor,
    weights: Tensor | None,
    reduction: Reduction,
    health: Health | None,
    parameters: Sequence[Tensor],
) -> tuple[Plan, list[Tensor]]:
    """Return what stays the same from block to block, and the tensors that get gradients."""
    assert isinstance(similarity, ProductSimilarity)
    tensors: list[Tensor] = []
    with torch.autocast(segments[0].anchors.device.type, enabled=False):
        for anchors, candidates, _ in segments:
            tensors += folded(anchors, candidates, similarity, temperature)
    if similarity.lengths_matter and isinstance(temperature, Tensor):
        parameters = [*parameters, temperature]
    tensors += [parameter for parameter in parameters if parameter.requires_grad]
    return Plan(judge, len(segments), similarity, temperature, weights, reduction, health), tensors


def sum_of_rows(plan: Plan, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses of all rows, with a graph if one is wanted, and what to divide it by."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            total, count = _Sum.apply(plan, *tensors)  # type: ignore[no-untyped-call]
            return total, count
        return _forward(plan, tensors, None)


def each_row(plan: Plan, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return what the terms of each row sum to and how many they are."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        totals, counts = _Rows.apply(plan, *tensors)  # type: ignore[no-untyped-call]
        return totals, counts


class _Sum(torch.autograd.Function):
    """The sum over all rows; its gradient is made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses and what to divide it by."""
        gradients = [
            torch.zeros_like(tensor) if needed else None
            for tensor, needed in zip(tensors, ctx.needs_input_grad[1:], strict=True)
        ]
        total, count = _forward(plan, tensors, gradients)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, of_total: Tensor, _of_count: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients; they stay as they are for another backward pass."""
        return None, *(None if gradient is None else gradient * of_total for gradient in ctx.saved_tensors)


class _Rows(torch.autograd.Function):
    """One number a row; the blocks are computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Return totals and counts, [R] each."""
        ctx.plan = plan
        ctx.save_for_backward(*tensors)
        judged = [block.judged(plan.health) for block in _blocks(plan, tensors, grad=False)]
        totals, counts = (torch.cat(list(values)) for values in zip(*judged, strict=True))
        ctx.mark_non_differentiable(counts)
        return totals, counts

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, of_totals: Tensor, _of_counts: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the blocks again, and their gradients."""
        tensors = ctx.saved_tensors
        gradients = [
            torch.zeros_like(tensor) if needed else None
            for tensor, needed in zip(tensors, ctx.needs_input_grad[1:], strict=True)
        ]
        for block in _blocks(ctx.plan, tensors, grad=True):
            with torch.enable_grad():
                totals, _ = block.judged(None)
                value = (totals * of_totals[block.rows]).sum()
            block.add_gradients(value, gradients)
        return None, *gradients


def _forward(plan: Plan, tensors: Sequence[Tensor], gradients: Sequence[Tensor | None] | None) -> tuple[Tensor, Tensor]:
    """Judge all blocks and add up what they give; with `gradients`, add to those too."""
    total = count = None
    for block in _blocks(plan, tensors, grad=gradients is not None):
        with torch.set_grad_enabled(gradients is not None):
            losses, counts = block.judged(plan.health)
            value, counted = plan.weigh(losses, counts, block.rows)
        if gradients is not None:
            block.add_gradients(value, gradients)
        total = value.detach() if total is None else total + value.detach()
        count = counted.detach() if count is None else count + counted.detach()
    assert total is not None
    assert count is not None
    return total, count


def _blocks(plan: Plan, tensors: Sequence[Tensor], *, grad: bool) -> Iterator[_Block]:
    """Yield the blocks of rows; they share their memory, so each is to be done with before the next is asked for."""
    segments, parameters = plan.split(tensors)
    num_rows, widths = len(segments[0][0]), [len(candidates) for _, candidates in segments]
    size = block_rows(num_rows, sum(widths), segments[0][0].device)
    buffer = segments[0][0].new_empty(size, sum(widths))
    for start in range(0, num_rows, size):
        rows = slice(start, min(start + size, num_rows))
        products = buffer[: rows.stop - start]
        if plan.similarity.lengths_matter:
            yield _DistanceBlock(plan, rows, products, segments, widths, parameters, grad)
            continue
        for (anchors, candidates), part in zip(segments, torch.split(products, widths, 1), strict=True):
            torch.mm(anchors[rows].detach(), candidates.detach().T, out=part)
        make = _OverwrittenBlock if plan.overwrites else _DifferentiatedBlock
        yield make(plan, rows, products, segments, widths, parameters, grad)


@dataclass(slots=True)
class _Block:
    """Some rows, and the dot products [r, C] of their prepared embeddings with those of the columns.

    Attributes:
        plan: What stays the same.
        rows: Which rows.
        products: The dot products; memory that the next block uses again.
        segments: Prepared anchors and candidates, the anchors of cosine and dot divided by the temperature.
        widths: Columns of each segment.
        parameters: Further tensors that are trained.
        grad: Whether gradients are wanted.
    """

    plan: Plan
    rows: slice
    products: Tensor
    segments: list[tuple[Tensor, Tensor]]
    widths: list[int]
    parameters: list[Tensor]
    grad: bool

    def judged(self, health: Health | None) -> tuple[Tensor, Tensor]:
        """Return what the judge says of the rows."""
        raise NotImplementedError

    def add_gradients(self, value: Tensor, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradient of a function of what was judged to those of anchors, candidates and parameters."""
        raise NotImplementedError

    def indices(self) -> Tensor:
        """Return the rows as a tensor, [r]."""
        return torch.arange(self.rows.start, self.rows.stop, device=self.products.device)


class _OverwrittenBlock(_Block):
    """A block whose softmax takes the place of the products, and is all that the gradient needs.

    The derivative of the row's log-sums by the logits is that softmax for the negatives and one number for the
    positive: scaling the rows of what goes into the matrix products replaces a pass over the block.
    """

    __slots__ = ("positive", "statistics")

    def judged(self, health: Health | None) -> tuple[Tensor, Tensor]:
        return self.plan.judge(self.products, self.indices(), health, self._summarise)

    def _summarise(
        self, logits: Tensor, positive: Tensor, negative: Tensor | None, log_weights: Tensor | None
    ) -> RowStatistics:
        self.positive = positive
        with torch.no_grad():
            self.statistics = overwrite_with_softmax(logits, positive, negative, log_weights)
        if self.grad:
            self.statistics.target.requires_grad_()
            self.statistics.negatives.requires_grad_()
        return self.statistics

    def add_gradients(self, value: Tensor, gradients: Sequence[Tensor | None]) -> None:
        target, negatives = self.statistics.target, self.statistics.negatives
        found = torch.autograd.grad(value, [target, negatives], allow_unused=True, materialize_grads=True)
        of_negatives = found[1][:, None]
        of_target = found[0][:, None] - of_negatives  # the negatives are relative to the target
        of_segments, _ = self.plan.split(gradients)  # log-sums are all that is judged: there is nothing else to train
        for softmax, (anchors, candidates), (of_anchors, of_candidates) in zip(
            torch.split(self.products, self.widths, 1), self.segments, of_segments, strict=True
        ):
            if of_anchors is not None:
                of_anchors[self.rows].addcmul_(softmax @ candidates, of_negatives)
            if of_candidates is not None:
                of_candidates.addmm_(softmax.T, anchors[self.rows] * of_negatives)
        (anchors, candidates), (of_anchors, of_candidates) = self.segments[0], of_segments[0]
        if of_anchors is not None:
            of_anchors[self.rows].addcmul_(candidates[self.positive], of_target)
        if of_candidates is not None:
            of_candidates.index_add_(0, self.positive, anchors[self.rows] * of_target)


class _DifferentiatedBlock(_Block):
    """A block of products whose gradient autograd finds, which any judge can have."""

    __slots__ = ("leaves",)

    def judged(self, health: Health | None) -> tuple[Tensor, Tensor]:
        self.leaves = [part.detach().requires_grad_(self.grad) for part in torch.split(self.products, self.widths, 1)]
        return self.plan.judge(_beside(self.leaves), self.indices(), health, row_statistics)

    def add_gradients(self, value: Tensor, gradients: Sequence[Tensor | None]) -> None:
        found = torch.autograd.grad(value, [*self.leaves, *self.parameters], allow_unused=True, materialize_grads=True)
        of_segments, of_parameters = self.plan.split(gradients)
        for slopes, (anchors, candidates), (of_anchors, of_candidates) in zip(
            found, self.segments, of_segments, strict=False
        ):
            if of_anchors is not None:
                of_anchors[self.rows].addmm_(slopes, candidates)
            if of_candidates is not None:
                of_candidates.addmm_(slopes.T, anchors[self.rows])
        _add(of_parameters, found[len(self.leaves) :])


class _DistanceBlock(_Block):
    """A block of distances, which autograd follows down to the embeddings.

    A gradient that is made of products of long vectors has no digits left for the differences of close ones.
    """

    __slots__ = ("leaves",)

    def judged(self, health: Health | None) -> tuple[Tensor, Tensor]:
        parts = [part for anchors, candidates in self.segments for part in (anchors[self.rows], candidates)]
        self.leaves = [part.detach().requires_grad_(self.grad) for part in parts]
        scores = [
            self.plan.similarity.scores(anchors, candidates) / self.plan.temperature
            for anchors, candidates in zip(self.leaves[::2], self.leaves[1::2], strict=True)
        ]
        return self.plan.judge(_beside(scores), self.indices(), health, row_statistics)

    def add_gradients(self, value: Tensor, gradients: Sequence[Tensor | None]) -> None:
        found = torch.autograd.grad(value, [*self.leaves, *self.parameters], allow_unused=True, materialize_grads=True)
        of_segments, of_parameters = self.plan.split(gradients)
        of_rows = [None if of_anchors is None else of_anchors[self.rows] for of_anchors, _ in of_segments]
        _add(of_rows, found[: len(self.leaves) : 2])
        _add([of_candidates for _, of_candidates in of_segments], found[1 : len(self.leaves) : 2])
        _add(of_parameters, found[len(self.leaves) :])


def _beside(parts: Sequence[Tensor]) -> Tensor:
    """Put the parts of a block side by side."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def _add(gradients: Sequence[Tensor | None], more: Sequence[Tensor]) -> None:
    """Add to the gradients that are wanted."""
    for gradient, added in zip(gradients, more, strict=True):
        if gradient is not None:
            gradient.add_(added)
