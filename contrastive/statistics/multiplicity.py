"""What several comparisons do to p-values: Holm for claims, Benjamini-Hochberg for screening."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for having made several comparisons, keeping the chance of any false discovery at the level.

    Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.
    It holds however the comparisons depend on each other.

    Args:
        p_values: One a comparison, from 0 to 1.

    Raises:
        ValueError: If one is not from 0 to 1.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    checked = _probabilities(p_values)
    order = np.argsort(checked, kind="stable")
    adjusted = np.empty(len(checked))
    factors = np.arange(len(checked), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(checked[order] * factors), 1.0)
    return [float(value) for value in adjusted]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that, of those at most alpha, a share of at most alpha is expected to be luck.

    Weaker than `holm`: for choosing what to look at again, not for claims. Benjamini and Hochberg (1995), "Controlling
    the false discovery rate", Journal of the Royal Statistical Society B 57. It holds for independent comparisons and
    for those that share a baseline and lean the same way.

    Args:
        p_values: One a comparison, from 0 to 1.

    Raises:
        ValueError: If one is not from 0 to 1.

    Example:
        >>> [round(p, 3) for p in benjamini_hochberg([0.01, 0.04, 0.03])]
        [0.03, 0.04, 0.04]
    """
    from scipy.stats import false_discovery_control

    checked = _probabilities(p_values)
    return [float(value) for value in false_discovery_control(checked, method="bh")] if len(checked) else []


def _probabilities(p_values: Sequence[float]) -> NDArray[np.float64]:
    checked = np.asarray(p_values, dtype=np.float64)
    if checked.ndim != 1 or not ((checked >= 0) & (checked <= 1)).all():
        raise ValueError(f"expected p-values from 0 to 1, got {list(p_values)}")
    return checked
