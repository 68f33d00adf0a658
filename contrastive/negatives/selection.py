"""From candidates to negatives: what the filters leave, an order of preference, and the first few of that.

Notable decisions:

- The order of preference is a key for each candidate, and the best keys win: the rank for `top`; a hash of the seed,
  the pair and the document for `uniform`; score / temperature plus Gumbel noise from that hash for `softmax`, which
  draws without replacement in proportion to exp(score / temperature) (Kool et al. 2019,
  https://arxiv.org/abs/1903.06059, section 2.3). So a draw does not depend on other pairs or on the order of data.
- Near-duplicates of known positives and of the query itself, and texts chosen already, are looked for while going down
  that order, until there are enough: few documents are ever cut into 5-grams, and their similarity is computed and not
  estimated by MinHash.

Shape letters: P pairs, C candidates of each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from contrastive.data.identities import scrambled
from contrastive.data.near_duplicates import Hashes, jaccard, shingles
from contrastive.negatives.contracts import Candidates, ChosenNegatives
from contrastive.negatives.filters import REASONS, Filters, refusals
from contrastive.negatives.pool import Places, Pool, seed_of

Sampling = Literal["top", "uniform", "softmax"]


@dataclass(slots=True)
class Selection:
    """Chooses at most `count` of each pair's candidates.

    Args:
        count: Negatives wanted; there are fewer where fewer remain.
        filters: What is asked of a candidate.
        sampling: `top` takes the hardest, `uniform` any, `softmax` the harder the likelier.
        temperature: Of `softmax`, in the units of the scores; lower is closer to `top`.
        seed: What is drawn is a function of it, the refresh and the ids.

    Raises:
        ValueError: If a setting is out of range.
    """

    count: int = 4
    filters: Filters = field(default_factory=Filters)
    sampling: Sampling = "top"
    temperature: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"expected count of at least 1, got {self.count}")
        if self.sampling not in ("top", "uniform", "softmax"):
            raise ValueError(f"expected sampling to be top, uniform or softmax, got {self.sampling!r}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"expected a finite temperature above 0, got {self.temperature}")

    def __call__(
        self, pool: Pool, block: Candidates, *, source: str, refresh: int = 0, duplicates: Duplicates | None = None
    ) -> Iterator[tuple[int, ChosenNegatives]]:
        """Yield the place of each pair of a block and its negatives.

        Args:
            pool: What the candidates are taken from.
            block: The candidates.
            source: Their source's name.
            refresh: See `contracts.Moment`.
            duplicates: Finds near-duplicates; keep one for all blocks of a pool.
        """
        pairs = pool.pairs_of(block.rows)
        rows = pool.query_of[pairs] - block.rows.start
        documents, scores = block.documents[rows], block.scores[rows]
        judged = self.judge(pool, block, refresh=refresh, duplicates=duplicates)
        for row, (pair, ranks, reasons) in enumerate(judged):
            yield (
                pair,
                ChosenNegatives(
                    ids=tuple(pool.document_ids[documents[row, rank]] for rank in ranks),
                    scores=tuple(scores[row, ranks].tolist()),
                    ranks=tuple(ranks),
                    refused=dict(Counter(REASONS[reason] for reason in reasons[reasons >= 0].tolist())),
                    sources=(source,) * len(ranks),
                    positive_score=math.nan if block.positive_scores is None else float(block.positive_scores[row]),
                ),
            )

    def judge(
        self, pool: Pool, block: Candidates, *, refresh: int = 0, duplicates: Duplicates | None = None
    ) -> Iterator[tuple[int, list[int], Places]]:
        """Yield the place of each pair of a block, the ranks chosen, and why each candidate was refused, [C].

        The reasons are places in `REASONS`, -1 for those that are not refused or not needed, -2 where there is none.
        """
        duplicates = duplicates or Duplicates(pool, self.filters.near_duplicate)
        pairs = pool.pairs_of(block.rows)
        rows = pool.query_of[pairs] - block.rows.start
        documents, scores = block.documents[rows], block.scores[rows]
        reasons = refusals(pool, pairs, block, self.filters)
        order = np.argsort(np.where(reasons == -1, self._costs(pool, pairs, documents, scores, refresh), np.inf))
        allowed = (reasons == -1).sum(axis=1)
        for row, pair in enumerate(pairs.tolist()):
            preferred = order[row, : allowed[row]].tolist()
            yield pair, self._walk(pool, pair, documents[row], preferred, duplicates, reasons[row]), reasons[row]

    def _walk(
        self, pool: Pool, pair: int, documents: Places, order: list[int], duplicates: Duplicates, reasons: Places
    ) -> list[int]:
        """Take the first ranks in an order whose documents are new, and note why others were passed over.

        Returns:
            The ranks, ascending.
        """
        chosen: list[int] = []
        taken: set[int] = set()
        for rank in order:
            if len(chosen) == self.count:
                break
            identity = int(pool.identity[documents[rank]])
            if identity in taken:
                reasons[rank] = REASONS.index("repeated")
            elif duplicates.of_known(pair, int(documents[rank])):
                reasons[rank] = REASONS.index("near_duplicate")
            else:
                taken.add(identity)
                chosen.append(rank)
        return sorted(chosen)

    def _costs(
        self, pool: Pool, pairs: Places, documents: Places, scores: NDArray[np.float32], refresh: int
    ) -> NDArray[np.float64]:
        """Return a key for each candidate, [P, C]; the lowest are taken."""
        if self.sampling == "top":
            return np.broadcast_to(np.arange(documents.shape[1], dtype=np.float64), documents.shape)
        seeds = np.array([seed_of(self.seed, refresh, pool.pairs[pair]) for pair in pairs.tolist()], np.uint64)
        drawn = _uniform(seeds[:, None] ^ pool.document_digests[documents])
        if self.sampling == "uniform":
            return drawn
        return np.log(-np.log(drawn)) - scores.astype(np.float64) / self.temperature


class Duplicates:
    """Tells whether a document is nearly the query or a known answer; texts are cut up when first asked for."""

    def __init__(self, pool: Pool, threshold: float | None) -> None:
        self._pool = pool
        self._threshold = threshold
        self._shingles: dict[int, Hashes] = {}
        self._pair = -1
        self._known: list[Hashes] = []

    def of_known(self, pair: int, document: int) -> bool:
        """Compare a document with the query of a pair and with all its known positives."""
        if self._threshold is None:
            return False
        if self._pair != pair:
            self._pair = pair
            known = [self._cut(place) for place in self._pool.known_places(pair).tolist()]
            self._known = [*known, shingles(self._pool.pairs[pair].query)]
        return any(self._close(self._cut(document), other, self._threshold) for other in self._known)

    def _close(self, mine: Hashes, other: Hashes, threshold: float) -> bool:
        shorter, longer = sorted((len(mine), len(other)))
        return (
            shorter >= threshold * longer and jaccard(mine, other) >= threshold
        )  # the first is cheap and decides most

    def _cut(self, place: int) -> Hashes:
        if place not in self._shingles:
            self._shingles[place] = shingles(self._pool.documents[place])
        return self._shingles[place]


def _uniform(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Map 64-bit keys to numbers above 0 and below 1 that look drawn (SplitMix64, Steele et al. 2014)."""
    mixed = scrambled(keys + np.uint64(0x9E3779B97F4A7C15))
    drawn: NDArray[np.float64] = ((mixed >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52
    return drawn
