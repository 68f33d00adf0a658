"""Token ids of texts, made once a process: a text comes again in every epoch, validation and job of a sweep.

Notable decisions:

- Two tokenizers that do the same share what was made, however often a model is loaded.
- A text is known by a digest, so that texts which a reader keeps on disk are not kept in memory here.
- When the room is used up, what is there stays and further texts are tokenised each time. Epochs visit all texts in
  turn, so throwing out the oldest would throw out just what comes next.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from contrastive.data.store import key_of
from contrastive.encoder.micro_batches import Row, token_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_TOKENS = 1 << 25
"""Tokens that are kept, of all tokenizers together: 128 MiB, enough for 200,000 texts of 170 tokens."""

_kept: dict[bytes, Row] = {}
_room = _MOST_TOKENS
_fingerprints: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, str]] = WeakKeyDictionary()


def cached_token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int, further: Sequence[str] = ()
) -> list[Row]:
    """Return what `micro_batches.token_rows` does, in arrays that must not be changed; see the module.

    Args:
        tokenizer: Its rules must not change after its first use here; tokens may be added.
        texts: Any number of texts.
        max_length: Tokens a text is cut to, special ones included.
        further: Inputs of the model besides the ids.
    """
    global _room
    start = blake2b(" ".join([fingerprint(tokenizer), str(max_length), *further]).encode()).digest()
    keys = [blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=start).digest() for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in _kept}
    made = token_rows(tokenizer, list(missing.values()), max_length=max_length, further=further) if missing else []
    fresh = dict(zip(missing, made, strict=True))
    for key, row in fresh.items():
        if row.size <= _room:
            _room -= row.size
            _kept[key] = row
    return [_kept[key] if key in _kept else fresh[key] for key in keys]


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
