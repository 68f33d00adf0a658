"""How sure a mean over queries is: percentile bootstrap, over queries alone or over seeds and queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

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
    """Return the mean of values [Q] with its percentile bootstrap interval over queries.

    The percentile interval (Efron and Tibshirani, 1993, An Introduction to the Bootstrap, section 13.3) is a little
    narrow for few queries. A single query, or equal values, give width 0, which says nothing of other queries.

    Args:
        values: One value a query, [Q].
        confidence: Share of such intervals that hold the true mean, between 0 and 1.
        resamples: How many samples of Q queries to draw with replacement.
        seed: Seed of the draws.

    Raises:
        ValueError: If the values are not a finite vector of at least one, or the confidence is out of range.

    Example:
        >>> bootstrap_interval([0.5, 0.5, 0.5])
        Interval(mean=0.5, low=0.5, high=0.5)
    """
    sample = finite_vector(values)
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"expected 0 < confidence < 1 and resamples of at least 1, got {confidence} and {resamples}")
    if np.ptp(sample) == 0:
        return Interval(float(sample[0]), float(sample[0]), float(sample[0]))
    rng = np.random.default_rng(seed)
    draws = in_chunks(resamples, sample.size, lambda shape: sample[rng.integers(sample.size, size=shape)].mean(axis=1))
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(sample.mean()), float(low), float(high))
