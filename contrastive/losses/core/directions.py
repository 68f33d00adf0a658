"""Who is compared with whom: queries with keys, with one another, and back; and who of them counts.

Shape letters: Q queries, K >= Q keys, D width, C candidates of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from contrastive.contracts import MaskLike
from contrastive.losses.core.options import Direction, SoftmaxOptions
from contrastive.losses.core.rows import exclude_mask, key_owners, negative_mask, positive_mask
from contrastive.masks import Mask, as_mask, columns_from, diagonal, everything, owned
from contrastive.similarity import ProductSimilarity, check_shapes, full_precision, named


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of a row's candidates, and who of them counts; None is what is usual.

    Attributes:
        anchors: Embeddings [R, D], those of the rows.
        candidates: Embeddings [C, D].
        positive: The positives of each row; None for none.
        ineligible: Who is no negative by the kind of comparison; None for nobody.
        exclude: Who else is left out of the negatives; None for nobody.
        log_weights: Logarithms of the weights of the candidates, [C].
        hardened: Which negatives are weighed by their hardness, if any are; None for all.
        flipped: Whether the anchors answer and the candidates ask, which matters to a similarity that is not symmetric.
    """

    anchors: Tensor
    candidates: Tensor
    positive: Mask | None = None
    ineligible: Mask | None = None
    exclude: Mask | None = None
    log_weights: Tensor | None = None
    hardened: Mask | None = None
    flipped: bool = False

    @property
    def left_out(self) -> Mask | None:
        """Who is no negative, for either reason."""
        return _either(self.ineligible, self.exclude)


@dataclass(frozen=True, slots=True)
class Sides:
    """Queries and keys with what a call says of them."""

    queries: Tensor
    keys: Tensor
    positive: Mask
    ineligible: Mask | None
    exclude: Mask | None
    own: Mask | None
    log_weights: Tensor | None
    hardened: Mask | None
    hardened_elsewhere: Mask | None
    merged: Mask | None
    itself: Mask | None
    one_each: bool
    left_out: Sequence[Mapping[Direction, MaskLike]]

    @classmethod
    def of(
        cls, queries: Tensor, keys: Tensor, options: SoftmaxOptions, also_exclude: Mapping[Direction, MaskLike]
    ) -> Sides:
        """Prepare the embeddings for the similarity, and read the options of a softmax loss, all of them.

        Raises:
            ValueError: If they do not fit the embeddings.
        """
        similarity, owners = named(options["similarity"]), options["owners"]
        check_shapes(queries, keys, similarity)
        prepare = similarity.prepare if isinstance(similarity, ProductSimilarity) else full_precision
        queries, keys = prepare(queries), prepare(keys)  # once, or directions add up in bfloat16
        shape = num_queries, num_keys = queries.shape[0], keys.shape[0]
        positive = positive_mask(options["positives"], *shape, keys.device)
        eligible = negative_mask(positive, owners, *shape, keys.device, others_negatives=options["others_negatives"])
        own: Mask | None = None
        hardened = options["hardened"] if options["hardness"] else "all"
        same_texts = options["same_texts"] or {}
        told = owners is not None or num_keys % max(num_queries, 1) == 0
        if hardened != "all" or (num_keys > num_queries and told):
            own = owned(key_owners(owners, *shape, keys.device))
        nobody = ~everything()
        excluded = exclude_mask(options["exclude"], *shape, keys.device)
        itself = exclude_mask(same_texts.get("query_to_key"), *shape, keys.device)
        merged = excluded if options["merge_excluded"] else None
        if merged is not None and itself is not None:
            merged = merged & ~itself
        of_hardness = {"all": None, "in_batch": ~(own or nobody), "hard": (own or nobody) & columns_from(num_queries)}
        return cls(
            queries,
            keys,
            positive,
            None if eligible is everything() else ~eligible,
            excluded,
            own,
            _log_weights(options["key_weights"], num_keys),
            of_hardness[hardened],
            nobody if hardened == "hard" else None,  # hard negatives are compared with their query alone
            merged,
            itself,
            options["positives"] is None,
            [masks for masks in (same_texts, also_exclude) if masks],
        )


def parts_of(sides: Sides, directions: Sequence[Direction]) -> list[Part]:
    """Return the parts of a partition.

    Raises:
        ValueError: If several positives a query were given for a direction in which a text has one.
    """
    if not sides.one_each and list(directions) not in (["query_to_key"], ["key_to_query"]):
        raise ValueError(
            f"expected key i to be the one positive of query i with directions {', '.join(directions)}, got `positives`"
        )
    makers = {
        "query_to_key": _query_to_key,
        "query_to_query": _query_to_query,
        "key_to_query": _key_to_query,
        "key_to_key": _key_to_key,
    }
    return [makers[direction](sides) for direction in directions]


def _query_to_key(sides: Sides) -> Part:
    merged = sides.merged
    return Part(
        sides.queries,
        sides.keys,
        sides.positive if merged is None else sides.positive | merged,
        sides.ineligible,
        _either(sides.exclude if merged is None else None, _further(sides, "query_to_key", len(sides.keys))),
        sides.log_weights,
        sides.hardened,
    )


def _key_to_query(sides: Sides) -> Part:
    """Positives look for their queries; with `positives`, every key does, and those that are nobody's go unanswered."""
    merged = None if sides.merged is None else sides.merged.T
    positive = diagonal() if sides.positive is diagonal() else sides.positive.T
    # Said of the positives in the order of the queries.
    further = _further(sides, "key_to_query", len(sides.queries)) if sides.one_each else None
    return Part(
        sides.keys[: len(sides.queries)] if sides.one_each else sides.keys,
        sides.queries,
        positive if merged is None else positive | merged,
        None,
        _either(
            None if merged is not None or sides.exclude is None else sides.exclude.T,
            _either(None if sides.itself is None else sides.itself.T, further),
        ),
        hardened=sides.hardened_elsewhere,
        flipped=True,
    )


def _query_to_query(sides: Sides) -> Part:
    """Queries of which one knows the other's document ask for the same thing."""
    known = None if sides.exclude is None else sides.exclude | sides.exclude.T
    return Part(
        sides.queries,
        sides.queries,
        ineligible=diagonal(),
        exclude=_either(known, _further(sides, "query_to_query", len(sides.queries))),
        hardened=sides.hardened_elsewhere,
    )


def _key_to_key(sides: Sides) -> Part:
    """Positives against other documents, but for the hard negatives of their own query and what it knows."""
    itself = diagonal() if sides.own is None else diagonal() | sides.own
    return Part(
        sides.keys[: len(sides.queries)],
        sides.keys,
        ineligible=_either(sides.ineligible, itself),
        exclude=_either(sides.exclude, _further(sides, "key_to_key", len(sides.keys))),
        log_weights=sides.log_weights,
        hardened=sides.hardened_elsewhere,
    )


def _further(sides: Sides, direction: Direction, width: int) -> Mask | None:
    found: Mask | None = None
    for masks in sides.left_out:
        if direction in masks:
            found = _either(found, as_mask(masks[direction], len(sides.queries), width, sides.keys.device))
    return found


def _either(one: Mask | None, other: Mask | None) -> Mask | None:
    return other if one is None else one if other is None else one | other


def _log_weights(key_weights: Tensor | None, num_keys: int) -> Tensor | None:
    """Return the logarithms of the weights of the keys, -inf where they are 0.

    Raises:
        ValueError: If they are not one a key.
    """
    if key_weights is None:
        return None
    if key_weights.shape != (num_keys,):
        raise ValueError(f"expected key_weights [{num_keys}], one a key, got {list(key_weights.shape)}")
    return full_precision(key_weights.detach()).log()
