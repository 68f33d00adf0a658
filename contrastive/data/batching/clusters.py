"""Clusters of similar texts, from which batches of hard in-batch negatives are drawn (TAS-B).

Hofstätter et al. 2021 (https://arxiv.org/abs/2104.06967, section 3.2, "topic-aware sampling"): queries are clustered
once by k-means on their embeddings before training, and a batch comes from one cluster. Here clusters can be made again
from the encoder in training, every row comes once an epoch, and what a cluster has beyond whole batches is pooled.

Shape letters: B texts, D width, C clusters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 4096  # rows whose scores are held at a time, [4096, C]


def k_means(
    embeddings: NDArray[np.float32], num_clusters: int, *, seed: int, iterations: int = 20
) -> NDArray[np.int64]:
    """Return the cluster of each embedding, [B], numbered from 0, by k-means with exact distances.

    Lloyd's algorithm from `num_clusters` rows chosen at random; a cluster that loses all its rows stays empty.
    Distances are Euclidean, whatever the similarity of the encoder; on vectors of length 1 they order as all three do.

    Args:
        embeddings: [B, D].
        num_clusters: How many clusters, C; at most one a row.
        seed: Decides the rows to start from.
        iterations: Most rounds; it ends earlier once no row changes its cluster.

    Raises:
        ValueError: If there are fewer rows than clusters, or no clusters.

    Example:
        >>> points = np.array([[0, 0], [5, 5], [0, 1], [5, 6]], dtype=np.float32)
        >>> clusters = k_means(points, 2, seed=0)
        >>> (clusters == clusters[0]).tolist()
        [True, False, True, False]
    """
    if not 1 <= num_clusters <= len(embeddings):
        raise ValueError(f"expected from 1 to {len(embeddings)} clusters of {len(embeddings)} rows, got {num_clusters}")
    random = np.random.default_rng(seed)
    embeddings = embeddings - embeddings.mean(0)  # far from the origin, products have no digits left for distances
    centres = embeddings[np.sort(random.choice(len(embeddings), num_clusters, replace=False))]
    clusters = _nearest(embeddings, centres)
    for _ in range(iterations):
        counts = np.bincount(clusters, minlength=num_clusters)
        by_cluster = embeddings[np.argsort(clusters, kind="stable")]
        filled = counts > 0
        starts = (np.cumsum(counts) - counts)[filled]
        centres[filled] = np.add.reduceat(by_cluster, starts) / counts[filled, None]
        before, clusters = clusters, _nearest(embeddings, centres)
        if (before == clusters).all():
            break
    return clusters


def _nearest(embeddings: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return which centre is closest to each row; the first of several."""
    half_squares = (centres**2).sum(1) / 2
    blocks = (embeddings[start : start + _BLOCK] for start in range(0, len(embeddings), _BLOCK))
    return np.concatenate([np.argmax(block @ centres.T - half_squares, axis=1) for block in blocks])
