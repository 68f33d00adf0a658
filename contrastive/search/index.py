"""Search in postings: exact, by the same ranking that evaluation measures, mixed with BM25 where asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

from contrastive.data.names import find, there_are
from contrastive.data.texts import check_texts
from contrastive.encoder.embedding_cache import EmbeddingCache, KeyedEncoder
from contrastive.evaluation.fusion import DEPTH, check_weights, fuse
from contrastive.evaluation.hybrid_file import ENCODER, WORDS
from contrastive.evaluation.rankings import Rankings
from contrastive.search.contracts import Filter, Hit, Metadata, Posting, System
from contrastive.search.engines.candidates import Candidates
from contrastive.search.passages import closest_passages, title_and_body
from contrastive.search.postings import Postings, PostingsInMemory
from contrastive.similarity import Embeddings, similarity_of


class SearchIndex:
    r"""Documents embedded once, to be searched any number of times.

    Args:
        encoder: What embeds documents and queries.
        documents: Text of each document by id, its title as the first line; or postings that are there already, as
            `open_index` has them.
        metadata: What else the documents say, by id, for filters and to be shown; not of postings, which have it.
        cache: Where the embeddings of documents are kept between programs; None embeds them anew.
        show_progress: Show a progress bar while documents are embedded.
        weights: Of BM25 (`WORDS`) and the encoder (`ENCODER`), as of a `Hybrid`, whose parts are asked with the unknown
            words of a query put right; None ranks by the encoder alone, asked as it is. If the encoder has no weight,
            only passages are embedded.
        candidates: What finds the postings that the encoder compares with a query; None compares all.

    Attributes:
        postings: What is searched.
        default: The system that ranks unless a search names another: "hybrid" with weights, "encoder" without.

    Raises:
        TypeError: If a document is not a string.
        ValueError: If there is no document, or the weights are none; see `fuse`.

    Example:
        >>> from contrastive.encoder import Encoder, embedded_minilm
        >>> from contrastive.search import parse_filter
        >>> encoder = Encoder.from_pretrained(embedded_minilm())
        >>> documents = {"a": "Nurse\nNight shifts.", "b": "Data analyst\nSQL and charts."}
        >>> index = SearchIndex(encoder, documents, metadata={"a": {"place": "Bonn"}, "b": {"place": "Ulm"}})
        >>> [hit.title for hit in index.search(["hospital job", "python"], k=1)[0]]
        ['Nurse']
        >>> [hit.title for hit in index.search(["hospital job"], filters=[parse_filter("place=Ulm")])[0]]
        ['Data analyst']
        >>> [hit.title for hit in index.search(["nigth shifts"], system="bm25")[0]]
        ['Nurse']
    """

    def __init__(
        self,
        encoder: KeyedEncoder,
        documents: Mapping[str, str] | Postings,
        *,
        metadata: Mapping[str, Metadata] | None = None,
        cache: EmbeddingCache | None = None,
        show_progress: bool = False,
        weights: Mapping[str, float] | None = None,
        candidates: Candidates | None = None,
    ) -> None:
        if weights is not None:
            check_weights(weights, dict.fromkeys((WORDS, ENCODER)))
        self.encoder = encoder
        self.similarity = similarity_of(encoder)
        self.weights = weights
        self.candidates = candidates
        self.default: System = "encoder" if weights is None else "hybrid"
        self.postings: Postings
        if isinstance(documents, Mapping):
            self.postings = PostingsInMemory(encoder, documents, metadata, cache=cache, show_progress=show_progress)
        else:
            self.postings = documents
        if self._weights_of(self.default).get(ENCODER):
            _ = self.postings.engine  # embeds now what is not embedded yet

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        passages: bool = True,
        filters: Sequence[Filter] = (),
        system: System | None = None,
    ) -> list[list[Hit]]:
        """Return the k documents closest to each query, best first, all of them if there are fewer.

        Order and scores are those of `contrastive.evaluation.retrieve`, or `fuse` of a mixture: ties are broken by
        document id. A document is found even if the query is its very text; by BM25 alone, only if it shares a word.
        With filters it is the ranking of the documents that pass them all, mixed on the scale of these.

        Args:
            queries: Any number of queries.
            k: Documents to return for each query.
            passages: Find the closest passage of each hit, which embeds the passages of all documents found.
            filters: What the documents must be, see `parse_filter`; case, blanks and hyphens in the name of a column do
                not matter.
            system: What ranks: "hybrid", "bm25" or "encoder"; None for `default`. The encoder alone is asked with the
                words as they are, the others with unknown words put right.

        Raises:
            TypeError: If `queries` is one string, or holds something other than strings.
            ValueError: If `k` is below 1, a query has no text, no document has a filter's column, or there is no such
                system.
        """
        check_texts(queries)
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}")
        blank = next((place for place, query in enumerate(queries) if not query.strip()), None)
        if blank is not None:
            raise ValueError(f"expected queries with text, got {queries[blank]!r} at position {blank}")
        weights = self._weights_of(system or self.default)
        asked = [self.asked(query, system) for query in queries]
        filters = [self._filter(given) for given in filters]
        embedded = None
        if passages or weights.get(ENCODER):
            embedded = self.encoder.encode(asked, side="query", show_progress=False, as_numpy=False)
        found = self._rank(asked, embedded, weights, k, filters)
        documents = [[(self.postings[id_], score) for id_, score in of_query] for of_query in found]
        if not passages or embedded is None:
            return [[_hit(rank, *each) for rank, each in enumerate(row, start=1)] for row in documents]
        texts = [[posting.text for posting, _ in row] for row in documents]
        best = closest_passages(self.encoder, embedded, texts)
        return [
            [_hit(rank, *each, *passage) for rank, (each, passage) in enumerate(zip(row, of_row, strict=True), start=1)]
            for row, of_row in zip(documents, best, strict=True)
        ]

    def asked(self, query: str, system: System | None = None) -> str:
        """Return a query as a system is asked it: with unknown words put right, but of the encoder alone."""
        return query if (system or self.default) == "encoder" else self.postings.words.spelling.put_right_text(query)

    def _weights_of(self, system: System) -> Mapping[str, float]:
        if system not in get_args(System):
            raise ValueError(f"expected a system of {', '.join(get_args(System))}, got {system!r}")
        if system != "hybrid":
            return {WORDS: 1.0} if system == "bm25" else {ENCODER: 1.0}
        if self.weights is None:
            raise ValueError('expected an index made with the weights of a hybrid for system "hybrid", got one without')
        return self.weights

    def _filter(self, given: Filter) -> Filter:
        """Return a filter with the column's name as the postings have it."""
        name = find(given.column, self.postings.columns)
        if name is None:
            raise ValueError(
                f"expected a column of the postings, got {given.column!r}. {there_are(self.postings.columns)}"
            )
        return replace(given, column=name)

    def _rank(
        self,
        queries: Sequence[str],
        embedded: Embeddings | None,
        weights: Mapping[str, float],
        k: int,
        filters: Sequence[Filter],
    ) -> list[list[tuple[str, float]]]:
        """Rank by the encoder, by BM25, or by both."""
        systems = {}
        depth = max(k, DEPTH) if weights.get(WORDS) else k
        kept = self.postings.rows(filters) if filters and (weights.get(WORDS) or self.candidates) else None
        if weights.get(ENCODER) and embedded is not None:
            if self.candidates is None:
                found = self.postings.engine.search(embedded, depth, filters)
            else:
                found = self.candidates.search(queries, embedded, depth, filters, kept)
            systems[ENCODER] = _rankings(found)
        if weights.get(WORDS):
            systems[WORDS] = _rankings(self.postings.words.search(queries, depth, kept))
        fused = fuse(systems, {name: weights[name] for name in systems}, depth=k)
        return [fused.top(str(place), k) for place in range(len(queries))]


def _rankings(found: Sequence[Sequence[tuple[str, float]]]) -> Rankings:
    documents = {str(place): [id_ for id_, _ in row] for place, row in enumerate(found)}
    return Rankings(documents, {str(place): [score for _, score in row] for place, row in enumerate(found)})


def _hit(
    rank: int, posting: Posting, score: float, passage: str | None = None, passage_score: float | None = None
) -> Hit:
    title, _ = title_and_body(posting.text)
    return Hit(rank, posting.id, score, title, posting.text, passage, passage_score, posting.metadata)
