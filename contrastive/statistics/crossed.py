"""Where the chance in a mean over seeds and queries comes from: the seeds, and the clusters of queries.

Every trained model answers the same queries, so seeds and queries are crossed, not nested. Notable decisions:

- Seeds and clusters are drawn apart, as in the pigeonhole bootstrap (Owen, 2007, "The pigeonhole bootstrap", Annals of
  Applied Statistics 1). Drawn as they are, the means of the seeds would bring in again the noise of the queries; they
  are shrunk first so that the variance of the draws is unbiased (Davison and Hinkley, 1997, Bootstrap Methods and Their
  Application, section 3.8, there for nested data).
- Few seeds know their own spread badly, so limits use Student's quantiles, each source's with its own degrees of
  freedom, averaged by its share of the variance (Cochran and Cox, 1950, Experimental Designs). That is on the safe
  side: Satterthwaite's degrees of freedom told equal systems apart at 0.05 in up to 6 % of simulations with three seeds
  and 9 % with two, these in at most 5 %.

Shapes: S seeds, Q queries, C clusters of queries.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]

_ROUNDING = 1e-12
_SMALLEST_P = 1e-15


@dataclass(frozen=True, slots=True)
class Sources:
    """A mean and the two sources of chance in it.

    Attributes:
        mean: Over all queries of the average over seeds.
        sums: Sum over each cluster's queries of the average over seeds, [C].
        sizes: Number of queries in each cluster, [C].
        seed_effects: For each system in the mean, how far each seed is from the average, [S], shrunk and then widened
            so that drawing S of them with replacement has the variance that new seeds would have; [0] for one seed.
    """

    mean: float
    sums: Vector
    sizes: Vector
    seed_effects: tuple[Vector, ...]


def one_system(scores: ArrayLike, clusters: Sequence[Hashable] | None, *, at_least: int = 2) -> Sources:
    """Return the sources of the mean of one system's scores [S, Q] or [Q] of `at_least` so many clusters."""
    sums, sizes = _cluster_sums(score_matrix(scores), clusters, at_least)
    average = sums.mean(axis=0)
    return Sources(_mean(average, sizes), average, sizes, (_seed_effects(sums, sizes),))


def two_systems(
    first: ArrayLike, second: ArrayLike, clusters: Sequence[Hashable] | None, *, at_least: int = 2
) -> Sources:
    """Return the sources of the mean difference `first - second`, paired by query and not by seed.

    A seed that two systems share makes nothing about their trainings equal, and there may be more of one system.
    """
    left, right = score_matrix(first), score_matrix(second)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"expected values of the same queries, got {left.shape[1]} and {right.shape[1]}")
    (left_sums, sizes), (right_sums, _) = (_cluster_sums(scores, clusters, at_least) for scores in (left, right))
    apart = left.mean(axis=0) - right.mean(axis=0)
    apart[np.abs(apart) < _ROUNDING * max(np.abs(left).max(), np.abs(right).max())] = 0  # equal on paper
    (difference,), _ = _cluster_sums(apart[None], clusters, at_least)
    effects = _seed_effects(left_sums, sizes), -_seed_effects(right_sums, sizes)
    return Sources(_mean(difference, sizes), difference, sizes, effects)


def variances(cluster_variance: float, sources: Sources) -> list[tuple[float, int]]:
    """Return the variance of the mean from each source that has one, clusters first, with its degrees of freedom."""
    parts = [(cluster_variance, len(sources.sizes) - 1)]
    parts += [(float(np.mean(effects**2)) / len(effects), len(effects) - 1) for effects in sources.seed_effects]
    return [(variance, degrees) for variance, degrees in parts if variance > 0] or parts[:1]


def student_quantile(parts: Sequence[tuple[float, int]], probability: float) -> float:
    """Return Student's quantile above 1/2 for a mean with these variances and their degrees of freedom."""
    return _averaged(parts, lambda degrees: _student_quantile(degrees, probability))


def student_p_value(parts: Sequence[tuple[float, int]], statistic: float) -> float:
    """Return the two-sided p-value at which Student's quantile is the statistic; none is below 1e-15."""
    from scipy.optimize import brentq
    from scipy.special import stdtrit

    def excess(log_p: float) -> float:
        return abs(statistic) + _averaged(parts, lambda degrees: float(stdtrit(degrees, np.exp(log_p) / 2)))

    smallest = float(np.log(_SMALLEST_P))
    if excess(smallest) >= 0:
        return _SMALLEST_P
    return float(np.exp(brentq(excess, smallest, 0.0, xtol=1e-9))) if statistic else 1.0


def _averaged(parts: Sequence[tuple[float, int]], quantile: Callable[[int], float]) -> float:
    """Return the quantiles of all degrees of freedom, averaged by their shares of the variance (Cochran and Cox)."""
    total = sum(variance for variance, _ in parts)
    shares = [variance / total if total > 0 else 1 / len(parts) for variance, _ in parts]
    return sum(share * quantile(degrees) for share, (_, degrees) in zip(shares, parts, strict=True))


@lru_cache
def _student_quantile(degrees: int, probability: float) -> float:
    """Return Student's quantile above 1/2, so that intervals do without scipy, whose is exact in the tails too.

    Abramowitz and Stegun (1964), Handbook of Mathematical Functions, 26.7.3 and 26.7.4, solved by bisection.
    """
    odd = degrees % 2
    powers = 2 * np.arange(degrees // 2) + odd
    factors = np.cumprod(np.where(powers > odd, (powers - 1) / np.maximum(powers, 1), 1.0))
    low, high = 0.0, np.pi / 2  # of the angle whose tangent is the quantile over the root of the degrees
    for _ in range(60):
        angle = (low + high) / 2
        inside = np.sin(angle) * (factors @ np.cos(angle) ** powers)
        inside = (angle + inside) * 2 / np.pi if odd else inside
        low, high = (angle, high) if inside < 2 * probability - 1 else (low, angle)
    return float(np.sqrt(degrees) * np.tan(low))


def score_matrix(scores: ArrayLike) -> Vector:
    """Return scores [S, Q], or those of one seed [Q], as an array [S, Q], checked."""
    matrix = np.asarray(scores, dtype=np.float64)
    matrix = matrix[None] if matrix.ndim == 1 else matrix
    if matrix.ndim != 2 or matrix.size == 0 or not np.isfinite(matrix).all():
        raise ValueError(f"expected finite scores [seeds, queries], or [queries] of one seed, got {matrix.shape}")
    return matrix


def _mean(sums: Vector, sizes: Vector) -> float:
    """Return the mean over all queries from their sums and numbers by cluster; that of equal means is their value."""
    means = sums / sizes
    return float(np.clip(sums.sum() / sizes.sum(), means.min(), means.max()))


def _cluster_sums(matrix: Vector, clusters: Sequence[Hashable] | None, at_least: int) -> tuple[Vector, Vector]:
    """Return sums over each cluster's queries [S, C] and the number of its queries [C]."""
    queries = matrix.shape[1]
    if clusters is None:
        sums, sizes = matrix, np.ones(queries)
    else:
        if len(clusters) != queries:
            raise ValueError(f"expected a cluster for each of {queries} queries, got {len(clusters)}")
        numbers: dict[Hashable, int] = {}
        places = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
        sizes = np.bincount(places).astype(np.float64)
        sums = np.stack([np.bincount(places, weights=row) for row in matrix])
    if len(sizes) < at_least:
        raise ValueError(f"expected at least {at_least} queries or clusters of queries, got {len(sizes)}")
    return sums, sizes


def _seed_effects(sums: Vector, sizes: Vector) -> Vector:
    """Return the effect of each seed [S] without what the noise of single queries adds to it."""
    seeds, count = sums.shape
    if seeds == 1:
        return np.zeros(1)
    means = sums.sum(axis=1) / sizes.sum()
    effects = means - means.mean()
    variance = float(effects @ effects) / (seeds - 1)
    within = (sums - means[:, None] * sizes) / sizes.sum()  # what each cluster adds to a seed's mean
    residuals = within - within.mean(axis=0)
    noise = float((residuals**2).sum()) * count / ((seeds - 1) * (count - 1))
    kept = max(0.0, 1 - noise / variance) if variance > 0 else 0.0
    widened: Vector = effects * np.sqrt(kept * seeds / (seeds - 1))
    return widened
