"""The tables of the battery: every ranking loss of this file with its options, and the batches they are called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import oracles
import oracles_softmax
import pytest
import torch
from torch import Tensor

from contrastive import losses
from contrastive.masks import from_tensor

LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Any], Callable[..., Tensor]]] = {
    "info_nce": (losses.info_nce, losses.InfoNCELoss, oracles_softmax.info_nce),
    "multiple_negatives_ranking": (
        losses.multiple_negatives_ranking,
        losses.MultipleNegativesRankingLoss,
        oracles_softmax.multiple_negatives_ranking,
    ),
    "sup_con": (losses.sup_con, losses.SupConLoss, oracles_softmax.sup_con),
    "nt_xent": (losses.nt_xent, losses.NTXentLoss, oracles_softmax.nt_xent),
    "decoupled_contrastive": (
        losses.decoupled_contrastive,
        losses.DecoupledContrastiveLoss,
        oracles_softmax.decoupled_contrastive,
    ),
    "debiased_contrastive": (
        losses.debiased_contrastive,
        losses.DebiasedContrastiveLoss,
        oracles_softmax.debiased_contrastive,
    ),
    "hard_weighted": (losses.hard_weighted, losses.HardWeightedLoss, oracles_softmax.hard_weighted),
    "gist": (losses.gist, losses.GISTLoss, oracles_softmax.gist),
    "siglip": (losses.siglip, losses.SigLIPLoss, oracles_softmax.siglip),
    "triplet": (losses.triplet, losses.TripletLoss, oracles.triplet),
}
BOTH = ("query_to_key", "key_to_query")
ALL_FOUR = ("query_to_key", "query_to_query", "key_to_query", "key_to_key")
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("info_nce", {}),
    ("info_nce", {"similarity": "dot", "temperature": 1.0}),
    ("info_nce", {"similarity": "euclidean", "temperature": 0.3}),
    ("info_nce", {"symmetric": True, "temperature": 0.1}),
    ("info_nce", {"symmetric": True, "similarity": "euclidean", "temperature": 0.5}),
    ("info_nce", {"others_negatives": False, "temperature": 0.1}),
    ("info_nce", {"others_negatives": False, "symmetric": True, "temperature": 0.1}),
    ("info_nce", {"same_side": True, "others_negatives": False, "temperature": 0.2}),
    ("info_nce", {"same_side": True, "symmetric": True, "temperature": 0.2}),
    ("info_nce", {"label_smoothing": 0.2, "temperature": 0.3}),
    ("info_nce", {"label_smoothing": 0.2, "symmetric": True, "drop_hardest": 0.3, "temperature": 0.3}),
    ("info_nce", {"false_negative_margin": 0.0, "temperature": 0.3}),
    ("info_nce", {"false_negative_margin": -0.3, "symmetric": True, "temperature": 0.3}),
    ("info_nce", {"drop_hardest": 0.4, "symmetric": True, "temperature": 0.3}),
    ("info_nce", {"drop_hardest": 0.2, "false_negative_margin": -0.1, "same_side": True, "temperature": 0.3}),
    ("info_nce", {"merge_excluded": True, "symmetric": True, "temperature": 0.3}),
    ("info_nce", {"hardness": 9.0, "temperature": 0.3}),
    ("info_nce", {"hardness": 9.0, "hardened": "in_batch", "symmetric": True, "temperature": 0.3}),
    ("info_nce", {"hardness": 5.0, "hardened": "hard", "temperature": 0.3}),
    ("info_nce", {"hardness": 5.0, "hardened": "hard", "symmetric": True, "same_side": True, "temperature": 0.3}),
    ("multiple_negatives_ranking", {}),
    ("multiple_negatives_ranking", {"scale": 3.0, "label_smoothing": 0.1}),
    ("multiple_negatives_ranking", {"directions": ALL_FOUR, "temperature": 0.2}),
    ("multiple_negatives_ranking", {"directions": BOTH, "partition": "joint", "temperature": 0.2}),
    ("multiple_negatives_ranking", {"directions": BOTH, "partition": "per_direction", "temperature": 0.2}),
    ("multiple_negatives_ranking", {"directions": ALL_FOUR, "hardness": 4.0, "hardened": "hard", "temperature": 0.2}),
    ("sup_con", {}),
    ("sup_con", {"merge_excluded": True, "temperature": 0.3}),
    ("nt_xent", {}),
    ("nt_xent", {"symmetric": False, "temperature": 0.1}),
    ("nt_xent", {"symmetric": False, "same_side": False, "merge_excluded": True}),
    ("nt_xent", {"symmetric": True, "same_side": False, "drop_hardest": 0.3}),
    ("decoupled_contrastive", {"temperature": 0.2}),
    ("decoupled_contrastive", {"symmetric": True, "same_side": True, "temperature": 0.2}),
    ("decoupled_contrastive", {"symmetric": True, "sigma": 0.5, "temperature": 0.2}),
    ("debiased_contrastive", {"temperature": 0.5}),
    ("debiased_contrastive", {"temperature": 0.2, "positive_prior": 0.4, "symmetric": True}),
    ("debiased_contrastive", {"positive_prior": 0.0, "temperature": 0.3}),
    ("debiased_contrastive", {"similarity": "euclidean", "lowest_score": -2.0, "temperature": 1.0}),
    ("hard_weighted", {"temperature": 0.5}),
    ("hard_weighted", {"concentration": 0.5, "positive_prior": 0.02, "symmetric": True, "temperature": 0.2}),
    ("hard_weighted", {"concentration": 2.0, "positive_prior": 0.0, "same_side": True, "temperature": 0.5}),
    ("gist", {}),
    ("gist", {"margin": 0.2, "temperature": 0.2}),
    ("gist", {"margin": 0.2, "relative_margin": True, "symmetric": True, "temperature": 0.2}),
    ("gist", {"contrast_queries": False, "contrast_positives": False, "temperature": 0.2}),
    ("gist", {"contrast_queries": False, "hardness": 3.0, "others_negatives": False, "temperature": 0.2}),
    ("siglip", {}),
    ("siglip", {"temperature": 0.5, "bias": -1.0}),
    ("siglip", {"temperature": 0.5, "bias": 0.5, "hardness": 2.0, "hardened": "in_batch"}),
    ("siglip", {"temperature": 0.5, "bias": 0.5, "drop_hardest": 0.3, "merge_excluded": True}),
    ("triplet", {}),
    ("triplet", {"margin": 1.0, "average": "active"}),
    ("triplet", {"distance": "euclidean"}),
    ("triplet", {"distance": "euclidean", "normalize": False}),
    ("triplet", {"soft_margin": True}),
    ("triplet", {"soft_margin": True, "margin": 0.7}),
    ("triplet", {"mining": "semi_hard", "margin": 0.5}),
    ("triplet", {"mining": "semi_hard", "distance": "euclidean", "soft_margin": True}),
    ("triplet", {"mining": "all", "margin": 0.5}),
    ("triplet", {"mining": "all", "margin": 0.5, "average": "active"}),
    ("triplet", {"mining": "all", "distance": "euclidean", "normalize": False, "average": "active"}),
    ("triplet", {"mining": "explicit", "margin": 0.5}),
    ("triplet", {"mining": "easy_positive", "margin": 0.5}),
    ("triplet", {"mining": "distance_weighted", "margin": 0.5}),
    ("triplet", {"mining": "distance_weighted", "distance": "euclidean", "margin": 1.0, "average": "active"}),
]


def label(value: Any) -> str | None:
    if isinstance(value, dict):
        return ",".join(f"{key}={option}" for key, option in value.items()) or "default"
    return value if isinstance(value, str) else None


every_loss = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=label)


def call(name: str, options: dict[str, Any], queries: Tensor, keys: Tensor, **given: Any) -> Tensor:
    """Call the function; the guide of GIST, where the loss has one, sees three features of each embedding."""
    return LOSSES[name][0](queries, keys, **options, **guide(name, queries, keys), **given)


def guide(name: str, queries: Tensor, keys: Tensor) -> dict[str, Tensor]:
    if name != "gist":
        return {}
    return {"guide_queries": queries.detach()[:, :3], "guide_keys": keys.detach()[:, :3]}


def one_positive_only(name: str, options: dict[str, Any]) -> bool:
    """Whether the loss refuses `positives`."""
    directions = options.get("directions", ())
    return (
        name == "gist"
        or "sigma" in options
        or options.get("same_side", False)
        or (len(directions) > 1 and options.get("partition", "joint") == "joint")
    )


def both_ways(name: str, options: dict[str, Any]) -> bool:
    """Whether a row depends on what other rows exclude, or on rows that are not a query's."""
    told = {"symmetric": True, "same_side": True} | options if name == "nt_xent" else options
    return name == "gist" or any(told.get(option) for option in ("symmetric", "same_side", "directions"))


@dataclass
class Batch:
    """A call of a loss, said in tensors for the loss and in sets for its oracle."""

    num_queries: int
    num_keys: int
    given: dict[str, Any] = field(default_factory=dict)
    positives: oracles.Pairs | None = None
    exclude: oracles.Pairs = frozenset()
    same_texts: dict[str, oracles.Pairs] = field(default_factory=dict)
    owners: list[int] | None = None
    weights: list[float] | None = None
    key_weights: list[float] | None = None

    def embeddings(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        queries = torch.randn(self.num_queries, 5, generator=generator, dtype=torch.float64)
        keys = torch.randn(self.num_keys, 5, generator=generator, dtype=torch.float64)
        keys[: self.num_queries] += 0.7 * queries[: self.num_keys]
        return queries.requires_grad_(), keys.requires_grad_()

    def said(self, name: str = "", *embeddings: Tensor) -> dict[str, Any]:
        said = {
            "positives": self.positives,
            "exclude": self.exclude,
            "same_texts": self.same_texts,
            "owners": self.owners,
            "weights": self.weights,
            "key_weights": self.key_weights,
        }
        return {argument: value for argument, value in said.items() if value} | guide(name, *embeddings)

    def suits(self, name: str, options: dict[str, Any]) -> bool:
        if self.positives is not None and one_positive_only(name, options):
            return False
        return not (self.key_weights or self.same_texts) or name != "triplet"


def selection(num_rows: int, num_cols: int, pairs: oracles.Pairs) -> Tensor:
    mask = torch.zeros(num_rows, num_cols, dtype=torch.bool)
    for i, j in pairs:
        mask[i, j] = True
    return mask


SEVERAL = {(0, 0), (0, 5), (1, 1), (2, 2), (2, 0), (3, 3), (3, 9), (3, 10)}
EXCLUDED = {(0, 0), (0, 1), (1, 0), (2, 6), (3, 9), (3, 7)}
FOR_ALL = {(0, 0), (1, 0), (2, 0), (1, 1), (2, 2)}
CROSSED = {(0, 4), (1, 4), (2, 1), (3, 8)}
SAME_TEXTS = {  # (1, 0) and (2, 5) are a query and its own text, of which one is among the excluded
    "query_to_key": {(1, 0), (2, 5)},
    "query_to_query": {(1, 0), (0, 1), (2, 3)},
    "key_to_query": {(0, 3), (2, 1)},
    "key_to_key": {(0, 6), (3, 1)},
}
OWNERS = [0, 1, 2, 3, 0, 0, 1, 3, 3, 3, -1, -1]
KEY_WEIGHTS = [1.0, 0.5, 2.0, 1.0, 0.0, 3.0, 1.0, 0.1, 1.0, 1.0, 2.0, 0.0]
BATCHES = {
    "pairs alone": Batch(4, 4),
    "negatives": Batch(4, 12),
    "excluded": Batch(4, 12, {"exclude": selection(4, 12, EXCLUDED)}, exclude=EXCLUDED),
    "excluded by mask": Batch(4, 12, {"exclude": from_tensor(selection(4, 12, EXCLUDED))}, exclude=EXCLUDED),
    "same texts": Batch(
        4,
        12,
        {
            "exclude": selection(4, 12, EXCLUDED),
            "same_texts": {
                way: selection(4, 12 if way.endswith("_key") else 4, pairs) for way, pairs in SAME_TEXTS.items()
            },
        },
        exclude=EXCLUDED,
        same_texts=SAME_TEXTS,
    ),
    "several positives": Batch(4, 12, {"positives": selection(4, 12, SEVERAL)}, positives=SEVERAL),
    "several positives, excluded": Batch(
        4,
        12,
        {"positives": from_tensor(selection(4, 12, SEVERAL)), "exclude": selection(4, 12, EXCLUDED)},
        positives=SEVERAL,
        exclude=EXCLUDED,
    ),
    "index pairs": Batch(4, 12, {"positives": torch.tensor(sorted(CROSSED))}, positives=CROSSED),
    "owners": Batch(4, 12, {"owners": torch.tensor(OWNERS)}, owners=OWNERS),
    "weights": Batch(4, 12, {"weights": torch.tensor([0.5, 2.0, 0.0, 1.0])}, weights=[0.5, 2.0, 0.0, 1.0]),
    "key weights": Batch(
        4, 12, {"key_weights": torch.tensor(KEY_WEIGHTS, dtype=torch.float64)}, key_weights=KEY_WEIGHTS
    ),
    "weighted, several": Batch(
        4,
        12,
        {"positives": selection(4, 12, SEVERAL), "weights": torch.tensor([0.5, 2.0, 1.5, 1.0])},
        positives=SEVERAL,
        weights=[0.5, 2.0, 1.5, 1.0],
    ),
    "a query without negatives": Batch(
        3,
        9,
        {"exclude": selection(3, 9, {(1, j) for j in range(9)})},
        exclude={(1, j) for j in range(9)},
    ),
    "a query without positives": Batch(
        3, 9, {"positives": torch.tensor([[0, 0], [2, 2], [2, 4]])}, positives={(0, 0), (2, 2), (2, 4)}
    ),
    "a key that answers every query": Batch(3, 9, {"positives": torch.tensor(sorted(FOR_ALL))}, positives=FOR_ALL),
    "one pair with negatives": Batch(1, 3),
}
CASES = [
    pytest.param(name, options, batch, id=f"{name}-{label(options)}-{title}")
    for name, options in OPTIONS
    for title, batch in BATCHES.items()
    if batch.suits(name, options) and (title != "pairs alone" or options.get("mining") != "explicit")
]
every_case = pytest.mark.parametrize(("name", "options", "batch"), CASES)


def gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, of, materialize_grads=True)
