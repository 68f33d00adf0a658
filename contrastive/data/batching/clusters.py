"""Clusters of similar texts, from which batches of hard in-batch negatives are drawn (TAS-B).

Hofstätter et al. 2021 (https://arxiv.org/abs/2104.06967, section 3.2, "topic-aware sampling"): queries are clustered
once by k-means on their embeddings before training, and a batch comes from one cluster. Here clusters can be made again
from the encoder in training, every row comes once an epoch, and what a cluster has beyond whole batches is pooled.

Shape letters: B texts, D width, C clusters.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray


def k_means(
    embeddings: NDArray[np.float32], num_clusters: int, *, seed: int, iterations: int = 20
) -> NDArray[np.int64]:
    """Return the cluster of each embedding, [B], numbered from 0, by SciPy's k-means.

    Lloyd's algorithm from `num_clusters` rows chosen at random; a cluster that loses all its rows stays empty.
    Distances are Euclidean, whatever the similarity of the encoder; on vectors of length 1 they order as all three do.

    Args:
        embeddings: [B, D].
        num_clusters: How many clusters, C; at most one a row.
        seed: Decides the rows to start from.
        iterations: How many rounds.

    Raises:
        ValueError: If there are fewer rows than clusters, or no clusters.

    Example:
        >>> points = np.array([[0, 0], [5, 5], [0, 1], [5, 6]], dtype=np.float32)
        >>> clusters = k_means(points, 2, seed=0)
        >>> (clusters == clusters[0]).tolist()
        [True, False, True, False]
    """
    from scipy.cluster.vq import kmeans2

    if not 1 <= num_clusters <= len(embeddings):
        raise ValueError(f"expected from 1 to {len(embeddings)} clusters of {len(embeddings)} rows, got {num_clusters}")
    centred = embeddings - embeddings.mean(0)  # far from the origin, products have no digits left for distances
    start = np.sort(np.random.default_rng(seed).choice(len(embeddings), num_clusters, replace=False))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        _, clusters = kmeans2(centred, centred[start], iter=iterations, minit="matrix")
    return clusters.astype(np.int64)
