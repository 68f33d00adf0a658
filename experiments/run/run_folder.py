"""The folder of a run: who has it, who may write into it, and what it says of how the run ended.

- A run that is given no folder makes one that was not there, so two runs of one second do not meet.
- A folder belongs to one run at a time, and a finished run is never written over. One that failed or was
  interrupted may be begun again in its folder, or go on in it.
- Of the processes that share a run only the first writes. The others get the same object, which writes nothing.
- Nothing of a run is written before its parts are built and checked, so a mistake leaves a folder as it was, and none
  where there was none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from contrastive.data.json_files import read_object
from contrastive.data.whole_files import whole_file
from experiments.results.files import write_json

log = logging.getLogger(__name__)

LOCK = ".running"
"""File of a run's folder that is locked while the run goes on."""

UNFINISHED = ("step-*", "judged-*", "*.tmp")
"""Files among the checkpoints that a run is continued from."""

RANKS = ("RANK", "LOCAL_RANK")
"""What says, from the start of a process, that it is not the first of those that share a run."""


def new_folder(wanted: str) -> str:
    """Make a folder that was not there, named as wanted or with a number behind it; return its name.

    A process that joins a run gets the name as it is: the folder is that of the first process.
    """
    if any(os.environ.get(name, "0") != "0" for name in RANKS):
        return wanted
    path, number = Path(wanted), 1
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            path = Path(f"{wanted}-{number}")
        else:
            return str(path)


class RunFolder:
    """A folder that a run has for itself.

    Args:
        path: The folder.
        writes: Whether this process is the one that writes.

    Attributes:
        path: The folder.
        writes: Whether this process is the one that writes; what else is made for the folder asks it.
        started: Whether anything of this run has been written.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path, self.writes = path, writes
        self.started = False

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are, and what else is needed to continue."""
        return self.path / "checkpoints"

    def start(self, config: str, report: Mapping[str, Any], *, anew: bool = True) -> None:
        """Write the configuration of the run, now that it is known to work, and that it is running.

        Args:
            config: The configuration.
            report: What is known of the run.
            anew: Whether it begins, so that what another left to continue from is of no use.
        """
        if self.writes:
            if anew:
                self.forget()
            with whole_file(self.path / "config.yaml") as temporary:
                temporary.write_text(config, encoding="utf-8")
            self.write_report(report)

    def forget(self) -> None:
        """Delete what there is to continue from: a run began anew, or is finished."""
        for path in (path for name in UNFINISHED for path in self.checkpoints.glob(name)):
            path.unlink(missing_ok=True)

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Write what is known of the run so far."""
        self.started = True
        if self.writes:
            write_json(self.path / "metrics.json", report)

    def write_ending(self, report: Mapping[str, Any]) -> None:
        """Write how the run ended, if that can be written; what it ended of is said elsewhere.

        Of a run that never started nothing is known that an earlier one's report is to be lost for.
        """
        if self.started or not (self.path / "metrics.json").exists():
            try:
                self.write_report(report)
            except OSError as error:
                log.warning("How the run ended could not be written: %s", error)


@contextmanager
def claimed(path: Path, *, writes: bool) -> Iterator[RunFolder]:
    """Have a folder for a run inside the block; it is made if it is not there.

    Args:
        path: The folder.
        writes: Whether this process writes into it; one that does not asks nobody.

    Raises:
        FileExistsError: If there is a finished run in it, or another process runs there.
    """
    if not writes:
        yield RunFolder(path, writes=False)
        with suppress(OSError):  # one that Hydra made for a process that did not know the folder of the first
            path.rmdir()
        return
    path.mkdir(parents=True, exist_ok=True)
    with _held(path / LOCK):
        if read_report(path).get("status") == "finished":
            raise FileExistsError(
                f"expected a folder without a finished run, there is one in {path}: take another, or delete that one"
            )
        yield RunFolder(path, writes=True)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FileExistsError(
            f"expected a folder that no other process runs in, one does in {path.parent}: take another"
        ) from error
    except NotImplementedError:  # a file system without locks, where nobody can tell
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        lock.release()


def is_running(path: Path) -> bool:
    """Whether a process has the folder of a run."""
    lock = path / LOCK
    try:
        if lock.exists():
            with FileLock(lock, timeout=0):
                pass
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    return False


def forget_refused(path: Path) -> None:
    """Delete the folder of a run that never started, if nothing else is in it than that it did not, and its log."""
    files = {file.name for file in path.iterdir()} if path.is_dir() else {"config.yaml"}
    if files <= {"metrics.json", "run.log"}:
        with suppress(OSError):
            for name in files:
                (path / name).unlink()
            path.rmdir()


def read_report(folder: Path) -> dict[str, Any]:
    """Return what a run has written of itself so far, empty if that is nothing."""
    try:
        return read_object(folder / "metrics.json")
    except (OSError, ValueError):
        return {}


def monitored(report: Mapping[str, Any]) -> tuple[str, float]:
    """Return name and value of what a finished run is judged by: the monitored metric, else the final nDCG@10."""
    best = report.get("monitored")
    if best:
        return best["metric"], best["value"]
    return "ndcg@10", report["systems"]["after"]["metrics"]["ndcg@10"]["mean"]
