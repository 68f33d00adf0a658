"""Drawing many resamples in little memory; everything is a function of the values and the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CHUNK = 2**21  # random numbers drawn at a time: 16 MiB


def finite_vector(values: ArrayLike) -> NDArray[np.float64]:
    """Return one value a query, [Q], as an array, checked."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0 or not np.isfinite(vector).all():
        raise ValueError(f"expected a finite value for each of at least one query, got {vector.shape}: {vector}")
    return vector


def in_chunks(
    resamples: int, width: int, draw: Callable[[tuple[int, int]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return one number a resample, drawn for as many of them at a time as memory allows."""

    def sizes() -> Iterator[int]:
        step = max(1, _CHUNK // max(1, width))
        yield from (min(step, resamples - start) for start in range(0, resamples, step))

    return np.concatenate([draw((size, width)) for size in sizes()])
