"""What every softmax loss shares: from embeddings and masks to rows of logits, in one direction or in both.

A loss gives a *formula*, what a row loses as a function of its logits; choosing who counts is done here, once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from contrastive.blocks import Segment, judge_rows
from contrastive.contracts import MaskLike, Reduction, Similarity
from contrastive.health import Health
from contrastive.logits import RowStatistics, record_rows, row_statistics
from contrastive.losses._rows import exclude_mask, negative_mask, positive_mask
from contrastive.losses._temperature import check_temperature
from contrastive.masks import Mask, dense, diagonal, everything
from contrastive.reduction import reduce_rows
from contrastive.similarity import SimilarityName, flipped, full_precision, named


@dataclass(frozen=True, slots=True)
class Rows:
    """A block of rows as a formula sees it; the arguments are those of `row_statistics`."""

    logits: Tensor
    positive: Tensor
    negative: Tensor | None
    log_weights: Tensor | None
    statistics: RowStatistics

    def tilted(self, factor: float) -> RowStatistics:
        """Return the statistics of the logits times a factor, as at another temperature."""
        return row_statistics(self.logits * factor, self.positive, self.negative, self.log_weights)

    def count_negatives(self) -> Tensor:
        """Return the number of negatives of each row, [r]."""
        if self.negative is None:
            return torch.full_like(self.statistics.target, self.logits.shape[1] - 1)
        return self.negative.sum(1, dtype=self.logits.dtype)


Formula = Callable[[Rows], Tensor]
"""Maps a block of rows to the loss of each, [r], in nats."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Who counts in a softmax loss, and how much, beside what the masks of the call say.

    Attributes:
        false_negative_margin: A negative whose score is above its row's positive score plus this is left out as a
            probable false negative; None keeps all.
        drop_hardest: Share of each row's negatives, those of the highest scores, that are left out.
        merge_excluded: Take excluded pairs for further positives instead of leaving them out.
        hardness: Weigh each negative by exp(hardness * score), the weight without a gradient.
        hardness_of: Weigh "all" negatives so, those that are other queries' positives ("in_batch"), or the "hard" ones.
        label_smoothing: Share of the target that is spread evenly over positives and negatives.

    Raises:
        ValueError: If a number is out of its range, or the word is not known.
    """

    false_negative_margin: float | None = None
    drop_hardest: float = 0.0
    merge_excluded: bool = False
    hardness: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.drop_hardest < 1:
            raise ValueError(f"expected drop_hardest from 0 to below 1, got {self.drop_hardest}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"expected label_smoothing from 0 to below 1, got {self.label_smoothing}")
        if not self.hardness >= 0:
            raise ValueError(f"expected hardness of at least 0, got {self.hardness}")


@dataclass(frozen=True, slots=True)
class SoftmaxJudge:
    """Judges blocks of rows by a formula; see `blocks.Judge`."""

    formula: Formula
    temperature: float | Tensor
    positives: Mask
    negatives: Mask
    exclude: Mask | None = None
    log_weights: Tensor | None = None
    selection: Selection = field(default_factory=Selection)

    def __call__(self, logits: Tensor, rows: Tensor, health: Health | None) -> tuple[Tensor, Tensor]:
        """Map logits [r, C] of rows [r] to their losses and whether they could be answered."""
        block = self.select(logits, rows, health)
        losses = self.formula(block)
        if self.selection.label_smoothing:
            losses = losses - self.selection.label_smoothing * _mean_candidate(block)
        answered = block.statistics.answered
        return torch.where(answered, losses, 0), answered

    def select(self, logits: Tensor, rows: Tensor, health: Health | None) -> Rows:
        """Choose the positives and negatives of a block and sum them up."""
        cols = torch.arange(logits.shape[1], device=logits.device)
        merged = self.exclude if self.selection.merge_excluded else None
        one_each = self.positives is diagonal() and merged is None
        positive = rows if one_each else self.positives(rows, cols) | (merged(rows, cols) if merged else False)
        eligible = None if self.negatives is everything() else self.negatives(rows, cols)
        negative = eligible
        if self.exclude is not None and merged is None:
            kept = ~self.exclude(rows, cols)
            negative = kept if negative is None else negative & kept
        scores = logits.detach() * self.temperature
        negative = self._without_false(scores.detach(), positive, negative)
        log_weights = None if self.log_weights is None else self.log_weights.to(logits)[None, :]
        if self.selection.hardness:
            harder = self.selection.hardness * scores.detach()
            log_weights = harder if log_weights is None else log_weights + harder
        statistics = row_statistics(logits, positive, negative, log_weights)
        if health is not None:
            is_positive = rows[:, None] == cols if one_each else positive
            counted = ~is_positive if eligible is None else eligible & ~is_positive
            left = counted if negative is None else counted & negative
            record_rows(health, logits, self.temperature, is_positive, counted, left, statistics.answered)
        return Rows(logits, positive, negative, log_weights, statistics)

    def _without_false(self, scores: Tensor, positive: Tensor, negative: Tensor | None) -> Tensor | None:
        """Leave out the negatives that their scores make suspicious."""
        margin, share = self.selection.false_negative_margin, self.selection.drop_hardest
        if margin is None and not share:
            return negative
        if positive.dtype != torch.bool:
            positive = torch.zeros_like(scores, dtype=torch.bool).scatter(1, positive[:, None], value=True)
        negative = ~positive if negative is None else negative & ~positive
        if margin is not None:
            own = torch.where(positive, scores, 0).sum(1) / positive.sum(1).clamp_min(1)
            negative = negative & (scores <= own[:, None] + margin)
        if share:
            ranked = torch.where(negative, scores, -torch.inf).sort(1, descending=True).values
            dropped = (negative.sum(1, keepdim=True) * share).long()
            negative = negative & (scores <= ranked.gather(1, dropped))
        return negative


def _mean_candidate(block: Rows) -> Tensor:
    """Return the mean logit of each row's positives and negatives, relative to its target, [r]."""
    positive = block.positive
    if positive.dtype != torch.bool:
        positive = torch.zeros_like(block.logits, dtype=torch.bool).scatter(1, positive[:, None], value=True)
    candidate = torch.ones_like(positive) if block.negative is None else positive | block.negative
    relative = torch.where(candidate, block.logits - block.statistics.target[:, None], 0)
    return relative.sum(1) / candidate.sum(1).clamp_min(1)


def softmax_loss(
    formula: Formula,
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float | Tensor,
    similarity: Similarity | SimilarityName,
    symmetric: bool = False,
    others_negatives: bool = True,
    selection: Selection | None = None,
    positives: MaskLike | None = None,
    exclude: MaskLike | None = None,
    owners: Tensor | None = None,
    weights: Tensor | None = None,
    key_weights: Tensor | None = None,
    reduction: Reduction = "mean",
    tiled: bool | None = None,
    health: Health | None = None,
) -> Tensor:
    """Apply a formula to the rows of queries against keys and, if symmetric, to those of positives against queries.

    The arguments are those of `info_nce`.
    """
    check_temperature(temperature)
    similarity = named(similarity)
    queries, keys = full_precision(queries), full_precision(keys)  # once, or the two directions' gradients add in bf16
    device, shape = keys.device, (len(queries), len(keys))
    positive = positive_mask(positives, *shape, device)
    judge = SoftmaxJudge(
        formula,
        temperature,
        positive,
        negative_mask(positive, owners, *shape, device, others_negatives=others_negatives),
        exclude_mask(exclude, *shape, device),
        log_key_weights(key_weights, len(keys)),
        selection or Selection(),
    )
    loss = judge_rows(
        judge,
        [(queries, keys)],
        similarity=similarity,
        temperature=temperature,
        weights=weights,
        reduction=reduction,
        tiled=tiled,
        health=health,
    )
    if not symmetric:
        return loss
    # Hard negatives look for nothing. An anchor without a positive would go unanswered.
    anchors = keys[: len(queries)] if positives is None else keys
    back = replace(
        judge,
        positives=positive.T,
        negatives=everything(),
        exclude=judge.exclude.T if judge.exclude else None,
        log_weights=None,
    )
    segment, similarity = (anchors, queries), flipped(similarity)
    if positives is None:
        back = replace(back, positives=diagonal())
        return (loss + _judge(back, segment, similarity, weights, reduction, tiled)) / 2
    losses, answered = _judge_each(back, segment, similarity, tiled)
    found = dense(positive, *shape, device) & answered
    totals = torch.where(found, losses, 0).sum(1) / found.sum(1).clamp_min(1)
    return (loss + reduce_rows(totals, found.any(1), weights, reduction)) / 2
