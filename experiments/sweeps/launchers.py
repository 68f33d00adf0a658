"""Who runs the jobs of a sweep on this machine: one process by default, or several.

Every launcher takes jobs and a function for one job, and yields each job as it ends, with None or with what ended it.
Jobs are never run in the process that hands them out, so that one that is killed, for memory say, costs that job alone.
A process is kept for the next job, since to import the libraries takes longer than a small job, and since tokens and
embeddings stay in its memory. Each process is a pool of its own (loky's, the one of joblib): when one dies, it is known
which job it had, and the others go on.

Workers do not hear Ctrl-C by themselves: the launcher passes it on, once, and waits for them to write where they are.
When the process that hands out jobs is gone, killed say, they do the same and end.
"""

from __future__ import annotations

import logging
import os
import re
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import suppress
from dataclasses import dataclass

from joblib.externals.loky import ProcessPoolExecutor, process_executor

from experiments.interruptions import end_with_parent
from experiments.sweeps.jobs import Job
from experiments.sweeps.worker import GRACE

Work = Callable[[Job], str | None]
"""Runs a job; returns None, or what ended it. It must be picklable."""

Ended = Iterator[tuple[Job, str | None]]


def serial(jobs: Sequence[Job], work: Work) -> Ended:
    """Run one job after another in one process."""
    return _run(jobs, work, workers=1, environment={})


def joblib(jobs: Sequence[Job], work: Work, *, workers: int | None = None) -> Ended:
    """Run jobs in several processes that share the cores evenly.

    Args:
        jobs: The jobs.
        work: What to do with one.
        workers: How many processes; None for one for every two cores.

    Raises:
        ValueError: If there is no worker.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(1, cores // 2) if workers is None else workers
    if workers < 1:
        raise ValueError(f"expected launcher.workers to be 1 or more, got {workers}")
    return _run(jobs, work, workers=workers, environment={"OMP_NUM_THREADS": str(max(1, cores // workers))})


@dataclass(frozen=True, slots=True)
class _Running:
    job: Job
    pool: ProcessPoolExecutor
    pid: int


def _run(jobs: Sequence[Job], work: Work, *, workers: int, environment: dict[str, str]) -> Ended:
    waiting = deque(jobs)
    idle: list[ProcessPoolExecutor] = []
    running: dict[Future[str | None], _Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                pool = idle.pop() if idle else _pool(environment)
                pid = pool.submit(os.getpid).result()
                job = waiting.popleft()
                running[pool.submit(work, job)] = _Running(job, pool, pid)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                ended = running.pop(future)
                yield ended.job, _outcome(future, ended, idle)
    finally:
        _interrupt(running)
        for future, each in running.items():
            each.pool.shutdown(kill_workers=not future.done())
        for pool in idle:
            pool.shutdown()


def _pool(environment: dict[str, str]) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, initializer=_settle, initargs=(os.getpid(),), env=environment)


def _outcome(future: Future[str | None], ended: _Running, idle: list[ProcessPoolExecutor]) -> str | None:
    """Return what ended a job, and keep its process for the next one if that lives."""
    try:
        error = future.result()
    except BrokenExecutor as broken:
        ended.pool.shutdown(kill_workers=True)
        return _how_it_died(broken)
    idle.append(ended.pool)
    return error


def _interrupt(running: dict[Future[str | None], _Running]) -> None:
    """Interrupt what is running and wait until it has written where it is; a second Ctrl-C ends the wait."""
    for each in running.values():
        with suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGINT)
    with suppress(KeyboardInterrupt):
        wait(running, timeout=GRACE)


def _settle(parent: int) -> None:
    """Leave the terminal to the table, and stay however much is cached: loky ends a process that grows by 300 MB."""
    signal.signal(signal.SIGTERM, _end)  # between jobs; a job hears it for itself
    end_with_parent(parent)
    logging.raiseExceptions = False  # else a full disk is a traceback for every line of a log
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the sweep runs in a shell's background
    nowhere = os.open(os.devnull, os.O_RDWR)
    for terminal in (0, 1, 2):
        os.dup2(nowhere, terminal)
    process_executor._USE_PSUTIL = False


def _end(number: int, _: object) -> None:
    """End at once, without the way out of Python, on which loky waits for a process that is gone."""
    os._exit(128 + number)


def _how_it_died(error: BrokenExecutor) -> str:
    found = re.search(r"SIG[A-Z]+", str(error))
    how = found[0] if found else "no signal"
    more = "; the system may have run out of memory" if how == "SIGKILL" else ""
    return f"its process died ({how}){more}"
