"""Negatives by chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from contrastive.data.identities import text_digest
from contrastive.negatives.contracts import Candidates, Moment
from contrastive.negatives.pool import Pool

_ROWS = 1024


class Random:
    """Draws documents with equal chances, each at most once for a query; their order is the ranking.

    What is drawn is a function of the seed, the query's text, the refresh and the documents, whatever else is asked.
    The scores are 0 and mean nothing: margins and score limits do not apply.

    Args:
        seed: Another seed draws others.
    """

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def describe(self, moment: Moment) -> Mapping[str, object]:
        """Return what decides the ranking."""
        return {"source": self.name, "seed": self.seed, "refresh": moment.refresh}

    def __call__(self, pool: Pool, depth: int, moment: Moment) -> Iterator[Candidates]:
        """Yield the candidates; see `contracts.CandidateSource`."""
        count = len(pool.documents)
        for start in range(0, len(pool.query_texts), _ROWS):
            texts = pool.query_texts[start : start + _ROWS]
            drawn = np.empty((len(texts), depth), np.int64)
            for row, text in enumerate(texts):
                generator = np.random.default_rng([self.seed, moment.refresh, text_digest(text)])
                drawn[row] = generator.choice(count, depth, replace=False)
            scores = np.zeros(drawn.shape, np.float32)
            yield Candidates(slice(start, start + len(texts)), drawn, scores, None)
