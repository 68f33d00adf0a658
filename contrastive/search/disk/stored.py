"""An index on disk: built once, opened in any number of programs, changed without being built anew.

Notable decisions:

- A folder has segments, which never change, and `index.json`, which names those that count and the rows of each that
  were removed. It is replaced as a whole, at the end: who reads while another builds sees the state before, and a build
  that was killed leaves it as it was (`building`).
- The embeddings are in the segments, or in a table of LanceDB of which `index.json` names the version (`tables`); texts
  and columns are in the segments in any case.
- BM25 is made of the texts when the index is built, and of a changed one when it is first asked for (`words_file`): it
  is of all texts, and cannot be changed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contrastive.encoder.embedding_cache import KeyedEncoder
from contrastive.evaluation.bm25 import BM25Index
from contrastive.search.contracts import Engine, Filter, Posting, Value
from contrastive.search.disk.manifest import Manifest, check_encoder, has_changed, read_manifest, rebuild_command, whole
from contrastive.search.disk.segments import SEGMENTS, Segment, read_segment
from contrastive.search.disk.stored_candidates import candidates_of
from contrastive.search.disk.tables import table_of
from contrastive.search.disk.words_file import stored_words
from contrastive.search.engines.exact import ExactEngine, Part
from contrastive.search.engines.lance import LanceEngine
from contrastive.search.index import SearchIndex
from contrastive.search.words import WordSearch
from contrastive.similarity import Embeddings, TokenVectors, product_similarity

_log = logging.getLogger(__name__)


class StoredPostings:
    """The postings of an index on disk, memory-mapped.

    Args:
        segments: Where they are.
        removed: The rows of each segment that do not count.
        engine: Has their embeddings.
        words: Returns their BM25, given their texts.

    Attributes:
        segments: Where they are.
        ids: Their ids, in the order in which they were added.
        engine: Their embeddings.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        removed: Sequence[Sequence[int]],
        engine: Engine,
        words: Callable[[Callable[[], Iterable[str]]], BM25Index],
    ) -> None:
        self.engine = engine
        self._words = words
        self.segments = segments
        self._alive = [np.ones(len(segment.ids), bool) for segment in segments]
        for alive, rows in zip(self._alive, removed, strict=True):
            alive[list(rows)] = False
        self._places = {
            segment.ids[row]: (segment, row)
            for segment, alive in zip(segments, self._alive, strict=True)
            for row in np.flatnonzero(alive).tolist()
        }
        self.ids: Sequence[str] = tuple(self._places)

    @cached_property
    def columns(self) -> Mapping[str, Sequence[tuple[Value, int]]]:
        """How many have each value of each column."""
        counts: dict[str, Counter[Value]] = {}
        for segment, alive in zip(self.segments, self._alive, strict=True):
            for name in segment.columns.values:
                counts.setdefault(name, Counter()).update(dict(segment.columns.counts(name, alive)))
        return {name: of_column.most_common() for name, of_column in counts.items() if of_column}

    @cached_property
    def words(self) -> WordSearch:
        """Their words."""
        return WordSearch(self.ids, self._words(lambda: (self[id_].text for id_ in self.ids)))

    def __getitem__(self, id_: str) -> Posting:
        """Return a posting by its id."""
        segment, row = self._places[id_]
        return segment.posting(row)

    def rows(self, filters: Sequence[Filter]) -> NDArray[np.bool_]:
        """Return which of them, in the order of `ids`, pass all filters."""
        kept = [segment.columns.rows(filters)[alive] for segment, alive in zip(self.segments, self._alive, strict=True)]
        return np.concatenate([np.zeros(0, bool), *kept])

    def embeddings_of(self, ids: Sequence[str]) -> Embeddings | None:
        """Return the token vectors of some; None if one is not there, or has others."""
        if not ids or not all(id_ in self._places for id_ in ids):
            return None
        if isinstance(self.engine, LanceEngine):
            return self.engine.embeddings_of(ids)
        places = [self._places[id_] for id_ in ids]
        found = [segment.embeddings[row : row + 1] for segment, row in places if segment.embeddings is not None]
        tokens = [each for each in found if isinstance(each, TokenVectors)]
        return TokenVectors.join(tokens) if tokens else None


def open_index(
    folder: str | Path,
    encoder: KeyedEncoder,
    *,
    weights: Mapping[str, float] | None = None,
    candidates: int | None = None,
    model: str = "MODEL",
) -> SearchIndex:
    """Open an index to search in.

    Args:
        folder: Where it stands.
        encoder: The one it was built with.
        weights: Of BM25 and the encoder, see `SearchIndex`.
        candidates: How many postings are compared with a query token by token, see `Candidates`; 0 for all, None for
            as it was built.
        model: Name of the encoder, for the command that builds the index anew.

    Raises:
        FileNotFoundError: If there is no index.
        ValueError: If the encoder is not the one it was built with, or a file is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_encoder(manifest, encoder, folder, model)
    if manifest.source is not None and has_changed(manifest.source):
        changed, command = manifest.source["path"], rebuild_command(manifest, folder, model)
        _log.warning("%s has changed since the index %s was built; %s", changed, folder, command)
    while True:
        try:
            with whole(manifest, folder, model):
                postings = read_postings(folder, manifest)
            return SearchIndex(
                encoder,
                postings,
                weights=weights,
                candidates=candidates_of(folder, manifest, postings.segments, postings, candidates),
            )
        except ValueError:
            newer = read_manifest(folder)
            if newer.generation == manifest.generation:
                raise
            manifest = newer  # it was replaced while this one was read
            check_encoder(manifest, encoder, folder, model)


def read_postings(folder: Path, manifest: Manifest) -> StoredPostings:
    """Read the postings of an index as its manifest has them.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file or a table is not what was written.
    """
    exact = manifest.engine["name"] == "exact"
    segments = [read_segment(folder / SEGMENTS / name, embedded=exact) for name in manifest.segments]
    removed = list(manifest.segments.values())
    words = partial(stored_words, folder, manifest.segments)
    if not exact:
        return StoredPostings(segments, removed, table_of(manifest, folder), words)
    similarity = product_similarity(str(manifest.encoder["similarity"]))
    parts = [Part(each.ids, each.embeddings, each.columns) for each in segments if each.embeddings is not None]
    engine = ExactEngine(similarity, parts, [np.array(rows, np.int64) for rows in removed])
    return StoredPostings(segments, removed, engine, words)
