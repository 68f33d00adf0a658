"""All that is known of how a system differs from another, or several from a baseline, over seeds and queries.

All differences are `first - second`: above 0, the first has the higher scores.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from contrastive.statistics.crossed import score_matrix, two_systems
from contrastive.statistics.intervals import interval_of
from contrastive.statistics.multiplicity import benjamini_hochberg, holm
from contrastive.statistics.resampling import finite_vector
from contrastive.statistics.significance import TTest, effect_size_of, randomisation_p_of, t_test_of


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of paired differences, its confidence interval, and a two-sided p-value for a difference of 0."""

    mean: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is known of the difference `first - second`.

    Attributes:
        mean: The difference of the means, in the unit of the scores.
        low: Lower end of its interval over seeds and queries.
        high: Upper end.
        randomisation_p: Two-sided p-value of `randomisation_test`.
        t_test: Of `paired_t_test`.
        effect_size: Of `cohen_d`.
        num_seeds: Seeds of the first and of the second; with 1 nothing is known of other trainings.
        num_clusters: Queries, or clusters of them.
    """

    mean: float
    low: float
    high: float
    randomisation_p: float
    t_test: TTest
    effect_size: float
    num_seeds: tuple[int, int]
    num_clusters: int


@dataclass(frozen=True, slots=True)
class Adjusted:
    """A comparison among several.

    Attributes:
        comparison: By itself.
        holm_p: Its `randomisation_p` after Holm, for claims: the chance that any comparison at or below alpha is luck
            is at most alpha.
        screening_p: After Benjamini-Hochberg, for choosing what to look at again: of the comparisons at or below alpha,
            a share of at most alpha is expected to be luck.
    """

    comparison: Comparison
    holm_p: float
    screening_p: float


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Compare two systems of one seed each on the same queries: what `compare` says of them that needs numpy alone.

    A single query has an interval of width 0 and p = 1, which says nothing of other queries.

    Args:
        first: One value a query, [Q].
        second: The same of the other system, in the same order.
        confidence: Of the interval; see `bootstrap_interval`.
        resamples: Of interval and `randomisation_test`.
        seed: Seed of both.

    Raises:
        ValueError: If the values are not two finite vectors of the same length, or a setting is out of range.

    Example:
        >>> paired_difference([0.5, 0.6, 0.9], [0.5, 0.6, 0.9])
        Difference(mean=0.0, low=0.0, high=0.0, p_value=1.0)
    """
    sources = two_systems(finite_vector(first), finite_vector(second), None, at_least=1)
    interval = interval_of(sources, confidence=confidence, resamples=resamples, seed=seed)
    return Difference(interval.mean, interval.low, interval.high, randomisation_p_of(sources, resamples, seed))


def compare(
    first: ArrayLike,
    second: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Return all that is known of `first - second`: interval, both tests, effect size.

    Args:
        first: One value a seed and query, [S, Q], or [Q] of one seed.
        second: The same of the other system on the same queries, [S', Q] or [Q]. Seeds are not paired.
        clusters: Which cluster each query is of, [Q]; None makes each query a cluster.
        confidence: Of the interval; see `hierarchical_bootstrap`.
        resamples: Of interval and randomisation test.
        seed: Seed of both.

    Raises:
        ValueError: If scores or clusters are not finite or do not fit each other, or a setting is out of range.

    Example:
        >>> found = compare([[0.5, 0.7, 0.9], [0.6, 0.7, 0.8]], [0.4, 0.4, 0.4])
        >>> round(found.mean, 3), found.num_seeds, found.num_clusters
        (0.3, (2, 1), 3)
    """
    sources = two_systems(first, second, clusters)
    interval = interval_of(sources, confidence=confidence, resamples=resamples, seed=seed)
    return Comparison(
        interval.mean,
        interval.low,
        interval.high,
        randomisation_p_of(sources, resamples, seed),
        t_test_of(sources),
        effect_size_of(sources),
        (len(score_matrix(first)), len(score_matrix(second))),
        len(sources.sizes),
    )


def against_baseline(
    systems: Mapping[str, ArrayLike],
    baseline: str,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Adjusted]:
    """Compare every system with one of them, `system - baseline`, and adjust for how many comparisons that makes.

    Args:
        systems: Scores by name, [S, Q] or [Q] each, of the same queries in the same order.
        baseline: Name of the one to compare with.
        clusters: Which cluster each query is of, [Q]; None makes each query a cluster.
        confidence: Of each interval by itself; only the p-values are adjusted.
        resamples: Of intervals and randomisation tests.
        seed: Seed of both.

    Raises:
        ValueError: If there is no such baseline, or as in `compare`.

    Example:
        >>> sorted(against_baseline({"a": [0.1, 0.2], "b": [0.3, 0.3], "c": [0.2, 0.2]}, "a"))
        ['b', 'c']
    """
    if baseline not in systems:
        raise ValueError(f"expected the baseline to be one of {', '.join(systems)}, got {baseline!r}")
    found = {
        name: compare(
            scores, systems[baseline], clusters=clusters, confidence=confidence, resamples=resamples, seed=seed
        )
        for name, scores in systems.items()
        if name != baseline
    }
    p_values = [comparison.randomisation_p for comparison in found.values()]
    adjusted = zip(found, holm(p_values), benjamini_hochberg(p_values), strict=True)
    return {name: Adjusted(found[name], claim, screening) for name, claim, screening in adjusted}
