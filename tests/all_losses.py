"""The roster: every loss of the library with what tests need to know of it; of one without an entry `usual` says it.

The batteries read it: `loss_battery` compares the ranking losses with their papers, `test_options_table` runs the table
of options, and what is checked of every loss, such as health, ranks and training, takes the settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import oracles
import oracles_softmax
from torch import nn

from contrastive import losses

Settings = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """What the tests need to know of a loss.

    Attributes:
        settings: Ways to make it, for what is checked of every loss.
        table: A way to make it in which every option that it has can be told from its default.
        oracle: Its paper written as loops, of a ranking loss; those of pairs and of teachers have theirs in their test.
        options: Ways to call it that are compared with that.
    """

    settings: list[Settings]
    table: Settings
    oracle: Callable[..., Any] | None = None
    options: list[Settings] = field(default_factory=list)


LEARNT = {"learnable_temperature": True, "temperature": 0.3}
BOTH_WAYS = {"symmetric": True, **LEARNT}
BOTH = ("query_to_key", "key_to_query")
ALL_FOUR = ("query_to_key", "query_to_query", "key_to_query", "key_to_key")
TOKENS = {"similarity": "max_sim"}
ROSTER: dict[str, Entry] = {
    "InfoNCELoss": Entry(
        settings=[
            {},
            {"symmetric": True, "similarity": "euclidean", "temperature": 0.3},
            {**BOTH_WAYS, "others_negatives": False},
            {**BOTH_WAYS, "same_side": True},
            {**LEARNT, "merge_excluded": True, "label_smoothing": 0.1},
            {"hardness": 5.0, "hardened": "hard", "temperature": 0.3},
            {"false_negative_margin": 0.1, "drop_hardest": 0.2, "temperature": 0.3},
            {**BOTH_WAYS, "reduction": "sum", "tiled": True},
        ],
        table={"temperature": 0.3},
        oracle=oracles_softmax.info_nce,
        options=[
            {},
            {"similarity": "dot", "temperature": 1.0},
            {"similarity": "euclidean", "temperature": 0.3},
            {"symmetric": True, "temperature": 0.1},
            {"symmetric": True, "similarity": "euclidean", "temperature": 0.5},
            {"others_negatives": False, "temperature": 0.1},
            {"others_negatives": False, "symmetric": True, "temperature": 0.1},
            {"same_side": True, "others_negatives": False, "temperature": 0.2},
            {"same_side": True, "symmetric": True, "temperature": 0.2},
            {"label_smoothing": 0.2, "temperature": 0.3},
            {"label_smoothing": 0.2, "symmetric": True, "drop_hardest": 0.3, "temperature": 0.3},
            {"false_negative_margin": 0.0, "temperature": 0.3},
            {"false_negative_margin": -0.3, "symmetric": True, "temperature": 0.3},
            {"drop_hardest": 0.4, "symmetric": True, "temperature": 0.3},
            {"drop_hardest": 0.2, "false_negative_margin": -0.1, "same_side": True, "temperature": 0.3},
            {"merge_excluded": True, "symmetric": True, "temperature": 0.3},
            {"hardness": 9.0, "temperature": 0.3},
            {"hardness": 9.0, "hardened": "in_batch", "symmetric": True, "temperature": 0.3},
            {"hardness": 5.0, "hardened": "hard", "temperature": 0.3},
            {"hardness": 5.0, "hardened": "hard", "symmetric": True, "same_side": True, "temperature": 0.3},
            {**TOKENS, "symmetric": True, "temperature": 0.3},
            {**TOKENS, "same_side": True, "symmetric": True, "hardness": 5.0, "hardened": "hard", "temperature": 0.3},
            {**TOKENS, "drop_hardest": 0.2, "false_negative_margin": -0.1, "label_smoothing": 0.2, "temperature": 0.3},
        ],
    ),
    "MultipleNegativesRankingLoss": Entry(
        settings=[
            {"temperature": 0.01},
            {"directions": [*ALL_FOUR], **LEARNT},
            {"directions": [*BOTH], "partition": "per_direction", **LEARNT},
        ],
        table={"temperature": 0.3},
        oracle=oracles_softmax.multiple_negatives_ranking,
        options=[
            {},
            {"scale": 3.0, "label_smoothing": 0.1},
            {"directions": ALL_FOUR, "temperature": 0.2},
            {"directions": BOTH, "partition": "joint", "temperature": 0.2},
            {"directions": BOTH, "partition": "per_direction", "temperature": 0.2},
            {"directions": ALL_FOUR, "hardness": 4.0, "hardened": "hard", "temperature": 0.2},
            {**TOKENS, "directions": BOTH, "partition": "per_direction", "temperature": 0.2},
        ],
    ),
    "NTXentLoss": Entry(
        settings=[
            {},
            {**LEARNT, "symmetric": False, "same_side": False, "merge_excluded": True},
        ],
        table={"temperature": 0.3},
        oracle=oracles_softmax.nt_xent,
        options=[
            {},
            {"symmetric": False, "temperature": 0.1},
            {"symmetric": False, "same_side": False, "merge_excluded": True},
            {"symmetric": True, "same_side": False, "drop_hardest": 0.3},
            {**TOKENS},
        ],
    ),
    "SupConLoss": Entry(
        settings=[
            {},
            {**BOTH_WAYS, "merge_excluded": False},
        ],
        table={"temperature": 0.3},
        oracle=oracles_softmax.sup_con,
        options=[
            {},
            {"merge_excluded": True, "temperature": 0.3},
            {**TOKENS, "merge_excluded": True, "temperature": 0.3},
        ],
    ),
    "DecoupledContrastiveLoss": Entry(
        settings=[
            {**BOTH_WAYS, "same_side": True},
            {"sigma": 0.5},
        ],
        table={"temperature": 0.3},
        oracle=oracles_softmax.decoupled_contrastive,
        options=[
            {"temperature": 0.2},
            {"symmetric": True, "same_side": True, "temperature": 0.2},
            {"symmetric": True, "sigma": 0.5, "temperature": 0.2},
            {**TOKENS, "symmetric": True, "sigma": 0.5, "temperature": 0.2},
        ],
    ),
    "DebiasedContrastiveLoss": Entry(
        settings=[
            {"symmetric": True, "temperature": 0.5},
        ],
        table={"temperature": 0.3},
        oracle=oracles_softmax.debiased_contrastive,
        options=[
            {"temperature": 0.5},
            {"temperature": 0.2, "positive_prior": 0.4, "symmetric": True},
            {"positive_prior": 0.0, "temperature": 0.3},
            {"similarity": "euclidean", "lowest_score": -2.0, "temperature": 1.0},
            {**TOKENS, "temperature": 0.2, "positive_prior": 0.4},
        ],
    ),
    "HardWeightedLoss": Entry(
        settings=[
            {"temperature": 0.5},
        ],
        table={"temperature": 0.3},
        oracle=oracles_softmax.hard_weighted,
        options=[
            {"temperature": 0.5},
            {"concentration": 0.5, "positive_prior": 0.02, "symmetric": True, "temperature": 0.2},
            {"concentration": 2.0, "positive_prior": 0.0, "same_side": True, "temperature": 0.5},
            {**TOKENS, "concentration": 0.5, "temperature": 0.2},
        ],
    ),
    "GISTLoss": Entry(
        settings=[
            LEARNT,
            {"symmetric": True, "margin": 0.05, "relative_margin": True, "temperature": 0.3},
        ],
        table={"temperature": 0.3},
        oracle=oracles_softmax.gist,
        options=[
            {},
            {"margin": 0.2, "temperature": 0.2},
            {"margin": 0.2, "relative_margin": True, "symmetric": True, "temperature": 0.2},
            {"contrast_queries": False, "contrast_positives": False, "temperature": 0.2},
            {"contrast_queries": False, "hardness": 3.0, "others_negatives": False, "temperature": 0.2},
            {**TOKENS, "guide_similarity": "max_sim", "symmetric": True, "temperature": 0.2},
        ],
    ),
    "SigLIPLoss": Entry(
        settings=[
            {},
        ],
        table={"temperature": 0.3, "bias": 0.0},
        oracle=oracles_softmax.siglip,
        options=[
            {},
            {"temperature": 0.5, "bias": -1.0},
            {"temperature": 0.5, "bias": 0.5, "hardness": 2.0, "hardened": "in_batch"},
            {"temperature": 0.5, "bias": 0.5, "drop_hardest": 0.3, "merge_excluded": True},
            {**TOKENS, "temperature": 0.5, "bias": -1.0},
        ],
    ),
    "TripletLoss": Entry(
        settings=[
            {},
            {"mining": "semi_hard", "distance": "euclidean"},
            {"mining": "all", "average": "active"},
            {"mining": "easy_positive"},
            {"mining": "distance_weighted", "margin": 0.5},
            {"mining": "explicit", "soft_margin": True},
        ],
        table={"mining": "all", "margin": 1.0},
        oracle=oracles.triplet,
        options=[
            {},
            {"margin": 1.0, "average": "active"},
            {"distance": "euclidean"},
            {"distance": "euclidean", "normalize": False},
            {"soft_margin": True},
            {"soft_margin": True, "margin": 0.7},
            {"mining": "semi_hard", "margin": 0.5},
            {"mining": "semi_hard", "distance": "euclidean", "soft_margin": True},
            {"mining": "all", "margin": 0.5},
            {"mining": "all", "margin": 0.5, "average": "active"},
            {"mining": "all", "distance": "euclidean", "normalize": False, "average": "active"},
            {"mining": "explicit", "margin": 0.5},
            {"mining": "easy_positive", "margin": 0.5},
            {"mining": "distance_weighted", "margin": 0.5},
            {"mining": "distance_weighted", "distance": "euclidean", "margin": 1.0, "average": "active"},
            {"distance": "max_sim"},
            {"distance": "max_sim", "mining": "semi_hard", "margin": 0.5},
            {"distance": "max_sim", "mining": "all", "margin": 0.5, "average": "active"},
            {"distance": "max_sim", "mining": "explicit", "soft_margin": True},
        ],
    ),
    "ContrastiveLoss": Entry(
        settings=[
            {"margin": 1.5},
        ],
        table={"margin": 1.5},
    ),
    "OnlineContrastiveLoss": Entry(
        settings=[
            {"margin": 1.5},
        ],
        table={"margin": 1.5},
    ),
    "CoSENTLoss": Entry(
        settings=[
            {"temperature": 0.3},
        ],
        table={"temperature": 0.3},
    ),
    "AnglELoss": Entry(
        settings=[
            {"temperature": 0.3},
        ],
        table={"temperature": 0.3},
    ),
    "MarginMSELoss": Entry(
        settings=[
            {"similarity": "cosine"},
        ],
        table={},
    ),
    "DistillKLLoss": Entry(
        settings=[
            {"temperature": 0.3},
        ],
        table={"temperature": 0.3},
    ),
    "MatryoshkaLoss": Entry(
        settings=[
            {"loss": ("InfoNCELoss", BOTH_WAYS), "dimensions": [6, 4]},
            {"loss": ("GISTLoss", {}), "dimensions": [6, 3]},
            {"loss": ("CoSENTLoss", {}), "dimensions": [6, 3]},
        ],
        table={"loss": ("InfoNCELoss", {"temperature": 0.3}), "dimensions": [6, 3]},
    ),
}
OF_TOKENS: list[tuple[str, Settings]] = [
    ("InfoNCELoss", {**TOKENS, **BOTH_WAYS}),
    ("InfoNCELoss", {**TOKENS, **BOTH_WAYS, "same_side": True, "hardness": 5.0, "hardened": "hard"}),
    ("MultipleNegativesRankingLoss", {**TOKENS, "temperature": 0.3}),
    ("NTXentLoss", TOKENS),
    ("SupConLoss", TOKENS),
    ("DecoupledContrastiveLoss", {**TOKENS, "sigma": 0.5}),
    ("DebiasedContrastiveLoss", {**TOKENS, "temperature": 0.5}),
    ("HardWeightedLoss", {**TOKENS, "temperature": 0.5}),
    ("GISTLoss", {**TOKENS, **LEARNT}),
    ("GISTLoss", {**TOKENS, "guide_similarity": "max_sim", "temperature": 0.3}),
    ("SigLIPLoss", TOKENS),
    ("TripletLoss", {"distance": "max_sim", "mining": "semi_hard"}),
    ("TripletLoss", {"distance": "max_sim", "mining": "explicit"}),
    ("ContrastiveLoss", {"distance": "max_sim", "margin": 1.5}),
    ("OnlineContrastiveLoss", {"distance": "max_sim", "margin": 1.5}),
    ("CoSENTLoss", {**TOKENS, "temperature": 0.3}),
    ("MarginMSELoss", TOKENS),
    ("DistillKLLoss", {**TOKENS, "temperature": 0.3}),
    ("MatryoshkaLoss", {"loss": ("InfoNCELoss", {**TOKENS, **BOTH_WAYS}), "dimensions": [6, 4]}),
]
"""Every loss that vectors of tokens can be given to."""
CLASSES: dict[str, type[nn.Module]] = {name: getattr(losses, name) for name in losses.__all__ if name.endswith("Loss")}


def usual(kind: Any) -> Entry:
    """What suffices for most losses: the oracle that is called as its function, and the options of the family."""
    table = {"temperature": 0.3} if kind.shared else {}
    oracle = getattr(oracles_softmax, kind.function.__name__, None)
    options = [{}, {**table, "symmetric": True}] if kind.shared else [{}]
    return Entry([{}], table, oracle, options if oracle else [])


ROSTER |= {name: usual(kind) for name, kind in CLASSES.items() if name not in ROSTER}
SETTINGS = [(name, settings) for name, entry in ROSTER.items() for settings in entry.settings]
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
