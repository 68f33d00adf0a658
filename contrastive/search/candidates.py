"""Late interaction over many postings: a few hundred are found by quicker means, and these alone compared token by token.

Half of the candidates are the best by BM25, half those whose mean of tokens is closest to that of the query: each finds
what the other does not, and both together lose least (docs/engines.md). From `FROM` postings on; below, all are compared.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain, zip_longest
from random import Random
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contrastive.search.contracts import Engine, Filter
from contrastive.search.words import WordSearch
from contrastive.similarity import Embeddings, mean_vectors

FROM = 100_000
"""Postings from which on candidates are compared alone unless somebody says otherwise: comparing all takes seconds."""

NUMBER = 1000
"""Candidates of a query."""

_SAMPLE, _TOP = 50, 10

_log = logging.getLogger(__name__)


class Reranker(Protocol):
    """An engine that can compare queries with some of its documents."""

    def best_of(self, queries: Embeddings, among: Sequence[Sequence[str]], k: int) -> list[list[tuple[str, float]]]:
        """Return ids and scores of the k closest to each query among documents of its own, by their ids, best first."""
        ...


class Candidates:
    """Finds the postings that are worth comparing with a query.

    Args:
        words: Their words.
        means: Their embeddings, of each the mean, see `mean_vectors`, compared by cosine; any engine.
        number: How many to find for a query.

    Example:
        >>> import torch
        >>> from contrastive.evaluation.bm25 import BM25Index
        >>> from contrastive.search.exact import ExactEngine
        >>> from contrastive.similarity import cosine
        >>> means = ExactEngine(cosine)
        >>> means.add(["a", "b", "c"], torch.eye(3), [{}] * 3)
        >>> words = WordSearch(["a", "b", "c"], BM25Index(["a nurse", "a chef", "a nurse and a chef"]))
        >>> Candidates(words, means, 2).find(["a nurse"], torch.tensor([[0.0, 1.0, 0.5]]))
        [['a', 'b']]
    """

    def __init__(self, words: WordSearch, means: Engine, number: int = NUMBER) -> None:
        if number < 1:
            raise ValueError(f"expected at least 1 candidate, got {number}")
        self.number = number
        self._words = words
        self._means = means

    def find(
        self,
        texts: Sequence[str],
        queries: Embeddings,
        filters: Sequence[Filter] = (),
        kept: NDArray[np.bool_] | None = None,
    ) -> list[list[str]]:
        """Return the ids of the candidates of each query: one of either kind in turn, until there are enough.

        Args:
            texts: The queries as they were typed.
            queries: Their embeddings.
            filters: What the postings must pass.
            kept: Which do, as the words have them; None for all.
        """
        asked = [self._words.spelling.put_right_text(text) for text in texts]
        by_words = self._words.search(asked, self.number, kept)
        by_means = self._means.search(mean_vectors(queries), self.number, filters)
        both = zip(by_words, by_means, strict=True)
        in_turn = ([each[0] for each in chain.from_iterable(zip_longest(*of_query)) if each] for of_query in both)
        return [list(dict.fromkeys(ids))[: self.number] for ids in in_turn]


def recall(candidates: Candidates, engine: Engine, texts: Sequence[str], queries: Embeddings) -> float:
    """Return how many of the ten closest documents to some queries are among their candidates, as a share."""
    found = zip(engine.search(queries, _TOP), candidates.find(texts, queries), strict=True)
    shares = [len({id_ for id_, _ in closest} & set(ids)) / max(1, len(closest)) for closest, ids in found]
    return sum(shares) / max(1, len(shares))


def sample(titles: Sequence[str]) -> list[str]:
    """Return some titles of postings to search for, the same ones each time."""
    return Random(0).sample(titles, min(_SAMPLE, len(titles)))
