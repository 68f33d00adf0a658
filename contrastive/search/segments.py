"""Segments of an index on disk: some postings, their columns and their embeddings, written once and never changed.

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
from contrastive.search.exact import Part
from contrastive.similarity import Embeddings

SIZE = 4096
"""Postings of a segment at most: what a killed build loses, and what is in memory while one is built."""

_POSTINGS, _TABLE, _EMBEDDINGS, _SUMS = "postings.jsonl", "table.json", "embeddings.npy", "sums.json"


def segment_name(model: str, postings: Sequence[Posting]) -> str:
    """Return the name of the segment that a model makes of postings."""
    return key_of({"segment": 1, "model": model}, map(_line, postings))[:32]


def write_segment(folder: Path, postings: Sequence[Posting], embeddings: Embeddings) -> None:
    """Write a segment.

    Raises:
        OSError: If it cannot be written, such as on a full disk; nothing is left of it.
        ValueError: If an embedding is not finite.
    """
    on_disk: Written = embeddings.numpy() if isinstance(embeddings, torch.Tensor) else embeddings
    if not are_finite(on_disk):
        raise ValueError("expected finite embeddings to keep in an index, got NaN or infinity")
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
        write_embeddings(temporary / _EMBEDDINGS, on_disk)
        sums = {name: zlib.crc32(content) for name, content in files.items()}
        (temporary / _SUMS).write_text(json.dumps(sums), encoding="utf-8")


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A segment that was read: what an engine needs of it, and where its postings are."""

    part: Part
    lines: NDArray[np.uint8]
    starts: Sequence[int]

    def posting(self, row: int) -> Posting:
        """Return the posting of a row."""
        return Posting(**json.loads(self.lines[self.starts[row] : self.starts[row + 1]].tobytes()))


def read_segment(folder: Path) -> Segment:
    """Open a segment; its embeddings and postings are memory-mapped.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is not what was written; it is named.
    """
    sums = read_object(folder / _SUMS)
    lines: NDArray[np.uint8] = np.memmap(folder / _POSTINGS, mode="r")
    table = (folder / _TABLE).read_bytes()
    for name, content in ((_POSTINGS, lines.data), (_TABLE, memoryview(table))):
        if zlib.crc32(content) != sums.get(name):
            raise ValueError(f"{folder / name} is not what was written, by {_SUMS}")
    known = json.loads(table)
    codes = {name: np.array(numbers, np.int32) for name, numbers in known["codes"].items()}
    columns = Columns(len(known["ids"]), known["values"], codes)
    try:
        found = read_embeddings(folder / _EMBEDDINGS)
    except ValueError as error:
        raise ValueError(f"{folder / _EMBEDDINGS}: {error}") from error
    embeddings: Embeddings = torch.from_numpy(found) if isinstance(found, np.ndarray) else found
    return Segment(Part(known["ids"], embeddings, columns), lines, known["starts"])


def _line(posting: Posting) -> bytes:
    return json.dumps({**asdict(posting), "metadata": dict(posting.metadata)}).encode()
