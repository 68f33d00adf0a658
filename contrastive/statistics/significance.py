"""Tests of a difference between two systems, paired by query, and its size.

All differences are `first - second`: above 0, the first has the higher scores. Tests are two-sided.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from contrastive.statistics.crossed import Sources, Vector, student_p_value, two_systems, variances
from contrastive.statistics.resampling import in_chunks


@dataclass(frozen=True, slots=True)
class TTest:
    """Student's t of a difference: positive if the first system is higher.

    Attributes:
        statistic: The difference in standard errors.
        standard_error: Of the mean difference, in the unit of the scores.
        p_value: Two-sided.
    """

    statistic: float
    standard_error: float
    p_value: float


def randomisation_test(
    first: ArrayLike,
    second: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Return the two-sided p-value for no difference, by swapping the systems on random queries or clusters of them.

    With a seed each it is the test of Smucker, Allan and Carterette (2007, "A comparison of statistical significance
    tests for information retrieval evaluation", CIKM): the signs of the differences [C] are flipped at random, and the
    observed signs are one of the draws, so that it is never 0. With several, the differences are averaged over seeds,
    which swaps of queries take for fixed: models that were trained again would differ all the same. So the observed
    difference is first reduced to the one that is as unlikely by Student's t where only queries vary, as the observed
    one is where seeds do too; that is a deviation, needed for false positives as rare as they should be.

    Args:
        first: One value a seed and query, [S, Q], or [Q] of one seed.
        second: The same of the other system on the same queries, [S', Q] or [Q].
        clusters: Which cluster each query is of, [Q]; None makes each query a cluster.
        resamples: How many random swaps.
        seed: Seed of the swaps.

    Raises:
        ValueError: If scores or clusters are not finite or do not fit each other, or resamples is less than 1.

    Example:
        >>> randomisation_test([0.5, 0.6, 0.9, 0.4], [0.5, 0.6, 0.9, 0.4])
        1.0
    """
    return randomisation_p_of(two_systems(first, second, clusters), resamples, seed)


def paired_t_test(first: ArrayLike, second: ArrayLike, *, clusters: Sequence[Hashable] | None = None) -> TTest:
    """Return Student's t of the paired differences over queries, or clusters of them, and over seeds.

    With a seed each it is the paired t test. With several, the variance of the mean difference is that over queries of
    the seed-averaged differences plus that of the seeds; `contrastive.statistics.crossed` says which quantiles it is
    held against. No difference at all has p = 1; the same one for all queries and seeds p = 0.

    Args:
        first: One value a seed and query, [S, Q], or [Q] of one seed.
        second: The same of the other system on the same queries, [S', Q] or [Q].
        clusters: Which cluster each query is of, [Q]; None makes each query a cluster.

    Raises:
        ValueError: If scores or clusters are not finite or do not fit each other.

    Example:
        >>> found = paired_t_test([0.5, 0.7, 0.9], [0.4, 0.4, 0.4])
        >>> round(found.statistic, 3), round(found.standard_error, 3), round(found.p_value, 3)
        (2.598, 0.115, 0.122)
    """
    return t_test_of(two_systems(first, second, clusters))


def cohen_d(first: ArrayLike, second: ArrayLike, *, clusters: Sequence[Hashable] | None = None) -> float:
    """Return the paired Cohen's d: the mean difference in standard deviations of the differences over queries.

    Positive if the first system is higher, no unit; differences are averaged over seeds first, as clusters are. Cohen
    (1988, Statistical Power Analysis for the Behavioral Sciences, 2nd edition, section 2.3.5), d_z: about 0.2 is small,
    0.5 medium, 0.8 large. Unlike p it does not grow with the number of queries. Infinite if all differences are equal.

    Args:
        first: One value a seed and query, [S, Q], or [Q] of one seed.
        second: The same of the other system on the same queries, [S', Q] or [Q].
        clusters: Which cluster each query is of, [Q]; None makes each query a cluster.

    Raises:
        ValueError: If scores or clusters are not finite or do not fit each other.

    Example:
        >>> round(cohen_d([0.5, 0.7, 0.9], [0.4, 0.4, 0.4]), 3)
        1.5
    """
    return effect_size_of(two_systems(first, second, clusters))


def t_test_of(sources: Sources) -> TTest:
    """Do `paired_t_test` on the sources of a difference."""
    differences = _contributions(sources)
    parts = variances(_deviation(differences) ** 2 / len(differences), sources)
    error = float(np.sqrt(sum(variance for variance, _ in parts)))
    if error == 0:
        return TTest(float(np.copysign(np.inf, sources.mean)) if sources.mean else 0.0, 0.0, float(not sources.mean))
    statistic = sources.mean / error
    return TTest(statistic, error, student_p_value(parts, statistic))


def effect_size_of(sources: Sources) -> float:
    """Do `cohen_d` on the sources of a difference."""
    deviation = _deviation(_contributions(sources))
    if deviation == 0:
        return float(np.copysign(np.inf, sources.mean)) if sources.mean else 0.0
    return sources.mean / deviation


def randomisation_p_of(sources: Sources, resamples: int, seed: int) -> float:
    """Do `randomisation_test` on the sources of a difference."""
    if resamples < 1:
        raise ValueError(f"expected resamples of at least 1, got {resamples}")
    differences = _contributions(sources)
    moving = differences[differences != 0]
    rng = np.random.default_rng((seed, 1))
    swapped = in_chunks(resamples, moving.size, lambda shape: np.where(rng.random(shape) < 0.5, moving, -moving).sum(1))
    observed = _as_if_seeds_were_fixed(sources, differences) * len(differences)
    # Sums that are equal on paper differ in their last bits.
    as_extreme = np.abs(swapped) >= observed - 1e-9 * np.abs(moving).sum()
    return float((1 + np.count_nonzero(as_extreme)) / (1 + resamples))


def _contributions(sources: Sources) -> Vector:
    """Return one difference a cluster, [C], whose plain mean is the mean over queries."""
    differences: Vector = sources.sums * (len(sources.sums) / sources.sizes.sum())
    return differences


def _deviation(differences: Vector) -> float:
    """Return the standard deviation over clusters; 0 where the differences differ in their last bits only."""
    deviation = float(differences.std(ddof=1))
    return deviation if deviation > 1e-12 * np.abs(differences).max() else 0.0


def _as_if_seeds_were_fixed(sources: Sources, differences: Vector) -> float:
    """Return the size of the difference [C] that is as unlikely without the spread of seeds as this one is with it."""
    if not any(effects.any() for effects in sources.seed_effects):
        return abs(sources.mean)
    from scipy.special import stdtrit

    degrees = len(differences) - 1
    statistic = -float(stdtrit(degrees, t_test_of(sources).p_value / 2))
    # t^2 = mean^2 (C - 1) / (mean square - mean^2) over the C differences, whose mean square no swap changes.
    return statistic * float(np.sqrt(np.mean(differences**2) / (degrees + statistic**2)))
