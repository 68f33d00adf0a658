"""Giving each text its embedding, from those of the windows that micro-batches made of texts in whatever order.

A window is a text, or what of a long one the model can read at once. `pieces` here and in the heads are, of each batch,
which windows it has, each as (number of the distinct text, number of the window in it), and their embeddings.

Shape letters: B texts, T tokens of the longest window, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from contrastive.similarity import TokenVectors

Window = tuple[int, int]
Pieces = Iterable[tuple[Sequence[Window], Tensor]]


def vectors_in_order(pieces: Pieces, rows: Tensor, dimension: int) -> Tensor:
    """Give each text its vector, [B, D], where each is one window.

    Args:
        pieces: Embeddings [b, D] of batches of windows; none for no text.
        rows: Number of the distinct text that each text is, [B].
        dimension: Width D, for no text at all.
    """
    windows: list[Window] = []
    vectors = [torch.zeros(0, dimension, device=rows.device)]
    for of_batch, embedded in pieces:
        windows += of_batch
        vectors.append(embedded)
    return torch.cat(vectors).index_select(0, _sorted(windows, rows.device)[rows])


def tokens_in_order(pieces: Pieces, rows: Tensor, dimension: int) -> TokenVectors:
    """Give each text the vectors of all its windows, in their order.

    Args:
        pieces: Embeddings [b, T, D] of batches of windows, zeros for absent tokens; none for no text.
        rows: Number of the distinct text that each text is, [B].
        dimension: Width D, for no text at all.
    """
    windows: list[Window] = []
    packed = [TokenVectors.pack(torch.zeros(0, 0, dimension, device=rows.device))]
    for of_batch, embedded in pieces:
        windows += of_batch
        packed.append(TokenVectors.pack(embedded))
    joined = TokenVectors.join(packed)
    order = _sorted(windows, rows.device).cpu()
    owners = torch.tensor([number for number, _ in windows], dtype=torch.long)[order]
    if len(order) and not torch.equal(order, torch.arange(len(order))):
        joined = joined[order]
    of_texts = joined.lengths.new_zeros(int(owners.max()) + 1 if len(owners) else 0).index_add_(
        0, owners, joined.lengths
    )
    texts = TokenVectors.of_lengths(joined.vectors, of_texts)
    return texts if torch.equal(rows.cpu(), torch.arange(len(texts))) else texts[rows]


def _sorted(windows: Sequence[Window], device: torch.device) -> Tensor:
    """Return the places of windows in the order of texts and of windows in them."""
    return torch.tensor(sorted(range(len(windows)), key=windows.__getitem__), dtype=torch.long, device=device)
