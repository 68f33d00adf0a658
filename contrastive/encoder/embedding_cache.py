"""Embeddings on disk: what was embedded once is read back, and an interrupted encoding goes on where it stopped.

Notable decisions:

- They stand in a `data.store.Store`, whose rules hold: complete or absent, one process computes, the oldest make room.
- The key has the weights, the tokenizers, `encoder.settings`, the side, and the texts in their order. The kind of
  network is taken to go with the weights. The device and the sizes of micro-batches, which move the last bits of an
  embedding, are not in it.
- Long lists are encoded in parts (`in_parts`), and files are checked when they are opened (`embedding_files`). What is
  not finite is not kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from contrastive.contracts import Side, TextEncoder
from contrastive.data.store import Store, key_of, user_folder
from contrastive.data.texts import check_texts
from contrastive.encoder.compression import compression_of
from contrastive.encoder.embedding_files import Embeddings, are_finite, read_embeddings, write_embeddings
from contrastive.encoder.in_parts import PART, encode_in_parts
from contrastive.encoder.tokens import fingerprint
from contrastive.similarity import TermWeights, TokenVectors, of_tokens, similarity_of

_log = logging.getLogger(__name__)


def default_folder() -> Path:
    """Return the folder of embeddings in the user's cache folder, `$XDG_CACHE_HOME` or else `~/.cache`."""
    return user_folder("embeddings")


class KeyedEncoder(TextEncoder, Protocol):
    """A text encoder that says what its embeddings depend on.

    `settings` holds, as plain values, what beside the weights in `state_dict` decides the embedding of a text. It need
    not name a `tokenizer` of transformers, which is an attribute of the encoder, or of its towers `query` and
    `document`, nor what their `padding` does.
    """

    @property
    def dimension(self) -> int:
        """Width D of an embedding."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its embeddings are made."""
        ...

    @property
    def settings(self) -> Mapping[str, object]:
        """Pooling, prompts, maximum length and the like."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the weights by name."""
        ...


class EmbeddingCache:
    """Embeds lists of texts, each once for as long as its file is there.

    Args:
        folder: Where the files are; made when there is something to write.
        part_size: Texts encoded at a time; an interruption loses at most so many. A 16th where a text has several
            vectors.
        max_bytes: Size of the folder beyond which the files used least recently are deleted.

    Raises:
        ValueError: If `part_size` is below 1.

    Example:
        >>> import tempfile
        >>> from contrastive.encoder import Encoder, embedded_minilm
        >>> encoder = Encoder.from_pretrained(embedded_minilm())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = EmbeddingCache(folder)
        ...     first = cache.embed(encoder, ["a nurse", "a cook"], side="document")
        ...     again = cache.embed(encoder, ["a nurse", "a cook"], side="document")  # read, not computed
        ...     bool((first == again).all())
        True
    """

    def __init__(self, folder: str | Path, *, part_size: int = PART, max_bytes: int = 8 << 30) -> None:
        if part_size < 1:
            raise ValueError(f"expected part_size of at least 1, got {part_size}")
        self.folder = Path(folder)
        self.part_size = part_size
        self._store = Store(
            self.folder, ".npy", read_embeddings, write_embeddings, worth=are_finite, max_bytes=max_bytes
        )

    def embed(
        self, encoder: KeyedEncoder, texts: Sequence[str], *, side: Side, show_progress: bool = False
    ) -> Embeddings:
        """Return the embeddings of texts, [B, D] in their order, from the disk or computed and kept there.

        What is read is memory-mapped. The array may be changed; that does not reach the file. Of several vectors a text
        they are `TokenVectors` on the CPU, those of documents in half precision or as the encoder's `compression` says;
        of documents that weigh terms `TermWeights`.

        Args:
            encoder: What to embed with.
            texts: Any number of texts; equal ones are encoded once.
            side: Which prompt to use.
            show_progress: Show a progress bar.

        Raises:
            TypeError: If `texts` is one string, or holds something other than strings.
        """
        check_texts(texts)
        if len(texts) == 0:
            return _none(encoder)
        key = embedding_key(encoder, texts, side=side)
        found = self._store.find_or_make(key, lambda: self._encode(encoder, texts, key, side, show_progress))
        if found.seconds is None:
            _log.info("%s %s embeddings from the cache in %s", f"{len(texts):,}", side, self.folder)
        elif found.kept:
            what = f"{len(texts):,} {'queries' if side == 'query' else 'documents'}"
            _log.info("%s embedded in %.0f s and cached in %s", what, found.seconds, self.folder)
        return found.value

    def _encode(
        self, encoder: KeyedEncoder, texts: Sequence[str], key: str, side: Side, show_progress: bool
    ) -> Embeddings:
        """Encode the texts that are not there yet."""
        return encode_in_parts(encoder, texts, side, show_progress, self.part_size, partial(self._store.part, key))


def embeddings_of(
    encoder: TextEncoder,
    texts: Sequence[str],
    *,
    side: Side,
    cache: EmbeddingCache | None = None,
    show_progress: bool = False,
) -> Tensor | TokenVectors | TermWeights:
    """Return the embeddings of texts where the encoder is, [B, D]: from a cache, or computed anew without one.

    Of several vectors a text they are `TokenVectors`, those of documents on the CPU, in half precision or as the
    encoder's `compression` says. Documents that weigh terms are `TermWeights`.

    Raises:
        ValueError: If there is a cache, and the encoder is no `KeyedEncoder`; or if it has a `compression` that cannot
            be.
    """
    compression_of(encoder)
    packed = side == "document" and (of_tokens(similarity_of(encoder)) or getattr(encoder, "lexical", False))
    if cache is None and packed and len(texts):
        check_texts(texts)
        found = encode_in_parts(encoder, texts, side, show_progress)
    elif cache is None:
        embeddings: Tensor | TokenVectors = encoder.encode(
            texts, side=side, show_progress=show_progress, as_numpy=False
        )
        return embeddings
    else:
        found = cache.embed(check_keyed(encoder), texts, side=side, show_progress=show_progress)
    if side == "document" and isinstance(found, TokenVectors):
        return found
    device = check_keyed(encoder).device
    return torch.from_numpy(found).to(device) if isinstance(found, np.ndarray) else found.to(device)


def check_keyed(encoder: TextEncoder) -> KeyedEncoder:
    """Return an encoder that says what its embeddings depend on; refuse another.

    Raises:
        ValueError: If it lacks a member of `KeyedEncoder` that a key is made of.
    """
    if not all(hasattr(encoder, name) for name in ("dimension", "settings", "state_dict")):
        raise ValueError(
            f"expected an encoder that says what its embeddings depend on, with dimension, settings and state_dict, to "
            f"keep what it finds; got {type(encoder).__name__}"
        )
    return encoder  # type: ignore[return-value]


def embedding_key(encoder: KeyedEncoder, texts: Iterable[str], *, side: Side) -> str:
    """Return the key under which the embeddings of texts are kept.

    It differs if the weights, their precision, a tokenizer, a setting, the side, a text or the order of the texts does.
    """
    # How embeddings are compared does not decide them; how documents are kept, not what queries are.
    apart = {"similarity"} if side == "document" else {"similarity", "compression"}
    settings = {name: value for name, value in encoder.settings.items() if name.split(".")[-1] not in apart}
    towers = [getattr(encoder, tower, encoder) for tower in ("query", "document")]
    described: dict[str, object] = {
        "version": 3,
        "side": side,
        "dimension": encoder.dimension,
        "settings": settings,
        "padding": [getattr(tower, "padding", True) for tower in towers],  # done without where it changes embeddings
        "tokenizers": [fingerprint(tower.tokenizer) for tower in towers if hasattr(tower, "tokenizer")],
    }
    if side == "document" and getattr(encoder, "lexical", False):
        described["kept"] = "terms that weigh something"
    return key_of(described, chain(weight_parts(encoder.state_dict()), texts))


def weight_parts(weights: Mapping[str, Tensor]) -> Iterator[str | memoryview]:
    """Yield the names, kinds, shapes and values of weights, for `key_of`."""
    for name, tensor in sorted(weights.items()):
        yield f"{name} {tensor.dtype} {list(tensor.shape)}"
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _none(encoder: KeyedEncoder) -> Embeddings:
    """Return the embeddings of no text."""
    if of_tokens(similarity_of(encoder)):
        return TokenVectors(torch.zeros(0, encoder.dimension), torch.zeros(1, dtype=torch.long))
    return np.zeros((0, encoder.dimension), np.float32)
