"""What came of choosing negatives: how many, how many are missing, and what the filters refused."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from contrastive.negatives.contracts import ChosenNegatives
from contrastive.negatives.filters import REASONS
from contrastive.negatives.pool import Pool


@dataclass(frozen=True, slots=True)
class Summary:
    """How many negatives were chosen and refused.

    Attributes:
        pairs: Pairs of a query and a positive.
        negatives: Negatives in all.
        short: Pairs with fewer negatives than the pair that has most.
        without: Pairs without any.
        refused: Candidates refused by each filter that refused any, in the order of `filters.REASONS`.
        sources: Negatives from each source.
        score: Mean score of the negatives: their hardness, in the units of their sources; None if there are none.
        positive_score: Mean score of the positives of pairs that have one; None if none has.
        rank: Mean rank of the negatives, 0 is the top; None if there are none.
    """

    pairs: int
    negatives: int
    short: int
    without: int
    refused: Mapping[str, int]
    sources: Mapping[str, int]
    score: float | None
    positive_score: float | None
    rank: float | None

    def numbers(self) -> dict[str, float]:
        """Return what there is to follow while negatives are chosen again and again, as `negatives/<name>`."""
        scores = {"score": self.score, "positive_score": self.positive_score}
        values = {"count": self.negatives, **scores, "rank": self.rank}
        return {f"negatives/{name}": float(value) for name, value in values.items() if value is not None}


def summarise(chosen: Sequence[ChosenNegatives]) -> Summary:
    """Count what was chosen and refused."""
    counts = [len(negatives.ids) for negatives in chosen]
    most = max(counts, default=0)
    refused = sum((Counter(negatives.refused) for negatives in chosen), Counter[str]())
    order = {reason: place for place, reason in enumerate(REASONS)}
    return Summary(
        pairs=len(counts),
        negatives=sum(counts),
        short=sum(count < most for count in counts),
        without=counts.count(0),
        refused=dict(sorted(refused.items(), key=lambda item: order.get(item[0], len(order)))),
        sources=dict(sorted(Counter(name for negatives in chosen for name in negatives.sources).items())),
        score=_mean(score for negatives in chosen for score in negatives.scores),
        positive_score=_mean(n.positive_score for n in chosen if not math.isnan(n.positive_score)),
        rank=_mean(rank for negatives in chosen for rank in negatives.ranks),
    )


def _mean(values: Iterable[float]) -> float | None:
    kept = list(values)
    return fmean(kept) if kept else None


def described(summary: Summary) -> str:
    """Say what came of it in a line."""
    said = f"{summary.negatives:,} for {summary.pairs:,} pairs"
    if summary.short:
        said += f" ({summary.short:,} have fewer, {summary.without:,} none)"
    refused = ", ".join(f"{name} {count:,}" for name, count in summary.refused.items())
    return f"{said}; refused: {refused or 'none'}"


def suspected_false(
    pool: Pool, chosen: Iterable[ChosenNegatives], grades: Mapping[str, Mapping[str, int]]
) -> tuple[int, int]:
    """Count the negatives that some grades call relevant to their query.

    Args:
        pool: What the negatives were chosen for.
        chosen: The negatives of each pair.
        grades: Grades by query id and document id; above 0 is relevant.

    Returns:
        How many of the negatives are relevant, and how many negatives there are of queries that have grades.
    """
    false = judged = 0
    for pair, negatives in zip(pool.pairs, chosen, strict=True):
        if pair.query_id in grades:
            judged += len(negatives.ids)
            false += sum(grades[pair.query_id].get(id_, 0) > 0 for id_ in negatives.ids)
    return false, judged
