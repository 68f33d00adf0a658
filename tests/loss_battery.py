"""The tables of the battery: every ranking loss of the roster and its options, and batches they are called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import oracles
import pytest
import torch
from all_losses import CLASSES, ROSTER
from torch import Tensor

from contrastive.masks import from_tensor

LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Any], Callable[..., Tensor]]] = {
    CLASSES[name].function.__name__: (CLASSES[name].function, CLASSES[name], entry.oracle)
    for name, entry in ROSTER.items()
    if entry.oracle is not None
}
OPTIONS = [(CLASSES[name].function.__name__, options) for name, entry in ROSTER.items() for options in entry.options]


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
    return {"guide_queries": queries.detach()[..., :3], "guide_keys": keys.detach()[..., :3]}


def of_tokens(options: dict[str, Any]) -> bool:
    """Whether embeddings are vectors of tokens."""
    return "max_sim" in (options.get("similarity"), options.get("distance"))


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

    def embeddings(
        self, options: dict[str, Any] | None = None, seed: int = 0, *, absent: bool = True
    ) -> tuple[Tensor, Tensor]:
        """What the options are about: a vector a text, or three tokens, of which some texts lack one."""
        generator, tokens = torch.Generator().manual_seed(seed), [3] * of_tokens(options or {})
        queries = torch.randn(self.num_queries, *tokens, 5, generator=generator, dtype=torch.float64)
        keys = torch.randn(self.num_keys, *tokens, 5, generator=generator, dtype=torch.float64)
        keys[: self.num_queries] += 0.7 * queries[: self.num_keys]
        if tokens and absent:
            queries[1::2, 2], keys[::3, 1] = 0, 0
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

    def tells_something_new(self, options: dict[str, Any]) -> bool:
        """Whether a loss of tokens can differ here: masks are told apart by the batches of single vectors."""
        return not of_tokens(options) or self.positives is not None or bool(self.exclude or self.key_weights)


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
    if batch.suits(name, options)
    and batch.tells_something_new(options)
    and (title != "pairs alone" or options.get("mining") != "explicit")
]
every_case = pytest.mark.parametrize(("name", "options", "batch"), CASES)


def gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, of, materialize_grads=True)
