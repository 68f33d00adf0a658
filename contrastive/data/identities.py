"""Which texts are one: those that share a string id or a normalised text, directly or through others.

A text or id stands here as a digest of 64 bits, so that the texts of a large file need not stay in memory. Among ten
million texts the chance that any two have the same digest is about three in a million, and then one of them is not
used as a negative of the other's query.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from contrastive.masks import normalise_text

Digests = NDArray[np.uint64]
Numbers = NDArray[np.int64]


def digest(value: str, kind: bytes = b"") -> int:
    """Return 64 bits that stand for a string; the same string of another kind has others."""
    hashed = hashlib.blake2b(value.encode(errors="surrogatepass"), digest_size=8, person=kind)
    return int.from_bytes(hashed.digest(), "little")


def text_digest(text: str) -> int:
    """Return 64 bits that stand for a normalised text."""
    return digest(normalise_text(text))


def scrambled(keys: Digests) -> Digests:
    """Map 64-bit numbers to others that look drawn, no two to one (the finaliser of SplitMix64, Steele et al. 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
    return keys ^ (keys >> np.uint64(31))


def components(count: int, left: Numbers, right: Numbers) -> Numbers:
    """Return, for each of `count` things, the least of all those that the edges `left[i]` - `right[i]` tie it to.

    Example:
        >>> components(5, np.array([4, 1]), np.array([1, 3])).tolist()
        [0, 1, 2, 1, 1]
    """
    least = np.arange(count)
    while True:
        ends = np.stack([least[left], least[right]])
        if (ends[0] == ends[1]).all():
            return least
        np.minimum.at(least, ends.max(axis=0), ends.min(axis=0))
        while (least[least] != least).any():
            least = least[least]


class Items:
    """String ids and texts in the order they came, kept as digests; what `Identities` are made from."""

    def __init__(self) -> None:
        self._names = array("Q")
        self._texts = array("Q")

    def add(self, name: str, text: str | None) -> int:
        """Take in an item, of which the name may be empty or the text unknown; return its place."""
        self._names.append(digest(name, b"id") if name else 0)
        self._texts.append(0 if text is None else text_digest(text))
        return len(self._names) - 1

    def digests(self) -> tuple[Digests, Digests]:
        """Return the digests of names and of texts, 0 where there is none."""
        return np.frombuffer(self._names, np.uint64), np.frombuffer(self._texts, np.uint64)


class Identities:
    """Gives one integer to all texts that share a string id or a normalised text, directly or through others.

    Integers count up from 0 in the order of first appearance.

    Args:
        items: String id (may be empty) and text of each item; `None` for a text that is not known.

    Attributes:
        of_items: The integer of each item, in their order; -1 for one without id and text.

    Example:
        >>> identities = Identities([("a", "Python"), ("b", "Rust"), ("c", "python ")])
        >>> [identities.of(text) for text in ("python", "rust")], identities.of_name("c")
        ([0, 1], 0)
    """

    def __init__(self, items: Items | Iterable[tuple[str, str | None]]) -> None:
        if not isinstance(items, Items):
            given, items = items, Items()
            for name, text in given:
                items.add(name, text)
        names, texts = items.digests()
        keys, first, places = np.unique(
            np.stack([names, texts], axis=1).ravel(), return_index=True, return_inverse=True
        )
        ends = places.reshape(-1, 2)
        edges = ends[(names != 0) & (texts != 0)]
        roots = components(len(keys), edges[:, 0], edges[:, 1])
        earliest = np.full(len(keys), 2 * len(names))
        np.minimum.at(earliest, roots, np.where(keys != 0, first, 2 * len(names)))
        _, numbers = np.unique(earliest[roots], return_inverse=True)
        self._keys: Digests = keys[keys != 0]
        self._numbers: Numbers = numbers[keys != 0]
        of_ends = np.where(keys != 0, numbers, -1)[ends]
        self.of_items: Numbers = of_ends.max(axis=1)

    def __len__(self) -> int:
        return int(self._numbers.max(initial=-1)) + 1

    def of(self, text: str) -> int:
        """Return the integer of a text.

        Raises:
            ValueError: If the text was not among the items.
        """
        number = self.find(text)
        if number < 0:
            raise ValueError(f"expected a text that the ids were made from, got {text[:60]!r}")
        return number

    def find(self, text: str) -> int:
        """Return the integer of a text, -1 if it was not among the items."""
        return self._find(text_digest(text))

    def find_all(self, digests: Digests) -> Numbers:
        """Return the integers of texts by their digests, -1 for those that were not among the items, and for 0."""
        if not len(self._keys):
            return np.full(len(digests), -1)
        places = np.minimum(np.searchsorted(self._keys, digests), len(self._keys) - 1)
        return np.where(self._keys[places] == digests, self._numbers[places], -1)

    def of_name(self, name: str) -> int:
        """Return the integer of a string id.

        Raises:
            ValueError: If the id was not among the items.
        """
        number = self._find(digest(name, b"id"))
        if number < 0:
            raise ValueError(f"expected an id that was among the items, got {name!r}")
        return number

    def _find(self, key: int) -> int:
        place = int(np.searchsorted(self._keys, np.uint64(key)))
        return int(self._numbers[place]) if place < len(self._keys) and self._keys[place] == key else -1


class Lists:
    """For each key the ascending values paired with it; a dict of lists at a fraction of the memory."""

    def __init__(self, keys: Numbers, values: Numbers) -> None:
        order = np.lexsort((values, keys))
        keys, values = keys[order], values[order]
        fresh = np.append(True, (np.diff(keys) != 0) | (np.diff(values) != 0))[: len(keys)]
        self._values = values[fresh]
        self._starts = np.searchsorted(keys[fresh], np.arange(keys.max(initial=-1) + 2))

    def __getitem__(self, key: int) -> list[int]:
        found: list[int] = self._values[self._starts[key] : self._starts[key + 1]].tolist()
        return found


def query_key(query: str) -> str:
    """Return the identity key of a query: as of any text, with commas, semicolons, slashes and bars for spaces.

    Example:
        >>> query_key("SQL,  Python/Spark")
        'sql python spark'
    """
    normalised = normalise_text(query)
    return " ".join(filter(None, re.split(r"[\s,;/|]+", normalised))) or normalised


def word_order_key(query: str) -> str:
    """Return what a query has in common with the same words in another order, which may say something else.

    Example:
        >>> word_order_key("from Rome to Bari") == word_order_key("from Bari to Rome")
        True
    """
    return " ".join(sorted(query_key(query).split()))
