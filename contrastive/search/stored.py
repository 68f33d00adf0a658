"""An index on disk: built once, opened in any number of programs, changed without being built anew.

Notable decisions:

- A folder has segments, which never change, and `index.json`, which names those that count and the rows of each that
  were removed. It is replaced as a whole, at the end: who reads while another builds sees the state before, and a build
  that was killed leaves it as it was. The next one goes on with the segments that the killed one had made.
- What is added is a further segment, of the added postings alone; what is replaced or removed is left out of its own.
- One process writes at a time; the others wait. Segments that no longer count are deleted after the new state stands.
- Word matching is made of the texts when it is first asked for: bm25s cannot be changed, and reading an index takes
  little beside making one.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contrastive.data.store import one_at_a_time
from contrastive.encoder.embedding_cache import EmbeddingCache, KeyedEncoder, check_keyed, embeddings_of
from contrastive.evaluation.bm25 import BM25Index
from contrastive.search.contracts import Engine, Filter, Posting, Value
from contrastive.search.exact import ExactEngine
from contrastive.search.index import SearchIndex
from contrastive.search.manifest import (
    Manifest,
    check_encoder,
    corpus_digest,
    described,
    model_digest,
    read_manifest,
    rebuild_command,
)
from contrastive.search.segments import SIZE, Segment, read_segment, segment_name, write_segment
from contrastive.search.words import WordSearch
from contrastive.similarity import product_similarity

_CPU = torch.device("cpu")


class StoredPostings:
    """The postings of an index on disk, memory-mapped."""

    def __init__(self, manifest: Manifest, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._engine = ExactEngine(
            product_similarity(str(manifest.encoder["similarity"])),
            [segment.part for segment in segments],
            [np.array(rows, np.int64) for rows in manifest.segments.values()],
        )
        self._places: dict[str, tuple[Segment, int]] = {}
        for segment, removed in zip(segments, manifest.segments.values(), strict=True):
            gone = set(removed)
            for row, id_ in enumerate(segment.part.ids):
                if row not in gone:
                    self._places[id_] = (segment, row)

    @property
    def ids(self) -> Sequence[str]:
        """Their ids, in the order in which they were added."""
        return self._engine.ids

    @cached_property
    def columns(self) -> Mapping[str, Sequence[tuple[Value, int]]]:
        """How many have each value of each column, those removed included."""
        counts: dict[str, Counter[Value]] = {}
        for segment in self._segments:
            for name in segment.part.columns.values:
                counts.setdefault(name, Counter()).update(dict(segment.part.columns.counts(name)))
        return {name: of_column.most_common() for name, of_column in counts.items()}

    @property
    def engine(self) -> Engine:
        """Their embeddings."""
        return self._engine

    @cached_property
    def words(self) -> WordSearch:
        """Their words."""
        return WordSearch(self.ids, BM25Index(self[id_].text for id_ in self.ids))

    def __getitem__(self, id_: str) -> Posting:
        """Return a posting by its id."""
        segment, row = self._places[id_]
        return segment.posting(row)

    def rows(self, filters: Sequence[Filter]) -> NDArray[np.bool_]:
        """Return which of them, in the order of `ids`, pass all filters."""
        return self._engine.rows(filters)


def build_index(
    folder: str | Path,
    encoder: KeyedEncoder,
    postings: Sequence[Posting],
    *,
    command: Sequence[str] = (),
    cache: EmbeddingCache | None = None,
    show_progress: bool = False,
) -> Manifest:
    """Build an index of postings in a folder, in the place of one that is there; return what it consists of.

    Args:
        folder: Where it stands; made if it is not there.
        encoder: What embeds the postings.
        postings: What is to be found.
        command: What a person adds to `--out` and `--model` to build it, to be said when it is out of date.
        cache: Where embeddings of the same texts may be already.
        show_progress: Show a progress bar while postings are embedded.

    Raises:
        OSError: If the folder cannot be written, such as on a full disk; an index that is there stays as it is.
        ValueError: If there is no posting, or an id occurs twice.

    Example:
        >>> from contrastive.encoder import Encoder, embedded_minilm
        >>> encoder = Encoder.from_pretrained(embedded_minilm())
        >>> folder = getfixture("tmp_path") / "index"
        >>> _ = build_index(folder, encoder, [Posting("a", "Nurse"), Posting("b", "Chef", {"place": "Ulm"})])
        >>> [hit.id for hit in open_index(folder, encoder).search(["kitchen"], k=1)[0]]
        ['b']
    """
    folder = Path(folder)
    if not postings:
        raise ValueError("expected at least one posting to build an index of, got none")
    _check_distinct([posting.id for posting in postings])
    model = model_digest(check_keyed(encoder))
    with _writing(folder):
        names: dict[str, Sequence[int]] = {}
        for start in range(0, len(postings), SIZE):
            some = postings[start : start + SIZE]
            names[_made(folder, model, encoder, some, cache, show_progress)] = ()
        manifest = Manifest(
            model, described(encoder), corpus_digest(postings), command, names, len(postings), _generation(folder) + 1
        )
        _take_over(folder, manifest)
    return manifest


def update_index(
    folder: str | Path,
    encoder: KeyedEncoder,
    *,
    add: Sequence[Posting] = (),
    remove: Collection[str] = (),
    model: str = "MODEL",
    show_progress: bool = False,
) -> Manifest:
    """Remove postings from an index and add others, which replace those of the same id; return what it consists of.

    Raises:
        FileNotFoundError: If there is no index.
        KeyError: If an id to remove is not there; then nothing is changed.
        ValueError: If the encoder is not the one it was built with, an id is added twice, or nothing would be left.
    """
    folder = Path(folder)
    _check_distinct([posting.id for posting in add])
    with _writing(folder):
        manifest = read_manifest(folder)
        check_encoder(manifest, encoder, folder, model)
        gone = {*remove, *(posting.id for posting in add)}
        segments: dict[str, Sequence[int]] = {}
        sizes: dict[str, int] = {}
        missing = set(remove)
        for name, removed in manifest.segments.items():
            ids = _opened(folder, manifest, name, model).part.ids
            rows = [row for row, id_ in enumerate(ids) if id_ in gone and row not in set(removed)]
            missing -= {ids[row] for row in rows}
            segments[name], sizes[name] = [*removed, *rows], len(ids)
            if len(segments[name]) == len(ids):
                del segments[name]
        if missing:
            raise KeyError(f"expected ids of the index to remove, got {min(missing)!r}")
        for start in range(0, len(add), SIZE):
            some = add[start : start + SIZE]
            name = _made(folder, manifest.model, encoder, some, None, show_progress)
            segments[name], sizes[name] = [], len(some)
        if not segments:
            raise ValueError("expected an index that keeps a posting, all would be removed")
        count = sum(sizes[name] - len(rows) for name, rows in segments.items())
        manifest = replace(manifest, segments=segments, count=count, generation=manifest.generation + 1)
        _take_over(folder, manifest)
    return manifest


def open_index(
    folder: str | Path, encoder: KeyedEncoder, *, weights: Mapping[str, float] | None = None, model: str = "MODEL"
) -> SearchIndex:
    """Open an index to search in.

    Args:
        folder: Where it stands.
        encoder: The one it was built with.
        weights: Of BM25 and the encoder, see `SearchIndex`.
        model: Name of the encoder, for the command that builds the index anew.

    Raises:
        FileNotFoundError: If there is no index.
        ValueError: If the encoder is not the one it was built with, or a file is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_encoder(manifest, encoder, folder, model)
    while True:
        try:
            segments = [_opened(folder, manifest, name, model) for name in manifest.segments]
            break
        except ValueError:
            newer = read_manifest(folder)
            if newer.generation == manifest.generation:
                raise
            manifest = newer  # it was replaced while this one was read
            check_encoder(manifest, encoder, folder, model)
    return SearchIndex(encoder, StoredPostings(manifest, segments), weights=weights)


def _opened(folder: Path, manifest: Manifest, name: str, model: str) -> Segment:
    try:
        return read_segment(_segments(folder) / name)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"the index {folder} is damaged: {error}; {rebuild_command(manifest, folder, model)}"
        ) from error


def _made(
    folder: Path,
    model: str,
    encoder: KeyedEncoder,
    postings: Sequence[Posting],
    cache: EmbeddingCache | None,
    show_progress: bool,
) -> str:
    """Return the name of a segment of postings, which is written unless it is there and whole."""
    name = segment_name(model, postings)
    path = _segments(folder) / name
    try:
        read_segment(path)
    except (FileNotFoundError, ValueError):
        texts = [posting.text for posting in postings]
        made = embeddings_of(encoder, texts, side="document", cache=cache, show_progress=show_progress)
        write_segment(path, postings, made.to(_CPU))
    return name


def _take_over(folder: Path, manifest: Manifest) -> None:
    """Make a state that of the folder, and delete what is of no state."""
    manifest.write(folder)
    for left in _segments(folder).iterdir():
        if left.name not in manifest.segments:
            shutil.rmtree(left, ignore_errors=True)


def _generation(folder: Path) -> int:
    try:
        return read_manifest(folder).generation
    except (FileNotFoundError, ValueError):
        return 0


def _segments(folder: Path) -> Path:
    return folder / "segments"


def _check_distinct(ids: Sequence[str]) -> None:
    twice = next((id_ for id_, times in Counter(ids).items() if times > 1), None)
    if twice is not None:
        raise ValueError(f"expected ids of postings that differ, got {twice!r} twice")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Let one process at a time write in a folder."""
    _segments(folder).mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder / "writing.lock"):
        yield
