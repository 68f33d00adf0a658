"""Files of embeddings: an array in numpy's format, which is memory-mapped, what goes with it, and a checksum.

The array is embeddings [B, D]; or vectors [N, D] of several a text, or what a codec made of them; or the terms and the
bits of the weights of texts, [2, N]. After it stand the number of vectors of each text, or, where there is more to say,
numpy's archive of named arrays.

A file ends in a CRC-32 of all before it, which is compared when it is opened: 1 s for each GB. Zeros where a disk lost
something are not taken for embeddings.
"""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contrastive.similarity import Codec, TermWeights, TokenVectors, finite_texts

Embeddings = NDArray[np.float32] | TokenVectors | TermWeights

_CHECKSUM = 4
"""Bytes of it."""

_ARCHIVE = b"PK"
"""How an archive begins; as a number of vectors it would be more than a disk holds."""


def read_embeddings(path: Path) -> Embeddings:
    """Read what `write_embeddings` wrote, memory-mapped; it may be changed, which does not reach the file.

    Raises:
        ValueError: If it is not what was written.
    """
    # Copy on write: a read-only array cannot become a tensor without a warning.
    array: NDArray[np.float32] = np.lib.format.open_memmap(path, mode="c")
    with path.open("rb") as file:
        header = file.read(array.offset)  # type: ignore[attr-defined]
        file.seek(array.nbytes, os.SEEK_CUR)
        rest = file.read()
    beside, checksum = rest[:-_CHECKSUM], rest[-_CHECKSUM:]
    if checksum != _checksum(header, array.data, beside):
        raise ValueError("it is not what was written")
    if not beside:
        return array
    if beside[: len(_ARCHIVE)] != _ARCHIVE:
        return TokenVectors.of_lengths(torch.from_numpy(array), torch.from_numpy(np.frombuffer(beside, "<i8").copy()))
    return _unpacked(torch.from_numpy(array), beside)


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write embeddings, which are on the CPU, to a file."""
    array, beside = _packed(embeddings)
    array = np.ascontiguousarray(array)
    with path.open("w+b") as file:
        np.save(file, array)
        header = file.tell() - array.nbytes
        file.seek(0)
        checksum = _checksum(file.read(header), array.data, beside)
        file.seek(0, os.SEEK_END)
        file.write(beside + checksum)


def are_finite(embeddings: Embeddings) -> bool:
    """Whether no embedding is NaN or infinite."""
    if isinstance(embeddings, np.ndarray):
        return bool(np.isfinite(embeddings).all())
    return bool(finite_texts(embeddings).all())


def _packed(embeddings: Embeddings) -> tuple[NDArray[np.generic], bytes]:
    """Return the array of embeddings, and what is to stand beside it."""
    if isinstance(embeddings, TermWeights):
        array = torch.stack([embeddings.terms, embeddings.weights.float().view(torch.int32)])
        width = torch.tensor(embeddings.width)
        return array.numpy(), _archive(lengths=embeddings.offsets.diff(), width=width)
    if not isinstance(embeddings, TokenVectors):
        return embeddings, b""
    codec = embeddings.codec
    if codec is None:
        return embeddings.vectors.numpy(), embeddings.lengths.numpy().astype("<i8").tobytes()
    matrices = {"of_documents": codec.of_documents, "of_queries": codec.of_queries}
    return embeddings.vectors.numpy(), _archive(lengths=embeddings.lengths, bits=torch.tensor(codec.bits), **matrices)


def _archive(**arrays: Tensor) -> bytes:
    written = io.BytesIO()
    np.savez(written, allow_pickle=False, **{name: array.cpu().numpy() for name, array in arrays.items()})
    return written.getvalue()


def _unpacked(array: Tensor, beside: bytes) -> Embeddings:
    with np.load(io.BytesIO(beside)) as archive:
        named = {name: torch.from_numpy(archive[name]) for name in archive.files}
    if "width" in named:
        terms, bits = array
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), named["lengths"].cumsum(0)])
        return TermWeights(terms, bits.view(torch.float32), offsets, int(named["width"]))
    codec = Codec(int(named["bits"]), named["of_documents"], named["of_queries"])
    return TokenVectors.of_lengths(array, named["lengths"], codec)


def _checksum(header: bytes, vectors: memoryview, beside: bytes) -> bytes:
    return zlib.crc32(beside, zlib.crc32(vectors, zlib.crc32(header))).to_bytes(_CHECKSUM, "little")
