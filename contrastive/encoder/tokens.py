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
import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch.nn import Module

from contrastive.data.store import key_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = NDArray[np.int32]
"""Token ids of a text, [T], or [1 + F, T] with its further inputs below them."""

_ALWAYS = ("input_ids", "attention_mask")
_MOST_TOKENS = 1 << 25
"""Tokens that are kept, of all tokenizers together: 128 MiB, enough for 200,000 texts of 170 tokens."""

_AT_ONCE = 1024
"""Texts given to a tokenizer at once: what it returns takes some 17 kB a posting of 80 words, its ids 0.3."""

_kept: dict[bytes, list[Row]] = {}
_room = _MOST_TOKENS
_fingerprints: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, str]] = WeakKeyDictionary()


def cached_token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int, further: Sequence[str] = ()
) -> list[Row]:
    """Return the first window of each text, see `cached_windows`: what `max_length` leaves of it."""
    return [windows[0] for windows in cached_windows(tokenizer, texts, max_length=max_length, further=further)]


def cached_windows(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
    further: Sequence[str] = (),
    whole: bool = False,
) -> list[list[Row]]:
    """Return what `token_rows` does, in arrays that must not be changed; see the module.

    Args:
        tokenizer: Its rules must not change after its first use here; tokens may be added.
        texts: Any number of texts.
        max_length: Tokens of a window at most, special ones included.
        further: Inputs of the model besides the ids.
        whole: Whether what is left of a text goes into further windows, each with special tokens of its own; or is cut.
    """
    global _room
    described = [fingerprint(tokenizer), str(max_length), str(whole), *further]
    start = blake2b(" ".join(described).encode()).digest()
    keys = [blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=start).digest() for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in _kept}
    made = _windows(tokenizer, list(missing.values()), max_length, further, whole=whole) if missing else []
    fresh = dict(zip(missing, made, strict=True))
    for key, windows in fresh.items():
        size = sum(window.size for window in windows)
        if size <= _room:
            _room -= size
            _kept[key] = windows
    return [_kept[key] if key in _kept else fresh[key] for key in keys]


def token_rows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int | None, further: Sequence[str] = ()
) -> list[Row]:
    """Return the token ids of each text and, where they are not all 0, its F `further` inputs; see `further_inputs`.

    At least one token and at most `max_length` (None: all), special ones included.
    """
    return [windows[0] for windows in _windows(tokenizer, texts, max_length, further)]


def _windows(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int | None,
    further: Sequence[str],
    *,
    whole: bool = False,
) -> list[list[Row]]:
    """Return the windows of each text, see `cached_windows`; some texts are read at a time."""
    some = (texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE))
    return [windows for part in some for windows in _read(tokenizer, part, max_length, further, whole=whole)]


def _read(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int | None,
    further: Sequence[str],
    *,
    whole: bool,
) -> list[list[Row]]:
    """Return the windows of each text."""
    encoded: Any = tokenizer(
        # Tokenizers refuse a lone surrogate (half an emoji, out of JSON that was cut); it becomes "?".
        [text.encode("utf-8", "replace").decode("utf-8") for text in texts],
        truncation=max_length is not None,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids="token_type_ids" in further,
        return_overflowing_tokens=whole,
        verbose=False,
    )
    windows: list[list[Row]] = [[] for _ in texts]
    owners = encoded["overflow_to_sample_mapping"] if whole else range(len(texts))
    for owner, ids, *others in zip(owners, encoded["input_ids"], *(encoded[name] for name in further), strict=True):
        # Without special tokens "" has no token at all, and attention over nothing is NaN.
        row = np.array([ids, *others] if ids else [[padding_id(tokenizer)]], dtype=np.int32)
        windows[owner].append(row if row[1:].any() else row[0])
    return windows


def whole_token_counts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Count the tokens of texts that are not cut, and leave the tokenizer as it was."""
    if not texts:
        return []
    # A fast tokenizer keeps the truncation of its last call, and saves it.
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    before = None if backend is None else backend.truncation
    counts = [len(row) for row in token_rows(tokenizer, texts, max_length=None)]
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


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest that differs between tokenizers that may give other ids, the same one in every process.

    Its rules must not change after the first call; tokens may be added.
    """
    size = len(tokenizer)
    if _fingerprints.get(tokenizer, (-1, ""))[0] != size:
        _fingerprints[tokenizer] = size, key_of([type(tokenizer).__qualname__, _rules(tokenizer)])
    return _fingerprints[tokenizer][1]


def _rules(tokenizer: PreTrainedTokenizerBase) -> object:
    """Return all that a tokenizer says of itself but how it cut and padded last, which whoever calls it decides."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [tokenizer.get_vocab(), repr(sorted(tokenizer.init_kwargs.items()))]
    described = json.loads(backend.to_str())
    return {name: value for name, value in described.items() if name not in ("truncation", "padding")}
