"""Search spaces: what a file may say, and what is said of one that is not as expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import FixedTrial

from experiments.tune.space import SPACES, Choices, Range, parse_space, read_space


def test_groups_come_first_and_numbers_keep_their_kind() -> None:
    space = parse_space(
        {
            "batch_size": {"low": 8, "high": 64, "step": 8},
            "optimizer.warmup_ratio": {"low": 0, "high": 0.3},
            "loss": {"choices": ["infonce", "triplet"]},
            "loss.margin": {"low": 0.1, "high": 0.6, "when": {"loss": "triplet"}},
        }
    )
    assert [setting.key for setting in space] == ["loss", "batch_size", "optimizer.warmup_ratio", "loss.margin"]
    values = {setting.key: setting.values for setting in space}
    assert values["loss"] == Choices(("infonce", "triplet"))
    assert values["batch_size"] == Range(8, 64, 8)
    assert isinstance(values["batch_size"].suggest(FixedTrial({"batch_size": 16}), "batch_size"), int)
    warmup = values["optimizer.warmup_ratio"]
    assert isinstance(warmup, Range)
    assert isinstance(warmup.low, float)
    assert space[-1].when == {"loss": ("triplet",)}


def test_conditions_look_at_what_is_chosen() -> None:
    content = {"loss": {"choices": ["infonce", "triplet", "dcl"]}, "seeds": {"low": 1, "high": 2}}
    content["seeds"]["when"] = {"loss": ["triplet", "dcl"]}
    _, setting = parse_space(content)
    assert setting.wanted({"loss": "dcl"})
    assert not setting.wanted({"loss": "infonce"})
    assert not setting.wanted({})


def test_values_are_drawn_in_their_range_and_are_short() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        rate = Range(1e-5, 3e-4, log=True).suggest(trial, "rate")
        ratio = Range(0.0, 0.3, step=0.05).suggest(trial, "ratio")
        assert 0.999e-5 <= rate <= 3.001e-4
        assert float(f"{rate:.4g}") == rate
        assert ratio in (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_space_of_the_project_is_read(path: Path) -> None:
    assert {setting.key for setting in read_space(path.stem)} == set(yaml.safe_load(path.read_text()))


def test_a_file_of_ones_own_is_read_with_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("optimizer.learning_rate: {low: 1e-5, high: 1e-3, log: true}\n")
    (setting,) = read_space(str(path))
    assert setting.values == Range(1e-5, 1e-3, log=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected settings, as in .*, got None"),
        ([1], r"expected settings, as in .*, got \[1\]"),
        ({"batch_size": 32}, "expected batch_size to have choices, or low and high, got 32"),
        ({"x": {"low": 1}}, "expected x to have choices, or low and high, got no high"),
        ({"x": {"low": 1, "hihg": 2}}, "expected x to have choices, or low, high, step or log, and when, got hihg"),
        ({"x": {"choices": [1], "log": True}}, "expected x to have choices and when, got log"),
        ({"x": {"choices": 16}}, "expected the choices of x to be a list, .* got 16"),
        ({"x": {"choices": []}}, r"expected the choices of x to be a list, .* got \[\]"),
        ({"x": {"choices": [[1]]}}, r"expected the choices of x to be numbers, words, .* got \[1\]"),
        ({"x": {"choices": [1, 2, 1]}}, r"expected the choices of x to differ, got \[1, 2, 1\]"),
        ({"x": {"low": "a", "high": 2}}, "expected low of x to be a number, got 'a'"),
        ({"x": {"low": 1, "high": float("inf")}}, "expected high of x to be a number, got inf"),
        ({"x": {"low": 1, "high": 4, "step": True}}, "expected step of x to be a number, got True"),
        ({"x": {"low": 2, "high": 2}}, "expected low of x to be below high, got 2 and 2"),
        ({"x": {"low": 1, "high": 2, "log": "yes"}}, "expected log of x to be true or false, got 'yes'"),
        ({"x": {"low": 1, "high": 2, "log": True, "step": 1}}, "expected step or log for x, got both"),
        ({"x": {"low": 0, "high": 2, "log": True}}, "expected low of x above 0 on a logarithmic scale, got 0"),
        ({"x": {"low": 0.0, "high": 0.3, "step": 0.2}}, "expected step of x to divide 0.3 - 0.0, got 0.2"),
        ({"x": {"low": 0, "high": 3, "step": 0}}, "expected step of x to divide 3 - 0, got 0"),
        ({"loss": {"low": 1, "high": 2}}, "expected choices for the group loss, got a range"),
        ({"loss": {"choices": ["mrnl"]}}, "expected the choices of loss to be among .*infonce, .*, got 'mrnl'"),
        ({"x": {"choices": [1], "when": "loss"}}, "expected when of x to name choices, .* got 'loss'"),
        ({"x": {"choices": [1], "when": {"y": 1}}}, "expected when of x to name choices above it .*, got y"),
        (
            {"loss": {"choices": ["mnrl"]}, "x": {"choices": [1], "when": {"loss": "dcl"}}},
            "expected when of x to be among the loss of mnrl, got 'dcl'",
        ),
        ({"judge": {"choices": ["test"]}}, "got judge: trials are judged on dev"),
        ({"seed": {"low": 0, "high": 9}}, "got seed: the best seed is luck"),
        ({"data": {"choices": ["jobs"]}}, "got data: values on different data cannot be compared"),
    ],
)
def test_what_is_not_as_expected_is_said(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_space(content)


def test_a_file_that_is_not_there_or_not_yaml_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected --space to be a YAML file or one of .*default.*, got none-such"):
        read_space("none-such")
    broken = tmp_path / "broken.yaml"
    broken.write_text("loss: {choices: [")
    with pytest.raises(ValueError, match=r"expected broken\.yaml to be YAML"):
        read_space(str(broken))
    broken.write_text("x: {low: 1, high: 0}")
    with pytest.raises(ValueError, match=r"^broken\.yaml: expected low of x"):
        read_space(str(broken))
