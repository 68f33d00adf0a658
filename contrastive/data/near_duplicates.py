"""Texts that are nearly the same, found by MinHash (Broder, 1997, "On the resemblance and containment of documents").

A text is the set of its word 5-grams. Texts whose MinHash signatures agree in a whole band are candidates; their
Jaccard similarity is then computed exactly, so that what is reported is right, and only something close to the
threshold can be missed (a pair at similarity 0.8 with a probability of about 4 in 10,000).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from contrastive.masks import normalise_text

_WORDS = 5
_BANDS, _ROWS = 25, 5
_MERSENNE = (1 << 31) - 1
Hashes = NDArray[np.uint64]


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> list[set[int]]:
    """Return, for each text, the places of the other texts that are nearly the same.

    Args:
        texts: The texts.
        threshold: Least Jaccard similarity of the sets of word 5-grams, above 0 and at most 1.

    Raises:
        ValueError: If the threshold is out of range.

    Example:
        >>> text = "we are looking for a nurse who works nights in our hospital in Leeds and likes people"
        >>> near_duplicates([text, text + " too", "a chef"])
        [{1}, {0}, set()]
    """
    hashed = [shingles(text) for text in texts]
    found: list[set[int]] = [set() for _ in texts]
    for left, right in {pair for bucket in _buckets(hashed, threshold) for pair in combinations(bucket, 2)}:
        if jaccard(hashed[left], hashed[right]) >= threshold:
            found[left].add(right)
            found[right].add(left)
    return found


def near_duplicate_groups(texts: Sequence[str], threshold: float = 0.8) -> list[int]:
    """Return the group of each text, a place in the list: texts that near-duplicates tie together have the same.

    Unlike the pairs, groups cost little where there are thousands of copies: what is tied already is not compared.

    Args:
        texts: The texts.
        threshold: As for `near_duplicates`.

    Raises:
        ValueError: If the threshold is out of range.

    Example:
        >>> text = "we are looking for a nurse who works nights in our hospital in Leeds and likes people"
        >>> near_duplicate_groups(["a chef", text, text + " too"])
        [0, 1, 1]
    """
    hashed = [shingles(text) for text in tqdm(texts, desc="Comparing", unit=" texts", delay=5, leave=False)]
    group = list(range(len(texts)))

    def root(place: int) -> int:
        while group[place] != place:
            group[place] = place = group[group[place]]
        return place

    for bucket in _buckets(hashed, threshold):
        for left in bucket:
            others = [right for right in bucket if root(right) != root(left)]
            if not others:
                break
            for right in others:
                ends = sorted((root(left), root(right)))
                if ends[0] != ends[1] and jaccard(hashed[left], hashed[right]) >= threshold:
                    group[ends[1]] = ends[0]
    return [root(place) for place in range(len(texts))]


def _buckets(hashed: Sequence[Hashes], threshold: float) -> list[list[int]]:
    """Return the places of texts whose signatures agree in a band, for each such set of at least two."""
    if not 0 < threshold <= 1:
        raise ValueError(f"expected a threshold above 0 and at most 1, got {threshold}")
    buckets: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
    for place, hashes in enumerate(hashed):
        for band, rows in enumerate(_signature(hashes).reshape(_BANDS, _ROWS)):
            buckets[band, rows.tobytes()].append(place)
    return [bucket for bucket in buckets.values() if len(bucket) > 1]


def shingles(text: str) -> Hashes:
    """Hash the word 5-grams of a text below 2^31, ascending; a shorter text is one of them."""
    words = normalise_text(text).split()
    grams = {" ".join(words[start : start + _WORDS]) for start in range(max(1, len(words) - _WORDS + 1))}
    digests = b"".join(blake2b(gram.encode(errors="surrogatepass"), digest_size=8).digest() for gram in grams)
    return np.unique(np.frombuffer(digests, dtype=np.uint64) % np.uint64(_MERSENNE))


_MULTIPLIERS, _OFFSETS = np.random.default_rng(0).integers(1, _MERSENNE, (2, _BANDS * _ROWS), dtype=np.uint64)


def _signature(hashes: Hashes) -> Hashes:
    """The least value of each of 125 random linear functions over the hashes; products stay below 2^62."""
    smallest: Hashes = (hashes[:, None] * _MULTIPLIERS + _OFFSETS).__imod__(np.uint64(_MERSENNE)).min(axis=0)
    return smallest


def jaccard(left: Hashes, right: Hashes) -> float:
    """Return the share of what two sets of hashes hold that both hold, 0 to 1."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)
