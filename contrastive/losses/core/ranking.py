"""From embeddings, options and a formula to a loss, in one direction or in several.

A loss gives a *formula*, what a row loses as a function of its logits; who counts in a row is chosen here, once.

A row is made of *parts*, one for each direction in which texts are compared: query i against all keys, query i against
the other queries, the positive of query i against all queries, and so on. Parts of one partition share a softmax; a
loss of several partitions is the mean over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from contrastive.contracts import MaskLike, Reduction, Similarity
from contrastive.losses.core.blocks import Comparison, Formula
from contrastive.losses.core.both_ways import fits, loss_of_both
from contrastive.losses.core.choice import Choice, Rows, Selection
from contrastive.losses.core.directions import Sides, parts_of
from contrastive.losses.core.log_sums import Judged
from contrastive.losses.core.options import Direction, SoftmaxOptions, complete
from contrastive.losses.core.reduction import or_one, reduce_rows
from contrastive.losses.core.sweeps import judge_each, loss_of_rows
from contrastive.masks import MASK_ROWS
from contrastive.similarity import MaxSimilarity, SimilarityName, named


def cross_entropy(rows: Rows) -> Judged:
    """Return the cross-entropy of finding the positives of a row."""
    positives, negatives = rows.sums.positives, rows.sums.negatives
    of_negatives = (negatives - positives).detach().sigmoid()
    return Judged(torch.logaddexp(positives, negatives), of_positives=1 - of_negatives, of_negatives=of_negatives)


def ranking_loss(
    formula: Formula,
    queries: Tensor,
    keys: Tensor,
    options: SoftmaxOptions,
    *,
    by_log_sums: bool = False,
    partitions: Sequence[Sequence[Direction]] | None = None,
    also_exclude: Mapping[Direction, MaskLike] | None = None,
    parameters: Sequence[Tensor] = (),
) -> Tensor:
    """Apply a formula to the rows of every partition and return the mean over the partitions.

    Args:
        formula: What a row loses.
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D].
        options: What the caller of the loss said.
        by_log_sums: Whether the formula looks at nothing but `Rows.sums` and `Rows.rows`, which is quicker.
        partitions: Directions that share a softmax, the one that holds the positive first; by default what `symmetric`
            and `same_side` say.
        also_exclude: Masks of further pairs to leave out, by direction.
        parameters: Tensors that the formula reads and that are trained.
    """
    told = complete(options)
    if partitions is None:
        both_sides: list[list[Direction]] = [["query_to_key", "query_to_query"], ["key_to_query", "key_to_key"]]
        ways = both_sides if told["same_side"] else [way[:1] for way in both_sides]
        partitions = ways if told["symmetric"] else ways[:1]
    _check_sides(told["similarity"], partitions)
    with torch.autocast(keys.device.type, enabled=False):
        sides = Sides.of(queries, keys, told, also_exclude or {})
        return _mean_of_partitions(formula, sides, told, partitions, by_log_sums=by_log_sums, parameters=parameters)


def _check_sides(similarity: Similarity | SimilarityName, partitions: Sequence[Sequence[Direction]]) -> None:
    """Refuse texts of one side with each other by a sum over tokens: the score of two documents is not that of a query.

    Raises:
        ValueError: If there are such, which grow with the length of a text, and shrink with the weights of both.
    """
    same = [way for ways in partitions for way in ways if way in ("query_to_query", "key_to_key")]
    if same and isinstance(similarity, MaxSimilarity) and not similarity.mean:
        raise ValueError(
            f"expected queries and keys that are compared with each other alone by {similarity!r}, a sum over the "
            f"tokens of a query, got {' and '.join(same)}: same_side=False, of gist contrast_queries=False and "
            "contrast_positives=False, or query tokens without weights (encoder.query_weights)"
        )


def _mean_of_partitions(
    formula: Formula,
    sides: Sides,
    told: SoftmaxOptions,
    partitions: Sequence[Sequence[Direction]],
    *,
    by_log_sums: bool,
    parameters: Sequence[Tensor],
) -> Tensor:
    selection, weights, reduction = Selection.of(told), told["weights"], told["reduction"]
    comparisons = [
        Comparison(
            formula,
            Choice(told["temperature"], parts_of(sides, way), selection),
            named(told["similarity"]),
            by_log_sums=by_log_sums,
            tiled=told["tiled"],
            health=None if i else told["health"],
            parameters=parameters,
        )
        for i, way in enumerate(partitions)
    ]
    if [list(way) for way in partitions] == [["query_to_key"], ["key_to_query"]]:
        forth, back = comparisons
        if fits(forth, back, weights, reduction):
            return loss_of_both(forth, back, weights, reduction)
    losses = [
        _mean_of_positives(*judge_each(comparison), sides, weights, reduction)
        if way[0] == "key_to_query" and not sides.one_each
        else loss_of_rows(comparison, weights, reduction)
        for comparison, way in zip(comparisons, partitions, strict=True)
    ]
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)


def _mean_of_positives(
    totals: Tensor, counts: Tensor, sides: Sides, weights: Tensor | None, reduction: Reduction
) -> Tensor:
    """Reduce the losses of keys that look for their queries, [K], to those of queries, each the mean of its keys."""

    def of_queries(rows: Tensor, of_keys: Tensor) -> tuple[Tensor, Tensor]:
        found = sides.positive(rows, torch.arange(len(of_keys), device=rows.device)) & (counts > 0)
        return found.to(of_keys) @ of_keys / or_one(found.sum(1)), found.any(1)

    # A block of queries at a time, computed again in the backward pass: [Q, K] shares are not kept.
    blocks = torch.split(torch.arange(len(sides.queries), device=totals.device), MASK_ROWS)
    again = partial(checkpoint, of_queries, use_reentrant=False, preserve_rng_state=False)
    losses, answered = zip(*(again(rows, totals / or_one(counts)) for rows in blocks), strict=True)
    return reduce_rows(torch.cat(losses), torch.cat(answered), weights, reduction)
