"""BM25: the lexical baseline that an embedding model has to beat."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import version

import torch
from torch import Tensor

from contrastive.data import RetrievalTask
from contrastive.evaluation.rankings import Rankings
from contrastive.evaluation.retrieval import self_answers
from contrastive.evaluation.spelling import Spelling, most_edits
from contrastive.evaluation.ties import TieBreaker
from contrastive.evaluation.words import WORD, import_bm25s, words
from contrastive.similarity import TermWeights

K1, B = 0.4, 0.75
"""How much a word that comes again counts, and how much a document's length takes off.

The usual k1 of 1.5 costs 0.04 nDCG@10 of a list of skills in long postings (`python -m benchmarks.bm25`): which of
them a posting has says more than how often. From 0.2 to 0.6 it makes little difference.
"""


class BM25Index:
    """Scores documents by BM25 (Lucene's variant) over their `words`.

    Args:
        documents: Texts of the N documents.
        spelling: Whether words of a query that no document has are put right, see `Spelling`.
        k1: 0 counts a word once however often it comes; larger counts repetitions more.
        b: From 0 to 1, how much longer documents lose.

    Example:
        >>> index = BM25Index(["a nurse at night", "a chef", "a nurse"], spelling=True)
        >>> (index.scores(["nusre"]) > 0).tolist()
        [True, False, True]
    """

    def __init__(self, documents: Iterable[str], *, spelling: bool = False, k1: float = K1, b: float = B) -> None:
        tokens = words(documents)
        self._count = len(tokens)
        self._index = import_bm25s().BM25(k1=k1, b=b) if any(tokens) else None  # it would divide by the average length
        if self._index is not None:
            self._index.index(tokens, show_progress=False)
        self._spelling = Spelling(self.frequencies()) if spelling else None

    @classmethod
    def of_words(cls, vocabulary: Sequence[str], scores: TermWeights) -> BM25Index:
        """Return the index whose `by_word` this is; it copies nothing."""
        index = cls([])
        index._count = scores.width
        if vocabulary:
            index._index = import_bm25s().BM25(k1=K1, b=B)
            index._index.vocab_dict = {word: place for place, word in enumerate(vocabulary)}
            index._index.nonoccurrence_array = None  # what a word adds where it is not: nothing in Lucene's variant
            index._index.scores = {
                "data": scores.weights.numpy(),
                "indices": scores.terms.numpy(),
                "indptr": scores.offsets.numpy(),
                "num_docs": scores.width,
            }
        return index

    def by_word(self) -> tuple[list[str], TermWeights]:
        """Return the words, and of each the documents that have it with what it adds to their scores: all there is."""
        if self._index is None:
            none = torch.zeros(0)
            return [], TermWeights(none.int(), none, torch.zeros(1, dtype=torch.long), self._count)
        documents, added, offsets = (
            torch.from_numpy(self._index.scores[name]) for name in ("indices", "data", "indptr")
        )
        vocabulary = sorted(filter(None, self._index.vocab_dict), key=self._index.vocab_dict.__getitem__)
        return vocabulary, TermWeights(documents, added, offsets, self._count)

    def scores(self, query: Sequence[str]) -> Tensor:
        """Return the scores of all documents, float32 [N], for a query in words; above 0 if they share one."""
        if self._index is None:
            return torch.zeros(self._count)
        known = [word for word in self.put_right(query) if word and word in self._index.vocab_dict]
        return torch.from_numpy(self._index.get_scores(known)) if known else torch.zeros(self._count)

    def put_right(self, query: Sequence[str]) -> list[str]:
        """Return the words of a query as they are looked for: those that are not known put right, with `spelling`."""
        return [word if self._spelling is None else self._spelling.put_right(word) for word in query]

    def frequencies(self) -> dict[str, int]:
        """Return in how many documents each word is."""
        if self._index is None:
            return {}
        starts = self._index.scores["indptr"]
        return {word: int(starts[i + 1] - starts[i]) for word, i in self._index.vocab_dict.items() if word}


def what_decides(*, spelling: bool = False) -> Mapping[str, object]:
    """Return what the scores of a `BM25Index` depend on beside the texts, for the names of what is kept."""
    decides: dict[str, object] = {"bm25s": version("bm25s"), "words": WORD.pattern, "k1": K1, "b": B}
    if spelling:
        decides |= {"rapidfuzz": version("rapidfuzz"), "edits": [most_edits("a" * length) for length in range(16)]}
    return decides


def bm25_rankings(
    task: RetrievalTask, depth: int = 1000, *, spelling: bool = False, k1: float = K1, b: float = B
) -> Rankings:
    """Rank the corpus of a task by BM25 (see `BM25Index`).

    Only documents that share a word with the query are ranked, so a query of unknown words has an empty ranking. Ties
    and queries that are themselves in the corpus are treated as in `retrieve`.

    Args:
        task: The queries and the corpus.
        depth: At most this many documents a query.
        spelling: Whether words of a query that no document has are put right.
        k1: See `BM25Index`.
        b: See `BM25Index`.
    """
    index = BM25Index(task.corpus.values(), spelling=spelling, k1=k1, b=b)
    return rank_by_words(index, task.queries, list(task.corpus), depth=depth, exclude=self_answers(task))


def rank_by_words(
    index: BM25Index,
    queries: Mapping[str, str],
    document_ids: Sequence[str],
    *,
    depth: int,
    exclude: Mapping[str, Collection[str]] | None = None,
) -> Rankings:
    """Rank the documents of an index for each query; see `bm25_rankings`.

    Args:
        index: Of the N documents.
        queries: Text of each query by id.
        document_ids: Id of each document of the index, [N].
        depth: At most this many documents a query.
        exclude: Ids of documents that a query, by its id, is not to be given.
    """
    position = {document_id: column for column, document_id in enumerate(document_ids)}
    ties = TieBreaker(document_ids)
    refused = exclude or {}
    documents, scores = {}, {}
    for query_id, query in zip(queries, words(queries.values()), strict=True):
        values = index.scores(query)
        values[[position[document_id] for document_id in refused.get(query_id, ())]] = 0
        documents[query_id], scores[query_id] = best_by_words(values, ties, depth)
    return Rankings(documents, scores)


def best_by_words(values: Tensor, ties: TieBreaker, depth: int) -> tuple[list[str], list[float]]:
    """Return the documents with the highest scores [N] and these, without those that share no word with the query."""
    packed = ties.pack(values)
    packed[values <= 0] = TieBreaker.nothing
    return ties.unpack(packed.topk(min(depth, len(packed))).values)
