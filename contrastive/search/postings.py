"""The postings of an index and what finds them: texts, columns, an engine, and BM25, each made when it is needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from contrastive.encoder.embedding_cache import EmbeddingCache, KeyedEncoder, embeddings_of
from contrastive.evaluation.bm25 import BM25Index
from contrastive.search.columns import Columns
from contrastive.search.contracts import Engine, Filter, Metadata, Posting, Value
from contrastive.search.engines.exact import ExactEngine, Part
from contrastive.search.words import WordSearch
from contrastive.similarity import Embeddings, similarity_of

_log = logging.getLogger(__name__)


class Postings(Protocol):
    """Postings that can be found, in memory or on a disk."""

    @property
    def ids(self) -> Sequence[str]:
        """Their ids."""
        ...

    @property
    def columns(self) -> Mapping[str, Sequence[tuple[Value, int]]]:
        """How many postings have each value of each column."""
        ...

    @property
    def engine(self) -> Engine:
        """Their embeddings."""
        ...

    @property
    def words(self) -> WordSearch:
        """Their words."""
        ...

    def __getitem__(self, id_: str) -> Posting:
        """Return a posting by its id."""
        ...

    def rows(self, filters: Sequence[Filter]) -> NDArray[np.bool_]:
        """Return which of them, in the order of `ids`, pass all filters."""
        ...

    def embeddings_of(self, ids: Sequence[str]) -> Embeddings | None:
        """Return the embeddings of some, as the engine has them; None if one is not there or they are not at hand."""
        ...


class PostingsInMemory:
    """Postings as a program has them; they are embedded when the engine is first asked for.

    Args:
        encoder: What embeds them.
        documents: Text of each by id.
        metadata: What else they say, by id.
        cache: Where the embeddings are kept between programs; None embeds the documents anew.
        show_progress: Show a progress bar while the documents are embedded.

    Raises:
        TypeError: If a document is not a string.
        ValueError: If there is no document, or metadata of one that is not there.
    """

    def __init__(
        self,
        encoder: KeyedEncoder,
        documents: Mapping[str, str],
        metadata: Mapping[str, Metadata] | None = None,
        *,
        cache: EmbeddingCache | None = None,
        show_progress: bool = False,
    ) -> None:
        if not documents:
            raise ValueError("expected at least one document to search, got none")
        metadata = metadata or {}
        unknown = next((id_ for id_ in metadata if id_ not in documents), None)
        if unknown is not None:
            raise ValueError(f"expected metadata of the documents, got some of {unknown!r}")
        self._encoder = encoder
        self._documents = dict(documents)
        self._metadata = {id_: metadata.get(id_, {}) for id_ in self._documents}
        self._columns = Columns.of(self._metadata.values())
        self._cache, self._show_progress = cache, show_progress

    @property
    def ids(self) -> Sequence[str]:
        """Their ids, in the order of the documents."""
        return tuple(self._documents)

    @cached_property
    def columns(self) -> Mapping[str, Sequence[tuple[Value, int]]]:
        """How many have each value of each column."""
        return {name: self._columns.counts(name) for name in self._columns.values}

    @cached_property
    def engine(self) -> Engine:
        """Their embeddings, to be compared with those of queries."""
        return ExactEngine(similarity_of(self._encoder), [Part(list(self._documents), self._embeddings, self._columns)])

    @cached_property
    def _embeddings(self) -> Embeddings:
        texts = list(self._documents.values())
        started = time.perf_counter()
        embeddings = embeddings_of(
            self._encoder, texts, side="document", cache=self._cache, show_progress=self._show_progress
        )
        if self._cache is None:
            _log.info("%s documents embedded in %.0f s", f"{len(texts):,}", time.perf_counter() - started)
        return embeddings

    @cached_property
    def words(self) -> WordSearch:
        """Their words."""
        return WordSearch(list(self._documents), BM25Index(self._documents.values()))

    def __getitem__(self, id_: str) -> Posting:
        """Return a posting by its id."""
        return Posting(id_, self._documents[id_], self._metadata[id_])

    def rows(self, filters: Sequence[Filter]) -> NDArray[np.bool_]:
        """Return which of them, in the order of `ids`, pass all filters."""
        return self._columns.rows(filters)

    def embeddings_of(self, ids: Sequence[str]) -> Embeddings | None:
        """Return the embeddings of some; None if one is not there, or nothing is embedded yet."""
        if "_embeddings" not in self.__dict__ or not all(id_ in self._documents for id_ in ids):
            return None
        return self._embeddings[torch.tensor([self._rows[id_] for id_ in ids])]

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return {id_: row for row, id_ in enumerate(self._documents)}
