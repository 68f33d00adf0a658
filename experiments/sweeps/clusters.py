"""Who runs the jobs of a sweep on other machines: Ray, or Slurm through submitit.

The machines must see this checkout and the folder of the runs under the same paths, as on a shared file system.
Both import what they need when they are chosen, and say which extra brings it.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.composing import CONFIGS
from experiments.sweeps.jobs import Job
from experiments.sweeps.launchers import GRACE, Ended, Work


def ray(
    jobs: Sequence[Job],
    work: Work,
    *,
    address: str | None = None,
    cpus_per_job: float = 1,
    gpus_per_job: float = 0,
) -> Ended:
    """Run jobs as tasks of Ray, on this machine or on a cluster; Ray keeps processes for the next job.

    Args:
        jobs: The jobs.
        work: What to do with one.
        address: Of a cluster, `auto` for the one this machine is in; None starts Ray here.
        cpus_per_job: Cores that a job is given.
        gpus_per_job: GPUs that a job is given; 0.5 lets two share one.

    Raises:
        ImportError: If Ray is not installed.
    """
    library = _needed("ray", extra="ray")
    return _on_ray(library, jobs, work, address, {"num_cpus": cpus_per_job, "num_gpus": gpus_per_job})


def _on_ray(ray: Any, jobs: Sequence[Job], work: Work, address: str | None, resources: Mapping[str, float]) -> Ended:
    checkout = str(CONFIGS.parent)
    paths = os.pathsep.join(filter(None, (checkout, os.environ.get("PYTHONPATH"))))
    environment = {"env_vars": {"PYTHONPATH": paths, "OMP_WAIT_POLICY": "PASSIVE"}}
    here = {"include_dashboard": False} if address is None else {}
    ray.init(address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR, **here)
    try:
        task = ray.remote(**resources, max_retries=0)(lambda job: work(job))  # Ray wants a function, not a partial one
        running = {task.remote(job): job for job in jobs}
        try:
            while running:
                for done in ray.wait(list(running), num_returns=1)[0]:
                    job = running.pop(done)
                    try:
                        yield job, ray.get(done)
                    except ray.exceptions.RayError as error:
                        yield job, f"{type(error).__name__}: {_start_of(error)}"
        finally:
            for reference in running:
                ray.cancel(reference)  # a KeyboardInterrupt in the job
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=GRACE)
    finally:
        ray.shutdown()


def submitit(
    jobs: Sequence[Job],
    work: Work,
    *,
    cluster: str | None = None,
    jobs_at_once: int = 16,
    poll_seconds: float = 2.0,
    parameters: Mapping[str, Any],
) -> Ended:
    """Run jobs as jobs of Slurm, each in a process of its own.

    Args:
        jobs: The jobs.
        work: What to do with one.
        cluster: slurm, local (processes here) or debug (in this process); None for Slurm if it is here, else local.
        jobs_at_once: How many at most are given to Slurm at a time.
        poll_seconds: How often to look at them.
        parameters: Of submitit's `AutoExecutor.update_parameters`, such as timeout_min, slurm_partition, gpus_per_node.

    Raises:
        ImportError: If submitit is not installed.
        ValueError: If there is no job at once.
    """
    if jobs_at_once < 1:
        raise ValueError(f"expected launcher.jobs_at_once to be 1 or more, got {jobs_at_once}")
    library = _needed("submitit", extra="slurm")
    store = jobs[0].folder.parent if jobs else Path.cwd()
    executor = library.AutoExecutor(folder=store / ".submitit" / "%j", cluster=cluster)
    executor.update_parameters(**parameters)
    return _on_slurm(executor, jobs, work, jobs_at_once, poll_seconds)


def _on_slurm(executor: Any, jobs: Sequence[Job], work: Work, at_once: int, poll_seconds: float) -> Ended:
    waiting = deque(jobs)
    running: dict[Any, Job] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.popleft()
                running[executor.submit(work, job)] = job
            done = [submitted for submitted in running if submitted.done()]
            for submitted in done:
                yield running.pop(submitted), _outcome(submitted)
            if not done:
                time.sleep(poll_seconds)
    finally:
        for submitted in running:
            with suppress(Exception):  # it may have ended by itself
                submitted.cancel()


def _outcome(submitted: Any) -> str | None:
    error = submitted.exception()
    if error is None:
        result: str | None = submitted.result()
        return result
    return f"{type(error).__name__}: {_start_of(error)}"


def _start_of(error: BaseException, lines: int = 3) -> str:
    return "\n".join(list(_not_empty(str(error)))[:lines])


def _not_empty(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line.strip())


def _needed(library: str, *, extra: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ImportError(
            f'launcher={library} needs {library}, which is not installed: pip install "contrastive-losses[{extra}]"'
        ) from error
