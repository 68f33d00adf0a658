"""How sure a mean over queries is, and whether two systems differ: bootstrap intervals and a paired randomisation test.

One value a query, Q in all. Everything is a function of the values and the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CHUNK = 2**21  # random numbers drawn at a time: 16 MiB


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the confidence interval around it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of paired differences, its confidence interval, and a two-sided p-value for a difference of 0."""

    mean: float
    low: float
    high: float
    p_value: float


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
    sample = _finite_vector(values)
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"expected 0 < confidence < 1 and resamples of at least 1, got {confidence} and {resamples}")
    if np.ptp(sample) == 0:
        return Interval(float(sample[0]), float(sample[0]), float(sample[0]))
    rng = np.random.default_rng(seed)
    draws = _in_chunks(resamples, sample.size, lambda shape: sample[rng.integers(sample.size, size=shape)].mean(axis=1))
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(sample.mean()), float(low), float(high))


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
    left, right = _finite_vector(first), _finite_vector(second)
    if left.size != right.size:
        raise ValueError(f"expected values of the same queries, got {left.size} and {right.size}")
    differences = left - right
    interval = bootstrap_interval(differences, confidence=confidence, resamples=resamples, seed=seed)
    moving = differences[differences != 0]
    rng = np.random.default_rng((seed, 1))
    swapped = _in_chunks(
        resamples, moving.size, lambda shape: np.where(rng.random(shape) < 0.5, moving, -moving).sum(1)
    )
    # Sums that are equal on paper differ in their last bits.
    as_extreme = np.abs(swapped) >= abs(moving.sum()) - 1e-9 * np.abs(moving).sum()
    p_value = (1 + np.count_nonzero(as_extreme)) / (1 + resamples)
    return Difference(interval.mean, interval.low, interval.high, float(p_value))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for having made several comparisons, keeping the chance of any false discovery at the level.

    Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    factors = np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors), 1.0)
    return [float(value) for value in adjusted]


def _finite_vector(values: ArrayLike) -> NDArray[np.float64]:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0 or not np.isfinite(vector).all():
        raise ValueError(f"expected a finite value for each of at least one query, got {vector.shape}: {vector}")
    return vector


def _in_chunks(
    resamples: int, width: int, draw: Callable[[tuple[int, int]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return one number a resample, drawn for as many of them at a time as memory allows."""

    def sizes() -> Iterator[int]:
        step = max(1, _CHUNK // max(1, width))
        yield from (min(step, resamples - start) for start in range(0, resamples, step))

    return np.concatenate([draw((size, width)) for size in sizes()])
