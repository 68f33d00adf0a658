"""How many tokens texts have, and what of them a maximum length leaves: a text is cut without a word otherwise.

Lengths include prompts and special tokens, as `max_length` does. Token ids come from the cache that training reads them
from; only texts that fill `max_length` are tokenised a second time, whole, and not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contrastive.contracts import Side
from contrastive.encoder.backbone import positions_of
from contrastive.encoder.encoder import Encoder
from contrastive.encoder.tokens import cached_token_ids, whole_token_counts
from contrastive.encoder.two_towers import TwoTowers


@dataclass(frozen=True, slots=True)
class Truncation:
    """How long different texts are, and what is cut off them.

    Attributes:
        texts: How many texts were measured.
        max_length: Tokens that are kept of a text, or read of it at a time: nothing is cut off a document then.
        median: Tokens of the middle one.
        longest: Tokens of the longest.
        cut: Share of the texts that are longer than `max_length`.
        lost: Share of all their tokens that is cut off.
        alike: How many of those that are cut have the same tokens left as another one.
    """

    texts: int
    max_length: int
    median: int
    longest: int
    cut: float
    lost: float
    alike: int


def truncation(encoder: Any, texts: Sequence[str], side: Side) -> Truncation | None:
    """Measure texts with the tokenizer that an encoder embeds them with; None if it has none, or there are no texts.

    Args:
        encoder: An encoder, or two towers.
        texts: Any number of texts; equal ones count once.
        side: Which prompt they get, and which tower.
    """
    tower = tower_of(encoder, side)
    if tower is None or not texts:
        return None
    most = tower.length(side)
    is_whole = side == "document" and tower.head.windows
    prompted = [tower.prompt(side) + text for text in dict.fromkeys(texts)]
    kept = cached_token_ids(tower.tokenizer, prompted, max_length=most)
    full = [place for place, ids in enumerate(kept) if len(ids) >= most]
    counts = np.array([len(ids) for ids in kept])
    counts[full] = whole_token_counts(tower.tokenizer, [prompted[place] for place in full])
    cut = np.flatnonzero(counts > most)[: 0 if is_whole else None]
    return Truncation(
        texts=len(prompted),
        max_length=most,
        median=int(np.median(counts)),
        longest=int(counts.max()),
        cut=len(cut) / len(prompted),
        lost=float((counts[cut] - most).sum() / counts.sum()),
        alike=len(cut) - len({kept[place].tobytes() for place in cut}),
    )


def check_told_apart(encoder: Any, texts: Sequence[str], side: Side) -> None:
    """Refuse a side of which only the common beginning of all texts is read: every text would have one embedding.

    Raises:
        ValueError: If there are several texts, all are cut, and the same tokens are left of each.
    """
    found, tower = truncation(encoder, texts, side), tower_of(encoder, side)
    if tower is None or found is None or found.texts < 2 or found.alike < found.texts - 1:
        return
    most = tower.length(side)
    prompt = len(cached_token_ids(tower.tokenizer, [tower.prompt(side)], max_length=most)[0])
    why = f"{side}_prompt alone fills them: shorten it" if prompt >= most else "they begin alike"
    option = "query_length" if side == "query" and tower.query_length is not None else "max_length"
    raise ValueError(
        f"expected {'queries' if side == 'query' else 'documents'} that differ in their first {most} "
        f"tokens, got {found.texts} that do not; {why}, or raise encoder.{option}"
        + ("" if (limit := positions_of(tower.backbone)) is None else f" (the model has positions for {limit})")
    )


def tower_of(encoder: Any, side: Side) -> Encoder | None:
    """Return what embeds a side: the encoder itself, one of two towers, or None if it is of another kind."""
    return encoder.tower(side) if isinstance(encoder, Encoder | TwoTowers) else None
