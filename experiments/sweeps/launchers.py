"""Who runs the jobs of a sweep on this machine: one process by default, or several.

Every launcher takes jobs and a function for one job, and yields each job as it ends, with None or with what ended it.
Jobs are never run in the process that hands them out, so that one that is killed, for memory say, costs that job alone.
A process is kept for the next job, since to import the libraries takes longer than a small job, and since tokens and
embeddings stay in its memory. Each is sent one job at a time: when one dies, it is known which job it had, and the
others go on.

Workers do not hear Ctrl-C by themselves: the launcher passes it on, once, and waits for them to write where they are.
When the process that hands out jobs is gone, killed say, they do the same and end.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

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
    """Run jobs in several processes that share the cores evenly; named after the library that once started them.

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


@dataclass(eq=False, slots=True)
class _Worker:
    process: SpawnProcess
    connection: Connection
    job: Job | None = None


def _run(jobs: Sequence[Job], work: Work, *, workers: int, environment: dict[str, str]) -> Ended:
    waiting = deque(jobs)
    idle: list[_Worker] = []
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                worker = idle.pop() if idle else _start(work, environment)
                worker.job = waiting.popleft()
                running.append(worker)
                worker.connection.send(worker.job)
            for worker in _done(running, timeout=None):
                running.remove(worker)
                assert worker.job is not None
                try:
                    outcome = worker.connection.recv()
                except (EOFError, OSError):
                    yield worker.job, _how_it_died(worker.process)
                    continue
                idle.append(worker)
                if isinstance(outcome, BaseException):
                    raise outcome
                yield worker.job, outcome
    finally:
        _interrupt(running)
        for worker in running:
            worker.process.kill()
        for worker in (*running, *idle):
            worker.connection.close()
            worker.process.join()


def _start(work: Work, environment: dict[str, str]) -> _Worker:
    """Start a process with further environment variables, which libraries read when they are imported."""
    ours, theirs = multiprocessing.Pipe()
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, work, os.getpid()))
        process.start()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    theirs.close()
    return _Worker(process, ours)


def _serve(connection: Connection, work: Work, parent: int) -> None:
    """Run each job that is sent, in a process of its own, and send back what ended it."""
    _settle(parent)
    with suppress(EOFError):
        while True:
            job = connection.recv()
            try:
                outcome: object = work(job)
            except BaseException as error:
                outcome = error
            connection.send(outcome)


def _done(running: Sequence[_Worker], timeout: float | None) -> list[_Worker]:
    """Wait for one that has answered or is dead; return all such, none after the time-out."""
    ends = None if timeout is None else time.monotonic() + timeout
    while running and (ends is None or time.monotonic() < ends):
        # Looked at every second: what a dead process has started may hold its end of the pipe open.
        ready = wait([worker.connection for worker in running], timeout=1)
        done = [worker for worker in running if worker.connection in ready or not worker.process.is_alive()]
        if done:
            return done
    return []


def _interrupt(running: Sequence[_Worker]) -> None:
    """Interrupt what is running and wait until it has written where it is; a second Ctrl-C ends the wait."""
    for worker in running:
        if worker.process.pid is not None and worker.process.is_alive():
            os.kill(worker.process.pid, signal.SIGINT)
    left, ends = list(running), time.monotonic() + GRACE
    with suppress(KeyboardInterrupt):
        while left and time.monotonic() < ends:
            done = _done(left, timeout=ends - time.monotonic())
            left = [worker for worker in left if worker not in done]


def _settle(parent: int) -> None:
    """Leave the terminal to the table."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # between jobs; a job hears it for itself
    end_with_parent(parent)
    logging.raiseExceptions = False  # else a full disk is a traceback for every line of a log
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the sweep runs in a shell's background
    nowhere = os.open(os.devnull, os.O_RDWR)
    for terminal in (0, 1, 2):
        os.dup2(nowhere, terminal)


def _how_it_died(process: SpawnProcess) -> str:
    process.join()
    code = process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    more = "; the system may have run out of memory" if how == "SIGKILL" else ""
    return f"its process died ({how}){more}"
