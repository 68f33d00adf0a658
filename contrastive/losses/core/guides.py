"""Masks from a guide: another model, whose embeddings say which negatives are probably false."""

from __future__ import annotations

import torch
from torch import Tensor

from contrastive.masks import Mask
from contrastive.similarity import MaxSimilarity, ProductSimilarity, SimilarityName, product_similarity


def guide_margin(
    row_guides: Tensor,
    col_guides: Tensor,
    *,
    margin: float = 0.0,
    relative: bool = False,
    least: Tensor | None = None,
    similarity: SimilarityName = "cosine",
) -> Mask:
    """Select the pairs that a guide finds so close that they may be false negatives (GISTEmbed).

    A pair (i, j) is selected if the guide's score of the two is at least that of query i and its positive, less a
    margin (Solatorio 2024, https://arxiv.org/abs/2402.16829, section 3, with margin 0; there a tie with the positive,
    such as its duplicate, is not selected). Scores are computed for the block that is asked for, never [B, B, G].

    Args:
        row_guides: Embeddings of the rows by the guide, [Q, G], or of their tokens.
        col_guides: Embeddings of the columns by the guide, [K, G], or of their tokens.
        margin: How far below the score of the positive a pair is selected already.
        relative: Whether the margin is a share of the positive's score (its size, if negative) instead of a difference.
        least: The guide's score of each row's positive, [Q]; None takes pair (i, i).
        similarity: How the guide compares, see `similarity_of`.

    Raises:
        ValueError: If there is no such similarity.
    """
    with torch.no_grad():
        compare = product_similarity(similarity)
        row_guides, col_guides = compare.prepare(row_guides), compare.prepare(col_guides)
        if least is None:
            least = compare.scores_of_pairs(row_guides, col_guides[: len(row_guides)])
        least = (
            least
            - margin * (least.abs() if relative else 1)
            - _rounding(compare, row_guides[: len(least)], col_guides, least)
        )

    def select(rows: Tensor, cols: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
            scores = compare.scores(row_guides[rows.reshape(-1)], col_guides[cols.reshape(-1)])
            return scores >= least[rows]

    return Mask(select)


def _rounding(compare: ProductSimilarity, rows: Tensor, columns: Tensor, least: Tensor) -> Tensor:
    """Return by how much two scores of equal texts may differ, [Q]; of cosines 1e-6."""
    if compare.lengths_matter:
        return 1e-4 * least.abs()
    if isinstance(compare, MaxSimilarity):
        return 1e-6 * least.abs().clamp_min(1)
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    longest = torch.linalg.vector_norm(columns.nan_to_num(), dim=1)  # NaN is that of a queued key
    return 1e-6 * lengths * torch.cat([longest, longest.new_zeros(1)]).amax()
