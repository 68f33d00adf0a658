"""The token ids of texts, made once a process: a text comes again in every epoch, validation and job of a sweep.

Notable decisions:

- Two tokenizers that do the same share what was made, however often a model is loaded.
- A text is known by a digest, so that texts which a reader keeps on disk are not kept in memory here.
- When the room is used up, what is there stays and further texts are tokenised each time. Epochs visit all texts in
  turn, so throwing out the oldest would throw out just what comes next.

Shape letters: T tokens of a text, F further inputs of a token.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch.nn import Module

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = NDArray[np.int32]
"""Token ids of a text, [T], or [1 + F, T] with its further inputs below them."""

_ALWAYS = ("input_ids", "attention_mask")
_MOST_TOKENS = 1 << 25
"""Tokens that are kept, of all tokenizers together: 128 MiB, enough for 200,000 texts of 170 tokens."""

_kept: dict[bytes, Row] = {}
_room = _MOST_TOKENS
_fingerprints: WeakKeyDictionary[PreTrainedTokenizerBase, bytes] = WeakKeyDictionary()


def cached_token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int, further: Sequence[str] = ()
) -> list[Row]:
    """Return what `token_rows` does, in arrays that must not be changed; see the module.

    Args:
        tokenizer: Its rules must not change after its first use here; tokens may be added.
        texts: Any number of texts.
        max_length: Tokens a text is cut to, special ones included.
        further: Inputs of the model besides the ids.
    """
    global _room
    start = blake2b(_fingerprint(tokenizer) + " ".join(["", str(max_length), *further]).encode()).digest()
    keys = [blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=start).digest() for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in _kept}
    made = token_rows(tokenizer, list(missing.values()), max_length=max_length, further=further) if missing else []
    fresh = dict(zip(missing, made, strict=True))
    for key, row in fresh.items():
        if row.size <= _room:
            _room -= row.size
            _kept[key] = row
    return [_kept[key] if key in _kept else fresh[key] for key in keys]


def token_rows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int, further: Sequence[str] = ()
) -> list[Row]:
    """Return the token ids of each text and, where they are not all 0, its F `further` inputs; see `further_inputs`."""
    if not further:
        return [np.array(ids, dtype=np.int32) for ids in token_ids(tokenizer, texts, max_length=max_length)]
    encoded = _encoded(tokenizer, texts, max_length, token_types="token_type_ids" in further)
    rows = []
    for ids, *others in zip(encoded["input_ids"], *(encoded[name] for name in further), strict=True):
        row = np.array([ids, *others] if ids else [[padding_id(tokenizer)]], dtype=np.int32)
        rows.append(row if row[1:].any() else row[0])
    return rows


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int | None) -> list[list[int]]:
    """Return the token ids of each text, at least one and at most `max_length` (None: all), special ones included."""
    encoded = _encoded(tokenizer, texts, max_length)
    # Without special tokens "" has no token at all, and attention over nothing is NaN.
    return [ids or [padding_id(tokenizer)] for ids in encoded["input_ids"]]


def whole_token_counts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Count the tokens of texts that are not cut, and leave the tokenizer as it was."""
    if not texts:
        return []
    # A fast tokenizer keeps the truncation of its last call, by which the cache of token ids tells it from others.
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    before = None if backend is None else backend.truncation
    counts = [len(ids) for ids in token_ids(tokenizer, texts, max_length=None)]
    if before is not None:
        backend.enable_truncation(**before)
    return counts


def further_inputs(backbone: Module, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return what the tokenizer lists and gives for a text besides ids and mask, and the model takes: token types.

    XLNet and Funnel tell their special tokens from others by it; most models are given zeros.
    """
    accepted = inspect.signature(backbone.forward).parameters
    listed = [name for name in tokenizer.model_input_names if name in accepted and name not in _ALWAYS]
    given = tokenizer("a") if listed else {"input_ids": []}
    shape = np.shape(given["input_ids"])
    return tuple(name for name in listed if name in given and np.shape(given[name]) == shape)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id to pad with."""
    # Masked, so any id will do for a tokenizer that has no padding token.
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def _encoded(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None, *, token_types: bool = False
) -> Any:
    return tokenizer(
        # Tokenizers refuse a lone surrogate (half an emoji, out of JSON that was cut); it becomes "?".
        [text.encode("utf-8", "replace").decode("utf-8") for text in texts],
        truncation=max_length is not None,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=token_types,
        verbose=False,
    )


def _fingerprint(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """Return bytes that differ between tokenizers that may give other ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if tokenizer not in _fingerprints:
        # Without a description in one piece, a tokenizer shares with nobody but itself.
        described = os.urandom(16) if backend is None else f"{type(tokenizer).__name__} {backend.to_str()}".encode()
        _fingerprints[tokenizer] = blake2b(described, digest_size=16).digest()
    size = 0 if backend is None else backend.get_vocab_size()
    return _fingerprints[tokenizer] + f" {size}".encode()
