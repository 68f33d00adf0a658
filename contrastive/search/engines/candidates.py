"""Late interaction over many postings: some are found by quicker means, and these alone compared token by token.

Half of the candidates are the best by BM25, half those whose mean of tokens is closest to that of the query: each finds
what the other does not, and both together lose least (docs/engines.md). An index of `FROM` postings has them unless it
is built without; in a smaller one all are compared.
"""

from __future__ import annotations

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
"""Postings from which on an index compares candidates alone unless somebody says otherwise."""

NUMBER = 1000
"""Candidates of a query."""

_SAMPLE, _TOP = 50, 10


class Reranker(Protocol):
    """An engine that can compare queries with some of its documents."""

    def best_of(self, queries: Embeddings, among: Sequence[Sequence[str]], k: int) -> list[list[tuple[str, float]]]:
        """Return ids and scores of the k closest to each query among documents of its own, by their ids, best first."""
        ...


class Candidates:
    """Finds the postings that are worth comparing with a query, and compares it with them.

    Args:
        engine: Compares; has the token vectors of the postings.
        words: Their words.
        means: Their `mean_vectors`, compared by cosine; any engine.
        number: Candidates of a query.

    Raises:
        ValueError: If `number` is below 1.

    Example:
        >>> import torch
        >>> from contrastive.evaluation.bm25 import BM25Index
        >>> from contrastive.search.engines.exact import ExactEngine
        >>> from contrastive.similarity import TokenVectors, cosine, max_sim
        >>> tokens = TokenVectors.pack(torch.eye(3)[:, None])
        >>> engine, means, ids = ExactEngine(max_sim), ExactEngine(cosine), ["a", "b", "c"]
        >>> engine.add(ids, tokens, [{}] * 3)
        >>> means.add(ids, mean_vectors(tokens), [{}] * 3)
        >>> words = WordSearch(ids, BM25Index(["a nurse", "a chef", "a nurse and a chef"]))
        >>> Candidates(engine, words, means, 2).search(["a nurse"], TokenVectors.pack(torch.eye(3)[1:2, None]), k=3)
        [[('b', 1.0), ('a', 0.0)]]
    """

    def __init__(self, engine: Reranker, words: WordSearch, means: Engine, number: int = NUMBER) -> None:
        if number < 1:
            raise ValueError(f"expected at least 1 candidate of a query, got {number}")
        self.number = number
        self._engine = engine
        self._words = words
        self._means = means

    def search(
        self,
        texts: Sequence[str],
        queries: Embeddings,
        k: int,
        filters: Sequence[Filter] = (),
        kept: NDArray[np.bool_] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Return ids and scores of the k closest candidates of each query, best first; see `find`."""
        return self._engine.best_of(queries, self.find(texts, queries, filters, kept), k)

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
            kept: Which do, in the order of the words; None for all.
        """
        asked = [self._words.spelling.put_right_text(text) for text in texts]
        by_words = self._words.search(asked, self.number, kept)
        by_means = self._means.search(mean_vectors(queries), self.number, filters)
        both = zip(by_words, by_means, strict=True)
        in_turn = ([each[0] for each in chain.from_iterable(zip_longest(*of_query)) if each] for of_query in both)
        return [list(dict.fromkeys(ids))[: self.number] for ids in in_turn]

    def recall(self, engine: Engine, texts: Sequence[str], queries: Embeddings) -> float:
        """Return which share of the ten closest of all postings to some queries is among their candidates.

        Args:
            engine: Compares queries with all.
            texts: The queries, at least one.
            queries: Their embeddings.
        """
        found = zip(engine.search(queries, _TOP), self.find(texts, queries), strict=True)
        shares = [len({id_ for id_, _ in closest} & set(ids)) / max(1, len(closest)) for closest, ids in found]
        return sum(shares) / len(shares)


def drawn(titles: Sequence[str]) -> list[str]:
    """Return some titles of postings to search for, the same ones each time."""
    return Random(0).sample(titles, min(_SAMPLE, len(titles)))
