"""What a trial chooses: only what the configuration has beside what is chosen before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from optuna.trial import FixedTrial

from experiments.sweeps.composer import Composer, compose_applicable
from experiments.tune.choosing import choose, overrides, unreachable
from experiments.tune.space import CHOSEN, parse_space

SPACE = parse_space(
    {
        "loss": {"choices": ["infonce", "mnrl", "triplet", "matryoshka"]},
        "loss@loss.loss": {"choices": ["infonce", "triplet"]},
        "loss.loss.margin": {"low": 0.1, "high": 0.5},
        "loss.temperature": {"low": 0.01, "high": 0.2, "log": True},
        "loss.margin": {"low": 0.1, "high": 0.5},
        "loss.symmetric": {"choices": [True, False]},
        "+loss.hardness": {"low": 0.0, "high": 5.0},
        "loss.label_smoothing": {"low": 0.0, "high": 0.2, "when": {"loss.symmetric": False}},
    }
)
DRAWN = {
    "loss.loss.margin": 0.2,
    "loss.temperature": 0.051239,
    "loss.margin": 0.3,
    "+loss.hardness": 1.0,
    "loss.label_smoothing": 0.1,
}


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with Composer() as composer:
        yield composer


@pytest.mark.parametrize(
    ("drawn", "chosen"),
    [
        (
            {"loss": "infonce", "loss.symmetric": False},
            ["loss", "loss.temperature", "loss.symmetric", "+loss.hardness", "loss.label_smoothing"],
        ),
        (
            {"loss": "infonce", "loss.symmetric": True},
            ["loss", "loss.temperature", "loss.symmetric", "+loss.hardness"],
        ),
        ({"loss": "mnrl"}, ["loss", "loss.temperature", "+loss.hardness"]),
        ({"loss": "triplet"}, ["loss", "loss.margin"]),
        ({"loss": "matryoshka", "loss@loss.loss": "triplet"}, ["loss", "loss@loss.loss", "loss.loss.margin"]),
        ({"loss": "matryoshka", "loss@loss.loss": "infonce"}, ["loss", "loss@loss.loss"]),
    ],
)
def test_a_trial_draws_what_its_choices_have(drawn: dict[str, Any], chosen: list[str], composer: Composer) -> None:
    trial = FixedTrial({**DRAWN, **drawn})
    found = choose(trial, SPACE, composer, ["batch_size=8"])
    assert list(found) == chosen
    assert list(trial.params) == chosen
    assert trial.user_attrs[CHOSEN] == found
    config, left_out = compose_applicable(composer, ["batch_size=8"], overrides(found))
    assert left_out == ()
    assert config.batch_size == 8
    if "loss.temperature" in found:
        assert config.loss.temperature == 0.05124


def test_every_setting_has_a_place_somewhere(composer: Composer) -> None:
    assert unreachable(SPACE, composer, []) == []


def test_what_has_a_place_nowhere_is_found(composer: Composer) -> None:
    content = {
        "loss": {"choices": ["infonce", "mnrl"]},
        "memory@loss.memory": {"choices": ["queue"]},
        "loss.temperature": {"low": 0.1, "high": 0.2},
        "loss.margin": {"low": 0.1, "high": 0.2},
        "loss.symmetric": {"choices": [True], "when": {"loss": "mnrl"}},
        "+loss.no_such": {"choices": [1]},
        "optimizer.rate": {"low": 0.1, "high": 0.2},
    }
    lost = ["memory@loss.memory", "loss.margin", "loss.symmetric", "+loss.no_such", "optimizer.rate"]
    assert sorted(unreachable(parse_space(content), composer, [])) == sorted(lost)


def test_values_are_written_as_hydra_reads_them(composer: Composer) -> None:
    values = {"a": 1, "b": 1e-5, "c": True, "d": None, "e": "none", "f": "true", "g": "1.5", "h": "it's, x", "i": ""}
    read = {each.key_or_group: each.value() for each in composer.parse(overrides(values))}
    assert read == values
    assert {key: type(value) for key, value in read.items()} == {key: type(value) for key, value in values.items()}
