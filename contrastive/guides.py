"""Masks from a guide: another model, whose embeddings say which negatives are probably false."""

from __future__ import annotations

import torch
from torch import Tensor

from contrastive.masks import Mask
from contrastive.similarity import unit

_ROUNDING = 1e-6  # two products of the same unit vectors differ by less


def guide_margin(
    row_guides: Tensor, col_guides: Tensor, *, margin: float = 0.0, relative: bool = False, least: Tensor | None = None
) -> Mask:
    """Select the pairs that a guide finds so close that they may be false negatives (GISTEmbed).

    A pair (i, j) is selected if the guide's cosine of the two is at least that of query i and its positive, less a
    margin (Solatorio 2024, https://arxiv.org/abs/2402.16829, section 3, with margin 0; there a tie with the positive,
    such as its duplicate, is not selected). Scores are computed for the block that is asked for, never [B, B, G].

    Args:
        row_guides: Embeddings of the rows by the guide, [Q, G].
        col_guides: Embeddings of the columns by the guide, [K, G].
        margin: How far below the score of the positive a pair is selected already.
        relative: Whether the margin is a share of the positive's score instead of a difference.
        least: The guide's score of each row's positive, [Q]; None takes pair (i, i).
    """
    with torch.no_grad():
        row_guides, col_guides = unit(row_guides), unit(col_guides)
        if least is None:
            least = (row_guides * col_guides[: len(row_guides)]).sum(1)
        least = least - margin * (least.abs() if relative else 1)

    def select(rows: Tensor, cols: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
            scores = row_guides[rows.reshape(-1)] @ col_guides[cols.reshape(-1)].T
            return scores >= least[rows] - _ROUNDING

    return Mask(select)
