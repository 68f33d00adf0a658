"""What every softmax loss shares: from embeddings, masks and options to rows of logits, in one direction or in several.

A loss gives a *formula*, what a row loses as a function of its logits; who counts in a row is chosen here, once.

A row is made of *parts*, one for each direction in which texts are compared: query i against all keys, query i against
the other queries, the positive of query i against all queries, and so on. Parts of one partition share a softmax; a
loss of several partitions is the mean over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.contracts import MaskLike, Reduction
from contrastive.losses.core.blocks import Segment, Summarise, is_tiled, judge_each, judge_rows, logits_of
from contrastive.losses.core.both_ways import BothWays
from contrastive.losses.core.choice import Choice, Rows
from contrastive.losses.core.directions import Direction, Sides, parts_of
from contrastive.losses.core.health import Health
from contrastive.losses.core.logits import RowStatistics
from contrastive.losses.core.options import SoftmaxOptions, is_usual, read
from contrastive.losses.core.reduction import check_weights, reduce_rows
from contrastive.losses.core.temperature import check_temperature
from contrastive.masks import MASK_ROWS, dense
from contrastive.similarity import cosine, full_precision, named

Formula = Callable[[Rows, RowStatistics], Tensor | tuple[Tensor, Tensor]]
"""Maps rows and their log-sums to the loss of each, [r]; or to what the terms of each sum to and how many they are."""


def cross_entropy(_rows: Rows, statistics: RowStatistics) -> Tensor:
    """Return the cross-entropy of finding the positives of a row."""
    return torch.logaddexp(statistics.positives, statistics.negatives)


def without_positive(_rows: Rows, statistics: RowStatistics) -> Tensor:
    """Return the same without the positives in the denominator."""
    return statistics.negatives


BY_LOG_SUMS = frozenset({cross_entropy, without_positive})
"""Formulas that do not look at the rows themselves."""


@dataclass(frozen=True, slots=True)
class SoftmaxJudge:
    """Judges blocks of rows by a formula; see `blocks.Judge`."""

    formula: Formula
    choose: Choice

    def segments(self) -> list[Segment]:
        """Return what a row is made of."""
        return [Segment(part.anchors, part.candidates, part.flipped) for part in self.choose.parts]

    @property
    def by_log_sums(self) -> bool:
        """Whether the formula looks at nothing but the log-sums of rows with one positive each."""
        return self.formula in BY_LOG_SUMS and self.choose.one_each

    def __call__(
        self, logits: Tensor, rows: Tensor, health: Health | None, summarise: Summarise
    ) -> tuple[Tensor, Tensor]:
        """Map logits [r, C] of rows [r] to the sum of their terms, and to how many they are: 0 if unanswered."""
        block = self.choose(logits, rows)
        if health is not None:
            self.choose.record(block, health)
        statistics = summarise(logits, block.positive, block.negative, block.log_weights)
        losses = self.formula(block, statistics)
        losses, counts = losses if isinstance(losses, tuple) else (losses, statistics.answered)
        return torch.where(statistics.answered, losses, 0), torch.where(statistics.answered, counts, 0)


def softmax_loss(
    formula: Formula,
    queries: Tensor,
    keys: Tensor,
    options: SoftmaxOptions,
    *,
    partitions: Sequence[Sequence[Direction]] | None = None,
    also_exclude: Mapping[Direction, MaskLike] | None = None,
) -> Tensor:
    """Apply a formula to the rows of every partition and return the mean over the partitions.

    Args:
        formula: What a row loses.
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D].
        options: What the caller of the loss said.
        partitions: Directions that share a softmax, the one that holds the positive first; by default what `symmetric`
            and `same_side` say.
        also_exclude: Masks of further pairs to leave out, by direction.
    """
    if formula is cross_entropy and partitions is None and is_usual(options):
        loss = _plain_cross_entropy(queries, keys, options)
        if loss is not None:
            return loss
    sides, selection = read(queries, keys, options, also_exclude or {})
    temperature, weights = options.get("temperature", 0.05), options.get("weights")
    reduction = options.get("reduction", "mean")
    settings: dict[str, Any] = {
        "similarity": named(options.get("similarity", cosine)),
        "temperature": temperature,
        "tiled": options.get("tiled"),
    }
    if partitions is None:
        same_side = options.get("same_side", False)
        forth: list[Direction] = ["query_to_key", "query_to_query"] if same_side else ["query_to_key"]
        back: list[Direction] = ["key_to_query", "key_to_key"] if same_side else ["key_to_query"]
        partitions = [forth, back] if options.get("symmetric") else [forth]
    judges = [SoftmaxJudge(formula, Choice(temperature, parts_of(sides, way), selection)) for way in partitions]
    there_and_back = [list(way) for way in partitions] == [["query_to_key"], ["key_to_query"]] and sides.one_each
    if there_and_back and is_tiled(judges[0].segments(), settings["similarity"], settings["tiled"]):
        both = BothWays(formula, judges[0].choose, judges[1].choose, weights, reduction, options.get("health"))
        if judges[0].by_log_sums and both.fits and not settings["similarity"].lengths_matter:
            return both(sides.queries, sides.keys, settings["similarity"], temperature)
    losses = []
    for judge, way in zip(judges, partitions, strict=True):
        if way[0] == "key_to_query" and not sides.one_each:
            of_keys = judge_each(judge, judge.segments(), **settings)
            losses.append(_mean_of_positives(*of_keys, sides, weights, reduction))
        else:
            settings["health"] = None if losses else options.get("health")
            losses.append(judge_rows(judge, judge.segments(), weights=weights, reduction=reduction, **settings))
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)


def _plain_cross_entropy(queries: Tensor, keys: Tensor, options: SoftmaxOptions) -> Tensor | None:
    """Return the loss of a small batch of which nothing was said, or None: at Q = 256 all else takes a quarter more.

    Its value is that of `row_statistics` but for losses below 1e-6 in float32, which keep fewer digits.
    """
    similarity, temperature = named(options.get("similarity", cosine)), options.get("temperature", 0.05)
    segment = Segment(full_precision(queries), full_precision(keys))
    if not 1 <= len(queries) <= len(keys) or len(keys) == 1 or is_tiled([segment], similarity, options.get("tiled")):
        return None
    check_temperature(temperature)
    rows = torch.arange(len(queries), device=keys.device)
    return nn.functional.cross_entropy(logits_of(segment, similarity, temperature), rows)


def _mean_of_positives(
    totals: Tensor, counts: Tensor, sides: Sides, weights: Tensor | None, reduction: Reduction
) -> Tensor:
    """Reduce the losses of keys that look for their queries, [K], to those of queries, each the mean of its keys."""
    of_keys, num_queries, device = totals / counts.clamp_min(1), len(sides.queries), totals.device
    if reduction == "none" or (weights is not None and weights.requires_grad):
        found = dense(sides.positive, num_queries, len(of_keys), device) & (counts > 0)
        shares = found / found.sum(1, keepdim=True).clamp_min(1).to(of_keys)
        return reduce_rows(shares @ of_keys, found.any(1), weights, reduction)
    # What each key counts for in the sum over the queries, a block of queries at a time.
    check_weights(weights, num_queries)
    weights = of_keys.new_ones(num_queries) if weights is None else weights.to(of_keys)
    key_weights, total_weight = torch.zeros_like(of_keys), of_keys.new_zeros(())
    for rows in torch.split(torch.arange(num_queries, device=device), MASK_ROWS):
        found = sides.positive(rows, torch.arange(len(of_keys), device=device)) & (counts > 0)
        num_found = found.sum(1)
        share = torch.where(num_found > 0, weights[rows], 0) / num_found.clamp_min(1)
        key_weights += share @ found.to(of_keys)
        total_weight = total_weight + torch.where(num_found > 0, weights[rows], 0).sum()
    total = (key_weights * of_keys).sum()
    return total / torch.where(total_weight == 0, 1, total_weight) if reduction == "mean" else total
