"""What every softmax loss shares: from embeddings, masks and options to rows of logits, in one direction or in several.

A loss gives a *formula*, what a row loses as a function of its logits; who counts in a row is chosen here, once.

A row is made of *parts*, one for each direction in which texts are compared: query i against all keys, query i against
the other queries, the positive of query i against all queries, and so on. Parts of one partition share a softmax; a
loss of several partitions is the mean over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, get_args

import torch
from torch import Tensor

from contrastive.blocks import Segment, Summarise, judge_each, judge_rows
from contrastive.contracts import MaskLike, Reduction, Similarity
from contrastive.health import Health
from contrastive.logits import RowStatistics, record_rows, row_statistics
from contrastive.losses._directions import Direction, Part, Sides, parts_of
from contrastive.losses._temperature import check_temperature
from contrastive.masks import Mask, dense, diagonal
from contrastive.reduction import check_choice, reduce_rows
from contrastive.similarity import SimilarityName, cosine, named

Hardened = Literal["all", "in_batch", "hard"]


class LossOptions(TypedDict, total=False):
    """What every softmax loss can be told, by keyword, whatever the batch.

    Attributes:
        similarity: Scores of queries and keys, higher is closer: a callable, or 'cosine' (default), 'dot', 'euclidean'.
        symmetric: Whether to average over both directions, positives looking for their query among all queries too.
            Hard negatives look for nothing; a query with several positives counts as their mean.
        same_side: Whether texts of a row's own side count too: queries against other queries and, if symmetric,
            positives against other positives. Not with `positives`.
        others_negatives: Whether hard negatives that belong to other queries, by `owners`, count. They do by default.
        false_negative_margin: A negative whose score is above that of the row's positive plus this is left out as a
            probable false one; negative values leave out more. None keeps all.
        drop_hardest: Share of each row's negatives, those of the highest scores, that is left out, from 0 to below 1.
        merge_excluded: Whether excluded pairs are taken for further positives instead of being left out.
        hardness: Negatives are weighed by exp(hardness * score), the weight without a gradient, 0 or above.
        hardened: Whose weights those are: "all" negatives, those "in_batch" (of other queries), or own "hard" ones.
        reduction: "mean" over the queries that have a positive and a negative, by weight; "sum"; or "none" for [Q].
        tiled: Whether to work in blocks without ever holding [Q, K] scores: exact in value and gradient, not twice
            differentiable. None decides by size.
    """

    similarity: Similarity | SimilarityName
    symmetric: bool
    same_side: bool
    others_negatives: bool
    false_negative_margin: float | None
    drop_hardest: float
    merge_excluded: bool
    hardness: float
    hardened: Hardened
    reduction: Reduction
    tiled: bool | None


class SoftmaxOptions(LossOptions, total=False):
    """What every softmax loss can be told, by keyword: `LossOptions`, and what goes with the batch.

    Attributes:
        temperature: What scores are divided by, above 0; a number or a 0-dim tensor, which gets a gradient. 0.05 unless
            the loss says otherwise.
        key_weights: Weight of each key as a negative, [K], 0 or above; without a gradient.
        positives: Which pairs are positive: a mask, a bool tensor [Q, K] or index pairs [P, 2]. By default key i is the
            positive of query i.
        exclude: Pairs that are not negatives, such as known positives: a mask or a bool tensor [Q, K]. Positives stay.
            On a row's own side, queries of which one knows the other's document are left out too.
        owners: The query each key belongs to, [K], -1 for one that all share; by default key `n Q + i` is query i's.
        weights: Weight of each query, [Q].
        health: Filled with positive_similarity, negative_similarity, temperature, excluded_share (of the negatives),
            effective_negatives and unanswered (share of rows), all of the first direction.
    """

    temperature: float | Tensor
    key_weights: Tensor | None
    positives: MaskLike | None
    exclude: MaskLike | None
    owners: Tensor | None
    weights: Tensor | None
    health: Health | None


@dataclass(frozen=True, slots=True)
class Rows:
    """A block of rows, and who counts in it.

    Attributes:
        rows: Which rows they are, [r].
        logits: Scores divided by the temperature, [r, C].
        positive: The positive of each row, an index [r], or bool [r, C].
        eligible: Who may be a negative before anybody is left out, bool [r, C]; None for all.
        negative: Which are negatives, bool [r, C]; None for all. A positive among them stays a positive.
        log_weights: Logarithms of the weights of the negatives, broadcast to [r, C], or None.
    """

    rows: Tensor
    logits: Tensor
    positive: Tensor
    eligible: Tensor | None
    negative: Tensor | None
    log_weights: Tensor | None

    def tilted(self, factor: float) -> RowStatistics:
        """Return the log-sums of the logits times a factor, as at another temperature."""
        return row_statistics(self.logits * factor, self.positive, self.negative, self.log_weights)

    def count_negatives(self) -> Tensor:
        """Return the number of negatives of each row, [r]."""
        if self.negative is None and self.log_weights is None and self.positive.dtype != torch.bool:
            return torch.full_like(self.logits[:, 0], self.logits.shape[1] - 1)
        negative = ~self.is_positive() if self.negative is None else self.negative & ~self.is_positive()
        if self.log_weights is not None:
            negative = negative & (self.log_weights > -math.inf)
        return negative.sum(1, dtype=self.logits.dtype)

    def is_positive(self) -> Tensor:
        """Return which are positives, bool [r, C]."""
        if self.positive.dtype == torch.bool:
            return self.positive
        return torch.zeros_like(self.logits, dtype=torch.bool).scatter(1, self.positive[:, None], value=True)


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
class Selection:
    """Which negatives their scores leave out, and how much they weigh; see `SoftmaxOptions`.

    Raises:
        ValueError: If a number is out of its range, or the word is not known.
    """

    false_negative_margin: float | None = None
    drop_hardest: float = 0.0
    hardness: float = 0.0
    hardened: Hardened = "all"

    def __post_init__(self) -> None:
        if not 0 <= self.drop_hardest < 1:
            raise ValueError(f"expected drop_hardest from 0 to below 1, got {self.drop_hardest}")
        if not self.hardness >= 0:
            raise ValueError(f"expected hardness of at least 0, got {self.hardness}")
        check_choice("hardened", self.hardened, get_args(Hardened))

    def suspicious(self, scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Select the negatives, bool [r, C], whose scores make them suspicious of being positives."""
        suspicious = torch.zeros_like(negative)
        if self.false_negative_margin is not None:
            own = torch.where(positive, scores, 0).sum(1) / positive.sum(1).clamp_min(1)
            suspicious = scores > own[:, None] + self.false_negative_margin
        if self.drop_hardest:
            ranked = torch.where(negative, scores, -torch.inf).sort(1, descending=True).values
            dropped = (negative.sum(1, keepdim=True) * self.drop_hardest).long()
            suspicious = suspicious | (scores > ranked.gather(1, dropped))
        return suspicious


@dataclass(frozen=True, slots=True)
class Choice:
    """Chooses who counts in a block of rows, by masks and by scores."""

    temperature: float | Tensor
    parts: Sequence[Part]
    selection: Selection = field(default_factory=Selection)

    @property
    def one_each(self) -> bool:
        """Whether candidate i is the one positive of row i."""
        return self.parts[0].positive is diagonal() and all(part.positive is None for part in self.parts[1:])

    def __call__(self, logits: Tensor, rows: Tensor) -> Rows:
        """Return the rows [r] of logits [r, C] with their positives, negatives and weights."""
        positive = rows if self.one_each else self._block("positive", rows, default=False)
        assert positive is not None
        eligible, excluded = self._block("eligible", rows, default=True), self._block("exclude", rows, default=False)
        negative = eligible if excluded is None else ~excluded if eligible is None else eligible & ~excluded
        log_weights = self._block("log_weights", rows, default=0)
        block = Rows(rows, logits, positive, eligible, negative, log_weights)
        return block if self.selection == Selection() else self._by_score(block)

    @torch.no_grad()
    def _by_score(self, block: Rows) -> Rows:
        """Change negatives and weights as the scores of the block say."""
        scores = block.logits.detach() * self.temperature
        negative, log_weights = block.negative, block.log_weights
        if self.selection.hardness:
            harder = self.selection.hardness * scores
            hardened = self._block("hardened", block.rows, default=True)
            harder = harder if hardened is None else torch.where(hardened, harder, 0)
            log_weights = harder if log_weights is None else log_weights + harder
        if self.selection.false_negative_margin is not None or self.selection.drop_hardest:
            positive = block.is_positive()
            negative = ~positive if negative is None else negative & ~positive
            negative = negative & ~self.selection.suspicious(scores, positive, negative)
        return replace(block, negative=negative, log_weights=log_weights)

    def _block(self, name: str, rows: Tensor, *, default: float) -> Tensor | None:
        """Put what the parts say of some rows side by side, [r, C]; None if none of them says anything."""
        told = [getattr(part, name) for part in self.parts]
        if all(each is None for each in told):
            return None
        blocks = []
        for part, each in zip(self.parts, told, strict=True):
            columns = torch.arange(len(part.candidates), device=rows.device)
            if isinstance(each, Mask):
                each = each(rows, columns)
            elif each is None:
                each = torch.tensor(default, device=rows.device)
            blocks.append(each.expand(len(rows), len(columns)))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)

    def record(self, block: Rows, health: Health) -> None:
        """Record what the block tells."""
        eligible = ~block.is_positive() if block.eligible is None else block.eligible & ~block.is_positive()
        negative = eligible if block.negative is None else eligible & block.negative
        record_rows(health, block.logits, self.temperature, block.is_positive(), eligible, negative)


@dataclass(frozen=True, slots=True)
class SoftmaxJudge:
    """Judges blocks of rows by a formula; see `blocks.Judge`."""

    formula: Formula
    choose: Choice

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
    losses = []
    for directions in partitions:
        parts = parts_of(sides, directions)
        judge = SoftmaxJudge(formula, Choice(temperature, parts, selection))
        segments = [Segment(part.anchors, part.candidates, part.flipped) for part in parts]
        if directions[0] == "key_to_query" and not sides.one_each:
            losses.append(_mean_of_positives(*judge_each(judge, segments, **settings), sides, weights, reduction))
        else:
            settings["health"] = None if losses else options.get("health")
            losses.append(judge_rows(judge, segments, weights=weights, reduction=reduction, **settings))
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)


def read(
    queries: Tensor, keys: Tensor, options: SoftmaxOptions, also_exclude: Mapping[Direction, MaskLike]
) -> tuple[Sides, Selection]:
    """Return who is compared, and how scores change who counts.

    Raises:
        TypeError: If there is an option that is not one.
        ValueError: If what was said does not fit the embeddings, or is out of its range.
    """
    for name in options:
        if name not in SoftmaxOptions.__annotations__:
            raise TypeError(f"expected options among {', '.join(SoftmaxOptions.__annotations__)}, got {name!r}")
    check_temperature(options.get("temperature", 0.05))
    selection = Selection(
        options.get("false_negative_margin"),
        options.get("drop_hardest", 0.0),
        options.get("hardness", 0.0),
        options.get("hardened", "all"),
    )
    sides = Sides.of(
        queries,
        keys,
        positives=options.get("positives"),
        exclude=options.get("exclude"),
        owners=options.get("owners"),
        others_negatives=options.get("others_negatives", True),
        merge_excluded=options.get("merge_excluded", False),
        key_weights=options.get("key_weights"),
        hardened=selection.hardened if selection.hardness else "all",
        also_exclude=also_exclude,
    )
    return sides, selection


def _mean_of_positives(
    totals: Tensor, counts: Tensor, sides: Sides, weights: Tensor | None, reduction: Reduction
) -> Tensor:
    """Reduce the losses of keys that look for their queries, [K], to those of queries, each the mean of its keys."""
    of_keys = totals / counts.clamp_min(1)
    found = dense(sides.positive, len(sides.queries), len(sides.keys), totals.device) & (counts > 0)
    shares = found / found.sum(1, keepdim=True).clamp_min(1).to(of_keys)
    return reduce_rows(shares @ of_keys, found.any(1), weights, reduction)
