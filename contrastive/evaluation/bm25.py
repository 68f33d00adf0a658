"""BM25: the lexical baseline that an embedding model has to beat."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from contrastive.data import RetrievalTask
from contrastive.evaluation.rankings import Rankings
from contrastive.evaluation.retrieval import self_answers
from contrastive.evaluation.ties import TieBreaker


class BM25Index:
    """Scores documents by BM25 (Lucene's variant, k1 1.5, b 0.75) over words without English stop words.

    A word has two characters or more.

    Args:
        documents: Texts of the N documents.

    Example:
        >>> index = BM25Index(["a nurse at night", "a chef", "a nurse"])
        >>> (index.scores(words(["nurse"])[0]) > 0).tolist()
        [True, False, True]
    """

    def __init__(self, documents: Iterable[str]) -> None:
        tokens = words(documents)
        self._count = len(tokens)
        self._index = _bm25s().BM25() if any(tokens) else None  # bm25s would divide by the average length
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    def scores(self, query: Sequence[str]) -> Tensor:
        """Return the scores of all documents, float32 [N], for a query in words; above 0 if they share one."""
        known = [] if self._index is None else [word for word in query if word and word in self._index.vocab_dict]
        if self._index is None or not known:
            return torch.zeros(self._count)
        return torch.from_numpy(self._index.get_scores(known))


def words(texts: Iterable[str]) -> list[list[str]]:
    """Return the words of each text that BM25 counts."""
    tokens: list[list[str]] = _bm25s().tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
    return tokens


def bm25_rankings(task: RetrievalTask, depth: int = 1000) -> Rankings:
    """Rank the corpus of a task by BM25 (see `BM25Index`).

    Only documents that share a word with the query are ranked, so a query of unknown words has an empty ranking. Ties
    and queries that are themselves in the corpus are treated as in `retrieve`.

    Args:
        task: The queries and the corpus.
        depth: At most this many documents a query.
    """
    index = BM25Index(task.corpus.values())
    position = {document_id: column for column, document_id in enumerate(task.corpus)}
    ties = TieBreaker(list(position))
    refused = self_answers(task)
    documents, scores = {}, {}
    for query_id, query in zip(task.queries, words(task.queries.values()), strict=True):
        values = index.scores(query)
        packed = ties.pack(values)
        packed[values <= 0] = TieBreaker.nothing
        packed[[position[document_id] for document_id in refused.get(query_id, ())]] = TieBreaker.nothing
        documents[query_id], scores[query_id] = ties.unpack(packed.topk(min(depth, len(packed))).values)
    return Rankings(documents, scores)


def _bm25s() -> ModuleType:
    """Import bm25s, which starts JAX where that is installed, which takes most of a GPU's memory unless told not to."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import bm25s

    return bm25s  # type: ignore[no-any-return]
