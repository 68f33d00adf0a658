"""How sure a mean is: bootstrap intervals over queries, and over trainings where there are several."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from contrastive.statistics.crossed import Sources, Vector, one_system, student_quantile, variances
from contrastive.statistics.resampling import finite_vector, in_chunks


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the confidence interval around it."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Return the mean of values [Q] with its bootstrap interval over queries: `hierarchical_bootstrap` of one seed.

    A single query, or equal values, give width 0, which says nothing of other queries.

    Args:
        values: One value a query, [Q].
        confidence: Share of such intervals that hold the true mean, between 0 and 1.
        resamples: How many samples of Q queries to draw with replacement.
        seed: Seed of the draws.

    Raises:
        ValueError: If the values are not a finite vector of at least one, or a setting is out of range.

    Example:
        >>> bootstrap_interval([0.5, 0.5, 0.5])
        Interval(mean=0.5, low=0.5, high=0.5)
    """
    sources = one_system(finite_vector(values), None, at_least=1)
    return interval_of(sources, confidence=confidence, resamples=resamples, seed=seed)


def hierarchical_bootstrap(
    scores: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return the mean of scores [S, Q] with its interval over other seeds and other queries.

    Seeds are drawn with replacement, and so are queries, or whole clusters of them: `contrastive.statistics.crossed`
    says how, why and after whom. Two corrections for few seeds or queries make it differ from a plain percentile
    interval: deviations are multiplied by the square root of n / (n - 1), and by the ratio of Student's quantile to the
    normal one (Hesterberg, 2015, "What teachers should know about the bootstrap", The American Statistician 69,
    expanded percentile interval). With one seed the interval is over queries for this one trained model, and silent
    about other trainings.

    Args:
        scores: One value a seed and query, [S, Q], or [Q] of one seed; any unit, which is that of the interval.
        clusters: Which cluster each query is of, [Q], where queries are not independent, such as several that were made
            from one document; None makes each query a cluster.
        confidence: Share of such intervals that hold the true mean, between 0 and 1.
        resamples: How many times to draw.
        seed: Seed of the draws.

    Raises:
        ValueError: If the scores are not finite, [S, Q] or [Q], the clusters are not [Q] or fewer than two, or a
            setting is out of range.

    Example:
        >>> interval = hierarchical_bootstrap([[0.2, 0.4, 0.9], [0.3, 0.5, 1.0], [0.1, 0.3, 0.8]])
        >>> round(interval.mean, 3), interval.low < 0.2, interval.high > 0.8
        (0.5, True, True)
    """
    return interval_of(one_system(scores, clusters), confidence=confidence, resamples=resamples, seed=seed)


def interval_of(sources: Sources, *, confidence: float, resamples: int, seed: int) -> Interval:
    """Return the interval of a mean from its sources of chance; see `hierarchical_bootstrap`."""
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"expected 0 < confidence < 1 and resamples of at least 1, got {confidence} and {resamples}")
    sums, sizes, count = sources.sums, sources.sizes, len(sources.sizes)
    if np.ptp(sums / sizes) == 0 and not any(effects.any() for effects in sources.seed_effects):
        return Interval(sources.mean, sources.mean, sources.mean)
    correction = count / (count - 1)
    variance = float(((sums - sources.mean * sizes) ** 2).sum()) * correction / sizes.sum() ** 2
    rng = np.random.default_rng(seed)
    same_size = np.ptp(sizes) == 0

    def over_clusters(shape: tuple[int, int]) -> Vector:
        drawn = rng.integers(count, size=shape)
        mean: Vector = sums[drawn].sum(axis=1) / (sizes.sum() if same_size else sizes[drawn].sum(axis=1))
        return mean - sources.mean

    deviations = np.sqrt(correction) * in_chunks(resamples, count, over_clusters)
    for effects in sources.seed_effects:
        deviations += effects[rng.integers(len(effects), size=(resamples, len(effects)))].mean(axis=1)
    upper = (1 + confidence) / 2
    widening = student_quantile(variances(variance, sources), upper) / NormalDist().inv_cdf(upper)
    low, high = np.quantile(deviations, [1 - upper, upper]) * widening
    return Interval(sources.mean, sources.mean + float(low), sources.mean + float(high))
