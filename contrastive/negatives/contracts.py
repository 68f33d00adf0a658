"""The seams of choosing negatives: what a source ranks, what a strategy chooses, and when."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contrastive.contracts import TextEncoder
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.negatives.pool import Places, Pool


@dataclass(frozen=True, slots=True)
class Moment:
    """What choosing negatives may depend on beside the texts: where training stands.

    Attributes:
        encoder: Embeds for a strategy that has no encoder of its own: the untuned encoder, or the one in training.
        refresh: How often negatives were chosen before in this run; what is drawn by chance is drawn anew.
        progress: Share of the training that is over, 0 to 1.
        cache: Where embeddings are kept between runs, of encoders that say what theirs depend on (see
            `embedding_cache.KeyedEncoder`); None embeds anew each time, as is right for an encoder in training.
    """

    encoder: TextEncoder | None = None
    refresh: int = 0
    progress: float = 0.0
    cache: EmbeddingCache | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The best documents of a block of R neighbouring queries of a pool, best first.

    Attributes:
        rows: Which queries of the pool.
        documents: Places in the pool, int64 [R, C]; -1 where a query has fewer. Place in the row is the rank.
        scores: Their scores, float32 [R, C], higher is closer.
        positive_scores: Score of the positive of each pair `pool.pairs_of(rows)`, float32 [P], NaN for one without a
            positive. None from a source whose scores mean nothing: margins and score limits do not apply to it.
    """

    rows: slice
    documents: NDArray[np.int64]
    scores: NDArray[np.float32]
    positive_scores: NDArray[np.float32] | None

    def of_pairs(self, pool: Pool) -> tuple[Places, Places, NDArray[np.float32]]:
        """Return the pairs of a pool that ask these queries, [P], their candidates and the scores of those, [P, C]."""
        pairs = pool.pairs_of(self.rows)
        rows = pool.query_of[pairs] - self.rows.start
        return pairs, self.documents[rows], self.scores[rows]


class CandidateSource(Protocol):
    """Ranks the documents of a pool for all its queries, a block of queries at a time, in their order."""

    @property
    def name(self) -> str: ...

    def __call__(self, pool: Pool, depth: int, moment: Moment) -> Iterator[Candidates]:
        """Yield the best `depth` documents of each query, fewer if there are fewer."""
        ...

    def describe(self, moment: Moment) -> Mapping[str, object]:
        """Return, as plain values, its name as `source` and all else that decides the ranking of given texts."""
        ...


@dataclass(frozen=True, slots=True)
class ChosenNegatives:
    """Negatives of one pair of query and positive, how each was chosen, and why others were not.

    Attributes:
        ids: Document ids, hardest first.
        scores: Score of each under the source it came from, higher is closer.
        ranks: Rank of each in that source's ranking of the corpus, 0 is the top; known positives are counted.
        refused: How many candidates each filter turned down; each candidate is counted by the first that did.
        sources: Name of the source each came from.
        positive_score: Score of the pair's positive under the first source; NaN if there is none.
    """

    ids: tuple[str, ...]
    scores: tuple[float, ...]
    ranks: tuple[int, ...]
    refused: Mapping[str, int]
    sources: tuple[str, ...] = ()
    positive_score: float = math.nan


class NegativeStrategy(Protocol):
    """Chooses the negatives of all pairs of a pool at once: one ranking of many queries costs far less than many."""

    def __call__(self, pool: Pool, moment: Moment = ...) -> Sequence[ChosenNegatives]:
        """Return the negatives of each pair, in the order of the pairs."""
        ...
