"""The candidates that a teacher has scored, beside how the student scores them.

Shape letters: Q queries, K >= Q keys, D width, N own hard negatives of a query, C candidates of a query: 1 + N or K.

Notable decision: where the teacher knows a query's own keys only, nothing is computed for the others: no [Q, K] scores.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from contrastive.contracts import Health, MaskLike, Similarity
from contrastive.losses.core.rows import exclude_mask, key_owners, positive_mask
from contrastive.masks import Mask, dense
from contrastive.similarity import ProductSimilarity, SimilarityName, check_shapes, named, score_pairs

_BLOCK = 1024
"""Rows of a mask that are looked at together."""


class Taught(NamedTuple):
    """What student and teacher make of each query's candidates.

    Attributes:
        scores: The student's, [Q, C], with a graph; of no meaning where there is no candidate.
        taught: The teacher's, [Q, C], 0 where there is none.
        positive: Which candidates are positives, bool [Q, C].
        negative: Which are negatives, bool [Q, C].
        excluded: Which would be negatives but for `exclude`, bool [Q, C].
    """

    scores: Tensor
    taught: Tensor
    positive: Tensor
    negative: Tensor
    excluded: Tensor


def taught_candidates(
    queries: Tensor,
    keys: Tensor,
    teacher_scores: Tensor,
    similarity: Similarity | SimilarityName,
    positives: MaskLike | None,
    exclude: MaskLike | None,
    owners: Tensor | None,
) -> Taught:
    """Bring together student and teacher, with teacher_scores [Q, K], or [Q, 1 + N] of each query's own keys.

    Raises:
        ValueError: If shapes do not match, or every query has one candidate, of which there is nothing to learn.
    """
    if teacher_scores.ndim == 2 and teacher_scores.shape[1] < 2 and len(queries) == len(teacher_scores) > 0:
        raise ValueError(
            "expected teacher_scores of at least two candidates a query, such as its positive and a hard negative, "
            f"got {list(teacher_scores.shape)}: one alone cannot be ranked"
        )
    device, shape = keys.device, (len(queries), len(keys))
    positive, excluded = positive_mask(positives, *shape, device), exclude_mask(exclude, *shape, device)
    similarity = named(similarity)
    if list(teacher_scores.shape) == list(shape):
        scores = score_pairs(similarity, queries, keys)
        known = ~teacher_scores.isnan()
        positive_at = dense(positive, *shape, device)
        excluded_at = None if excluded is None else dense(excluded, *shape, device)
    else:
        places = _places(teacher_scores, owners, *shape, device)
        there, places = places >= 0, places.clamp_min(0)
        scores = _scores_at(similarity, queries, keys, places)
        known = there & ~teacher_scores.isnan()
        positive_at = _at(positive, places, len(keys))
        excluded_at = None if excluded is None else _at(excluded, places, len(keys))
    taught = torch.where(known, teacher_scores.detach().to(scores), 0)
    eligible = known & ~positive_at
    excluded_at = torch.zeros_like(known) if excluded_at is None else eligible & excluded_at
    return Taught(scores, taught, known & positive_at, eligible & ~excluded_at, excluded_at)


def record_taught(health: Health, candidates: Taught, answered: Tensor, temperature: float | Tensor) -> None:
    """Record the student's similarities, and how often it finds best what the teacher does, of queries answered [Q]."""
    scores, taught, positive, negative, excluded = candidates
    health.record("positive_similarity", scores, positive)
    health.record("negative_similarity", scores, negative)
    health.record("excluded_share", excluded, negative | excluded)
    health.record("unanswered", ~answered)
    health.record("temperature", temperature)
    if taught.shape[1]:
        best, wanted = (
            torch.where(positive | negative, numbers.detach(), -torch.inf).argmax(1) for numbers in (scores, taught)
        )
        health.record("agreement", best == wanted, answered)


def _places(
    teacher_scores: Tensor, owners: Tensor | None, num_queries: int, num_keys: int, device: torch.device
) -> Tensor:
    """Return which key each column of teacher_scores [Q, C] is about, [Q, C], -1 for none.

    Column 0 is key `i` for query `i`, column `n` the n-th of the keys beyond Q that the query owns, in their order.
    """
    expected = f"[{num_queries}, 1 + N], a positive and its negatives, or [{num_queries}, {num_keys}]"
    if teacher_scores.ndim != 2 or len(teacher_scores) != num_queries:
        raise ValueError(f"expected teacher_scores {expected}, got {list(teacher_scores.shape)}")
    width = teacher_scores.shape[1]
    if owners is None and num_queries and width * num_queries != num_keys:
        raise ValueError(
            f"expected teacher_scores {expected}, got {list(teacher_scores.shape)} and no owners for {num_keys} keys"
        )
    own, order = key_owners(owners, num_queries, num_keys, device)[num_queries:].sort(stable=True)
    column = 1 + torch.arange(len(own), device=device) - torch.searchsorted(own, own)
    # What no query owns, or the teacher was not asked about, goes to a place of its own at the end.
    place = torch.where((own >= 0) & (column < width), own * width + column, num_queries * width)
    places = own.new_full((num_queries * width + 1,), -1).scatter(0, place, order + num_queries)
    places = places[:-1].view(num_queries, width)
    return torch.cat([torch.arange(num_queries, device=device)[:, None], places[:, 1:]], 1)


def _scores_at(similarity: Similarity, queries: Tensor, keys: Tensor, places: Tensor) -> Tensor:
    """Return the scores of queries [Q, D] and the keys at places [Q, C], [Q, C]."""
    if not isinstance(similarity, ProductSimilarity) or not len(queries):
        return score_pairs(similarity, queries, keys).gather(1, places)
    check_shapes(queries, keys, similarity)
    with torch.autocast(queries.device.type, enabled=False):
        return similarity.of_pairs(queries[:, None], keys[places])


def _at(mask: Mask, places: Tensor, num_keys: int) -> Tensor:
    """Return a mask [Q, K] at places [Q, C], without ever holding all of it."""
    rows, cols = (torch.arange(length, device=places.device) for length in (len(places), num_keys))
    blocks = [rows[start : start + _BLOCK] for start in range(0, max(len(rows), 1), _BLOCK)]
    return torch.cat([mask(block, cols).gather(1, places[block]) for block in blocks])
