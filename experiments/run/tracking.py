"""Where a run is tracked: Weights & Biases, a CSV file, or nowhere.

W&B is never allowed to ask, delay or end a run. It goes online only when a key is present and the server answers within
two seconds, which a sweep finds out once; otherwise the run is kept offline, complete, for `wandb sync`. If it fails on
the way, training goes on without it. The run's own files are the source, W&B is the second copy.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from experiments.results.files import Outcome
from experiments.run.history import History
from experiments.run.wandb_server import has_wandb_key, is_reachable, remember, wandb_url

log = logging.getLogger(__name__)

Mode = Literal["auto", "online", "offline"]


class LenientWandbLogger(WandbLogger):
    """Lightning's W&B logger, except that a failure of W&B ends the tracking and not the run."""

    def __init__(self, run: Any, *, keeps_model: bool) -> None:
        super().__init__(experiment=run)
        self.keeps_model = keeps_model
        self.failed = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the metrics of a step."""
        with self.forgiving():
            super().log_metrics(metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        """Log the configuration."""
        with self.forgiving():
            super().log_hyperparams(params)

    @contextmanager
    def forgiving(self) -> Iterator[None]:
        """Turn the first error inside the block into a warning, and keep later ones to itself."""
        try:
            yield
        except Exception as error:
            if not self.failed:
                log.warning(
                    "Weights & Biases failed (%s: %s). The run goes on without it; its own files are complete.",
                    type(error).__name__,
                    error,
                )
            self.failed = True


def csv_logger(folder: Path) -> list[Any]:
    """Track into `folder/history/metrics.csv` only."""
    return [History(folder)]


def no_logger(folder: Path) -> list[Any]:  # noqa: ARG001
    """Track nothing; the results of the run are still written."""
    return []


def wandb_logger(
    folder: Path,
    *,
    project: str,
    name: str | None,
    group: str | None,
    tags: Sequence[str],
    mode: Mode = "auto",
    log_model: bool | Literal["auto"] = "auto",
    id: str | None = None,
) -> list[Any]:
    """Track into Weights & Biases and, as a copy that needs no account, into a CSV file.

    Args:
        folder: The folder of the run.
        project: W&B project.
        name: Name of the run there; None for the folder's name. A sweep gives what varies in the job.
        group: Group of the run there; None for none. A sweep gives its own name.
        tags: Tags of the run there.
        mode: `auto` is online if a key is present and the server answers, offline otherwise; `WANDB_MODE` comes first.
        log_model: Whether an online run uploads the model; an offline one never copies it.
        id: Of the run there that goes on; None begins one.

    Returns:
        The loggers; the CSV file alone if W&B cannot even start offline.

    Raises:
        ValueError: If `mode` or `log_model` is unknown.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"expected logger.mode to be one of {', '.join(get_args(Mode))}, got {mode!r}")
    if log_model not in ("auto", True, False):
        raise ValueError(f"expected logger.log_model to be auto, true or false, got {log_model!r}")
    if rank_zero_only.rank or (mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"):
        return csv_logger(folder)
    arguments = {
        "project": project,
        "name": (name or folder.name)[:128],  # W&B refuses longer ones
        "group": group,
        "tags": list(tags),
        "dir": str(folder),
        **({} if id is None else {"id": id, "resume": "allow"}),
    }
    try:
        run = _start_wandb(arguments, os.environ.get("WANDB_MODE", mode) if mode == "auto" else mode)
    except Exception as error:  # tracking must not cost a run
        log.warning("Weights & Biases could not start (%s: %s); tracking to CSV only.", type(error).__name__, error)
        return csv_logger(folder)
    return [LenientWandbLogger(run, keeps_model=bool(log_model)), *csv_logger(folder)]


def _start_wandb(arguments: Mapping[str, Any], mode: str) -> Any:
    online = mode != "offline" and has_wandb_key() and is_reachable(wandb_url())
    if mode == "online" and not online:
        log.warning("Weights & Biases has no key, or its server does not answer; keeping the run offline.")
    if not online:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its only look-up of a host when offline
    import wandb

    settings = wandb.Settings(
        init_timeout=20, finish_timeout=60, finish_timeout_raises=True, silent=True, console="off", disable_git=False
    )
    arguments = {**arguments, "settings": settings, "reinit": "finish_previous"}
    try:
        run = wandb.init(mode="online" if online else "offline", **arguments)
    except Exception as error:
        if not online:
            raise
        log.warning("Weights & Biases is not reachable (%s); keeping the run offline.", error)
        remember(wandb_url(), False)
        run = wandb.init(mode="offline", **arguments)
    for pattern in ("train/*", "dev/*", "negatives/*"):
        run.define_metric(pattern, step_metric="trainer/global_step")
    return run


def ids(loggers: Sequence[Any]) -> dict[str, str]:
    """Return the id of the W&B run, if any, by which it can go on; for the report."""
    found = [logger.experiment.id for logger in _working(loggers)]
    return {"wandb": found[0]} if found else {}


def going_on(config: DictConfig | None, report: Mapping[str, Any]) -> None:
    """Have a W&B run go on that an earlier attempt began, unless the configuration of the loggers names another.

    Args:
        config: Of the loggers; changed in place.
        report: Of the earlier attempt.
    """
    if config is not None and "id" in config and config.id is None:
        config.id = report.get("wandb")


def log_results(loggers: Sequence[Any], outcome: Outcome) -> None:
    """Put the outcome of a run into the W&B run, if any."""
    for logger in _working(loggers):
        import wandb

        run = logger.experiment
        with logger.forgiving():
            run.summary.update(dict(outcome.numbers))
            figures = {f"figures/{name}": wandb.Image(str(path)) for name, path in outcome.figures.items()}
            histograms = {name: wandb.Histogram(values) for name, values in outcome.histograms.items()}
            tables = {
                name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])
                for name, (columns, rows) in outcome.tables.items()
            }
            run.log({**figures, **histograms, **tables})


def log_model(loggers: Sequence[Any], folder: Path, metadata: Mapping[str, float]) -> None:
    """Upload the folder of the model as an artifact of the W&B run, if that is online and wants it."""
    for logger in _working(loggers):
        import wandb

        run = logger.experiment
        if not logger.keeps_model:
            continue
        if run.offline:
            log.info("The Weights & Biases run is offline, so the model is not copied into it: it is in %s", folder)
            continue
        with logger.forgiving():
            artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=dict(metadata))
            artifact.add_dir(str(folder), policy="immutable")  # nobody changes it, so upload without a copy first
            run.log_artifact(artifact)


def finish(loggers: Sequence[Any], *, failed: bool) -> None:
    """Close the W&B run, if any, so that the next job of a sweep gets its own; say where it is."""
    for logger in loggers:
        if not isinstance(logger, LenientWandbLogger):
            continue
        run, complete = logger.experiment, True
        with logger.forgiving():
            try:
                run.finish(exit_code=int(failed))
            except TimeoutError:
                complete = False
        if logger.failed:
            import wandb

            with suppress(Exception):  # forgets the dead connection, which the next job would be given
                wandb.teardown()
        if complete and not (logger.failed or run.offline):
            log.info("Weights & Biases: %s", run.url)
            continue
        state = "was offline" if run.offline else "got only a part of the run"
        log.info("Weights & Biases %s. To upload it: wandb sync %s", state, shlex.join(_folders(run)))


def _folders(run: Any) -> list[str]:
    """Return the folders of a W&B run, one for each time that it went on, as short as they can be."""
    latest = Path(run.settings.sync_dir)
    folders = sorted({*latest.parent.glob(f"*run-*-{run.id}"), latest})
    return [str(each.relative_to(Path.cwd()) if each.is_relative_to(Path.cwd()) else each) for each in folders]


def _working(loggers: Sequence[Any]) -> list[LenientWandbLogger]:
    return [logger for logger in loggers if isinstance(logger, LenientWandbLogger) and not logger.failed]
