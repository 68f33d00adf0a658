"""Distances between embeddings, lower is closer, and the margins that they can reach.

Shape letters: Q queries, K keys, B pairs, D width; of a distance of tokens, [T, D] for each D.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor

from contrastive.losses.core.reduction import check_choice
from contrastive.similarity import ProductSimilarity, cosine, euclidean, max_sim, score_pairs, unit

Distance = Literal["cosine", "euclidean", "max_sim"]
"""1 - cosine, in [0, 2]; the Euclidean distance, in [0, 2] between unit vectors, without bound otherwise; or, of token
vectors, 1 - max_sim, in [0, 2] and not the same from the other side."""


def distances(queries: Tensor, keys: Tensor, distance: Distance, normalize: bool) -> Tensor:
    """Return the distance of every query [Q, D] from every key [K, D], [Q, K], in float32 or better.

    Raises:
        ValueError: If the embeddings are not two matrices of the same width.
    """
    if distance != "euclidean":
        return 1 - score_pairs(_bounded(distance), queries, keys)
    if normalize:
        queries, keys = unit(queries), unit(keys)
    return -score_pairs(euclidean, queries, keys)


def distances_of_pairs(left: Tensor, right: Tensor, distance: Distance, normalize: bool) -> Tensor:
    """Return the distance within each pair, left [B, D] and right [B, D], as [B], in float32 or better."""
    if distance != "euclidean":
        return 1 - _bounded(distance).of_pairs(left, right)
    if normalize:
        left, right = unit(left), unit(right)
    return -euclidean.of_pairs(left, right)


def similarity_of_distance(distance: Distance, normalize: bool) -> ProductSimilarity:
    """Return the similarity that ranks keys as a distance does: between unit vectors both distances rank as cosine."""
    if distance == "max_sim":
        return max_sim
    return cosine if distance == "cosine" or normalize else euclidean


def check_distance(distance: Distance, normalize: bool, margin: float) -> None:
    """Refuse a distance that is not known, and a margin that it cannot reach.

    Raises:
        ValueError: Naming what there is.
    """
    check_choice("distance", distance, get_args(Distance))
    bounded = distance != "euclidean" or normalize
    if not 0 <= margin < math.inf or (bounded and margin > 2):
        reach = f" of at most 2, the largest {distance} distance of unit vectors" if bounded else ""
        raise ValueError(f"expected a finite margin of at least 0{' and' if bounded else ''}{reach}, got {margin}")


def margin_of_pairs(distance: Distance, margin: float | None, normalize: bool) -> float:
    """Return the margin of a contrastive loss, the distance's default if none is given: 60 degrees on unit vectors.

    Raises:
        ValueError: As `check_distance`.
    """
    if margin is None:
        margin = 1.0 if distance == "euclidean" else 0.5
    check_distance(distance, normalize, margin)
    return margin


def _bounded(distance: Distance) -> ProductSimilarity:
    """Return the similarity of which a distance is what is missing to 1."""
    return max_sim if distance == "max_sim" else cosine
