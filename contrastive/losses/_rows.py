"""What every ranking loss shares: from the arguments of its call to masks, and from one value a query to the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from contrastive.contracts import MaskLike, Reduction
from contrastive.masks import Mask, as_mask, columns, dense, diagonal, everything, from_pairs, owned


def positive_mask(positives: MaskLike | None, num_queries: int, num_keys: int, device: torch.device) -> Mask:
    """Select the positive pairs: key `i` for query `i`, or what a mask, bool tensor or index pairs [P, 2] say instead.

    Raises:
        ValueError: If there is nothing to say instead and fewer keys than queries, or a tensor is of neither kind.
    """
    if positives is None:
        if num_keys < num_queries:
            raise ValueError(
                f"expected key i to be the positive of query i, got {num_queries} queries, {num_keys} keys"
            )
        return diagonal()
    if isinstance(positives, Tensor) and positives.dtype != torch.bool:
        return from_pairs(positives.to(device), num_queries, num_keys)
    return as_mask(positives, num_queries, num_keys, device)


def negative_mask(
    positive: Mask,
    owners: Tensor | None,
    num_queries: int,
    num_keys: int,
    device: torch.device,
    *,
    others_negatives: bool,
) -> Mask:
    """Select who may count against whom: every key, or all but the hard negatives that belong to another query.

    A hard negative is a key that is nobody's positive.

    Raises:
        ValueError: If the owners are needed and cannot be told, see `key_owners`.
    """
    if others_negatives:
        return everything()
    owners = key_owners(owners, num_queries, num_keys, device)
    is_positive = dense(positive, num_queries, num_keys, device).any(0)
    return owned(owners) | columns(is_positive | (owners < 0))


def exclude_mask(exclude: MaskLike | None, num_queries: int, num_keys: int, device: torch.device) -> Mask | None:
    """Select the pairs that are never negatives; `None` excludes nothing.

    Raises:
        ValueError: If a tensor is not a bool tensor [Q, K].
    """
    return None if exclude is None else as_mask(exclude, num_queries, num_keys, device)


def key_owners(owners: Tensor | None, num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Return the query each key belongs to, [K], -1 for a shared one; by default key `n Q + i` belongs to query `i`.

    Raises:
        ValueError: If the owners are not one a key, or there are none and K is no multiple of Q.
    """
    if owners is None:
        if num_keys % max(num_queries, 1):
            raise ValueError(
                "expected owners [K], or as many negatives for every query (K a multiple of Q), "
                f"got no owners, {num_queries} queries and {num_keys} keys"
            )
        return torch.arange(num_keys, device=device) % max(num_queries, 1)
    if owners.shape != (num_keys,) or owners.is_floating_point():
        raise ValueError(f"expected integer owners [{num_keys}], got {owners.dtype} {list(owners.shape)}")
    return owners.to(device)


def reduce_rows(totals: Tensor, counts: Tensor, weights: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce what each query's terms sum to, [Q], and how many they are, [Q], to a loss.

    `"mean"` is the weighted sum of the totals over the weighted sum of the counts, so a query with none is left out.
    `"none"` is each query's own mean times its weight, and `"sum"` the sum of those. Nothing at all gives 0.

    Raises:
        ValueError: If the weights are not one a query, or there is no such reduction.
    """
    check_choice("reduction", reduction, get_args(Reduction))
    if weights is None:
        weights = totals.new_ones(len(totals))
    elif weights.shape != totals.shape:
        raise ValueError(f"expected weights [{len(totals)}], one a query, got {list(weights.shape)}")
    weights, counts = weights.to(totals), counts.to(totals)
    if reduction == "mean":
        count = (weights * counts).sum()
        return (weights * totals).sum() / torch.where(count == 0, 1, count)
    rows = weights * totals / counts.clamp_min(1)
    return rows.sum() if reduction == "sum" else rows


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is not among the choices.

    Raises:
        ValueError: Naming the choices.
    """
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {', '.join(map(repr, choices))}, got {value!r}")
