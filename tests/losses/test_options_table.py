"""The table of losses and options in docs/losses.md: every cell of it, run.

`yes` is given and changes the result; `no` is refused; `inner` belongs to the loss that Matryoshka is around.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import oracles_softmax
import pytest
import torch
from all_losses import CLASSES, ROSTER, Entry, usual
from torch import Tensor, nn

from contrastive.losses import CoSENTLoss, InfoNCELoss, MatryoshkaLoss, TripletLoss
from contrastive.losses.core.health import Health
from contrastive.losses.core.signature import parameters_of

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"
GENERATOR = torch.Generator().manual_seed(0)
QUERIES = torch.randn(4, 6, generator=GENERATOR, dtype=torch.float64)
KEYS = torch.randn(12, 6, generator=GENERATOR, dtype=torch.float64)
KEYS[:4] += QUERIES
TEACHER = torch.randn(4, 3, generator=GENERATOR, dtype=torch.float64)
OWNERS = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 3, 2, 1, 0])
EXCLUDED = torch.zeros(4, 12, dtype=torch.bool)
EXCLUDED[0, 4] = EXCLUDED[1, 2] = EXCLUDED[1, 9] = EXCLUDED[3, 11] = EXCLUDED[2, 10] = EXCLUDED[0, 8] = True
POSITIVES = torch.tensor([[0, 0], [0, 4], [1, 1], [2, 2], [3, 3], [3, 7]])
RANKED = (QUERIES, KEYS), {}
PAIRED = (QUERIES, KEYS[:4], torch.tensor([1, 0, 1, 0])), {}
TAUGHT = (QUERIES, KEYS), {"teacher_scores": TEACHER}
GUIDED = (QUERIES, KEYS), {"guide_queries": QUERIES[:, :3], "guide_keys": KEYS[:, :3]}
Call = tuple[tuple[Tensor, ...], dict[str, Any]]


def embeddings_and_given(loss: str) -> Call:
    """What a loss is called with, by the signature of its call."""
    takes = parameters_of(make(loss, {}))
    if "targets" in takes:
        return PAIRED
    return TAUGHT if "teacher_scores" in takes else GUIDED if "guide_queries" in takes else RANKED


@dataclass
class Option:
    """How an option is switched on and off: for the constructor, in the call, and what else it needs to matter."""

    made_with: dict[str, Any] = field(default_factory=dict)
    made_without: dict[str, Any] = field(default_factory=dict)
    called_with: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)


OPTIONS = {
    "similarity": Option({"similarity": "euclidean"}, {"similarity": "cosine"}),
    "max_sim": Option({"similarity": "max_sim"}),
    "symmetric": Option({"symmetric": True}, {"symmetric": False}),
    "same_side": Option({"same_side": True}, {"same_side": False}),
    "others_negatives": Option({"others_negatives": False}, {"others_negatives": True}),
    "false_negative_margin": Option({"false_negative_margin": -0.4}, {"false_negative_margin": None}),
    "drop_hardest": Option({"drop_hardest": 0.4}, {"drop_hardest": 0.0}),
    "merge_excluded": Option({"merge_excluded": True}, {"merge_excluded": False}, beside={"exclude": EXCLUDED}),
    "hardness": Option({"hardness": 5.0}, {"hardness": 0.0}),
    "label_smoothing": Option({"label_smoothing": 0.2}, {"label_smoothing": 0.0}),
    "learnable_temperature": Option({"learnable_temperature": True}, {"learnable_temperature": False}),
    "tiled": Option({"tiled": True}, {"tiled": False}),
    "reduction": Option({"reduction": "sum"}, {"reduction": "mean"}),
    "positives": Option(called_with={"positives": POSITIVES}, beside={"exclude": EXCLUDED}),  # which positives stay
    "exclude": Option(called_with={"exclude": EXCLUDED}),
    "owners": Option(called_with={"owners": OWNERS}),
    "weights": Option(called_with={"weights": torch.tensor([0.5, 2.0, 1.0, 0.0])}),
    "key_weights": Option(called_with={"key_weights": torch.arange(12.0)}),
    "health": Option(called_with={"health": None}),
}


def table() -> tuple[list[str], dict[str, list[str]]]:
    """The names of the columns, and the cells of each row."""
    text = PAGE.read_text()
    lines = text[text.index("<!-- options -->") : text.index("<!-- /options -->")].splitlines()
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    header, _, *rows = cells
    return header[1:], {row[0]: row[1:] for row in rows}


COLUMNS, ROWS = table()


def of_tokens(loss: str, queries: Tensor, keys: Tensor) -> Tensor:
    """Judge vectors of tokens by max_sim, with the guide that the loss may have."""
    setting = "distance" if "distance" in inspect.signature(CLASSES[loss]).parameters else "similarity"
    embeddings, given = embeddings_and_given(loss)
    value: Tensor = make(loss, {setting: "max_sim"})(queries, keys[: len(embeddings[1])], *embeddings[2:], **given)
    return value


def make(loss: str, options: dict[str, Any]) -> nn.Module:
    settings = ROSTER[loss].table
    if "loss" in settings:
        name, inner = settings["loss"]
        return CLASSES[loss](**{**settings, "loss": CLASSES[name](**inner, **options)})
    return CLASSES[loss](**settings, **options)


def result(loss: str, option: str, *, on: bool) -> Tensor:
    """Make the loss and call it, with the option or without it."""
    switch, (embeddings, given) = OPTIONS[option], embeddings_and_given(loss)
    options = switch.made_with if on else switch.made_without
    if option == "similarity" and loss in ("DebiasedContrastiveLoss", "HardWeightedLoss"):
        options = {**options, "lowest_score": -20.0}  # of distances there is no least but one that is said
    if option == "owners":  # matter where hard negatives of others do not count
        options = {"TripletLoss": {"mining": "explicit"}, "MarginMSELoss": {}, "DistillKLLoss": {}}.get(
            loss, {"others_negatives": False}
        )
        options = options if ROWS[loss][COLUMNS.index(option)] != "no" else {}
        if loss == "TripletLoss":
            module: nn.Module = TripletLoss(margin=1.0, **options)
            return module(*embeddings, **(switch.called_with if on else {}))
    called = switch.called_with | switch.beside if on else switch.beside
    value: Tensor = make(loss, options)(*embeddings, **given, **called)
    return value


def test_a_loss_without_an_entry_is_tried_as_its_family_is() -> None:
    assert usual(InfoNCELoss).oracle is oracles_softmax.info_nce
    assert usual(InfoNCELoss).options[1] == {"temperature": 0.3, "symmetric": True}
    assert usual(CoSENTLoss) == Entry(settings=[{}], table={})


def test_table_has_every_loss_and_option() -> None:
    assert sorted(ROWS) == sorted(ROSTER)
    assert sorted(COLUMNS) == sorted(OPTIONS)
    assert {cell for row in ROWS.values() for cell in row} <= {"yes", "no", "inner"}
    assert all((cell == "inner") <= (loss == "MatryoshkaLoss") for loss, row in ROWS.items() for cell in row)


CELLS = [
    pytest.param(loss, option, cell, id=f"{loss}-{option}-{cell}")
    for loss, row in ROWS.items()
    for option, cell in zip(COLUMNS, row, strict=True)
]


@pytest.mark.parametrize(("loss", "option", "cell"), CELLS)
def test_cell(loss: str, option: str, cell: str) -> None:
    if option == "max_sim":
        queries, keys = torch.stack([QUERIES, QUERIES.flip(1)], 1), torch.stack([KEYS, KEYS.roll(1, 1)], 1)
        if cell == "no":
            with pytest.raises((TypeError, ValueError), match=r"max_sim|similarity|left and right"):
                of_tokens(loss, queries, keys)
            (left, right, targets), _ = PAIRED
            with pytest.raises(ValueError, match=r"expected left and right \[B, D\]"):
                make(loss, {})(left[:, None], right[:, None], targets)
            return
        ours = of_tokens(loss, queries[:, :1], keys[:, :1])  # of one token it is a cosine
        embeddings, given = embeddings_and_given(loss)
        cosine = {} if "distance" in inspect.signature(CLASSES[loss]).parameters else {"similarity": "cosine"}
        torch.testing.assert_close(ours, make(loss, cosine)(*embeddings, **given))
        assert (of_tokens(loss, queries, keys) - ours).abs() > 1e-6
        return
    if cell == "no":
        with pytest.raises((TypeError, ValueError), match=rf"(?s){option}|expected|unexpected keyword"):
            result(loss, option, on=True)
        return
    if cell == "inner" and (own := OPTIONS[option].made_with):
        with pytest.raises(TypeError, match=option):
            MatryoshkaLoss(InfoNCELoss(), [6, 3], **own)
    if option == "health":
        health = Health()
        embeddings, given = embeddings_and_given(loss)
        make(loss, {})(*embeddings, **given, health=health)
        assert health.summary()
    elif option == "learnable_temperature":
        module = make(loss, {"learnable_temperature": True})
        embeddings, given = embeddings_and_given(loss)
        module(*embeddings, **given).backward()
        gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
        assert any("temperature" in name and grad is not None and grad != 0 for name, grad in gradients.items())
        fixed = make(loss, {"learnable_temperature": False}).named_parameters()
        assert not any("temperature" in name for name, _ in fixed)
    elif option == "tiled":
        torch.testing.assert_close(result(loss, option, on=True), result(loss, option, on=False))
    else:
        with_it, without_it = result(loss, option, on=True), result(loss, option, on=False)
        assert with_it.isfinite().all()
        assert (with_it - without_it).abs() > 1e-6
