"""Negatives that share words with the query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from contrastive.evaluation.bm25 import BM25Index, what_decides
from contrastive.evaluation.words import words
from contrastive.negatives.contracts import Candidates, Moment
from contrastive.negatives.pool import Pool
from contrastive.negatives.top import block_rows, top_k


class BM25:
    """Ranks documents by BM25, see `evaluation.bm25.BM25Index`.

    Only documents that share a word with the query are candidates. A positive that shares none has a score of 0, and
    then a margin refuses all.
    """

    name = "bm25"

    def describe(self, moment: Moment) -> Mapping[str, object]:  # noqa: ARG002
        """Return what decides the ranking."""
        return {"source": self.name, **what_decides()}

    def __call__(self, pool: Pool, depth: int, moment: Moment) -> Iterator[Candidates]:  # noqa: ARG002
        """Yield the candidates; see `contracts.CandidateSource`."""
        index = BM25Index(pool.documents)
        queries = words(pool.query_texts)
        size = block_rows(len(pool.documents), most=256)
        for start in range(0, len(queries), size):
            rows = slice(start, min(start + size, len(queries)))
            scores = torch.stack([index.scores(query) for query in queries[rows]])
            pairs = pool.pairs_of(rows)
            positives = pool.positive_of[pairs]
            positive_scores = scores.numpy()[pool.query_of[pairs] - start, positives]
            positive_scores = np.where(positives >= 0, positive_scores, np.float32("nan"))
            best, documents = (found.numpy() for found in top_k(scores, depth))
            yield Candidates(rows, np.where(best > 0, documents, -1), best, positive_scores)
