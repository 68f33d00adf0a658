"""Ray and submitit, as far as they run on one machine."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_training import fake_attempt, module, ran
from test_sweeps_launchers import wanted

from experiments.sweeps import clusters
from experiments.sweeps.jobs import state

TESTS = str(Path(__file__).parent)
QUERIES = ("one", "kill", "memory", "two")


def errors(launcher: Any, store: Path, *queries: str, **settings: Any) -> dict[str, str | None]:
    jobs = wanted(store, *queries)
    ended = {
        job.config.query: error
        for job, error in launcher(jobs, partial(fake_attempt, directory=Path.cwd()), **settings)
    }
    assert [state(job.folder) for job in jobs if ended[job.config.query] is None] == ["finished"] * 2
    return ended


def test_ray_runs_jobs_and_outlives_a_killed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", TESTS)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ended = errors(clusters.ray, tmp_path, *QUERIES, cpus_per_job=1)
    assert ended.pop("kill", "")[:18] == "WorkerCrashedError"
    assert ended == {"one": None, "memory": "MemoryError: no room for [8, 8]", "two": None}
    assert len(ran(tmp_path)) == 4


def test_submitit_runs_jobs_and_outlives_a_killed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit.core.core.Job, "_results_timeout_s", 0.5)  # it waits 15 s for what was killed
    monkeypatch.setenv("PYTHONPATH", TESTS)
    parameters = {"timeout_min": 5}
    ended = errors(
        clusters.submitit, tmp_path, *QUERIES, cluster="local", jobs_at_once=2, poll_seconds=0.1, parameters=parameters
    )
    assert str(ended.pop("kill")).startswith("UncompletedJobError: Job ")
    assert ended == {"one": None, "memory": "MemoryError: no room for [8, 8]", "two": None}


def test_submitit_runs_jobs_in_this_process_for_debugging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setitem(sys.modules, "experiments.run.training_run", module())
    ended = errors(clusters.submitit, tmp_path, "one", "mistake", "two", cluster="debug", parameters={})
    assert ended == {"one": None, "mistake": "expected better", "two": None}


@pytest.mark.parametrize(("library", "extra"), [("ray", "ray"), ("submitit", "slurm")])
def test_what_is_not_installed_is_said_in_one_sentence(
    library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    settings = {"parameters": {}} if library == "submitit" else {}
    message = rf"launcher={library} needs {library}, which is not installed: pip install .*\[{extra}\]"
    with pytest.raises(ImportError, match=message):
        getattr(clusters, library)([], fake_attempt, **settings)


def test_no_job_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected launcher\.jobs_at_once to be 1 or more, got 0"):
        clusters.submitit([], fake_attempt, jobs_at_once=0, parameters={})
