"""What the process of a worker does with one job: an outcome to send back, whatever happens to the job."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from experiments.interruptions import exit_status, interruptible, interruption
from experiments.sweeps.jobs import Job, RunningElsewhereError, run_job, why

ELSEWHERE = "another process is running it"
GRACE = 60.0
"""Seconds that a job which is told to end has to write down where it is."""


def attempt(job: Job, *, directory: Path, wait: bool = False) -> str | None:
    """Run a job; return None if it finished, `ELSEWHERE`, or what ended it.

    Args:
        job: The job; its output goes into its folder.
        directory: What relative paths of its configuration are relative to.
        wait: Whether to wait for another process that is running it.

    Raises:
        KeyboardInterrupt: If somebody interrupts it.
    """
    os.chdir(directory)
    parent = os.getppid()
    try:
        with interruptible(grace=GRACE):
            run_job(job, wait=wait, capture=True)
    except RunningElsewhereError:
        return ELSEWHERE
    except BaseException as error:  # a job that calls sys.exit must not end the worker
        interrupted = interruption(error) if isinstance(error, KeyboardInterrupt | SystemExit) else None
        if interrupted is None:
            return why(error)
        if os.getppid() != parent:  # nobody is there to hear of it, or to end this process
            os._exit(exit_status(interrupted))
        raise interrupted from None  # itself: the exit status of the sweep is that of its signal
    finally:
        _release_memory()
    return None


def _release_memory() -> None:
    """Give back what the job held on a GPU, which the next one, or another process, may need."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
