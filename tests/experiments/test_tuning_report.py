"""What a search leaves behind and says, on made-up trials."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console

from experiments.sweeps.composer import Composer
from experiments.tune.report import command, importances, line, print_report, ranked, tally, write_files
from experiments.tune.searching import LOST, REASON
from experiments.tune.space import CHOSEN

METRIC = "dev/ndcg@10"


def add(study: optuna.Study, settings: Mapping[str, Any], state: Any = TrialState.COMPLETE, **known: Any) -> None:
    distributions: dict[str, Any] = {
        key: CategoricalDistribution(["dcl", "triplet"]) if key == "loss" else FloatDistribution(0.0, 1.0)
        for key in settings
    }
    value = known.pop("value", None)
    attributes = {CHOSEN: dict(settings), "folder": f"multirun/{len(study.trials)}", **known}
    study.add_trial(
        create_trial(
            state=state, value=value, params=dict(settings), distributions=distributions, user_attrs=attributes
        )
    )


@pytest.fixture
def study() -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    add(study, {"loss": "triplet", "loss.margin": 0.25}, value=0.4)
    add(study, {"loss": "dcl", "loss.temperature": 0.05, "encoder.max_length": 0.5}, value=0.6)
    add(study, {"loss": "dcl", "loss.temperature": 0.5, "encoder.max_length": 0.5}, value=0.5)
    add(study, {"loss": "dcl", "loss.temperature": 0.9}, TrialState.FAIL, **{REASON: "out of memory"})
    add(study, {"loss": "dcl", "loss.temperature": 0.9}, TrialState.FAIL, **{REASON: "its process died", LOST: True})
    return study


def test_files_hold_every_trial_and_the_best(study: optuna.Study, tmp_path: Path) -> None:
    best = ranked(study)
    assert [trial.number for trial in best] == [1, 2, 0]
    run = command(["data=files", "data.path='a b.csv'"], best[0])
    write_files(study, tmp_path, METRIC, run)
    with (tmp_path / "tune.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["finished"] * 3 + ["failed"] * 2
    assert rows[0]["loss.margin"] == "0.25"
    assert rows[0]["loss.temperature"] == ""
    assert rows[3]["reason"] == "out of memory"
    assert (tmp_path / "history.png").stat().st_size > 0
    words = shlex.split(run)
    assert words[:3] == ["python", "-m", "experiments.run"]
    assert words[3:5] == ["data=files", "data.path='a b.csv'"]
    assert words[-4:] == ["loss=dcl", "loss.temperature=0.05", "encoder.max_length=0.5", "judge=test"]


def test_the_best_settings_compose_as_an_experiment(study: optuna.Study, tmp_path: Path) -> None:
    write_files(study, tmp_path, METRIC, "python -m experiments.run")
    text = (tmp_path / "experiment" / "tuned.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    with Composer() as composer:
        best = composer.compose(["hydra.searchpath=[" + f"file://{tmp_path}" + "]", "experiment=tuned"])
        same = composer.compose(["loss=dcl", "loss.temperature=0.05", "encoder.max_length=0.5"])
    assert best == same
    assert yaml.safe_load(text)["loss"] == {"temperature": 0.05}


def test_lower_is_better_where_the_mode_is_min() -> None:
    study = optuna.create_study(direction="minimize")
    for value in (0.5, 0.2, 0.3):
        add(study, {"loss": "dcl"}, value=value)
    assert [trial.value for trial in ranked(study)] == [0.2, 0.3, 0.5]


def test_a_line_says_how_a_trial_ended(study: optuna.Study) -> None:
    said = line(study, study.trials[0], 9)
    expected = "4 of 9: trial 0 finished 0.4000 best 0.6000 (trial 1) 0 s loss=triplet margin=0.25"
    assert " ".join(said.split()) == expected
    assert line(study, study.trials[3], 9).endswith("\n  out of memory")
    assert tally(study) == "3 finished, 1 failed"
    empty = optuna.create_study()
    add(empty, {"loss": "dcl"}, TrialState.FAIL)
    assert "no best yet" in line(empty, empty.trials[0], 9)


def test_the_report_says_what_to_do_next(study: optuna.Study, tmp_path: Path) -> None:
    output = io.StringIO()
    run = command(["data=files"], ranked(study)[0])
    write_files(study, tmp_path, METRIC, run)
    print_report(study, tmp_path, METRIC, run, Console(file=output, width=200))
    said = output.getvalue()
    assert "3 finished, 1 failed" in said
    assert "failed 1 x: out of memory" in said
    assert "its process died" not in said  # it was tried again
    assert run in said
    assert "python -m experiments.compare multirun/1 multirun/2" in said
    assert "3 finished trials are too few to say which settings mattered" in said
    assert "experiment/tuned.yaml" in said


def test_a_report_without_a_finished_trial(tmp_path: Path) -> None:
    study = optuna.create_study()
    output = io.StringIO()
    write_files(study, tmp_path, METRIC, None)
    print_report(study, tmp_path, METRIC, None, Console(file=output))
    assert "no trials" in output.getvalue()
    assert not (tmp_path / "experiment").exists()


@pytest.mark.skipif(optuna.__version__ < "5", reason="before 5.0 Optuna leaves conditional settings out")
def test_what_matters_comes_first_conditional_settings_too() -> None:
    study = optuna.create_study(direction="maximize")
    for index in range(40):
        x, y = (index * 7 % 40) / 40, (index * 11 % 40) / 40
        if index % 4:
            add(study, {"loss": "dcl", "loss.temperature": x, "optimizer.warmup_ratio": y}, value=1 - abs(x - 0.3))
        else:
            add(study, {"loss": "triplet", "optimizer.warmup_ratio": y}, value=0.3)
    shares = importances(study)
    assert sum(shares.values()) == pytest.approx(1)
    assert next(iter(shares)) == "loss.temperature"
