"""One SQLite file, several processes, some of which die; the objective is made up."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.tune.searching import counted, make_pruner, make_sampler, open_study, search, why

ROOT = Path(__file__).parents[2]
PROCESS = """
import sys, time
from pathlib import Path
import optuna
from filelock import FileLock
from experiments.tune.searching import make_sampler, open_study, search

optuna.logging.set_verbosity(optuna.logging.ERROR)
def objective(trial):
    x = trial.suggest_float("x", 0.0, 1.0)
    print("trial", trial.number, flush=True)
    time.sleep(float(sys.argv[2]))
    return x

path, turn = sys.argv[1], FileLock(sys.argv[1] + ".lock")
with turn:
    study = open_study(path, "search", direction="maximize", settings={"space": "x"}, heartbeat=1, silence=1)
sys.stdin.readline()
sampler = lambda number: make_sampler("tpe", 0, number)
search(study, objective, target=10, turn=turn, sampler=sampler, ended=lambda trial: None)
"""


def begin(path: Path | str, **options: Any) -> optuna.Study:
    settings = {"direction": "maximize", "settings": {"space": "x"}, "heartbeat": 1, "silence": 1}
    return open_study(str(path), "search", **{**settings, **options})


def start(path: Path, seconds: float) -> subprocess.Popen[str]:
    """Start a process that works on the study once it is sent a line, `seconds` a trial."""
    command = [sys.executable, "-W", "error", "-c", PROCESS, str(path), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def draw(trial: Trial) -> float:
    return trial.suggest_float("x", 0.0, 1.0)


def run(
    study: optuna.Study, target: int, objective: Any = draw, *, kind: str = "tpe", seed: int = 0, **options: Any
) -> list[FrozenTrial]:
    ended: list[FrozenTrial] = []
    sampler = partial(make_sampler, kind, seed)
    turn = FileLock(f"{study._storage._backend.url.removeprefix('sqlite:///')}.lock")
    search(study, objective, target=target, turn=turn, sampler=sampler, ended=ended.append, **options)
    return ended


def test_processes_share_the_trials_and_draw_different_ones(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    processes = [start(path, 0.1) for _ in range(2)]
    for process in processes:
        go(process)
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    trials = begin(path).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 10
    assert len({trial.params["x"] for trial in trials}) == 10
    assert all("trial" in text for text in printed)
    assert sum(text.count("trial") for text in printed) == 10


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning", "ignore:Heartbeat of storage is supposed")
def test_what_kills_is_tried_again_and_what_kills_twice_is_not(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    process = start(path, 60)
    go(process)
    assert first_line(process) == "trial 0\n"
    time.sleep(0.5)  # for a sign of life
    process.kill()
    process.communicate()
    assert run(begin(path, silence=60), 1) == []  # it may be alive: its trial counts
    time.sleep(2)
    study = begin(path)
    database: Any = study._storage._backend
    optuna.storages.fail_stale_trials(study)
    draw(trial := study.ask())
    database.record_heartbeat(trial._trial_id)
    time.sleep(2)
    run(study, 2)
    trials = begin(path).trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 2 + [TrialState.COMPLETE]
    assert trials[0].params == trials[1].params != trials[2].params
    assert [why(trial) for trial in trials] == ["its process died", "its process died", ""]
    assert [trial.number for trial in counted(trials)] == [1, 2]


def test_an_interrupted_trial_is_queued_however_often(tmp_path: Path) -> None:
    def interrupted(trial: Trial) -> float:
        draw(trial)
        raise KeyboardInterrupt

    def exits(trial: Trial) -> float:
        try:
            return interrupted(trial)
        except KeyboardInterrupt:
            sys.exit(1)

    path = tmp_path / "study.db"
    for objective in (interrupted, exits, interrupted):
        with pytest.raises(KeyboardInterrupt):
            run(begin(path), 2, objective)
    study = begin(path)
    run(study, 2)
    trials = study.trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 3 + [TrialState.COMPLETE] * 2
    assert len({trial.params["x"] for trial in trials[:4]}) == 1
    assert why(trials[0]) == "interrupted"
    assert [trial.number for trial in counted(trials)] == [3, 4]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_stopped_search_draws_as_one_that_was_not(sampler: str, tmp_path: Path) -> None:
    whole = begin(tmp_path / "whole.db")
    run(whole, 12, kind=sampler, seed=3)
    for target in (5, 12):
        parts = begin(tmp_path / "parts.db")
        run(parts, target, kind=sampler, seed=3)
    other = begin(tmp_path / "other.db")
    run(other, 12, kind=sampler, seed=4)
    drawn = [[trial.params["x"] for trial in study.trials] for study in (whole, parts, other)]
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])


def test_a_failure_is_written_down_and_the_search_goes_on(tmp_path: Path) -> None:
    def failing(trial: Trial) -> float:
        if trial.number == 0:
            raise MemoryError("out of memory\nat some place")
        if trial.number == 1:
            raise ValueError("error: expected more, got less")
        return float("nan") if trial.number == 2 else 1.0

    ended = run(begin(tmp_path / "study.db"), 4, failing)
    assert [trial.state for trial in ended] == [TrialState.FAIL] * 3 + [TrialState.COMPLETE]
    assert [why(trial) for trial in ended] == [
        "MemoryError: out of memory",
        "expected more, got less",
        "expected a finite value, got nan",
        "",
    ]


@pytest.mark.parametrize(("pruner", "prunes"), [("median", True), ("hyperband", True), ("none", False)])
def test_each_pruner_prunes_what_it_is_for(pruner: str, prunes: bool) -> None:
    study = optuna.create_study(direction="maximize", pruner=make_pruner(pruner, stages=4), study_name="search")
    pruned = 0
    for number in range(20):
        trial = study.ask()
        for stage in (1, 2, 3, 4):
            trial.report(-float(number), stage)
            if stage < 4 and trial.should_prune():
                pruned += 1
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, -float(number))
    assert (pruned > 0) == prunes
    assert pruned < 20


def test_no_trial_begins_after_the_time_is_up(tmp_path: Path) -> None:
    assert len(run(begin(tmp_path / "study.db"), 5, seconds=1e-9)) <= 1


def test_another_search_under_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    begin(path)
    begin(path)
    with pytest.raises(ValueError, match="expected space of search 'search' to stay x, got y; another search wants"):
        begin(path, settings={"space": "y"})
    with pytest.raises(ValueError, match="expected loss of search 'search' to stay None, got 1"):
        begin(path, settings={"space": "x", "loss": 1})


def test_storage_is_a_file_or_a_url(tmp_path: Path) -> None:
    begin(tmp_path / "a.db")
    assert begin(f"sqlite:///{tmp_path / 'a.db'}").user_attrs["settings"] == {"space": "x"}
    (tmp_path / "text.db").write_text("no database " * 100)
    with pytest.raises(ValueError, match=r"expected --storage to be a database, got .*text\.db: .*is not a database"):
        begin(tmp_path / "text.db")
    with pytest.raises(ValueError, match="expected --storage to be a database, got nosuch://host"):
        begin("nosuch://host")
