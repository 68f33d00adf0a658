"""Jobs in, jobs with what ended them out, whatever happens to the processes that run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
from fake_training import fake_attempt, ran

from experiments.sweeps import launchers
from experiments.sweeps.expansion import expand
from experiments.sweeps.jobs import Job, read_report, state

ROOT = Path(__file__).parents[2]
SWEEP = """
import sys
sys.path.insert(0, "tests")
from fake_training import fake_attempt
from experiments.sweeps import program
sys.exit(program.main(["query=sleep", f"hydra.sweep.dir={sys.argv[1]}"], fake_attempt))
"""


def wanted(store: Path, *queries: str) -> list[Job]:
    """Return a job for each of what it is to do."""
    return list(expand([f"query={','.join(queries)}", f"hydra.sweep.dir={store}"]).jobs)


def test_one_process_runs_all_jobs_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    jobs = wanted(tmp_path, "one", "memory", "two", "kill", "three", "exit", "four")
    ended = list(launchers.serial(jobs, partial(fake_attempt, directory=Path.cwd())))
    assert [job for job, _ in ended] == jobs
    errors = {job.config.query: error for job, error in ended}
    assert errors.pop("kill") == "its process died (SIGKILL); the system may have run out of memory"
    assert errors.pop("memory") == "MemoryError: no room for [8, 8]"
    assert errors.pop("exit") == "SystemExit: somebody calls it"
    assert errors == dict.fromkeys(["one", "two", "three", "four"])
    processes = [pid for *_, pid, _ in ran(tmp_path)]
    assert len(set(processes[:4])) == len(set(processes[4:])) == 1
    assert len({*processes, str(os.getpid())}) == 3


def test_several_processes_share_the_cores_and_one_death_costs_one_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    jobs = wanted(tmp_path, "slow", "kill", "one", "two")
    ended = list(launchers.joblib(jobs, partial(fake_attempt, directory=Path.cwd()), workers=2))
    assert {job.config.query for job, error in ended if error} == {"kill"}
    assert sorted(job.config.query for job, _ in ended) == ["kill", "one", "slow", "two"]
    lines = ran(tmp_path)
    assert {threads for *_, threads in lines} == {"3"}
    assert len(lines) == 4
    queries = [job.config.query for job, _ in ended]
    assert queries.index("kill") < queries.index("slow")  # which was running at the time, and was not run again


def test_no_worker_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected launcher\.workers to be 1 or more, got 0"):
        launchers.joblib([], partial(fake_attempt, directory=Path.cwd()), workers=0)


@pytest.mark.skipif("not sys.platform.startswith('linux')")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_worker_ends_with_its_sweep(number: int, status: int, tmp_path: Path) -> None:
    sweep = subprocess.Popen([sys.executable, "-c", SWEEP, str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL)
    while not ran(tmp_path):
        time.sleep(0.05)
    (job,) = wanted(tmp_path, "sleep")
    sweep.send_signal(number)
    assert sweep.wait(30) == status
    ends = time.monotonic() + 20
    while state(job.folder) == "running" and time.monotonic() < ends:  # the lock of a job lives as long as its process
        time.sleep(0.05)
    assert read_report(job.folder)["status"] == "interrupted"


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """Python leaves Ctrl-C ignored where it is started in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_ctrl_c")
def test_an_interruption_reaches_the_job_and_starts_nothing(tmp_path: Path) -> None:
    jobs = wanted(tmp_path, "one", "sleep", "two")

    def press_ctrl_c() -> None:
        while "sleep" not in [query for query, *_ in ran(tmp_path)]:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    with closing(launchers.serial(jobs, partial(fake_attempt, directory=Path.cwd()))) as ended:  # type: ignore[type-var]
        next(ended)
        Thread(target=press_ctrl_c).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            next(ended)
    assert time.monotonic() - began < 30
    assert [state(job.folder) for job in jobs] == ["finished", "interrupted", "missing"]
    assert read_report(jobs[1].folder)["status"] == "interrupted"  # it had the time to write so
