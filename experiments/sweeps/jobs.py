"""One job of a sweep: what makes it the same as another, where its results are, in which state, and how to run it.

A job is known by its configuration and by nothing else, so that every sweep that wants it finds it where the first one
left it. What the configuration does not hold is not seen: after a change of the code, or of what is in a data file,
give another `hydra.sweep.dir` or delete the folders. A lock that is held while a job runs, and that the system takes
back from a process that dies, tells a run that is going on from one that was cut off, and keeps a second terminal out.

Nothing heavy is imported before a job is run.
"""

from __future__ import annotations

import logging.config
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from experiments.composing import CONFIGS, MISTAKES, said
from experiments.results.files import write_json
from experiments.run.identity import identity, resolved
from experiments.run.resuming import is_same_run
from experiments.run.run_folder import monitored, read_report

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)

State = Literal["missing", "running", "finished", "failed", "interrupted"]
LOCKS = ".locks"
"""Folder of the store with a lock file a job."""

DIED = "failed: its process died"
"""How the status of a job begins whose process could not say what ended it."""

PATIENCE = 0.5
"""Seconds to try for a lock: whoever asks for the state holds it for an instant."""


class RunningElsewhereError(RuntimeError):
    """Another process is running this job."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run that is wanted.

    Attributes:
        id: Digest of what decides its result.
        folder: Where its results are or will be, absolute.
        config: Its configuration, resolved.
        overrides: The command line that composes it, as `name=value`.
        label: What tells it from the other jobs of its sweep.
    """

    id: str
    folder: Path
    config: DictConfig
    overrides: tuple[str, ...]
    label: str

    @property
    def command(self) -> list[str]:
        """The words of the command that runs it on its own."""
        return ["python", "-m", "experiments.run", *self.overrides]


def make_job(config: DictConfig, overrides: Sequence[str], label: str, *, root: Path, group: str) -> Job:
    """Give a composed configuration its place in a store.

    Args:
        config: As composed; it is not changed.
        overrides: The command line that composes it.
        label: What tells it from the other jobs; names the run of a tracker unless `logger.name` does.
        root: The store.
        group: Name of the sweep; groups the runs of a tracker unless `logger.group` does.
    """
    digest = identity(config)
    folder = root.resolve() / f"{_readable(config)}-{digest}"
    complete = OmegaConf.create(resolved(config, str(folder)))
    for name, value in (("name", label), ("group", group)):
        if name in (complete.logger or {}) and complete.logger[name] is None:
            complete.logger[name] = value
    return Job(digest, folder, complete, tuple(overrides), label)


def state(folder: Path) -> State:
    """Return how far the job of a folder is."""
    status = str(read_report(folder).get("status", ""))
    if status == "finished":
        return "finished"
    try:
        with _lock(folder, timeout=0):
            pass
    except Timeout:
        return "running"
    if status.startswith("failed"):
        return "failed"
    return "interrupted" if folder.exists() else "missing"


def run_job(job: Job, callbacks: Sequence[Callback] = (), *, wait: bool = False, capture: bool = False) -> float:
    """Run a job in this process, unless it is finished; return its monitored metric.

    What was interrupted goes on; what else an earlier attempt left is deleted. Whatever ends the job is written into
    its folder before it is raised.

    Args:
        job: The job.
        callbacks: Further ones for the trainer.
        wait: Whether to wait for another process that is running it, and take its result if it gets there.
        capture: Whether what it prints goes into `output.log` of its folder in place of the terminal.

    Raises:
        RunningElsewhereError: If another process is running it and `wait` is false.
        BaseException: Whatever ends it.
    """
    try:
        with _lock(job.folder, timeout=-1 if wait else PATIENCE):
            report = read_report(job.folder)
            if report.get("status") == "finished":
                return monitored(report)[1]
            goes_on = can_go_on(job)
            if not goes_on:
                report = {}
                with suppress(FileNotFoundError):
                    rmtree(job.folder)
                job.folder.mkdir(parents=True)
            job.config.resume = str(job.folder) if goes_on else None
            write_json(job.folder / "metrics.json", {**report, "status": "running"})
            with _captured(job.folder / "output.log") if capture else nullcontext():
                return _run(job, callbacks)
    except Timeout as error:
        raise RunningElsewhereError(f"{job.label} is running in another process") from error


def can_go_on(job: Job) -> bool:
    """Whether a job was cut off, and not by a mistake, and left what it takes to continue."""
    status = str(read_report(job.folder).get("status", ""))
    return status.startswith(("running", "interrupted", DIED)) and is_same_run(job.folder, job.config)


def record_end(folder: Path, status: str) -> None:
    """Write how a job ended, if it could not do so itself."""
    report = read_report(folder)
    if report.get("status", "running") == "running":
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "metrics.json", {**report, "status": status})


def _run(job: Job, callbacks: Sequence[Callback]) -> float:
    _log_into(job.folder)
    from experiments.run.training_run import train_and_judge

    try:
        return train_and_judge(job.config, command=job.command, callbacks=callbacks)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        record_end(job.folder, "interrupted" if stopped else f"failed: {why(error)}")
        if not stopped:
            log.error("%s", why(error), exc_info=not isinstance(error, MISTAKES))
        raise


@contextmanager
def _captured(path: Path) -> Iterator[None]:
    """Send what this process and those it starts print into a file; also what never passes through `sys.stdout`."""
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.dup(1), os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for kept, number in zip(terminal, (1, 2), strict=True):
            os.dup2(kept, number)
            os.close(kept)


def why(error: BaseException) -> str:
    """Say what ended a job: a mistake by itself, anything else with its type."""
    return said(error).removeprefix("error: ") if isinstance(error, MISTAKES) else f"{type(error).__name__}: {error}"


def _log_into(folder: Path) -> None:
    """Log as a run of its own does: everything, with times, into the folder, and what is for people to stderr."""
    logging_config = OmegaConf.load(CONFIGS / "hydra" / "job_logging" / "run.yaml")
    OmegaConf.update(logging_config, "handlers.file.filename", str(folder / "run.log"))
    OmegaConf.update(logging_config, "handlers.file.delay", False)  # the folder is the job's already
    for handler in [each for each in logging.root.handlers if isinstance(each, logging.FileHandler)]:
        logging.root.removeHandler(handler)  # one that is closed and still there opens its file again for a late line
        handler.close()
    logging.config.dictConfig(OmegaConf.to_container(logging_config))  # type: ignore[arg-type]


def _lock(folder: Path, timeout: float) -> FileLock:
    locks = folder.parent / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{folder.name}.lock", timeout=timeout)


def _readable(config: DictConfig) -> str:
    """Return the part of a folder's name that people read; it depends on the configuration only."""
    loss = str(OmegaConf.select(config, "loss._target_", default="job")).rpartition(".")[2].removesuffix("Loss")
    return f"{loss}-seed{config.seed}"
