"""Building an index on disk, and changing it: what is killed or fails leaves the index as it was.

Notable decisions:

- The manifest is written last (`stored`). A build that was killed has left whole segments, or embeddings on their way
  to a table, with which the next one goes on.
- What is added is a further segment, of the added postings alone; what is replaced or removed is left out of its own.
- One process writes at a time; the others wait. What no longer counts is deleted after the new state stands.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from contrastive.data.store import one_at_a_time
from contrastive.data.whole_files import naming
from contrastive.encoder.embedding_cache import EmbeddingCache, KeyedEncoder, check_keyed, embeddings_of
from contrastive.search.contracts import Posting
from contrastive.search.disk.manifest import (
    Manifest,
    check_encoder,
    corpus_digest,
    described,
    fingerprint,
    model_digest,
    read_manifest,
    whole,
)
from contrastive.search.disk.segments import SEGMENTS, SIZE, check_finite, read_segment, segment_name, write_segment
from contrastive.search.disk.stored import read_postings
from contrastive.search.disk.stored_candidates import candidates_of, delete_means, usual_candidates
from contrastive.search.disk.tables import FOLDER, is_inside, new_table, place, settled, table_of
from contrastive.search.disk.words_file import delete_words, stored_words
from contrastive.search.engines.candidates import drawn
from contrastive.search.engines.lance import LanceEngine
from contrastive.search.passages import title_and_body

_log = logging.getLogger(__name__)

_STAGED = "staged"
"""Where embeddings wait for the table that they go to, so that a build that is killed has them."""


def build_index(
    folder: str | Path,
    encoder: KeyedEncoder,
    postings: Sequence[Posting],
    *,
    engine: Literal["exact", "lance"] | None = None,
    url: str | None = None,
    link: bool | None = None,
    candidates: int | None = None,
    command: Sequence[str] = (),
    source: Path | None = None,
    cache: EmbeddingCache | None = None,
    show_progress: bool = False,
) -> Manifest:
    """Build an index of postings in a folder, in the place of one that is there; return what it consists of.

    Args:
        folder: Where it stands; made if it is not there.
        encoder: What embeds the postings.
        postings: What is to be found.
        engine: What keeps the embeddings and compares queries with them: the folder, or LanceDB; None for what the
            index that is there has, else the folder.
        url: Where LanceDB keeps them, see `LanceEngine`; None for in the folder.
        link: Whether LanceDB is to answer fast and approximately, see `LanceEngine.link`; None for from 100,000
            postings on.
        candidates: How many postings are compared with a query token by token, see `Candidates`; 0 for all, None for
            some of 100,000 or more.
        command: What a person adds to `--out` and `--model` to build it, to be said when it is out of date.
        source: The file that they were read from; who opens the index is told when it has changed.
        cache: Where embeddings of the same texts may be already.
        show_progress: Show a progress bar while postings are embedded.

    Raises:
        ModuleNotFoundError: If LanceDB is asked for and not installed.
        OSError: If the folder cannot be written, such as on a full disk; an index that is there stays as it is.
        ValueError: If there is no posting, or an id occurs twice; or LanceDB cannot keep the embeddings.

    Example:
        >>> from contrastive.encoder import Encoder, embedded_minilm
        >>> from contrastive.search import open_index
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
        before = _before(folder)
        kept = place(folder, engine, url, link, before)
        table = None if kept["name"] == "exact" else new_table(kept, folder, encoder)
        is_new = before is None or "table" not in before.engine or before.engine["url"] != kept.get("url")
        if table is not None and cache is None:
            cache = EmbeddingCache(folder / _STAGED, max_bytes=1 << 62)
        writer = _Writer(folder, model, encoder, cache, show_progress, table)
        segments: dict[str, Sequence[int]] = dict.fromkeys(writer.write(postings), ())
        manifest = Manifest(
            model,
            described(encoder),
            corpus_digest(postings),
            command,
            segments,
            len(postings),
            1 if before is None else before.generation + 1,
            engine=writer.settled(kept, postings, is_new=is_new),
            source=None if source is None else fingerprint(source),
        )
        manifest = _with_candidates(manifest, folder, encoder, postings, candidates)
        _take_over(folder, manifest)
        stored_words(folder, segments, lambda: (posting.text for posting in postings))
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

    Args:
        folder: Where it stands.
        encoder: The one it was built with.
        add: What is to be found as well.
        remove: Ids of what is not to be found any more.
        model: Name of the encoder, for the command that builds the index anew.
        show_progress: Show a progress bar while postings are embedded.

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
        with whole(manifest, folder, model):
            table = None if manifest.engine["name"] == "exact" else table_of(manifest, folder)
            segments, count = _without(manifest, folder, remove, [posting.id for posting in add])
        if not count + len(add):
            raise ValueError("expected an index that keeps a posting, all would be removed")
        if table is not None:
            table.restore()
            table.remove(set(remove) - {posting.id for posting in add})
        writer = _Writer(folder, manifest.model, encoder, None, show_progress, table)
        segments |= dict.fromkeys(writer.write(add), ())
        manifest = replace(
            manifest,
            segments=segments,
            count=count + len(add),
            generation=manifest.generation + 1,
            engine=writer.settled(manifest.engine, add, is_new=False),
        )
        _take_over(folder, manifest)
    return manifest


def _with_candidates(
    manifest: Manifest, folder: Path, encoder: KeyedEncoder, postings: Sequence[Posting], number: int | None
) -> Manifest:
    """Return the manifest of a new index with what it says of candidates, if it is to have any."""
    number = usual_candidates(manifest) if number is None else number
    stored = read_postings(folder, manifest) if number else None
    if stored is None or (found := candidates_of(folder, manifest, stored.segments, stored, number)) is None:
        return manifest
    titles = drawn([title_and_body(posting.text)[0] or posting.text for posting in postings])
    asked = encoder.encode(titles, side="query", show_progress=False, as_numpy=False)
    recall = round(found.recall(stored.engine, titles, asked), 3)
    _log.info("%d candidates of a query have %.3f of the ten closest, by %d titles", number, recall, len(titles))
    return replace(manifest, candidates={"number": number, "recall@10": recall, "titles": len(titles)})


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes segments of postings, with their embeddings or, if there is a table, without them and these there."""

    folder: Path
    model: str
    encoder: KeyedEncoder
    cache: EmbeddingCache | None
    show_progress: bool
    table: LanceEngine | None

    def write(self, postings: Sequence[Posting]) -> list[str]:
        """Return the names of the segments of postings, which are written unless they are there and whole."""
        return [self._one(postings[start : start + SIZE]) for start in range(0, len(postings), SIZE)]

    def settled(self, engine: Mapping[str, Any], added: Sequence[Posting], *, is_new: bool) -> Mapping[str, Any]:
        """Return what the manifest says of the engine, after all is written."""
        if self.table is None:
            return engine
        with naming(self.folder / FOLDER):
            return settled(self.table, engine, self.encoder, added, is_new=is_new)

    def _one(self, postings: Sequence[Posting]) -> str:
        embedded = self.table is None
        name = segment_name(self.model, postings, embedded=embedded)
        path = self.folder / SEGMENTS / name
        there = _is_whole(path, embedded=embedded)
        if there and embedded:
            return name
        texts = [posting.text for posting in postings]
        made = embeddings_of(self.encoder, texts, side="document", cache=self.cache, show_progress=self.show_progress)
        made = made.to(torch.device("cpu"))
        check_finite(made)
        if not there:
            write_segment(path, postings, made if embedded else None)
        if self.table is not None:
            with naming(self.folder / FOLDER):
                self.table.add([posting.id for posting in postings], made, [posting.metadata for posting in postings])
        return name


def _without(
    manifest: Manifest, folder: Path, remove: Collection[str], replaced: Collection[str]
) -> tuple[dict[str, Sequence[int]], int]:
    """Return the segments of an index without some postings, and how many are left.

    Raises:
        KeyError: If one to remove is not there.
    """
    segments: dict[str, Sequence[int]] = {}
    gone, missing, count = {*remove, *replaced}, set(remove), 0
    for name, removed in manifest.segments.items():
        ids = read_segment(folder / SEGMENTS / name, embedded=False).ids
        before = set(removed)
        rows = [row for row, id_ in enumerate(ids) if id_ in gone and row not in before]
        missing -= {ids[row] for row in rows}
        left = len(ids) - len(removed) - len(rows)
        count += left
        if left:
            segments[name] = [*removed, *rows]
    if missing:
        raise KeyError(f"expected ids of the index to remove, got {min(missing)!r}")
    return segments, count


def _is_whole(path: Path, *, embedded: bool) -> bool:
    try:
        read_segment(path, embedded=embedded)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _take_over(folder: Path, manifest: Manifest) -> None:
    """Make a state that of the folder, and delete what is of no state."""
    manifest.write(folder)
    for unfinished in folder.glob("index.*.tmp"):
        unfinished.unlink(missing_ok=True)
    for left in (folder / SEGMENTS).iterdir():
        if left.name not in manifest.segments:
            shutil.rmtree(left, ignore_errors=True)
    delete_words(folder, manifest.segments)
    delete_means(folder, manifest.segments)
    shutil.rmtree(folder / _STAGED, ignore_errors=True)
    if not is_inside(manifest.engine):
        shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _before(folder: Path) -> Manifest | None:
    """Return the manifest of the index that is there, if there is one that can be read."""
    try:
        return read_manifest(folder)
    except (FileNotFoundError, ValueError):
        return None


def _check_distinct(ids: Sequence[str]) -> None:
    twice = next((id_ for id_, times in Counter(ids).items() if times > 1), None)
    if twice is not None:
        raise ValueError(f"expected ids of postings that differ, got {twice!r} twice")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Let one process at a time write in a folder."""
    (folder / SEGMENTS).mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder / "writing.lock"):
        yield
