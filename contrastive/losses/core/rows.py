"""What every ranking loss shares: from the arguments of its call to masks."""

from __future__ import annotations

import torch
from torch import Tensor

from contrastive.contracts import MaskLike
from contrastive.losses.core.reduction import check_choice, reduce_rows
from contrastive.masks import Mask, any_row, as_mask, columns, diagonal, everything, from_pairs, owned

__all__ = ["check_choice", "exclude_mask", "key_owners", "negative_mask", "positive_mask", "reduce_rows"]


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
    is_positive = any_row(positive, num_queries, num_keys, device)
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
