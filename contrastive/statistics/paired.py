"""Whether two systems differ on the same queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from contrastive.statistics.intervals import bootstrap_interval
from contrastive.statistics.resampling import finite_vector, in_chunks


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of paired differences, its confidence interval, and a two-sided p-value for a difference of 0."""

    mean: float
    low: float
    high: float
    p_value: float


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Compare two systems on the same queries: the mean of `first - second`, its interval, and whether it may be 0.

    The p-value is that of the randomisation test that swaps the two systems on random queries (Smucker, Allan and
    Carterette, 2007, "A comparison of statistical significance tests for information retrieval evaluation", CIKM). It
    counts the observed assignment as one of the draws, so it is never 0 and never too small on average.

    Args:
        first: One value a query, [Q].
        second: The same of the other system, in the same order.
        confidence: Of the bootstrap interval of the mean difference.
        resamples: How many resamples for the interval, and how many random swaps for the test.
        seed: Seed of both.

    Raises:
        ValueError: If the values are not two finite vectors of the same length.
    """
    left, right = finite_vector(first), finite_vector(second)
    if left.size != right.size:
        raise ValueError(f"expected values of the same queries, got {left.size} and {right.size}")
    differences = left - right
    interval = bootstrap_interval(differences, confidence=confidence, resamples=resamples, seed=seed)
    moving = differences[differences != 0]
    rng = np.random.default_rng((seed, 1))
    swapped = in_chunks(resamples, moving.size, lambda shape: np.where(rng.random(shape) < 0.5, moving, -moving).sum(1))
    # Sums that are equal on paper differ in their last bits.
    as_extreme = np.abs(swapped) >= abs(moving.sum()) - 1e-9 * np.abs(moving).sum()
    p_value = (1 + np.count_nonzero(as_extreme)) / (1 + resamples)
    return Difference(interval.mean, interval.low, interval.high, float(p_value))
