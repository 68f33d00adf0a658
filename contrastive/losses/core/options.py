"""What the losses of the softmax family can be told, all alike, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict, get_args

from torch import Tensor

from contrastive.contracts import Health, MaskLike, Reduction, Similarity
from contrastive.losses.core.reduction import check_choice
from contrastive.losses.core.temperature import check_temperature
from contrastive.similarity import SimilarityName, cosine, named

Direction = Literal["query_to_key", "query_to_query", "key_to_query", "key_to_key"]
Hardened = Literal["all", "in_batch", "hard"]


class LossOptions(TypedDict, total=False):
    """What every softmax loss can be told, by keyword, whatever the batch.

    Attributes:
        similarity: Scores of queries and keys, higher is closer: a callable, or 'cosine' (default), 'dot', 'euclidean',
            or 'max_sim' or 'max_dot' of token vectors, queries [Q, Tq, D] and keys [K, Tk, D], zeros for absent tokens.
        symmetric: Whether to average over both directions, positives looking for their query among all queries too.
            Hard negatives look for nothing; a query with several positives counts as their mean.
        same_side: Whether texts of a row's own side count too: queries against other queries and, if symmetric,
            positives against other positives. Not with `positives`. By max_sim, which is not the same both ways, the
            row asks; where positives look for their query it is the query that asks, as when it is searched with.
        others_negatives: Whether hard negatives that belong to other queries, by `owners`, count. They do by default.
        false_negative_margin: A negative whose score is above that of the row's positive plus this is left out as a
            probable false one; negative values leave out more. None keeps all.
        drop_hardest: Share of each row's negatives, those of the highest scores, that is left out, from 0 to below 1.
        merge_excluded: Whether excluded pairs are taken for further positives instead of being left out.
        hardness: Negatives are weighed by exp(hardness * score), the weight without a gradient, 0 or above.
        hardened: Whose weights those are: "all" negatives, those "in_batch" (of other queries), or own "hard" ones.
        reduction: "mean" over the queries that have a positive and a negative, by weight; "sum"; or "none" for [Q].
        tiled: Whether to work in blocks, never holding [Q, K] scores, or in one; both are exact in value and gradient,
            and not twice differentiable. None works in blocks unless the similarity is a mere callable.
    """

    similarity: Similarity | SimilarityName
    symmetric: bool
    same_side: bool
    others_negatives: bool
    false_negative_margin: float | None
    drop_hardest: float
    merge_excluded: bool
    hardness: float
    hardened: Hardened
    reduction: Reduction
    tiled: bool | None


class SoftmaxOptions(LossOptions, total=False):
    """What every softmax loss can be told, by keyword: `LossOptions`, and what goes with the batch.

    Attributes:
        temperature: What scores are divided by, above 0; a number or a 0-dim tensor, which gets a gradient. 0.05 unless
            the loss says otherwise.
        key_weights: Weight of each key as a negative, [K], 0 or above; without a gradient.
        positives: Which pairs are positive: a mask, a bool tensor [Q, K] or index pairs [P, 2]. By default key i is the
            positive of query i.
        exclude: Pairs that are not negatives, such as known positives: a mask or a bool tensor [Q, K]. Positives stay.
            On a row's own side, queries of which one knows the other's document are left out too.
        same_texts: By direction, further pairs that are not negatives, since they are one text or one answers the
            other: a mask or a bool tensor for each. Of "query_to_key" those that are a query with its own text, [Q, K]:
            these are never merged. Where texts are queries and keys at once, as in pairs with their reversals.
        owners: The query each key belongs to, [K], -1 for one that all share; by default key `n Q + i` is query i's.
        weights: Weight of each query, [Q].
        health: Filled with positive_similarity, negative_similarity, temperature, excluded_share (of the negatives),
            effective_negatives and unanswered (share of rows), all of the first direction.
    """

    temperature: float | Tensor
    key_weights: Tensor | None
    positives: MaskLike | None
    exclude: MaskLike | None
    same_texts: Mapping[Direction, MaskLike] | None
    owners: Tensor | None
    weights: Tensor | None
    health: Health | None


DEFAULTS: SoftmaxOptions = {
    "similarity": cosine,
    "temperature": 0.05,
    "symmetric": False,
    "same_side": False,
    "others_negatives": True,
    "false_negative_margin": None,
    "drop_hardest": 0.0,
    "merge_excluded": False,
    "hardness": 0.0,
    "hardened": "all",
    "key_weights": None,
    "positives": None,
    "exclude": None,
    "same_texts": None,
    "owners": None,
    "weights": None,
    "reduction": "mean",
    "tiled": None,
    "health": None,
}


def complete(options: SoftmaxOptions) -> SoftmaxOptions:
    """Return the options with the defaults of those that are not there, and the similarity itself for its name.

    Raises:
        TypeError: If there is an option that is not one.
        ValueError: If a temperature, a similarity or a reduction is none.
    """
    for name in options:
        if name not in DEFAULTS:
            raise TypeError(f"expected options among {', '.join(DEFAULTS)}, got {name!r}")
    told: SoftmaxOptions = {**DEFAULTS, **options}
    check_temperature(told["temperature"])
    check_choice("reduction", told["reduction"], get_args(Reduction))
    return {**told, "similarity": named(told["similarity"])}
