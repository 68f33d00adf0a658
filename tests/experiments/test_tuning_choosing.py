"""What a trial chooses: only what the configuration has beside what is chosen before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from optuna.trial import FixedTrial

from experiments.sweeps.composer import Composer, compose_applicable
from experiments.tune.choosing import choose, overrides, unreachable
from experiments.tune.space import CHOSEN, parse_space

WRITTEN = {
    "loss": "infonce,mnrl,triplet,matryoshka",
    "loss@loss.loss": "infonce,triplet",
    "loss.loss.margin": "interval(0.1,0.5)",
    "loss.temperature": "tag(log,interval(0.01,0.2))",
    "loss.margin": "interval(0.1,0.5)",
    "loss.symmetric": "true,false",
    "+loss.hardness": "interval(0,5)",
    "loss.label_smoothing": "tag(loss.symmetric:false,interval(0,0.2))",
}
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
            {"loss": "infonce", "loss.symmetric": "false"},
            ["loss", "loss.temperature", "loss.symmetric", "+loss.hardness", "loss.label_smoothing"],
        ),
        (
            {"loss": "infonce", "loss.symmetric": "true"},
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
    found = choose(trial, parse_space(WRITTEN, composer), composer, ["batch_size=8"])
    assert list(found) == chosen
    assert list(trial.params) == chosen
    assert trial.user_attrs[CHOSEN] == found
    config, left_out = compose_applicable(composer, ["batch_size=8"], overrides(found))
    assert left_out == ()
    assert config.batch_size == 8
    if "loss.temperature" in found:
        assert config.loss.temperature == 0.05124


def test_every_setting_has_a_place_somewhere(composer: Composer) -> None:
    assert unreachable(parse_space(WRITTEN, composer), composer, []) == []


def test_what_has_a_place_nowhere_is_found(composer: Composer) -> None:
    written = {
        "loss": "infonce,mnrl",
        "memory@loss.memory": "queue",
        "loss.temperature": "interval(0.1,0.2)",
        "loss.margin": "interval(0.1,0.2)",
        "loss.symmetric": "tag(loss:mnrl,choice(true,false))",
        "+loss.no_such": "1,2",
        "optimizer.rate": "interval(0.1,0.2)",
    }
    lost = ["memory@loss.memory", "loss.margin", "loss.symmetric", "+loss.no_such", "optimizer.rate"]
    assert sorted(unreachable(parse_space(written, composer), composer, [])) == sorted(lost)


def test_choices_are_handed_on_as_they_were_typed(composer: Composer) -> None:
    values = [1, 1e-5, True, None, "none", "true", "1.5", "it's, x", "", [1, 2]]
    typed = ["1", "1e-5", "true", "null", "none", "'true'", "'1.5'", '"it\'s, x"', "''", "[1,2]"]
    (setting,) = parse_space({"a": ",".join(typed)}, composer)
    written = [overrides({"a": choice}) for choice in setting.choices]
    assert [composer.parse(each)[0].value() for each in written] == values
