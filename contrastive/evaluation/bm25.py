"""The lexical baseline that an embedding model has to beat."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from contrastive.data import RetrievalTask
from contrastive.evaluation.rankings import Rankings, TieBreaker
from contrastive.evaluation.retrieval import self_answers


def bm25_rankings(task: RetrievalTask, depth: int = 1000) -> Rankings:
    """Rank the corpus of a task by BM25 (Lucene's variant, k1 1.5, b 0.75) over words without English stop words.

    A word has two characters or more. Only documents that share one with the query are ranked, so a query of unknown
    words has an empty ranking. Ties and queries that are themselves in the corpus are treated as in `retrieve`.

    Args:
        task: The queries and the corpus.
        depth: At most this many documents a query.
    """
    import bm25s

    def words(texts: Iterable[str]) -> list[list[str]]:
        tokens: list[list[str]] = bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
        return tokens

    corpus = words(task.corpus.values())
    if not any(corpus):  # bm25s would divide by the average length
        return Rankings({query_id: [] for query_id in task.queries}, {query_id: [] for query_id in task.queries})
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    position = {document_id: column for column, document_id in enumerate(task.corpus)}
    ties = TieBreaker(list(position))
    refused = self_answers(task)
    documents, scores = {}, {}
    for query_id, query in zip(task.queries, words(task.queries.values()), strict=True):
        known = [word for word in query if word and word in index.vocab_dict]
        values = torch.from_numpy(index.get_scores(known)) if known else torch.zeros(len(position))
        packed = ties.pack(values)
        packed[values <= 0] = TieBreaker.nothing
        packed[[position[document_id] for document_id in refused.get(query_id, ())]] = TieBreaker.nothing
        documents[query_id], scores[query_id] = ties.unpack(packed.topk(min(depth, len(packed))).values)
    return Rankings(documents, scores)
