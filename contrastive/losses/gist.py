"""GISTEmbed: InfoNCE whose false negatives a guide, another embedding model, points out.

Shape letters: Q queries, K >= Q keys, D width, G width of the guide's embeddings.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor

from contrastive.contracts import MaskLike
from contrastive.losses.core.guides import guide_margin
from contrastive.losses.core.module import LossModule
from contrastive.losses.core.options import Direction, SoftmaxOptions
from contrastive.losses.core.ranking import cross_entropy, ranking_loss
from contrastive.masks import Mask, columns_from
from contrastive.similarity import SimilarityName, product_similarity


def gist(
    queries: Tensor,
    keys: Tensor,
    *,
    guide_queries: Tensor,
    guide_keys: Tensor,
    margin: float = 0.0,
    relative_margin: bool = False,
    contrast_queries: bool = True,
    contrast_positives: bool = True,
    guide_similarity: SimilarityName = "cosine",
    **options: Unpack[SoftmaxOptions],
) -> Tensor:
    """Compute the GISTEmbed loss: `info_nce` without the negatives that a guide finds as close as the positive.

    Solatorio 2024 (https://arxiv.org/abs/2402.16829, section 3): a query's negatives are the other keys, the other
    queries, and the positives that its own positive is compared with, all in one softmax; one is left out if the
    guide's score of the two is above that of the query and its positive. Here also if it is equal, as it is for a
    duplicate of the positive; and a text is told from itself by its place and not by a similarity below 1. `margin`
    leaves out more, in the way of NV-Retriever (Moreira et al. 2024, https://arxiv.org/abs/2407.15831). Any number of
    hard negatives a query; guide scores are computed for a block at a time.

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D].
        guide_queries: Embeddings of the queries by the guide, [Q, G].
        guide_keys: Embeddings of the keys by the guide, [K, G]; a row of NaN, as for a queued key, leaves nothing out.
        margin: How far below the score of the positive a negative is left out already.
        relative_margin: Whether the margin is a share of the positive's score (its size, if that is negative) instead
            of a difference.
        contrast_queries: Whether the other queries are negatives of a query.
        contrast_positives: Whether positives are to be apart from one another.
        guide_similarity: How the guide compares: "cosine", "dot", "euclidean", or "max_sim" of a vector a token,
            [Q, Tq, G] and [K, Tk, G]; see `similarity_of`. It need not be how the trained embeddings are compared.
        options: See `SoftmaxOptions`; each query has one positive, key i, so `positives` is not among them, and
            `same_side` is said by the two switches above. `symmetric` adds positives that look for their queries.

    Returns:
        The loss in nats, a scalar or [Q].

    Raises:
        ValueError: As `info_nce`, or if the guide's embeddings are not one a text.

    Example:
        >>> import torch
        >>> guide = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])  # finds the first two texts alike
        >>> gist(torch.eye(3), torch.eye(3), guide_queries=guide, guide_keys=guide, margin=0.1, temperature=1.0)
        tensor(0.8843)
    """
    if options.get("positives") is not None or options.get("same_side"):
        raise ValueError("expected key i to be the one positive of query i, got `positives` or same_side=True")
    symmetric = options.pop("symmetric", False)
    compare = product_similarity(guide_similarity)
    width = compare.shape.replace("D", "G")
    for name, guides, texts in (("guide_queries", guide_queries, queries), ("guide_keys", guide_keys, keys)):
        if guides.ndim != 2 + width.count(",") or len(guides) != len(texts):
            raise ValueError(f"expected {name} [{len(texts)}, {width}], got {list(guides.shape)}")
    if not math.isfinite(margin):
        raise ValueError(f"expected a finite margin, got {margin}")
    with torch.no_grad():
        guide_queries, guide_keys = compare.prepare(guide_queries), compare.prepare(guide_keys)
        heads = guide_keys[: len(queries)]
        least = compare.scores_of_pairs(guide_queries[: len(heads)], heads)

    def suspicious(rows: Tensor, cols: Tensor) -> Mask:
        return guide_margin(
            rows, cols, margin=margin, relative=relative_margin, least=least, similarity=guide_similarity
        )

    directions: list[Direction] = ["query_to_key"]
    left_out: dict[Direction, MaskLike] = {
        "query_to_key": suspicious(guide_queries, guide_keys),
        "key_to_query": suspicious(heads, guide_queries),
    }
    if contrast_queries:
        directions.append("query_to_query")
        left_out["query_to_query"] = suspicious(guide_queries, guide_queries)
    if contrast_positives:
        directions.append("key_to_key")
        left_out["key_to_key"] = suspicious(heads, guide_keys) | columns_from(len(queries))
    partitions: list[list[Direction]] = [directions, ["key_to_query"]] if symmetric else [directions]
    return ranking_loss(
        cross_entropy, queries, keys, options, by_log_sums=True, partitions=partitions, also_exclude=left_out
    )


class GISTLoss(LossModule, function=gist, without=["positives"]):
    """`gist` as a module, at the temperature of 0.05.

    Raises:
        TypeError: If there is no such option.
        ValueError: As `gist`.

    Example:
        >>> GISTLoss(margin=0.05).margin
        0.05
    """
