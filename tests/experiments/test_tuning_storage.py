"""One SQLite file, several processes, some of which die; the objective is made up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.tune.searching import search
from experiments.tune.storage import LOST, REASON, SharedStudy, counted, database, make_pruner

ROOT = Path(__file__).parents[2]
PROCESS = """
import sys, time
from pathlib import Path
from experiments.tune.searching import search
from experiments.tune.storage import SharedStudy

def objective(trial):
    x = trial.suggest_float("x", 0.0, 1.0)
    print("trial", trial.number, flush=True)
    time.sleep(float(sys.argv[2]))
    return x

shared = SharedStudy(Path(sys.argv[1]), "search", direction="maximize", settings={"space": "x"})
sys.stdin.readline()
search(shared, objective, target=10, ended=lambda trial: None)
"""


def open_study(path: Path, **options: Any) -> SharedStudy:
    return SharedStudy(path, "search", **{"direction": "maximize", "settings": {"space": "x"}, **options})


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


def run(shared: SharedStudy, target: int, objective: Any = draw, **options: Any) -> list[FrozenTrial]:
    ended: list[FrozenTrial] = []
    search(shared, objective, target=target, ended=ended.append, **options)
    return ended


def test_processes_share_the_trials_and_draw_different_ones(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    processes = [start(path, 0.1) for _ in range(2)]
    for process in processes:
        go(process)
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    trials = open_study(path).study.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 10
    assert len({trial.params["x"] for trial in trials}) == 10
    assert all("trial" in text for text in printed)
    assert sum(text.count("trial") for text in printed) == 10


def test_what_a_killed_process_was_at_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    process = start(path, 60)
    go(process)
    assert first_line(process) == "trial 0\n"
    shared = open_study(path)
    with shared.working():
        assert shared.next_trial(1) is None  # it is alive: its trial counts
    process.kill()
    process.communicate()
    ended = run(shared, 3)
    first, *others = shared.study.trials
    assert first.state == TrialState.FAIL
    assert first.user_attrs[REASON] == "its process died"
    assert others[0].params == first.params
    assert [trial.number for trial in ended] == [1, 2, 3]
    assert len(counted(shared.study.trials)) == 3
    assert [file.name for file in shared.locks.iterdir()] == ["turn.lock"]


def test_what_kills_twice_is_not_tried_a_third_time(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    values = []
    for _ in range(2):  # never `working`, so the next takes it as dead
        trial = open_study(path).next_trial(2)
        assert trial is not None
        values.append(draw(trial))
    shared = open_study(path)
    run(shared, 2)
    reasons = [trial.user_attrs.get(REASON) for trial in shared.study.trials]
    assert reasons == ["its process died", "its process died, twice", None]
    assert values[0] == values[1] != shared.study.trials[2].params["x"]
    assert [bool(trial.user_attrs.get(LOST)) for trial in shared.study.trials] == [True, False, False]


def test_an_interrupted_trial_is_queued_however_often(tmp_path: Path) -> None:
    def interrupted(trial: Trial) -> float:
        draw(trial)
        raise KeyboardInterrupt

    path = tmp_path / "study.db"
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(open_study(path), 2, interrupted)
    shared = open_study(path)
    run(shared, 2)
    trials = shared.study.trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 3 + [TrialState.COMPLETE] * 2
    assert len({trial.params["x"] for trial in trials[:4]}) == 1
    assert trials[0].user_attrs[REASON] == "interrupted"
    assert [file.name for file in shared.locks.iterdir()] == ["turn.lock"]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_stopped_search_draws_as_one_that_was_not(sampler: str, tmp_path: Path) -> None:
    whole = open_study(tmp_path / "whole.db", sampler=sampler, seed=3)
    run(whole, 12)
    for target in (5, 12):
        parts = open_study(tmp_path / "parts.db", sampler=sampler, seed=3)
        run(parts, target)
    other = open_study(tmp_path / "other.db", sampler=sampler, seed=4)
    run(other, 12)
    drawn = [[trial.params["x"] for trial in shared.study.trials] for shared in (whole, parts, other)]
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])


def test_a_failure_is_written_down_and_the_search_goes_on(tmp_path: Path) -> None:
    def failing(trial: Trial) -> float:
        if trial.number == 0:
            raise MemoryError("out of memory\nat some place")
        if trial.number == 1:
            raise ValueError("error: expected more, got less")
        return float("nan") if trial.number == 2 else 1.0

    shared = open_study(tmp_path / "study.db")
    ended = run(shared, 4, failing)
    assert [trial.state for trial in ended] == [TrialState.FAIL] * 3 + [TrialState.COMPLETE]
    assert [trial.user_attrs.get(REASON) for trial in ended] == [
        "MemoryError: out of memory",
        "expected more, got less",
        "expected a finite value, got nan",
        None,
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
    assert len(run(open_study(tmp_path / "study.db"), 5, seconds=1e-9)) <= 1


def test_another_search_under_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    open_study(path)
    open_study(path)
    with pytest.raises(ValueError, match="expected space of search 'search' to stay x, got y; another search wants"):
        open_study(path, settings={"space": "y"})
    with pytest.raises(ValueError, match="expected loss of search 'search' to stay None, got 1"):
        open_study(path, settings={"space": "x", "loss": 1})


def test_storage_is_a_file(tmp_path: Path) -> None:
    assert database(None, tmp_path) == tmp_path / "study.db"
    assert database("a/b.db", tmp_path) == Path("a/b.db")
    assert database("sqlite:////a/b.db", tmp_path) == Path("/a/b.db")
    for other in ("mysql://host/db", "sqlite:///"):
        with pytest.raises(ValueError, match=f"expected --storage to be a file or sqlite:///FILE, got {other}"):
            database(other, tmp_path)
    (tmp_path / "text.db").write_text("no database " * 100)
    with pytest.raises(ValueError, match=r"expected .*text\.db to be an SQLite file, got file is not a database"):
        open_study(tmp_path / "text.db")
