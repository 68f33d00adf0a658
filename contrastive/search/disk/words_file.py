"""BM25 of an index, kept beside its segments: a program that opens it need not read and count all its words again.

A folder for each state of the index, complete or absent, named by what decides its content: the segments, the rows that
do not count, and how words are counted. The scores of each word are memory-mapped. What is missing or damaged is made
anew from the texts; where it cannot be written, each program does so.
"""

from __future__ import annotations

import logging
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from contrastive.data.store import key_of
from contrastive.data.whole_files import whole_folder
from contrastive.encoder.embedding_files import read_embeddings, write_embeddings
from contrastive.evaluation.bm25 import BM25Index, what_decides
from contrastive.similarity import TermWeights

FOLDER = "words"
"""Where they are, in the folder of the index."""

_VOCABULARY, _SCORES, _CHECKSUM = "vocabulary", "scores.npy", 4

_log = logging.getLogger(__name__)


def stored_words(folder: Path, segments: Mapping[str, Sequence[int]], texts: Callable[[], Iterable[str]]) -> BM25Index:
    """Return BM25 of the postings of an index, read, or made and kept.

    Args:
        folder: That of the index.
        segments: Names of its segments, and the rows of each that do not count.
        texts: Returns the texts of the others, in their order.
    """
    path = folder / FOLDER / _name(segments)
    try:
        return read_words(path)
    except FileNotFoundError:
        pass
    except (ValueError, OSError) as error:
        _log.warning("%s is damaged and is made anew (%s: %s)", path, type(error).__name__, error)
    index = BM25Index(texts())
    try:
        path.parent.mkdir(exist_ok=True)
        write_words(path, index)
    except OSError as error:
        _log.warning("the words of the index are not kept, and counted by each program: %s", error)
    return index


def delete_words(folder: Path, segments: Mapping[str, Sequence[int]]) -> None:
    """Delete those of other states of an index."""
    for left in (folder / FOLDER).glob("*"):
        if left.name != _name(segments):
            shutil.rmtree(left, ignore_errors=True)


def write_words(folder: Path, index: BM25Index) -> None:
    """Write BM25 into a folder.

    Raises:
        OSError: If it cannot be written; nothing is left of it.
    """
    vocabulary, scores = index.by_word()
    content = "\n".join(vocabulary).encode("utf-8", "surrogatepass")
    with whole_folder(folder) as temporary:
        write_embeddings(temporary / _SCORES, scores)
        (temporary / _VOCABULARY).write_bytes(content + _checksum(content))


def read_words(folder: Path) -> BM25Index:
    """Read what `write_words` wrote, the scores memory-mapped.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not what was written.
    """
    written = (folder / _VOCABULARY).read_bytes()
    content, checksum = written[:-_CHECKSUM], written[-_CHECKSUM:]
    scores = read_embeddings(folder / _SCORES)
    vocabulary = content.decode("utf-8", "surrogatepass").split("\n") if content else []
    if checksum != _checksum(content) or not isinstance(scores, TermWeights) or len(scores) != len(vocabulary):
        raise ValueError("it is not what was written")
    return BM25Index.of_words(vocabulary, scores)


def _name(segments: Mapping[str, Sequence[int]]) -> str:
    removed = [[name, *sorted(rows)] for name, rows in segments.items()]
    return key_of({"words of an index": 1, **what_decides(), "segments": removed})[:32]


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM, "little")
