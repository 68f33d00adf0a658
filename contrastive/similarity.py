"""How close two embeddings are: cosine, dot product and Euclidean, every query against every key, higher is closer.

All three are functions of the dot product of *prepared* vectors, so retrieval and tiled losses can prepare once and
work on blocks of one matrix product. Scores are float32 or better whatever autocast says: bfloat16 embeddings are fine,
bfloat16 scores are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from contrastive.contracts import Similarity

SimilarityName = Literal["cosine", "dot", "euclidean"]


@dataclass(frozen=True, slots=True, repr=False)
class ProductSimilarity:
    """A similarity that depends on the dot product of prepared vectors, and at most their lengths.

    Shapes: queries [Q, D], keys [K, D], products and scores [Q, K].

    Attributes:
        name: The word for it in a configuration.
        prepare: Maps embeddings [B, D] to prepared vectors [B, D], float32 or better.
        score: Maps products, prepared queries and prepared keys to scores.
        slope: Maps scores to the derivative of each with respect to its product.
        lengths_matter: Whether the score depends on the lengths of the prepared vectors, as minus the squared distance
            does. With W = slope * (gradient of the scores), the gradient of the prepared queries is W @ keys, minus
            each query times its row's sum of W if lengths matter.

    Example:
        >>> import torch
        >>> cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0], [-4.0, 3.0]]))
        tensor([[1., 0.]])
        >>> euclidean(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([[-5.]])
    """

    name: SimilarityName
    prepare: Callable[[Tensor], Tensor]
    score: Callable[[Tensor, Tensor, Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    lengths_matter: bool = False

    def __repr__(self) -> str:
        return self.name

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Map queries [Q, D] and keys [K, D] to scores [Q, K], higher is closer.

        Raises:
            ValueError: If the embeddings are not two matrices of the same width.
        """
        check_shapes(queries, keys)
        with torch.autocast(queries.device.type, enabled=False):
            queries, keys = self.prepare(queries), self.prepare(keys)
            return self.score(queries @ keys.T, queries, keys)


def full_precision(embeddings: Tensor) -> Tensor:
    """Return half-precision embeddings as float32, others as they are."""
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def unit(embeddings: Tensor) -> Tensor:
    """Scale each vector of [B, D] to length 1; zero stays zero, with a gradient as small as a unit vector's."""
    embeddings = full_precision(embeddings)
    lengths = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
    return embeddings / torch.where(lengths > 0, lengths, 1)


def _product(products: Tensor, _queries: Tensor, _keys: Tensor) -> Tensor:
    return products


def _minus_distance(products: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    squared_lengths = queries.square().sum(-1)[:, None] + keys.square().sum(-1)[None, :]
    squared = squared_lengths - 2 * products
    # What rounding leaves of a distance 0 is no distance, and the square root has no finite slope there.
    apart = squared > 4 * torch.finfo(squared.dtype).eps * squared_lengths
    return -torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)


def _inverse_distance(scores: Tensor) -> Tensor:
    return torch.where(scores < 0, -1 / torch.where(scores < 0, scores, 1), 0)


cosine = ProductSimilarity("cosine", prepare=unit, score=_product, slope=torch.ones_like)
"""Cosine of the angle, in [-1, 1]."""

dot = ProductSimilarity("dot", prepare=full_precision, score=_product, slope=torch.ones_like)
"""Dot product, unbounded."""

euclidean = ProductSimilarity(
    "euclidean", prepare=full_precision, score=_minus_distance, slope=_inverse_distance, lengths_matter=True
)
"""Minus the Euclidean distance, at most 0; the gradient at distance 0 is 0."""


def named(similarity: Similarity | SimilarityName) -> Similarity:
    """Return the similarity of that name; a callable stands for itself.

    Raises:
        ValueError: If there is none of that name.
    """
    if callable(similarity):
        return similarity
    for known in (cosine, dot, euclidean):
        if known.name == similarity:
            return known
    raise ValueError(f"expected similarity 'cosine', 'dot', 'euclidean' or a callable, got {similarity!r}")


def flipped(similarity: Similarity) -> Similarity:
    """Return the same similarity with keys asking and queries answering: its scores are the transpose, [K, Q]."""
    if isinstance(similarity, ProductSimilarity):
        return similarity  # symmetric in its arguments

    def of_keys(queries: Tensor, keys: Tensor) -> Tensor:
        return similarity(keys, queries).T

    return of_keys


def score_pairs(similarity: Similarity, queries: Tensor, keys: Tensor) -> Tensor:
    """Score queries [Q, D] against keys [K, D] by any similarity, in float32 or better whatever autocast says.

    Raises:
        ValueError: If the embeddings are not two matrices of the same width, or the scores are not [Q, K].
    """
    check_shapes(queries, keys)
    with torch.autocast(queries.device.type, enabled=False):
        scores = full_precision(similarity(full_precision(queries), full_precision(keys)))
    if scores.shape != (len(queries), len(keys)):
        raise ValueError(f"expected scores [{len(queries)}, {len(keys)}] of the similarity, got {list(scores.shape)}")
    return scores


def check_shapes(queries: Tensor, keys: Tensor) -> None:
    """Refuse embeddings that are not two matrices of the same width.

    Raises:
        ValueError: Naming both shapes.
    """
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(
            f"expected queries [Q, D] and keys [K, D] with the same D, got {list(queries.shape)} and {list(keys.shape)}"
        )
