"""Encoding long lists of texts part by part, and what of each part is kept.

Notable decisions:

- Long lists are encoded in parts. Each is one call of the encoder, which sorts by length within it.
- Of several vectors a text, those of documents are kept as they are compared, in half precision, and stay where the
  processor reads them: they are most of the bytes, and a score is an average of products with errors of 1e-4. They are
  rounded without a cache too, so that a score does not depend on whether there is one. An encoder that says so has them
  in fewer bytes (`compression`), and never more than a part of them in half precision.
- Of documents whose embeddings weigh terms, what is not 0 is kept.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from contrastive.contracts import Side, TextEncoder
from contrastive.data.store import Found
from contrastive.encoder.compression import compress, compression_of
from contrastive.encoder.embedding_files import Embeddings
from contrastive.encoder.micro_batches import positions
from contrastive.similarity import Codec, TermWeights, TokenVectors, of_tokens, similarity_of

_log = logging.getLogger(__name__)

PART = 4096
"""Texts encoded at a time."""

_VECTORS_A_TEXT = 16
"""Of encoders that make several vectors a text, a part has so many times fewer texts."""


def encode_in_parts(
    encoder: TextEncoder,
    texts: Sequence[str],
    side: Side,
    show_progress: bool,
    part_size: int = PART,
    find_or_make: Callable[[str, Callable[[], Embeddings]], Found[Embeddings]] | None = None,
) -> Embeddings:
    """Encode distinct texts part by part, and put them into the order of the texts; at least one.

    Args:
        encoder: What to embed with.
        texts: The texts.
        side: Which prompt to use.
        show_progress: Show a progress bar.
        part_size: Texts encoded at a time, see `EmbeddingCache`.
        find_or_make: Keeps what is made under a name, one of several parts; None keeps nothing.

    Raises:
        ValueError: If documents are to be compressed and cannot be.
    """
    distinct = list(dict.fromkeys(texts))
    if of_tokens(similarity_of(encoder)):
        part_size = max(1, part_size // _VECTORS_A_TEXT)
    several = len(distinct) > part_size
    if several and side == "document" and compression_of(encoder) is not None:
        number = -(-len(distinct) // part_size)  # what is fitted to the first part is to suit all
        distinct = [text for start in range(number) for text in distinct[start::number]]
    parts: list[Embeddings] = []
    before = 0
    hidden = not (show_progress and several)
    with tqdm(total=len(distinct), desc="embedding", unit=" texts", disable=hidden, leave=False) as bar:
        for start in range(0, len(distinct), part_size):
            part, codec = distinct[start : start + part_size], _codec(parts)
            encode = partial(_encoded, encoder, part, side, codec, show_progress)
            if several and find_or_make is not None:
                found = find_or_make(f"{start}-{start + len(part)}{_mark(codec)}", encode)
                before += len(part) if found.seconds is None else 0
                parts.append(found.value)
            else:
                parts.append(encode())
            bar.update(len(part))
    if before:
        _log.info("%s of them had been embedded before an interruption", f"{before:,}")
    embeddings = _joined(parts)
    if distinct == list(texts):
        return embeddings
    rows = positions(distinct, texts)
    return embeddings[rows] if isinstance(embeddings, np.ndarray) else embeddings[torch.from_numpy(rows)]


def _encoded(
    encoder: TextEncoder, texts: Sequence[str], side: Side, codec: Codec | None, show_progress: bool
) -> Embeddings:
    embeddings: Tensor | TokenVectors = encoder.encode(texts, side=side, show_progress=show_progress, as_numpy=False)
    compression = compression_of(encoder) if side == "document" else None
    if isinstance(embeddings, TokenVectors):
        vectors = embeddings.vectors
        if side == "document":
            vectors = similarity_of(encoder).prepare(vectors)
            if compression is not None:
                compressed = compress(TokenVectors(vectors, embeddings.offsets), compression, codec)
                return compressed.to(torch.device("cpu"))
            vectors = vectors.half()
        return TokenVectors(vectors.cpu(), embeddings.offsets)
    if side == "document" and getattr(encoder, "lexical", False):
        return TermWeights.of(embeddings.float()).to(torch.device("cpu"))
    array: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = embeddings.float().cpu().numpy()
    return array


def _codec(parts: Sequence[Embeddings]) -> Codec | None:
    """Return what has written the parts before, if there is any."""
    first = parts[0] if parts else None
    return first.codec if isinstance(first, TokenVectors) else None


def _mark(codec: Codec | None) -> str:
    """Return what tells the parts that one codec wrote from those of another, fitted on another machine."""
    return "" if codec is None else f"-{zlib.crc32(codec.of_documents.cpu().numpy().tobytes()):08x}"


def _joined(parts: Sequence[Embeddings]) -> Embeddings:
    if isinstance(parts[0], TokenVectors):
        return TokenVectors.join(parts)  # type: ignore[arg-type]
    return TermWeights.join(parts) if isinstance(parts[0], TermWeights) else np.concatenate(parts)  # type: ignore[arg-type]
