"""A training run that takes no time and does what its `query` says, in the place of the real one, in any process."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from experiments.results.files import HEADLINE, write_json
from experiments.sweeps.jobs import Job
from experiments.sweeps.worker import attempt


def train_and_judge(config: DictConfig, *, command: Sequence[str] | None, callbacks: Sequence[Any]) -> float:  # noqa: ARG001
    """Note in the store that this ran and in which process, then end as `query` wants."""
    folder = Path(config.folder)
    with (folder.parent / "ran.txt").open("a") as file:
        file.write(f"{config.query} {config.seed} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    print(f"training {config.query}", flush=True)
    if config.query == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.query == "memory":
        raise MemoryError("no room for [8, 8]")
    if config.query == "mistake":
        raise ValueError("expected better")
    if config.query == "exit":
        sys.exit("somebody calls it")
    if config.query == "slow":
        time.sleep(1.5)
    if config.query == "sleep":
        time.sleep(60)
    value = config.seed + (10 if config.query == "best" else 0)
    write_json(folder / "metrics.json", finished(value))
    return float(value)


def finished(value: float) -> dict[str, Any]:
    """What a finished run writes, as far as a sweep reads it."""
    metrics = {name: {"mean": value / 100} for name in HEADLINE}
    monitored = {"metric": "dev/ndcg@10", "value": value}
    return {"status": "finished", "monitored": monitored, "systems": {"after": {"metrics": metrics}}}


def module() -> ModuleType:
    """The module to put in the place of `experiments.run.training_run`; in the tests' own process, by `monkeypatch`."""
    fake = ModuleType("experiments.run.training_run")
    fake.train_and_judge = train_and_judge  # type: ignore[attr-defined]
    return fake


def fake_attempt(job: Job, *, directory: Path, wait: bool = False) -> str | None:
    """What a worker does, with the fake run."""
    sys.modules["experiments.run.training_run"] = module()
    return attempt(job, directory=directory, wait=wait)


def inline(jobs: Sequence[Job], work: Any) -> Iterator[tuple[Job, str | None]]:
    """A launcher that starts no process."""
    return ((job, work(job)) for job in jobs)


def ran(store: Path) -> list[list[str]]:
    """Return query, seed, process and threads of each run in a store, in order."""
    path = store / "ran.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
