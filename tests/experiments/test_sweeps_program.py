"""The command line of sweeps: what runs, what is said, how it ends."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest
import yaml
from fake_training import fake_attempt, finished, module, ran
from hydra import compose, initialize_config_dir
from rich.console import Console
from test_run import SMALL
from test_tracking import read_back

from experiments.composing import CONFIGS
from experiments.run import __main__ as run
from experiments.sweeps import jobs, program
from experiments.sweeps.expansion import expand
from experiments.sweeps.jobs import read_report, state
from experiments.sweeps.progress import Progress

ROOT = Path(__file__).parents[2]
INLINE = "launcher._target_=fake_training.inline"

Sweep = Callable[..., int]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the real run back after each test."""
    monkeypatch.setitem(sys.modules, "experiments.run.training_run", module())


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Run a sweep of fake runs in this process."""
    return lambda *arguments: program.main([*arguments, f"hydra.sweep.dir={tmp_path}", INLINE], fake_attempt)


def queries(store: Path) -> list[tuple[str, str]]:
    return [(query, seed) for query, seed, *_ in ran(store)]


def test_the_same_sweep_again_does_only_what_is_left(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("-m", "query=one,two", "seed=0,1") == 0
    assert len(ran(tmp_path)) == 4
    assert sweep("--multirun", "seed=1,0", "query=two,one") == 0
    assert len(ran(tmp_path)) == 4
    jobs = expand(["query=one,two", "seed=0,1", f"hydra.sweep.dir={tmp_path}"]).jobs
    for job, status in zip(jobs, ("failed: why", "interrupted", "running", "finished"), strict=True):
        (job.folder / "metrics.json").write_text(json.dumps({**read_report(job.folder), "status": status}))
    capsys.readouterr()
    assert sweep("query=one,two", "seed=0,1,2", "-m") == 0  # one more seed, and what did not finish
    assert "6 runs: 1 finished before" in capsys.readouterr().out
    assert sorted(queries(tmp_path)[4:]) == [("one", "0"), ("one", "1"), ("one", "2"), ("two", "0"), ("two", "2")]


def test_jobs_that_end_badly_cost_nothing_but_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = f"hydra.sweep.dir={tmp_path}"
    status = program.main(["query=one,mistake,kill,memory,best", "seed=0,1", store], fake_attempt)
    assert status == 1
    assert len(ran(tmp_path)) == 10
    printed = capsys.readouterr().out
    assert printed.count("its process died (SIGKILL)") == printed.count("expected better") == 2
    assert printed.count("MemoryError: no room for [8, 8]") == 2
    for job in expand(["query=mistake,kill,memory", "seed=0,1", store]).jobs:
        command = f"  python -m experiments.run -m {' '.join(job.overrides)} {store}\n"
        assert command in printed
        assert state(job.folder) == "failed"
    assert program.main([*shlex.split(command)[4:], INLINE], lambda *_, **__: "still bad") == 1
    assert "1 runs: 0 finished before" in capsys.readouterr().out
    (folder,) = (tmp_path / "sweeps").glob("query-seed-*")
    content = json.loads((folder / "sweep.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["query=best", "query=one"]
    assert [(row["monitored"], row["seeds"]) for row in content["rows"]] == [(10.5, [0, 1]), (0.5, [0, 1])]
    assert content["rows"][0]["metrics"]["ndcg@10"] == pytest.approx(0.105)
    with (folder / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["state"] for line in lines].count("failed") == 6
    assert lines[-1]["job"] == "query=best,seed=1"
    assert (float(lines[-1]["monitored"]), float(lines[-1]["mrr@10"])) == (11.0, 0.11)
    assert len((folder / "runs.txt").read_text().split()) == 4


def test_the_table_has_the_best_first_and_says_what_was_left_out(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("loss=infonce,triplet", "loss.temperature=0.1,0.2", "query=one,best") == 0
    printed = capsys.readouterr().out
    assert printed.count("loss.temperature does not apply to loss=triplet: 4 combinations became 2") == 2
    best, last = printed.rfind("query=best"), printed.rfind("query=one ")
    assert 0 < best < last
    assert "6/6 done: " in printed
    assert "best dev/ndcg@10 10.0000" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["sede=1,2"],
        ["seed=1,2", "--cfg", "job"],
        ["launcher=joblib", "launcher.workers=0"],
        ["seed=1,2", "resume=auto"],
    ],
)
def test_a_wrong_command_runs_nothing(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([*arguments, f"hydra.sweep.dir={tmp_path}"], fake_attempt) == 2
    assert capsys.readouterr().err.startswith(("error: there is no sede", "error: expected"))
    assert ran(tmp_path) == []


def test_a_dry_run_lists_and_runs_nothing(sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep("seed=1")
    assert sweep("seed=0,1", "loss=infonce,triplet", "loss.temperature=choice(0.05)", "--dry-run") == 0
    listed = capsys.readouterr().out.splitlines()[-6:]
    assert listed[:2] == ["missing     seed=0,loss=infonce,loss.temperature=0.05", "missing     seed=0,loss=triplet"]
    assert listed[2].startswith("finished ")
    assert listed[4] == "loss.temperature does not apply to loss=triplet: left out there"
    assert len(ran(tmp_path)) == 1


def test_ctrl_c_shows_the_table_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(job: object, **_: object) -> str | None:
        if ran(tmp_path):
            raise KeyboardInterrupt
        return fake_attempt(job, directory=Path.cwd())  # type: ignore[arg-type]

    assert program.main(["query=one,two,three", f"hydra.sweep.dir={tmp_path}", INLINE], interrupted) == 130
    assert queries(tmp_path) == [("one", "0")]
    printed = capsys.readouterr().out
    assert "query=one" in printed
    assert "the same command again goes on with what is left" in printed


def test_two_terminals_share_the_work(tmp_path: Path) -> None:
    arguments = ["query=slow", "seed=0,1,2,3", f"hydra.sweep.dir={tmp_path}", INLINE]
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        statuses = pool.starmap(program.main, [(arguments, fake_attempt)] * 2, chunksize=1)
    assert statuses == [0, 0]
    assert sorted(queries(tmp_path)) == [("slow", str(seed)) for seed in range(4)]
    assert len({pid for *_, pid, _ in ran(tmp_path)}) == 2


def test_a_run_of_another_terminal_is_waited_for(sweep: Sweep, tmp_path: Path) -> None:
    job, _ = expand(["query=one,two", f"hydra.sweep.dir={tmp_path}"]).jobs
    held = Event()

    def other_terminal() -> None:
        with jobs._lock(job.folder, timeout=0):
            held.set()
            time.sleep(2)
            job.folder.mkdir()
            (job.folder / "metrics.json").write_text(json.dumps(finished(7)))

    other = Thread(target=other_terminal)
    other.start()
    held.wait()
    assert sweep("query=one,two") == 0
    other.join()
    assert queries(tmp_path) == [("two", "0")]
    (table,) = tmp_path.glob("sweeps/*/sweep.json")
    assert [row["monitored"] for row in json.loads(table.read_text())["rows"]] == [7, 0]


def test_progress_knows_what_runs_and_how_long_it_will_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = expand(["query=one,'[/two]',three,memory", f"hydra.sweep.dir={tmp_path}"]).jobs
    with Progress(wanted, [], Console(force_terminal=True, width=100)) as progress:
        now = progress._started
        monkeypatch.setattr("experiments.sweeps.progress.POLL_SECONDS", 0)
        monkeypatch.setattr("experiments.sweeps.progress.time.time", lambda: now + 60)
        for job, error in ((wanted[0], None), (wanted[3], "MemoryError")):
            fake_attempt(job, directory=Path.cwd())
            progress.ended(job, error)
        wanted[1].folder.mkdir()
        (wanted[1].folder / "metrics.json").write_text('{"status": "running"}')
    shown = capsys.readouterr().out
    assert "1 done, 1 failed, 1 running, 1 waiting; about 60 s left" in shown
    assert "[/two]" in shown  # no markup
    assert "dev/ndcg@10 0.0000 query=one" in shown


def test_which_command_lines_are_sweeps() -> None:
    for typed in (["-m", "seed=1"], ["seed=1", "--multirun"], ["+sweep=losses"], ["sweep=losses"]):
        assert run.is_sweep(typed)
    assert not run.is_sweep(["seed=1", "loss=infonce", "hydra.sweep.dir=x", "--help"])


def test_help_of_sweeps_names_every_study_and_launcher(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["-m", "--help"]) == 0
    printed = capsys.readouterr().out
    for group in ("sweep", "launcher"):
        assert all(path.stem in printed for path in (CONFIGS / group).glob("*.yaml"))


def test_what_wandb_would_run_composes() -> None:
    search = yaml.safe_load((ROOT / "experiments" / "sweeps" / "wandb.yaml").read_text())
    assert search["command"][1:] == ["python", "-m", "experiments.run", "${args_no_hyphens}"]
    settings = search["parameters"].items()
    chosen = [f"{key}={value.get('value', value.get('min', value.get('values', [''])[0]))}" for key, value in settings]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", chosen)
    assert (config.loss.temperature, config.judge) == (0.01, "dev")
    assert search["metric"]["name"] == f"best/{config.callbacks.checkpoint.monitor}"


def test_a_real_sweep_from_the_command_line(tiny_model_folder: Path, tmp_path: Path) -> None:
    tiny = ["encoder=pretrained", f"encoder.name_or_path={tiny_model_folder}", *SMALL]
    typed = ["logger=wandb", "before=false", *tiny, "loss=infonce,triplet", "loss.temperature=0.1,-1"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    command = [sys.executable, "-m", "experiments.run", "-m", *typed, f"hydra.sweep.dir={tmp_path}/study"]
    answer = subprocess.run(
        command, cwd=ROOT, env={**environment, "NETRC": "/nonexistent"}, capture_output=True, text=True
    )
    assert answer.returncode == 1
    assert answer.stderr == ""
    assert "loss.temperature does not apply to loss=triplet: 2 combinations became 1" in answer.stdout
    assert "expected a finite temperature above 0, got -1" in answer.stdout
    assert "Epoch" not in answer.stdout
    jobs = {job.label: job for job in expand([*typed, f"hydra.sweep.dir={tmp_path}/study"]).jobs}
    assert [state(job.folder) for job in jobs.values()] == ["finished", "failed", "finished"]
    (group,) = {path.name for path in (tmp_path / "study" / "sweeps").iterdir()}
    for label in ("loss=infonce,loss.temperature=0.1", "loss=triplet"):
        folder = jobs[label].folder
        history, tracked = read_back(folder)
        assert (tracked["name"], tracked["group"]) == (label, group)
        report = read_report(folder)
        assert tracked["summary"]["after/ndcg@10"] == report["systems"]["after"]["metrics"]["ndcg@10"]["mean"]
        with (folder / "history" / "metrics.csv").open() as file:
            losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
        assert [row["train/loss"] for row in history if "train/loss" in row] == pytest.approx(losses)
        (file_of_run,) = folder.glob("wandb/offline-run-*")
        assert f"wandb sync {file_of_run}" in (folder / "run.log").read_text()
        assert "Epoch" in (folder / "output.log").read_text()
        card = (folder / "model" / "README.md").read_text()
        assert "python -m experiments.run logger=wandb before=false" in card
        assert all(override in card for override in jobs[label].overrides[-2:])
