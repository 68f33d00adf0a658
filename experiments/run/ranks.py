"""The processes that share a run, of which the first alone writes, judges and decides how the run ends.

Lightning starts the others with the same command, when the first begins to train, and ends the first if one of them
ends badly. So one that fails waits, because the first most often fails of the same and has things to write down.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, ListConfig

from experiments.interruptions import end_with_parent
from experiments.run.parts import Parts

PATIENCE = 30.0
"""Seconds that a process which failed leaves the first one to find out for itself."""


def is_first(trainer: DictConfig) -> bool:
    """Whether this process is the first of its run, or the only one.

    Slurm numbers its tasks even where each has a run of its own; those of one device are first in theirs.
    """
    devices = list(trainer.devices) if isinstance(trainer.devices, ListConfig) else trainer.devices
    alone = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    if alone and trainer.strategy == "auto" and trainer.get("num_nodes", 1) == 1:
        rank_zero_only.rank = 0
    return rank_zero_only.rank == 0


def train(parts: Parts) -> None:
    """Train in the first process, and leave no other behind if that fails."""
    try:
        fit(parts)
    except BaseException:
        for process in _others(parts.trainer):
            process.kill()
        raise
    _others(parts.trainer)


def take_part(parts: Parts) -> None:
    """Train in a process that is not the first, and end with that one."""
    end_with_parent(os.getppid(), signal.SIGKILL)
    try:
        fit(parts)
    except BaseException:
        time.sleep(PATIENCE)
        raise


def fit(parts: Parts) -> None:
    """Train, from the beginning or from a checkpoint on."""
    parts.trainer.fit(parts.module, parts.datamodule, ckpt_path=parts.checkpoint, weights_only=True)


def _others(trainer: Any) -> list[Any]:
    """Return the processes that Lightning started, which from now on may end as they like: nobody watches them."""
    processes = getattr(trainer.strategy.launcher, "procs", None) or []
    others = list(processes)
    processes.clear()  # the list of Lightning's observer, which would kill this process with one of them
    return others
