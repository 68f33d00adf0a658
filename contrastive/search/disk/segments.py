"""Segments of an index on disk: some postings, their columns and their embeddings, written once and never changed.

Where another engine keeps the embeddings, a segment has none.

A segment is a folder that is complete or absent, named by what decides its content: the model, and the postings in
their order. So a build that was killed finds the segments that it had made. `sums.json` has a checksum of each file
beside it, which is compared when the segment is opened; the embeddings have their own (`embedding_files`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contrastive.data.json_files import read_object
from contrastive.data.store import key_of
from contrastive.data.whole_files import whole_folder
from contrastive.encoder.embedding_files import Embeddings as Written
from contrastive.encoder.embedding_files import are_finite, read_embeddings, write_embeddings
from contrastive.search.columns import Columns
from contrastive.search.contracts import Posting
from contrastive.similarity import Embeddings

SIZE = 4096
"""Postings of a segment at most: what a killed build loses, and what is in memory while one is built."""

SEGMENTS = "segments"
"""The folder of them, in that of the index."""

_POSTINGS, _TABLE, _EMBEDDINGS, _SUMS = "postings.jsonl", "table.json", "embeddings.npy", "sums.json"


def segment_name(model: str, postings: Sequence[Posting], *, embedded: bool = True) -> str:
    """Return the name of the segment that a model makes of postings, with their embeddings or without."""
    described = {"segment": 1, "model": model}
    return key_of(described if embedded else {**described, "embedded": False}, map(_line, postings))[:32]


def write_segment(folder: Path, postings: Sequence[Posting], embeddings: Embeddings | None) -> None:
    """Write a segment, with embeddings or without.

    Raises:
        OSError: If it cannot be written, such as on a full disk; nothing is left of it.
        ValueError: If an embedding is not finite.
    """
    lines = [_line(posting) + b"\n" for posting in postings]
    columns = Columns.of(posting.metadata for posting in postings)
    table = {
        "ids": [posting.id for posting in postings],
        "starts": np.cumsum([0, *map(len, lines)]).tolist(),
        "values": columns.values,
        "codes": {name: codes.tolist() for name, codes in columns.codes.items()},
    }
    files = {_POSTINGS: b"".join(lines), _TABLE: json.dumps(table).encode()}
    with whole_folder(folder) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        if embeddings is not None:
            write_embeddings(temporary / _EMBEDDINGS, _on_disk(embeddings))
        sums = {name: zlib.crc32(content) for name, content in files.items()}
        (temporary / _SUMS).write_text(json.dumps(sums), encoding="utf-8")


def check_finite(embeddings: Embeddings) -> None:
    """Refuse embeddings that are no numbers.

    Raises:
        ValueError: If one is NaN or infinite.
    """
    if not are_finite(_on_disk(embeddings)):
        raise ValueError("expected finite embeddings to keep in an index, got NaN or infinity")


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A segment that was read: ids and columns of its postings, where they are, and their embeddings if it has them."""

    ids: Sequence[str]
    columns: Columns
    embeddings: Embeddings | None
    lines: NDArray[np.uint8]
    starts: Sequence[int]

    def posting(self, row: int) -> Posting:
        """Return the posting of a row."""
        return Posting(**json.loads(self.lines[self.starts[row] : self.starts[row + 1]].tobytes()))


def read_segment(folder: Path, *, embedded: bool = True) -> Segment:
    """Open a segment, with its embeddings or without; these and the postings are memory-mapped.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is not what was written; it is named.
    """
    sums = read_object(folder / _SUMS)
    has_lines = (folder / _POSTINGS).stat().st_size > 0  # nothing cannot be mapped
    lines: NDArray[np.uint8] = np.memmap(folder / _POSTINGS, mode="r") if has_lines else np.zeros(0, np.uint8)
    table = (folder / _TABLE).read_bytes()
    for name, content in ((_POSTINGS, lines.data), (_TABLE, memoryview(table))):
        if zlib.crc32(content) != sums.get(name):
            raise ValueError(f"{folder / name} is not what was written, by {_SUMS}")
    known = json.loads(table)
    codes = {name: np.array(numbers, np.int32) for name, numbers in known["codes"].items()}
    columns = Columns(len(known["ids"]), known["values"], codes)
    embeddings = _embeddings(folder / _EMBEDDINGS) if embedded else None
    return Segment(known["ids"], columns, embeddings, lines, known["starts"])


def _embeddings(path: Path) -> Embeddings:
    try:
        found = read_embeddings(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return torch.from_numpy(found) if isinstance(found, np.ndarray) else found


def _on_disk(embeddings: Embeddings) -> Written:
    return embeddings.cpu().numpy() if isinstance(embeddings, torch.Tensor) else embeddings


def _line(posting: Posting) -> bytes:
    return json.dumps({**asdict(posting), "metadata": dict(posting.metadata)}).encode()
