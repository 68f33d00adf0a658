"""Where a run is tracked: Weights & Biases, a CSV file, or nowhere.

W&B is never allowed to ask, delay or kill a run. It goes online only when a key is present and the server can be
reached within two seconds; otherwise the run is kept offline, complete, for `wandb sync`.
"""

from __future__ import annotations

import logging
import netrc
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from lightning.pytorch.loggers import CSVLogger, WandbLogger

log = logging.getLogger(__name__)

HISTORY = "history"
Mode = Literal["auto", "online", "offline"]


def csv_logger(folder: Path) -> list[Any]:
    """Track into `folder/history/metrics.csv` only."""
    return [CSVLogger(folder, name=HISTORY, version="", flush_logs_every_n_steps=1)]


def no_logger(folder: Path) -> list[Any]:  # noqa: ARG001
    """Track nothing; the results of the run are still written."""
    return []


def wandb_logger(
    folder: Path, *, project: str, name: str | None, group: str | None, tags: Sequence[str], mode: Mode = "auto"
) -> list[Any]:
    """Track into Weights & Biases and, as a copy that needs no account, into a CSV file.

    Args:
        folder: The folder of the run.
        project: W&B project.
        name: Name of the run there; the name of the folder if None.
        group: Group of the run there, such as a sweep.
        tags: Tags of the run there.
        mode: `auto` is online if a key is present and the server answers, offline otherwise.

    Returns:
        The loggers; the CSV file alone if W&B cannot even start offline.
    """
    try:
        return [_start_wandb(folder, project, name, group, tags, mode), *csv_logger(folder)]
    except Exception as error:  # tracking must not cost a run
        log.warning("Weights & Biases could not start (%s: %s); tracking to CSV only.", type(error).__name__, error)
        return csv_logger(folder)


def _start_wandb(
    folder: Path, project: str, name: str | None, group: str | None, tags: Sequence[str], mode: Mode
) -> WandbLogger:
    if mode == "auto":
        mode = "online" if has_wandb_key() and server_answers(wandb_url()) else "offline"
    if mode == "offline":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its only look-up of a host when offline
    import wandb

    settings = wandb.Settings(init_timeout=20, finish_timeout=60, silent=True, console="off", disable_git=False)
    arguments: dict[str, Any] = {
        "project": project,
        "name": name or folder.name,
        "group": group,
        "tags": list(tags),
        "dir": str(folder),
        "settings": settings,
        "reinit": "finish_previous",
    }
    try:
        run = wandb.init(mode=mode, **arguments)
    except wandb.errors.Error as error:
        if mode == "offline":
            raise
        log.warning("Weights & Biases is not reachable (%s); keeping the run offline.", error)
        run = wandb.init(mode="offline", **arguments)
    return WandbLogger(experiment=run)


def wandb_url() -> str:
    """Address of the W&B server."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def has_wandb_key() -> bool:
    """Whether a W&B key is in the environment or in the netrc file, looked up without asking for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    host = urlparse(wandb_url()).hostname or ""
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def server_answers(url: str, timeout: float = 2.0) -> bool:
    """Whether a connection to the server can be opened within `timeout` seconds."""
    parts = urlparse(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=timeout):
            return True
    except OSError:
        return False


def log_results(
    loggers: Sequence[Any], summary: Mapping[str, Any], columns: Sequence[str], examples: Sequence[Sequence[str]]
) -> None:
    """Put final numbers, and a table of queries with the best documents of each system, into the W&B run, if any."""
    for run in _wandb_runs(loggers):
        import wandb

        run.summary.update(dict(summary))
        run.log({"examples": wandb.Table(columns=list(columns), data=[list(row) for row in examples])})


def finish(loggers: Sequence[Any], *, failed: bool) -> None:
    """Close the W&B run, if any, so that the next job of a sweep gets its own."""
    for run in _wandb_runs(loggers):
        run.finish(exit_code=int(failed))


def _wandb_runs(loggers: Sequence[Any]) -> list[Any]:
    return [logger.experiment for logger in loggers if isinstance(logger, WandbLogger)]
