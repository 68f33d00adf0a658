"""Which (query, key) pairs count: small boolean functions of global indices that compose with `|`, `&`, `~` and `.T`.

A mask is asked for the block it is needed on, so it never has to exist as [Q, K].
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MASK_ROWS = 1024
"""Rows at a time where a whole mask has to be looked at."""


class Mask:
    """A selection of (row, column) pairs; True selects the pair.

    Args:
        select: Maps row indices [r, 1] and column indices [1, c] to bool that broadcasts to [r, c].

    Example:
        >>> import torch
        >>> rows = torch.arange(2)
        >>> (~diagonal())(rows, rows)
        tensor([[False,  True],
                [ True, False]])
    """

    def __init__(self, select: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._select = select

    def __call__(self, rows: Tensor, cols: Tensor) -> Tensor:
        """Return the bool block [r, c] for global indices rows [r] and cols [c]."""
        return self._select(rows[:, None], cols[None, :]).expand(len(rows), len(cols))

    def __or__(self, other: Mask) -> Mask:
        return Mask(lambda rows, cols: self._select(rows, cols) | other._select(rows, cols))

    def __and__(self, other: Mask) -> Mask:
        return Mask(lambda rows, cols: self._select(rows, cols) & other._select(rows, cols))

    def __invert__(self) -> Mask:
        return Mask(lambda rows, cols: ~self._select(rows, cols))

    @property
    def T(self) -> Mask:
        """The same selection with rows and columns exchanged."""
        return Mask(lambda rows, cols: self._select(cols.T, rows.T).T)


_DIAGONAL = Mask(lambda rows, cols: rows == cols)
_EVERYTHING = Mask(lambda rows, _cols: torch.ones_like(rows, dtype=torch.bool))


def diagonal() -> Mask:
    """Select pair (i, i): the positive of query `i`, or an item itself. It is always the same object."""
    return _DIAGONAL


def everything() -> Mask:
    """Select every pair. It is always the same object."""
    return _EVERYTHING


def same_id(row_ids: Tensor, col_ids: Tensor) -> Mask:
    """Select the pairs whose ids, row_ids [Q] and col_ids [K], are equal."""
    return Mask(lambda rows, cols: row_ids[rows] == col_ids[cols])


def known_positive(positive_ids: Tensor, key_ids: Tensor) -> Mask:
    """Select the pairs in which the key is a known positive of the query.

    Args:
        positive_ids: Ids of every known positive of each query, [Q, M], padded with -1.
        key_ids: Id of each key, [K]; a key of unknown identity has -1 and is nobody's known positive.
    """
    known = key_ids.masked_fill(key_ids < 0, torch.iinfo(key_ids.dtype).min)
    if positive_ids.shape[1] == 1:  # one comparison, and nothing to bring together
        return same_id(positive_ids[:, 0], known)
    return Mask(lambda rows, cols: (positive_ids[rows] == known[cols][..., None]).any(-1))


def owned(owners: Tensor) -> Mask:
    """Select the pairs in which the key belongs to the query, by owners [K]."""
    return Mask(lambda rows, cols: rows == owners[cols])


def columns(selected: Tensor) -> Mask:
    """Select every pair with one of the selected keys, a bool tensor [K]."""
    return Mask(lambda _rows, cols: selected[cols])


def columns_from(first: int) -> Mask:
    """Select every pair with key `first` or a later one; with the number of queries, the keys beyond the positives."""
    return Mask(lambda _rows, cols: cols >= first)


def same_label(row_labels: Tensor, col_labels: Tensor) -> Mask:
    """Select the pairs of one class, by labels row_labels [Q] and col_labels [K]; negative labels are of no class."""
    return Mask(lambda rows, cols: (row_labels[rows] == col_labels[cols]) & (row_labels[rows] >= 0))


def normalise_text(text: str) -> str:
    """Return the identity key of a text: Unicode NFKC, case folded, each run of whitespace made one space.

    Example:
        >>> normalise_text("  Data   Scientist ")
        'data scientist'
    """
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def same_text(row_texts: Sequence[str], col_texts: Sequence[str], device: torch.device | str = "cpu") -> Mask:
    """Select the pairs whose texts are the same but for case, white space and Unicode form.

    Args:
        row_texts: Texts of the rows, Q.
        col_texts: Texts of the columns, K.
        device: Where the mask is used.
    """
    numbers: dict[str, int] = {}
    rows, cols = (
        torch.tensor(
            [numbers.setdefault(normalise_text(text), len(numbers)) for text in texts],
            dtype=torch.long,
            device=device,
        )
        for texts in (row_texts, col_texts)
    )
    return same_id(rows, cols)


def two_views(num_items: int) -> Mask:
    """Select the pairs that are two views of one item, where all first views are followed by all second ones, [2N]."""
    return Mask(lambda rows, cols: (rows - cols).abs() == num_items)


def from_tensor(selected: Tensor) -> Mask:
    """Make a mask of a bool tensor [Q, K]."""
    return Mask(lambda rows, cols: selected[rows, cols])


def from_pairs(pairs: Tensor, num_rows: int, num_cols: int) -> Mask:
    """Make a mask [num_rows, num_cols] of index pairs [P, 2], each (row, column).

    Raises:
        ValueError: If the pairs are not integers of shape [P, 2].
    """
    if pairs.is_floating_point() or pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"expected integer index pairs of shape [P, 2], got {pairs.dtype} {list(pairs.shape)}")

    def select(rows: Tensor, cols: Tensor) -> Tensor:
        rows, cols = rows.reshape(-1), cols.reshape(-1)
        # Where in the block each row and column is; what is not there goes to a place of its own at the end.
        row_place = rows.new_full((num_rows,), -1).scatter(0, rows, torch.arange(len(rows), device=rows.device))
        col_place = cols.new_full((num_cols,), -1).scatter(0, cols, torch.arange(len(cols), device=cols.device))
        row, col = row_place[pairs[:, 0]], col_place[pairs[:, 1]]
        place = torch.where((row >= 0) & (col >= 0), row * len(cols) + col, len(rows) * len(cols))
        selected = torch.zeros(len(rows) * len(cols) + 1, dtype=torch.bool, device=rows.device)
        return selected.index_fill(0, place, True)[:-1].view(len(rows), len(cols))

    return Mask(select)


def any_row(mask: Mask, num_rows: int, num_cols: int, device: torch.device) -> Tensor:
    """Return which columns are selected in some row, bool [num_cols], looking at a block of rows at a time."""
    found = torch.zeros(num_cols, dtype=torch.bool, device=device)
    for rows in torch.split(torch.arange(num_rows, device=device), MASK_ROWS):
        found |= mask(rows, torch.arange(num_cols, device=device)).any(0)
    return found


def as_mask(mask: Mask | Tensor, num_rows: int, num_cols: int, device: torch.device) -> Mask:
    """Return a mask or a bool tensor [num_rows, num_cols] as a mask.

    Raises:
        ValueError: If a tensor has another shape or is not bool.
    """
    return mask if isinstance(mask, Mask) else from_tensor(dense(mask, num_rows, num_cols, device))


def dense(mask: Mask | Tensor, num_rows: int, num_cols: int, device: torch.device) -> Tensor:
    """Return a mask or a bool tensor as a bool tensor [num_rows, num_cols].

    Raises:
        ValueError: If a tensor has another shape or is not bool.
    """
    if isinstance(mask, Mask):
        return mask(torch.arange(num_rows, device=device), torch.arange(num_cols, device=device))
    if mask.dtype != torch.bool or mask.shape != (num_rows, num_cols):
        raise ValueError(f"expected a bool mask of shape [{num_rows}, {num_cols}], got {mask.dtype} {list(mask.shape)}")
    return mask.to(device)
