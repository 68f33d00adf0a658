"""Search in an embedded corpus: exact, by the same ranking that evaluation measures, mixed with BM25 where asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contrastive.data.texts import check_texts
from contrastive.encoder.embedding_cache import EmbeddingCache, KeyedEncoder, embeddings_of
from contrastive.evaluation import Rankings, fuse, retrieve
from contrastive.evaluation.bm25 import BM25Index, rank_by_words
from contrastive.evaluation.fusion import DEPTH, check_weights
from contrastive.evaluation.hybrid_file import ENCODER, WORDS
from contrastive.evaluation.spelling import Spelling
from contrastive.search.passages import split_passages, title_and_body
from contrastive.similarity import Embeddings, score_texts, similarity_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hit:
    """A document found for a query.

    Attributes:
        rank: Its place, 1 is the best.
        id: Id of the document.
        score: Similarity of query and document, that of the encoder (a cosine is -1 to 1), higher is closer; from 0
            to 1 of a mixture with BM25; of BM25 alone its score.
        title: The first line of the document, its beginning if that is long.
        text: The whole document.
        passage: The part of the document that is closest to the query; None if not asked for, or if it has no text.
        passage_score: Similarity of query and passage, by the encoder.
    """

    rank: int
    id: str
    score: float
    title: str
    text: str
    passage: str | None = None
    passage_score: float | None = None


class SearchIndex:
    r"""Documents embedded once, to be searched any number of times.

    Args:
        encoder: What embeds documents and queries.
        documents: Text of each document by id, its title as the first line.
        cache: Where the embeddings are kept between programs; None embeds the documents anew.
        show_progress: Show a progress bar while the documents are embedded.
        weights: Of BM25 (`WORDS`) and the encoder (`ENCODER`), as of a `Hybrid`, whose parts are asked with the unknown
            words of a query put right; None ranks by the encoder alone, asked as it is. If the encoder has no weight,
            only passages are embedded.

    Raises:
        TypeError: If a document is not a string.
        ValueError: If there is no document, or the weights are none; see `fuse`.

    Example:
        >>> from contrastive.encoder import Encoder, embedded_minilm
        >>> encoder = Encoder.from_pretrained(embedded_minilm())
        >>> index = SearchIndex(encoder, {"a": "Nurse\nNight shifts.", "b": "Data analyst\nSQL and charts."})
        >>> [hit.title for hit in index.search(["hospital job", "python"], k=1)[0]]
        ['Nurse']
    """

    def __init__(
        self,
        encoder: KeyedEncoder,
        documents: Mapping[str, str],
        *,
        cache: EmbeddingCache | None = None,
        show_progress: bool = False,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if not documents:
            raise ValueError("expected at least one document to search, got none")
        self.encoder = encoder
        self.similarity = similarity_of(encoder)
        self.documents = dict(documents)
        self.weights = {ENCODER: 1.0} if weights is None else dict(weights)
        check_weights(self.weights, dict.fromkeys((WORDS, ENCODER)))
        self._ids = tuple(self.documents)
        texts = list(self.documents.values())
        self._spelling = None if weights is None else Spelling.of(texts)
        self._words = BM25Index(texts) if self.weights.get(WORDS) else None
        if not self.weights.get(ENCODER):
            return
        started = time.perf_counter()
        self._embeddings = embeddings_of(encoder, texts, side="document", cache=cache, show_progress=show_progress)
        if cache is None:
            _log.info("%s documents embedded in %.0f s", f"{len(texts):,}", time.perf_counter() - started)

    def search(self, queries: Sequence[str], k: int = 10, *, passages: bool = True) -> list[list[Hit]]:
        """Return the k documents closest to each query, best first, all of them if there are fewer.

        Order and scores are those of `contrastive.evaluation.retrieve`, or `fuse` of a mixture: ties are broken by
        document id. A document is found even if the query is its very text; by BM25 alone, only if it shares a word.

        Args:
            queries: Any number of queries.
            k: Documents to return for each query.
            passages: Find the closest passage of each hit, which embeds the passages of all documents found.

        Raises:
            TypeError: If `queries` is one string, or holds something other than strings.
            ValueError: If `k` is below 1 or a query has no text.
        """
        check_texts(queries)
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}")
        blank = next((place for place, query in enumerate(queries) if not query.strip()), None)
        if blank is not None:
            raise ValueError(f"expected queries with text, got {queries[blank]!r} at position {blank}")
        asked = queries if self._spelling is None else [self._spelling.put_right_text(query) for query in queries]
        embedded = self.encoder.encode(asked, side="query", show_progress=False, as_numpy=False)
        names = [str(place) for place in range(len(queries))]
        rankings = self._rank(dict(zip(names, asked, strict=True)), embedded, k)
        best = self._best_passages(embedded, rankings) if passages else {}
        return [
            [
                self._hit(rank, id_, score, *best.get((name, id_), (None, None)))
                for rank, (id_, score) in enumerate(rankings.top(name, k), start=1)
            ]
            for name in names
        ]

    def _rank(self, queries: Mapping[str, str], embedded: Embeddings, k: int) -> Rankings:
        """Rank by the encoder, by BM25, or by both."""
        systems = {}
        depth = k if self._words is None else max(k, DEPTH)
        if self.weights.get(ENCODER):
            self._embeddings = self._embeddings.to(embedded.device)  # the encoder may have moved, a cache is on the CPU
            systems[ENCODER] = retrieve(
                embedded, self._embeddings, list(queries), self._ids, depth=depth, similarity=self.similarity
            )
        if self._words is not None:
            systems[WORDS] = rank_by_words(self._words, queries, self._ids, depth=depth)
        return fuse(systems, {name: self.weights[name] for name in systems}, depth=k)

    def _best_passages(self, queries: Embeddings, rankings: Rankings) -> dict[tuple[str, str], tuple[str, float]]:
        """Return the passage closest to each query in each of its documents, with its score."""
        found = {id_ for ids in rankings.documents.values() for id_ in ids}
        passages = {id_: split_passages(title_and_body(self.documents[id_])[1]) for id_ in sorted(found)}
        texts = list(dict.fromkeys(passage for parts in passages.values() for passage in parts))
        row = {text: index for index, text in enumerate(texts)}
        embedded = self.encoder.encode(texts, side="document", show_progress=False, as_numpy=False)
        best = {}
        for place, (name, ids) in enumerate(rankings.documents.items()):
            for id_ in ids:
                parts = embedded[[row[passage] for passage in passages[id_]]]
                scores = score_texts(self.similarity, queries[place : place + 1], parts)[0].tolist()
                if scores:
                    best[name, id_] = max(zip(passages[id_], scores, strict=True), key=lambda scored: scored[1])
        return best

    def _hit(self, rank: int, id_: str, score: float, passage: str | None, passage_score: float | None) -> Hit:
        text = self.documents[id_]
        return Hit(rank, id_, score, title_and_body(text)[0], text, passage, passage_score)
