"""A similarity by its name, of an encoder, or the other way round.

Which of them is used is a property of the encoder (`similarity_of`): what compares its texts asks it, and nothing else
chooses.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from contrastive.contracts import Similarity
from contrastive.similarity.max_sim import MaxSimilarity, max_dot, max_sim
from contrastive.similarity.products import (
    ProductSimilarity,
    SimilarityName,
    check_shapes,
    cosine,
    dot,
    euclidean,
    full_precision,
)

_KNOWN: Mapping[SimilarityName, ProductSimilarity] = {
    each.name: each for each in (cosine, dot, euclidean, max_sim, max_dot)
}


def named(similarity: Similarity | SimilarityName) -> Similarity:
    """Return the similarity of that name; a callable stands for itself.

    Raises:
        ValueError: If there is none of that name.
    """
    if callable(similarity):
        return similarity
    if similarity in _KNOWN:
        return _KNOWN[similarity]
    raise ValueError(f"expected similarity {', '.join(map(repr, _KNOWN))} or a callable, got {similarity!r}")


def check_similarity_name(name: str, what: str = "similarity") -> SimilarityName:
    """Return the name of a similarity as it is.

    Raises:
        ValueError: If there is none of that name; it says `what` has it.
    """
    for known in _KNOWN:
        if name == known:
            return known
    raise ValueError(f"expected {what} to be one of {', '.join(_KNOWN)}, got {name!r}")


def product_similarity(name: str) -> ProductSimilarity:
    """Return the similarity of that name.

    Raises:
        ValueError: If there is none of that name.
    """
    return _KNOWN[check_similarity_name(name)]


def of_tokens(similarity: Similarity | SimilarityName) -> bool:
    """Whether a similarity, or its name, is of vectors of tokens; a name that is not known is not."""
    return isinstance(_KNOWN.get(similarity) if isinstance(similarity, str) else similarity, MaxSimilarity)


def similarity_of(encoder: object) -> ProductSimilarity:
    """Return how an encoder's embeddings are to be compared: by its `similarity`, and by cosine if it has none.

    Raises:
        ValueError: If there is none of the name that it says.

    Example:
        >>> similarity_of(object())
        cosine
    """
    return product_similarity(getattr(encoder, "similarity", "cosine"))


def flipped(similarity: Similarity) -> Similarity:
    """Return the same similarity with keys asking and queries answering: its scores are the transpose, [K, Q]."""
    if isinstance(similarity, ProductSimilarity) and not isinstance(similarity, MaxSimilarity):
        return similarity  # symmetric in its arguments

    def of_keys(queries: Tensor, keys: Tensor) -> Tensor:
        return similarity(keys, queries).T

    return of_keys


def score_pairs(similarity: Similarity, queries: Tensor, keys: Tensor) -> Tensor:
    """Score queries [Q, D] against keys [K, D] by any similarity, in float32 or better whatever autocast says.

    Raises:
        ValueError: If the embeddings are not two matrices of the same width, or the scores are not [Q, K].
    """
    check_shapes(queries, keys, similarity)
    with torch.autocast(queries.device.type, enabled=False):
        scores = full_precision(similarity(full_precision(queries), full_precision(keys)))
    if scores.shape != (len(queries), len(keys)):
        raise ValueError(f"expected scores [{len(queries)}, {len(keys)}] of the similarity, got {list(scores.shape)}")
    return scores
