from __future__ import annotations

import numpy as np
import pytest

from contrastive.data.batching.clusters import k_means


def blobs(count: int = 5, size: int = 40, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    centres = 20 * random.standard_normal((count, width))
    labels = random.permutation(np.arange(count).repeat(size))
    return (centres[labels] + random.standard_normal((count * size, width))).astype(np.float32), labels


def test_distances_are_euclidean_and_not_only_products() -> None:
    points = np.array([[1, 0], [10, 0], [1.1, 0], [10.1, 0]], dtype=np.float32)
    for seed in range(4):
        clusters = k_means(points, 2, seed=seed).tolist()
        assert clusters[0] == clusters[2] != clusters[1] == clusters[3]


def test_finds_separate_clouds_again_and_again() -> None:
    points, labels = blobs()
    found = k_means(points, 5, seed=3)
    assert (found == k_means(points, 5, seed=3)).all()
    within = sum(len(set(found[labels == label].tolist())) for label in range(5))
    assert within <= 7  # Lloyd's algorithm may split one cloud and merge two


def test_seeds_start_elsewhere() -> None:
    points = np.random.default_rng(1).standard_normal((300, 4)).astype(np.float32)
    assert len({k_means(points, 6, seed=seed, iterations=1).tobytes() for seed in range(3)}) == 3


def test_equal_points_leave_clusters_empty_without_harm() -> None:
    assert set(k_means(np.ones((9, 2), dtype=np.float32), 3, seed=0).tolist()) == {0}


@pytest.mark.parametrize("count", [0, 4])
def test_too_few_rows_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to 3 clusters of 3 rows, got {count}"):
        k_means(np.zeros((3, 2), dtype=np.float32), count, seed=0)


def test_clouds_far_from_the_origin_are_told_apart() -> None:
    points, _ = blobs()
    assert (k_means(points / 100 + 3000, 5, seed=3) == k_means(points, 5, seed=3)).mean() > 0.99
