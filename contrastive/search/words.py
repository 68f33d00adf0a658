"""Word matching over the postings of an index: BM25, with the words that no posting has put right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from contrastive.evaluation.bm25 import BM25Index, best_by_words
from contrastive.evaluation.spelling import Spelling
from contrastive.evaluation.ties import TieBreaker
from contrastive.evaluation.words import words


class WordSearch:
    """Ranks postings by BM25 as `bm25_rankings` does, any number of times.

    Args:
        ids: Ids of the postings, [N].
        index: Their BM25.

    Attributes:
        spelling: Puts the words of a query right by those of the postings.
    """

    def __init__(self, ids: Sequence[str], index: BM25Index) -> None:
        self.spelling = Spelling(index.frequencies())
        self._index = index
        self._ties = TieBreaker(ids)

    def search(
        self, queries: Sequence[str], k: int, kept: NDArray[np.bool_] | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return ids and scores of the k best postings for each query, best first; only those that share a word.

        Unknown words are passed over: put them right before, by `spelling`.

        Args:
            queries: What to look for.
            k: Postings a query.
            kept: Which postings may be found, [N]; None for all.
        """
        found = []
        for query in words(queries):
            values = self._index.scores(query)
            if kept is not None:
                values = values.where(torch.from_numpy(kept), 0)
            ids, scores = best_by_words(values, self._ties, k)
            found.append(list(zip(ids, scores, strict=True)))
        return found
