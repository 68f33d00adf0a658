"""Which candidates may be negatives: the same rules whatever source they come from.

Each candidate that is refused is counted once, by the first rule that refuses it, in the order of `REASONS`.

Shape letters: P pairs, C candidates of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contrastive.negatives.contracts import Candidates
from contrastive.negatives.pool import Flags, Pool

REASONS = (
    "itself",
    "known_positive",
    "already_given",
    "empty_text",
    "not_finite",
    "rank",
    "score",
    "unknown_positive",
    "absolute_margin",
    "relative_margin",
    "near_duplicate",
    "repeated",
)
"""Names of the rules. The last two are looked at for those about to be chosen only, see `selection`."""

USUAL_DEPTH = 100
DEPTH_WITH_MARGIN = 1000
"""Candidates looked at where there is no limit: more if those close to the positive's score are refused, or a query
whose positive the source ranks low would have none left."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What a candidate must be like, beside not being known to be relevant, without text, or the query itself.

    Attributes:
        min_rank: The first rank of a query's ranking of the corpus that is taken, 0 is the top. Known positives are
            counted.
        max_rank: The first rank that is not taken. None for no limit: then 100 candidates are looked at, with a margin
            1,000, and as many more as any query has known positives.
        min_percent: The first percentile of the ranking of the whole corpus that is taken; with 3 and 4 the band of
            Yu et al. 2025 (ConFit v2, https://arxiv.org/abs/2502.12361).
        max_percent: The end of that band.
        min_score: Least score, in the units of the source, as are the highest and the absolute margin: for `Dense`
            those of the encoder's similarity; of distances they are below 0.
        max_score: Highest score: refuses what a cross-encoder calls relevant.
        absolute_margin: At least so much below the score of the positive.
        relative_margin: At least this share of the positive's score below it: 0.05 keeps those of at most 95 % of it
            (Moreira et al. 2024, NV-Retriever, https://arxiv.org/abs/2407.15831, section 3, TopK-PercPos). The share
            is of the absolute value, so that it is a margin for a negative score too: of distances, 0.05 keeps those at
            least 5 % farther away than the positive.
        near_duplicate: Least Jaccard similarity of word 5-grams at which a document is nearly the query or one of the
            known positives, see `contrastive.data.near_duplicates`; None does not look.

    Raises:
        ValueError: If a window is empty, or a margin or a share is outside its range.
    """

    min_rank: int = 0
    max_rank: int | None = None
    min_percent: float | None = None
    max_percent: float | None = None
    min_score: float | None = None
    max_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    near_duplicate: float | None = 0.8

    def __post_init__(self) -> None:
        _check_window("rank", self.min_rank, self.max_rank, least=0, most=math.inf)
        _check_window("percent", self.min_percent or 0, self.max_percent, least=0, most=100)
        _check_window("score", self.min_score, self.max_score, least=-math.inf, most=math.inf)
        if self.absolute_margin is not None and not self.absolute_margin >= 0:
            raise ValueError(f"expected absolute_margin of at least 0, got {self.absolute_margin}")
        if self.relative_margin is not None and not self.relative_margin >= 0:
            raise ValueError(f"expected relative_margin of at least 0, got {self.relative_margin}")
        if self.near_duplicate is not None and not 0 < self.near_duplicate <= 1:
            raise ValueError(f"expected near_duplicate above 0 and at most 1, got {self.near_duplicate}")

    def ranks(self, documents: int) -> tuple[int, int | None]:
        """Return the first rank that is taken of so many documents, and the first that is not, if there is a limit."""
        first = max(self.min_rank, math.floor(documents * (self.min_percent or 0) / 100))
        ends = [self.max_rank, None if self.max_percent is None else math.ceil(documents * self.max_percent / 100)]
        return first, min((end for end in ends if end is not None), default=None)

    def depth(self, pool: Pool, count: int) -> int:
        """Return how many candidates of each query are needed to choose `count`."""
        first, last = self.ranks(len(pool.documents))
        margin = self.absolute_margin is not None or self.relative_margin is not None
        usual = max(DEPTH_WITH_MARGIN if margin else USUAL_DEPTH, 2 * count)
        wanted = first + usual + pool.most_known if last is None else last
        return min(wanted, len(pool.documents))


def refusals(pool: Pool, block: Candidates, filters: Filters) -> NDArray[np.int64]:
    """Tell why candidates of the pairs of a block are refused, [P, C]: places in `REASONS`, -1 for those that are not.

    Near-duplicates and repetitions are not looked at here. Places without a candidate are said to be refused for -2.

    Args:
        pool: What the candidates are taken from.
        block: The candidates.
        filters: What is asked of them.
    """
    pairs, documents, scores = block.of_pairs(pool)
    positive_scores = None if block.positive_scores is None else block.positive_scores[:, None]
    found = np.full(documents.shape, -1)
    found[documents < 0] = -2

    def refuse(name: str, which: Flags) -> None:
        found[(found == -1) & which] = REASONS.index(name)

    first, last = filters.ranks(len(pool.documents))
    ranks = np.arange(documents.shape[1])
    no_query = np.array([not pool.pairs[pair].query.strip() for pair in pairs], bool)
    refuse("itself", pool.are_the_query(pairs, documents))
    refuse("known_positive", pool.are_known(pairs, documents))
    refuse("already_given", pool.are_given(pairs, documents))
    refuse("empty_text", pool.empty[documents] | no_query[:, None])
    refuse("not_finite", ~np.isfinite(scores))
    refuse("rank", np.broadcast_to((ranks < first) | (ranks >= (last or len(ranks))), found.shape))
    if positive_scores is None:
        return found
    if filters.min_score is not None:
        refuse("score", scores < filters.min_score)
    if filters.max_score is not None:
        refuse("score", scores > filters.max_score)
    if filters.absolute_margin is not None:
        refuse("unknown_positive", np.broadcast_to(~np.isfinite(positive_scores), found.shape))
        refuse("absolute_margin", scores > positive_scores - filters.absolute_margin)
    if filters.relative_margin is not None:
        refuse("unknown_positive", np.broadcast_to(~np.isfinite(positive_scores), found.shape))
        refuse("relative_margin", scores > positive_scores - filters.relative_margin * np.abs(positive_scores))
    return found


def _check_window(what: str, low: float | None, high: float | None, *, least: float, most: float) -> None:
    for end in (low, high):
        if end is not None and not least <= end <= most:
            raise ValueError(f"expected a {what} between {least} and {most}, got {end}")
    if low is not None and high is not None and low >= high:
        raise ValueError(f"expected min_{what} below max_{what}, got {low} and {high}")
