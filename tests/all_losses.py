"""Every loss of the library with the options that matter to what is checked of all of them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from torch import nn

from contrastive import losses


def classes() -> dict[str, type[nn.Module]]:
    """All loss modules, by name, also those that are not exported yet."""
    found = {}
    for module in pkgutil.iter_modules(losses.__path__):
        for name, value in vars(importlib.import_module(f"contrastive.losses.{module.name}")).items():
            if inspect.isclass(value) and issubclass(value, nn.Module) and name.endswith("Loss"):
                found[name] = value
    return found


CLASSES = classes()
LEARNT = {"learnable_temperature": True, "temperature": 0.3}
BOTH_WAYS = {"symmetric": True, **LEARNT}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("InfoNCELoss", {}),
    ("InfoNCELoss", {"symmetric": True, "similarity": "euclidean", "temperature": 0.3}),
    ("InfoNCELoss", {**BOTH_WAYS, "others_negatives": False}),
    ("InfoNCELoss", {**BOTH_WAYS, "same_side": True}),
    ("InfoNCELoss", {**LEARNT, "merge_excluded": True, "label_smoothing": 0.1}),
    ("InfoNCELoss", {"hardness": 5.0, "hardened": "hard", "temperature": 0.3}),
    ("InfoNCELoss", {"false_negative_margin": 0.1, "drop_hardest": 0.2, "temperature": 0.3}),
    ("InfoNCELoss", {**BOTH_WAYS, "reduction": "sum", "tiled": True}),
    ("MultipleNegativesRankingLoss", {"temperature": 0.01}),
    (
        "MultipleNegativesRankingLoss",
        {"directions": ["query_to_key", "query_to_query", "key_to_query", "key_to_key"], **LEARNT},
    ),
    (
        "MultipleNegativesRankingLoss",
        {"directions": ["query_to_key", "key_to_query"], "partition": "per_direction", **LEARNT},
    ),
    ("NTXentLoss", {}),
    ("NTXentLoss", {**LEARNT, "symmetric": False, "same_side": False, "merge_excluded": True}),
    ("SupConLoss", {}),
    ("SupConLoss", {**BOTH_WAYS, "merge_excluded": False}),
    ("DecoupledContrastiveLoss", {**BOTH_WAYS, "same_side": True}),
    ("DecoupledContrastiveLoss", {"sigma": 0.5}),
    ("DebiasedContrastiveLoss", {"symmetric": True, "temperature": 0.5}),
    ("HardWeightedLoss", {"temperature": 0.5}),
    ("GISTLoss", LEARNT),
    ("GISTLoss", {"symmetric": True, "margin": 0.05, "relative_margin": True, "temperature": 0.3}),
    ("SigLIPLoss", {}),
    ("TripletLoss", {}),
    ("TripletLoss", {"mining": "semi_hard", "distance": "euclidean"}),
    ("TripletLoss", {"mining": "all", "average": "active"}),
    ("TripletLoss", {"mining": "easy_positive"}),
    ("TripletLoss", {"mining": "distance_weighted", "margin": 0.5}),
    ("TripletLoss", {"mining": "explicit", "soft_margin": True}),
    ("ContrastiveLoss", {"margin": 1.5}),
    ("OnlineContrastiveLoss", {"margin": 1.5}),
    ("CoSENTLoss", {"temperature": 0.3}),
    ("AnglELoss", {"temperature": 0.3}),
    ("MarginMSELoss", {"similarity": "cosine"}),
    ("DistillKLLoss", {"temperature": 0.3}),
    ("MatryoshkaLoss", {"loss": ("InfoNCELoss", BOTH_WAYS), "dimensions": [6, 4]}),
    ("MatryoshkaLoss", {"loss": ("GISTLoss", {}), "dimensions": [6, 3]}),
    ("MatryoshkaLoss", {"loss": ("CoSENTLoss", {}), "dimensions": [6, 3]}),
]
OF_PAIRS = ("ContrastiveLoss", "OnlineContrastiveLoss", "CoSENTLoss", "AnglELoss")
DENSE = ("TripletLoss", "MarginMSELoss", "DistillKLLoss", "MatryoshkaLoss", *OF_PAIRS)


def make(name: str, options: dict[str, Any]) -> nn.Module:
    """Make a loss, and the one inside it."""
    made = {key: make(*value) if key == "loss" else value for key, value in options.items()}
    return CLASSES[name](**made)


def innermost(name: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The loss that a wrapper wraps."""
    return innermost(*options["loss"]) if "loss" in options else (name, options)


def takes_a_queue(name: str, options: dict[str, Any]) -> bool:
    """Whether keys may be more than the queries'."""
    return innermost(name, options)[0] not in OF_PAIRS


def takes_several_positives(name: str, options: dict[str, Any]) -> bool:
    """Whether `positives` may be given."""
    name, options = innermost(name, options)
    directions = options.get("directions", ["query_to_key"]), options.get("partition")
    if name == "MultipleNegativesRankingLoss":
        return directions[0] == ["query_to_key"] or directions[1] == "per_direction"
    return name not in (*OF_PAIRS, "GISTLoss") and not options.get("same_side") and "sigma" not in options
