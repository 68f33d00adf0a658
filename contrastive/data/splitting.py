"""Choices by a hash of content: the same rows in another order, or in another file, are split and sampled alike."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from contrastive.data.identities import Digests, Numbers, components, digest, scrambled
from contrastive.data.pairs import DEV, TEST, Pairs

_log = logging.getLogger(__name__)

Rows = NDArray[np.bool_]


def shuffled(keys: Digests, seed: int) -> Digests:
    """Hash digests once more, with a seed; sorting by the result is a shuffle."""
    return scrambled(keys ^ np.uint64(digest(str(seed), b"seed")))


def hold_out(pairs: Pairs, relevant: Rows, *, share: float, max_queries: int, seed: int) -> NDArray[np.uint8]:
    """Divide the rows among train, dev and test so that no query and no answer is in two of them.

    Rows hang together that share a query, up to the order of its words, or a relevant positive. Whole groups of them go
    to dev and then to test, in an order drawn by the seed, as long as they fit.

    Args:
        pairs: The rows.
        relevant: Which rows' positives are relevant, [R].
        share: Share of the queries for dev, and again for test; at least one query each.
        max_queries: At most so many queries for each of them.
        seed: Seed of the draw.

    Returns:
        The place in `SPLITS` of each row, [R].

    Raises:
        ValueError: If a split would be empty, since too much hangs together.
    """
    groups = _groups(pairs, relevant)
    names, sizes = _drawn(groups[relevant], pairs.queries[relevant], seed)
    goal = max(1, round(share * sizes.sum()))
    if goal > max_queries:
        _log.info("%d queries are held out for dev and for test each, not %d (max_queries)", max_queries, goal)
        goal = max_queries
    taken: dict[int, list[int]] = {DEV: [], TEST: []}
    room = {DEV: goal, TEST: goal}
    for name, size in zip(names.tolist(), sizes.tolist(), strict=True):
        split = next((split for split in room if size <= room[split]), None)
        if split is not None:
            taken[split].append(name)
            room[split] -= size
        if not any(room.values()):
            break
    if goal in room.values() or sum(map(len, taken.values())) == len(names):
        raise ValueError(
            f"expected to hold out {goal} of {sizes.sum()} queries for dev and as many for test, but rows that share "
            f"a query or a positive stay together, and they form {len(names)} groups, the largest with {sizes.max()} "
            "queries. Give dev and test data, another held_out, or held_out=0 for neither"
        )
    splits = np.zeros(len(groups), dtype=np.uint8)
    for split, chosen in taken.items():
        splits[np.isin(groups, chosen)] = split
    return splits


def _drawn(groups: Numbers, queries: Digests, seed: int) -> tuple[Numbers, Numbers]:
    """Return the distinct groups in an order drawn by the seed, and how many distinct queries each has."""
    queries, first = np.unique(queries, return_index=True)
    names, owners, sizes = np.unique(groups[first], return_inverse=True, return_counts=True)
    earliest = np.full(len(names), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(earliest, owners, shuffled(queries, seed))
    order = np.argsort(earliest)
    return names[order], sizes[order]


def _groups(pairs: Pairs, relevant: Rows) -> Numbers:
    """Return for each row the number of the group it hangs together with, [R]."""
    tied = relevant[pairs.numbers]
    keys, places = np.unique(np.concatenate([pairs.words, pairs.positives[tied]]), return_inverse=True)
    words, positives = np.split(places, [len(pairs.words)])
    return components(len(keys), words[pairs.numbers[tied]], positives)[words]


def sampled(pairs: Pairs, chosen: Numbers, count: int, seed: int) -> Numbers:
    """Draw so many of the chosen pairs; return them in their order."""
    keys = shuffled(shuffled(pairs.queries[pairs.numbers[chosen]], seed) ^ pairs.positives[chosen], seed)
    return np.sort(chosen[np.argsort(keys, kind="stable")[:count]])
