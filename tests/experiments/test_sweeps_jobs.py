"""What makes two jobs the same, in which state one is, and what is left of one that ends badly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_training
import pytest
from omegaconf import DictConfig, OmegaConf

from experiments.results.files import write_json
from experiments.run.identity import identity
from experiments.sweeps import jobs
from experiments.sweeps.composer import Composer, keys
from experiments.sweeps.jobs import Job, RunningElsewhereError, can_go_on, make_job, read_report, run_job, state
from experiments.sweeps.worker import ELSEWHERE, attempt

ROOT = Path(__file__).parents[2]
HOLD = "import sys; from experiments.sweeps import jobs; from pathlib import Path; import time\n"
HOLD += "with jobs._lock(Path(sys.argv[1]), 0): print('held', flush=True); time.sleep(60)"


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with Composer() as opened:
        yield opened


@pytest.fixture
def job(composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job of which the run is not the real one."""
    monkeypatch.setitem(sys.modules, "experiments.run.training_run", fake_training.module())
    monkeypatch.chdir(tmp_path)  # where a worker would be
    return make(composer, tmp_path, "seed=3")


def make(composer: Composer, store: Path, *overrides: str) -> Job:
    return make_job(composer.compose(overrides), overrides, "label", root=store, group="group")


@pytest.mark.parametrize(
    "override",
    [
        "folder=/somewhere",
        "logger=csv",
        "logger.project=other",
        "cache=null",
        "trainer.enable_progress_bar=false",
        "callbacks.progress.refresh_rate=5",
        "~callbacks.progress",
        "callbacks.checkpoint.dirpath=/somewhere",
        "callbacks.continuation.seconds=5",
        "resume=auto",
        "loss.temperature=5e-2",
        "+mine=${folder}",
    ],
)
def test_what_does_not_change_the_result_does_not_change_who_it_is(override: str, composer: Composer) -> None:
    extra = ["+mine=FOLDER"] if "mine" in override else []
    assert identity(composer.compose(["folder=/here", override])) == identity(
        composer.compose(["folder=/here", *extra])
    )


def test_everything_else_changes_who_it_is(composer: Composer) -> None:
    config = composer.compose(["folder=/here"])
    before = identity(config)
    same = set()
    for key in keys(config):
        if not isinstance(OmegaConf.select(config, key), DictConfig):
            changed = config.copy()
            OmegaConf.update(changed, key, "changed")
            same |= {key} if identity(changed) == before else set()
    assert {key for key in same if not key.startswith("logger.")} == {
        "cache",
        "folder",
        "resume",
        "trainer.cached",
        "trainer.enable_progress_bar",
        "callbacks.checkpoint.dirpath",
        "callbacks.continuation._target_",
        "callbacks.continuation.folder",
        "callbacks.continuation.patience",
        "callbacks.continuation.seconds",
        "callbacks.progress._target_",
        "callbacks.progress.refresh_rate",
    }
    assert identity(composer.compose(["~callbacks.early_stopping"])) != before


def test_its_folder_depends_on_who_it_is_alone(composer: Composer, tmp_path: Path) -> None:
    first = make(composer, tmp_path, "loss=triplet", "seed=3")
    second = make_job(composer.compose(["seed=3", "loss=triplet"]), [], "other", root=tmp_path, group="others")
    assert first.folder == second.folder == tmp_path / f"Triplet-seed3-{first.id}"


def test_the_states_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    assert state(folder) == "missing"
    folder.mkdir()
    assert state(folder) == "interrupted"
    for status in ("finished", "failed: why", "interrupted", "running"):
        write_json(folder / "metrics.json", {"status": status})
        assert state(folder) == {"failed: why": "failed", "running": "interrupted"}.get(status, status)
    (folder / "metrics.json").write_text('{"status": "fini')
    assert state(folder) == "interrupted"


def test_a_process_that_dies_leaves_no_running_job(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    write_json(folder / "metrics.json", {"status": "running"})
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        assert state(folder) == "running"
        holder.send_signal(signal.SIGKILL)
    assert state(folder) == "interrupted"


def test_a_job_runs_once(job: Job, tmp_path: Path) -> None:
    job.folder.mkdir()
    (job.folder / "of an earlier attempt").touch()
    assert run_job(job) == 3
    assert run_job(job) == 3
    assert [query for query, *_ in fake_training.ran(tmp_path)] == [job.config.query.split()[0]]
    assert state(job.folder) == "finished"
    assert not (job.folder / "of an earlier attempt").exists()


@pytest.mark.parametrize(
    ("status", "goes_on"),
    [
        ("interrupted", True),
        ("running", True),
        ("failed: its process died (SIGKILL)", True),
        ("failed: ValueError", False),
        ("pruned: at stage 1", False),
    ],
)
def test_a_job_that_was_cut_off_goes_on(status: str, goes_on: bool, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[str | None] = []
    fake = fake_training.train_and_judge
    module = sys.modules["experiments.run.training_run"]
    monkeypatch.setattr(
        module, "train_and_judge", lambda config, **o: resumed.append(config.resume) or fake(config, **o)
    )
    job.folder.mkdir()
    write_json(job.folder / "metrics.json", {"status": status, "dev": {}})
    (job.folder / "config.yaml").write_text(OmegaConf.to_yaml(job.config))
    assert run_job(job, [object()]) == 3  # type: ignore[list-item]  # of a trial, which goes on too
    assert resumed == [str(job.folder) if goes_on else None]
    assert (job.folder / "config.yaml").exists() == goes_on
    assert state(job.folder) == "finished"


def test_a_job_whose_folder_is_of_another_run_begins_anew(job: Job) -> None:
    job.folder.mkdir()
    write_json(job.folder / "metrics.json", {"status": "interrupted"})
    assert not can_go_on(job)
    (job.folder / "config.yaml").write_text(OmegaConf.to_yaml({**job.config, "seed": 4}))
    assert not can_go_on(job)
    (job.folder / "config.yaml").write_text(OmegaConf.to_yaml(job.config))
    assert can_go_on(job)


def test_a_job_that_another_process_runs_is_left_to_it(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PATIENCE", 0.1)
    with jobs._lock(job.folder, timeout=0):
        with pytest.raises(RunningElsewhereError, match="label is running in another process"):
            run_job(job)
        assert attempt(job, directory=tmp_path) == ELSEWHERE
    assert fake_training.ran(tmp_path) == []


@pytest.mark.parametrize(
    ("query", "error", "status"),
    [
        ("mistake", "expected better", "failed: expected better"),
        ("memory", "MemoryError: no room for [8, 8]", "failed: MemoryError: no room for [8, 8]"),
        ("exit", "SystemExit: somebody calls it", "interrupted"),
    ],
)
def test_what_ends_a_job_is_written_and_said(
    query: str, error: str, status: str, job: Job, composer: Composer, tmp_path: Path
) -> None:
    job = make(composer, tmp_path, f"query={query}")
    assert attempt(job, directory=tmp_path) == error
    assert read_report(job.folder)["status"] == status
    log = (job.folder / "run.log").read_text()
    assert ("Traceback" in log) == (query == "memory")
    assert (error in log) == (query != "exit")


def test_what_a_job_prints_goes_into_its_folder(
    job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def printing(*_: Any, **__: Any) -> float:
        print("from print")
        os.write(2, b"from below\n")
        subprocess.run(["echo", "from another process"], check=True)
        return 0.0

    monkeypatch.setattr(sys.modules["experiments.run.training_run"], "train_and_judge", printing)
    with open(1, "w", closefd=False) as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert attempt(job, directory=tmp_path) is None
        print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"
    printed = (job.folder / "output.log").read_text()
    assert all(line in printed for line in ("from print", "from below", "from another process"))


def test_ctrl_c_is_passed_on(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_lightning_does(*_: Any, **__: Any) -> float:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setattr(sys.modules["experiments.run.training_run"], "train_and_judge", as_lightning_does)
    with pytest.raises(KeyboardInterrupt):
        attempt(job, directory=tmp_path)
    assert state(job.folder) == "interrupted"
