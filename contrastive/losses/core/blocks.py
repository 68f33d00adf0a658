"""Judging rows of scores a block at a time, so that no [Q, K] tensor ever exists: exact, in value and gradient.

A loss of this library is a function of the logits of a block of rows, its *judge*; here it is applied to all rows,
either at once under autograd ("dense") or in blocks ("tiled"). The tiled path forms the gradient of the embeddings in
the forward pass, block by block, in three matrix products and O((Q + K) D) memory. It can do so because the loss is
a sum over the rows; what the caller does to the sum afterwards only scales the gradient.

Notable decisions:

- A row spans *segments*: anchors [R, D] against candidates [C, D]. The judge sees their logits side by side.
- Cosine and dot product take the temperature into the anchors, which saves a pass over every block.
- With `reduction="none"` the incoming gradient is a vector, so the blocks are computed again in the backward pass.
- Any callable similarity runs dense; those of `contrastive.similarity` are tiled above `DENSE_SCORES` scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from contrastive.contracts import Reduction, Similarity
from contrastive.losses.core.health import Health
from contrastive.losses.core.logits import RowStatistics, row_statistics
from contrastive.losses.core.reduction import check_choice, check_weights, reduce_rows
from contrastive.losses.core.tiles import each_row, folded, prepare, sum_of_rows
from contrastive.similarity import ProductSimilarity, flipped, score_pairs

DENSE_SCORES = 2**23
"""Up to so many scores autograd keeps them all, unless the caller says otherwise: faster there, in some 100 MiB."""

GPU_DENSE_SCORES = 2**24
"""The same on a GPU, in some 200 MiB."""


class Segment(NamedTuple):
    """Anchors [R, D] and the candidates [C, D] that each of them is scored against.

    Attributes:
        anchors: Embeddings of the rows.
        candidates: Embeddings of the columns.
        flipped: Whether the candidates ask and the anchors answer, for a similarity that is not symmetric.
    """

    anchors: Tensor
    candidates: Tensor
    flipped: bool = False


class Summarise(Protocol):
    """Sums up rows of logits: `row_statistics`, or what stands in for it."""

    def __call__(
        self, logits: Tensor, positive: Tensor, negative: Tensor | None, log_weights: Tensor | None
    ) -> RowStatistics:
        """Map logits [r, C] and who counts in them to log-sums."""
        ...


class Judge(Protocol):
    """Judges a block of rows by their logits.

    Attributes:
        by_log_sums: Whether it looks at nothing but the log-sums of rows of one positive each, so that the block may be
            overwritten once they are known.
    """

    @property
    def by_log_sums(self) -> bool:
        """See above."""
        ...

    def __call__(
        self, logits: Tensor, rows: Tensor, health: Health | None, summarise: Summarise
    ) -> tuple[Tensor, Tensor]:
        """Map logits [r, C] of the rows [r] to what each row's terms sum to and how many terms they are, both [r]."""
        ...


def judge_rows(
    judge: Judge,
    segments: Sequence[Segment],
    *,
    similarity: Similarity,
    temperature: float | Tensor,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    tiled: bool | None = None,
    health: Health | None = None,
    parameters: Sequence[Tensor] = (),
) -> Tensor:
    """Judge all rows and reduce what they give, as `reduce_rows` does.

    Args:
        judge: Judges a block of rows.
        segments: What the columns of a row are made of, each with the same number of anchors.
        similarity: Scores of anchors and candidates, higher is closer.
        temperature: What scores are divided by.
        weights: Weight of each row, [R].
        reduction: "mean", "sum" or "none", see `reduce_rows`.
        tiled: Whether to work in blocks; None decides by size.
        health: Given to the judge once for each block.
        parameters: Tensors other than the embeddings and the temperature that the judge reads and that are trained.

    Raises:
        ValueError: If the weights are not one a row, or tiles are wanted of a similarity that is a mere callable.
    """
    # One number a row, or weights that are trained, need the rows one by one.
    by_row = reduction == "none" or (weights is not None and weights.requires_grad)
    if by_row or not is_tiled(segments, similarity, tiled):
        totals, counts = judge_each(
            judge,
            segments,
            similarity=similarity,
            temperature=temperature,
            tiled=tiled,
            health=health,
            parameters=parameters,
        )
        return reduce_rows(totals, counts, weights, reduction)
    check_choice("reduction", reduction, get_args(Reduction))
    check_weights(weights, len(segments[0].anchors))
    plan, tensors = prepare(judge, segments, similarity, temperature, weights, reduction, health, parameters)
    total, count = sum_of_rows(plan, tensors)
    return total / torch.where(count == 0, 1, count) if reduction == "mean" else total


def judge_each(
    judge: Judge,
    segments: Sequence[Segment],
    *,
    similarity: Similarity,
    temperature: float | Tensor,
    tiled: bool | None = None,
    health: Health | None = None,
    parameters: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """Judge all rows: return what the terms of each sum to and how many they are, [R] each; see `judge_rows`."""
    if is_tiled(segments, similarity, tiled):
        plan, tensors = prepare(judge, segments, similarity, temperature, None, "none", health, parameters)
        return each_row(plan, tensors)
    logits = [logits_of(segment, similarity, temperature) for segment in segments]
    block = logits[0] if len(logits) == 1 else torch.cat(logits, 1)
    return judge(block, torch.arange(len(block), device=block.device), health, row_statistics)


def logits_of(segment: Segment, similarity: Similarity, temperature: float | Tensor) -> Tensor:
    """Return the scores of a segment divided by the temperature, [R, C]."""
    if isinstance(similarity, ProductSimilarity) and not similarity.lengths_matter:
        with torch.autocast(segment.anchors.device.type, enabled=False):
            anchors, candidates = folded(segment.anchors, segment.candidates, similarity, temperature)
            return anchors @ candidates.T
    asked = flipped(similarity) if segment.flipped else similarity
    return score_pairs(asked, segment.anchors, segment.candidates) / temperature


def is_tiled(segments: Sequence[Segment], similarity: Similarity, tiled: bool | None) -> bool:
    """Return whether to work in blocks, which a caller wants, does not want, or leaves to the size.

    Raises:
        ValueError: If tiles are wanted of a similarity that is a mere callable.
    """
    can_tile = isinstance(similarity, ProductSimilarity)
    if tiled and not can_tile:
        raise ValueError(f"expected cosine, dot or euclidean similarity with tiled=True, got {similarity!r}")
    num_scores = len(segments[0].anchors) * sum(len(segment.candidates) for segment in segments)
    limit = DENSE_SCORES if segments[0].anchors.device.type == "cpu" else GPU_DENSE_SCORES
    return can_tile and num_scores > 0 and (num_scores > limit if tiled is None else tiled)
