"""From what each row's terms sum to, to a loss: mean, sum, or one number a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import Tensor

from contrastive.contracts import Reduction


def reduce_rows(totals: Tensor, counts: Tensor, weights: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce what each query's terms sum to, [Q], and how many they are, [Q], to a loss.

    `"mean"` is the weighted sum of the totals over the weighted sum of the counts, so a query with none is left out.
    `"none"` is each query's own mean times its weight, and `"sum"` the sum of those. Nothing at all gives 0.

    Raises:
        ValueError: If the weights are not one a query, or there is no such reduction.
    """
    check_choice("reduction", reduction, get_args(Reduction))
    check_weights(weights, len(totals))
    if weights is None:
        if reduction == "mean":
            return totals.sum() / or_one(counts.sum())
        weights = totals.new_ones(len(totals))
    weights, counts = weights.to(totals), counts.to(totals)
    if reduction == "mean":
        return (weights * totals).sum() / or_one((weights * counts).sum())
    rows = weights * totals / or_one(counts)
    return rows.sum() if reduction == "sum" else rows


def check_weights(weights: Tensor | None, num_rows: int) -> None:
    """Refuse weights that are not one a row.

    Raises:
        ValueError: Naming both shapes.
    """
    if weights is not None and weights.shape != (num_rows,):
        raise ValueError(f"expected weights [{num_rows}], one a query, got {list(weights.shape)}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is not among the choices.

    Raises:
        ValueError: Naming the choices.
    """
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {', '.join(map(repr, choices))}, got {value!r}")


def or_one(counts: Tensor) -> Tensor:
    """Return counts with 1 in place of 0; those of expected triplets may be fractions, which stay as they are."""
    return counts.masked_fill(counts == 0, 1)
