"""Every loss has a configuration, every configuration builds its loss, and what data cannot serve says so at once."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from loss_configs import BATCH, KEYS, NAMES, QUERIES, configured
from torch import Tensor, nn

from contrastive import losses
from contrastive.data.batch import EmbeddedBatch, loss_arguments

NOT_OF_THE_CLASS: dict[str, dict[str, Any]] = {
    "infonce": {"symmetric": True},
    "margin_mse": {"similarity": "cosine"},  # an encoder's
    "matryoshka": {"loss": "infonce", "dimensions": [6, 4]},
}
"""Where a configuration differs from the class's own defaults on purpose."""


def plain(kind: type[nn.Module], options: dict[str, Any]) -> nn.Module:
    """Build a loss with its own defaults but for a few."""
    return kind(**{key: configured(value) if key == "loss" else value for key, value in options.items()})


def judged(loss: nn.Module) -> Tensor:
    value: Tensor = loss(BATCH.queries, BATCH.keys, **loss_arguments(loss, BATCH))
    return value


@pytest.mark.parametrize("name", NAMES)
def test_builds_a_loss_with_the_defaults_of_its_class(name: str) -> None:
    loss = configured(name)
    assert getattr(losses, type(loss).__name__) is type(loss)
    assert judged(loss) > 0
    assert judged(loss) == judged(plain(type(loss), NOT_OF_THE_CLASS.get(name, {})))


@pytest.mark.parametrize("name", NAMES)
def test_a_misspelt_setting_is_refused(name: str) -> None:
    with pytest.raises(InstantiationException, match="'tau'"):
        configured(name, "+loss.tau=0.1")


def test_every_loss_has_one() -> None:
    exported = {name for name in losses.__all__ if inspect.isclass(getattr(losses, name)) and name.endswith("Loss")}
    assert exported == {type(configured(name)).__name__ for name in NAMES}
    assert len(exported) == len(NAMES)


@pytest.mark.parametrize(
    ("name", "override", "argument", "value"),
    [
        ("mnrl", "loss.directions=[query_to_key,key_to_query]", "directions", ("query_to_key", "key_to_query")),
        ("infonce", "loss.label_smoothing=0.1", "label_smoothing", 0.1),
        ("infonce", "+loss.hardness=5", "hardness", 5),
        ("dcl", "loss.sigma=0.5", "sigma", 0.5),
        ("gist", "loss.contrast_queries=false", "contrast_queries", False),
        ("siglip", "loss.bias=-1", "bias", -1),
    ],
)
def test_a_setting_reaches_the_loss(name: str, override: str, argument: str, value: Any) -> None:
    loss = configured(name, override)
    expected = plain(type(loss), {**NOT_OF_THE_CLASS.get(name, {}), argument: value})
    assert judged(loss) == judged(expected)
    assert judged(loss) != judged(configured(name))


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        *((name, "targets, .*: .*data=files .*data.columns.score=NAME") for name in ("cosent", "angle", "contrastive")),
        ("online_contrastive", "targets, .*: the score of each pair"),
        *((name, r"teacher_scores, .*: .*Record.teacher_scores") for name in ("margin_mse", "distill_kl")),
        ("gist", "guide_queries, .*: embeddings of the queries by a guide model"),
    ],
)
def test_what_the_data_does_not_have_is_named_with_who_has_it(name: str, missing: str) -> None:
    loss = configured(name)
    with pytest.raises(ValueError, match=f"{type(loss).__name__} needs {missing}"):
        loss_arguments(loss, EmbeddedBatch(QUERIES, KEYS, owners=torch.arange(4)))
