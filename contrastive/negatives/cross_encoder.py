"""Negatives that a model reading query and document together scores again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from contrastive.evaluation.ties import best_first
from contrastive.negatives.contracts import Candidates, CandidateSource, Moment
from contrastive.negatives.pool import Places, Pool

Scores = NDArray[np.float32]


class PairScorer(Protocol):
    """Scores pairs of a query and a document, any number of them; higher is more relevant."""

    def __call__(self, queries: Sequence[str], documents: Sequence[str]) -> Scores:
        """Return a score for each pair, [B]."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Return, as plain values, all that decides the scores."""
        ...


class CrossEncoder:
    """Ranks the candidates of another source again, by the scores of a slow and better model.

    Qu et al. 2021 (RocketQA, https://arxiv.org/abs/2010.08191, section 4.2) keep as negatives only what a cross-encoder
    is sure is none; `Filters(max_score=0.1)` does, where scores are probabilities. As many candidates of each query
    are scored as `Filters.max_rank` says: set it, for a pair takes far longer than a product of embeddings.

    Args:
        source: Where candidates come from.
        scorer: Scores them; see `load_pair_scorer`.
        batch_size: Pairs that the scorer is given at once.

    Raises:
        ValueError: If `batch_size` is below 1.
    """

    name = "cross_encoder"

    def __init__(self, source: CandidateSource, scorer: PairScorer, *, batch_size: int = 1024) -> None:
        if batch_size < 1:
            raise ValueError(f"expected batch_size of at least 1, got {batch_size}")
        self.source = source
        self.scorer = scorer
        self.batch_size = batch_size

    def describe(self, moment: Moment) -> Mapping[str, object]:
        """Return what decides the ranking."""
        return {"source": self.name, "of": self.source.describe(moment), "scorer": self.scorer.describe()}

    def __call__(self, pool: Pool, depth: int, moment: Moment) -> Iterator[Candidates]:
        """Yield the candidates; see `contracts.CandidateSource`."""
        for block in self.source(pool, depth, moment):
            yield self._scored(pool, block)

    def _scored(self, pool: Pool, block: Candidates) -> Candidates:
        rows, columns = np.nonzero(block.documents >= 0)
        pairs = pool.pairs_of(block.rows)
        answered = pool.positive_of[pairs] >= 0
        queries = np.concatenate([block.rows.start + rows, pool.query_of[pairs][answered]])
        documents = np.concatenate([block.documents[rows, columns], pool.positive_of[pairs][answered]])
        found = self._score(pool, queries, documents)
        scores = np.full(block.documents.shape, np.nan, np.float32)
        scores[rows, columns] = found[: len(rows)]
        positive_scores = np.full(len(pairs), np.nan, np.float32)
        positive_scores[answered] = found[len(rows) :]
        order = best_first(torch.from_numpy(scores), torch.from_numpy(block.documents)).numpy()
        return Candidates(
            block.rows,
            np.take_along_axis(block.documents, order, axis=1),
            np.take_along_axis(scores, order, axis=1),
            positive_scores,
        )

    def _score(self, pool: Pool, queries: Places, documents: Places) -> Scores:
        """Score pairs, each once, [B]."""
        keys, places = np.unique(queries * len(pool.documents) + documents, return_inverse=True)
        texts = [
            (pool.query_texts[key // len(pool.documents)], pool.documents[key % len(pool.documents)]) for key in keys
        ]
        found = np.empty(len(texts), np.float32)
        starts = range(0, len(texts), self.batch_size)
        for start in tqdm(starts, desc="Scoring pairs", unit=" batches", delay=2, leave=False, disable=None):
            batch = texts[start : start + self.batch_size]
            found[start : start + len(batch)] = self.scorer([q for q, _ in batch], [d for _, d in batch])
        scores: Scores = found[places]
        return scores
