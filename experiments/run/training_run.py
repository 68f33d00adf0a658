"""One training job, from a composed configuration to a folder of results.

The order is chosen so that a mistake costs seconds: everything is built and checked first, the baselines are judged and
written next, and only then does training start. Whatever ends the run early finds what was finished on disk.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.errors import CompactHydraException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from contrastive.data import RetrievalTask
from contrastive.data.whole_files import disk_is_full, whole_folder
from contrastive.encoder.finite import NotFiniteError
from contrastive.negatives.summary import described
from contrastive.training.callbacks import MineNegatives
from contrastive.training.precision import fastest_precision
from experiments.composing import MISTAKES, check_complete, said
from experiments.evaluate.judging import Judgement, gain, judge_bm25, judge_encoder
from experiments.model_card.card import write_card
from experiments.results import files as results
from experiments.results.figures import illustrate
from experiments.results.provenance import base_models, provenance
from experiments.run.callbacks import NotWorthFinishing
from experiments.run.dev_lines import dev_means, draw_lines, say_if_worse
from experiments.run.parts import Parts, build
from experiments.run.ranks import is_first, take_part, train
from experiments.run.run_folder import RunFolder, claimed
from experiments.run.tracking import HISTORY, finish, log_model, log_results
from experiments.run.training_account import tell

log = logging.getLogger(__name__)


def train_and_judge(
    config: DictConfig, *, command: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()
) -> float:
    """Run the job; return the monitored metric, or the final nDCG@10 if nothing was monitored.

    Args:
        config: What to run.
        command: The words of the command that runs it, for the record; None if there is none.
        callbacks: For the trainer, beside those of the configuration.

    Raises:
        CompactHydraException: If the parts cannot be built from the configuration; it says why.
    """
    if config.trainer.precision == "auto":
        config.trainer.precision = fastest_precision(device_type(config.trainer.accelerator))
        log.info("precision: %s", config.trainer.precision)
    first = is_first(config.trainer)
    _quiet(first)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    report: dict[str, Any] = {"status": "running"}
    loggers: list[Any] = []
    with ExitStack() as held:
        folder = RunFolder(Path(config.folder), writes=False)  # until it is known that it may be had
        try:
            try:
                folder = held.enter_context(claimed(folder.path, writes=first))
                check_complete(config, config)
                parts = build(config, folder.path, callbacks, loggers)
            except MISTAKES as error:  # Hydra shows this one without a traceback
                raise CompactHydraException(f"error: {said(error)}") from error
            if not first:
                take_part(parts)
                return 0.0
            report |= _started(config, parts, provenance(command))
            folder.start(OmegaConf.to_yaml(config, resolve=True), report)
            return _run(config, folder, parts, report)
        except BaseException as error:
            if report["status"] != "finished":  # what fails after that is how it is shown
                report["status"] = _ending(error)
            if folder.started:
                log.warning("\nThe run was stopped (%s). What was finished is in %s", report["status"], folder.path)
            folder.write_ending(report)
            if disk_is_full(error):
                raise CompactHydraException(f"error: {said(error)}; the run is in {folder.path}") from error
            raise
        finally:
            finish(loggers, failed=not report["status"].startswith(("finished", "pruned")))


def _started(config: DictConfig, parts: Parts, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a run that can begin, and tell it to its trackers."""
    for logger in parts.loggers:
        logger.log_hyperparams(dict(origin))
    report: dict[str, Any] = {
        "data": _sizes(parts),
        "trained_on": parts.trained_on,
        "base_models": base_models(OmegaConf.to_container(config.encoder, resolve=True)),
        **origin,
        "systems": {},
    }
    tell(parts.trained_on, parts.data.name)
    if parts.negatives is not None:
        log.info("Negatives: %s", described(parts.negatives.summary))
        report["negatives"] = _choices(parts.negatives)
    return report


def _ending(error: BaseException) -> str:
    """Return the status of a run that something ended."""
    if isinstance(error, NotWorthFinishing):
        return f"pruned: {error}"
    if isinstance(error, KeyboardInterrupt | SystemExit):  # Lightning turns Ctrl-C into SystemExit
        return "interrupted"
    if isinstance(error, CompactHydraException):
        return f"failed: {str(error).removeprefix('error: ')}"
    return f"failed: {type(error).__name__}: {error}"


def _run(config: DictConfig, folder: RunFolder, parts: Parts, report: dict[str, Any]) -> float:
    clock = Clock(report.setdefault("seconds", {}))
    judged: dict[str, Judgement] = {}

    def judge(name: str) -> None:
        log.info("Judging %s on %s", name, _described(parts.task))
        if name == "BM25":
            judged[name] = judge_bm25(parts.task, config.query, cache=parts.cache.folder if parts.cache else None)
        else:
            encoder = parts.encoder.to(parts.trainer.strategy.root_device)  # Lightning puts it back on the CPU
            judged[name] = judge_encoder(encoder, parts.task, judged["BM25"].rankings, config.query, cache=parts.cache)
        results.write_system(folder.path, name, judged[name].rankings, judged[name].results)
        report["systems"][name] = judged[name].summary()
        clock.lap(f"judge {name}")
        folder.write_report(report)

    results.write_queries(folder.path / "queries.csv", parts.task)
    judge("BM25")
    if config.before:
        judge("before")
    means = dev_means(parts, config.query, judged)
    draw_lines(parts, means)
    report["dev"] = means
    clock.lap("validate before training")
    monitored = _train(folder, parts, report, means, clock)
    judge("after")
    if config.before:
        report["gain"] = gain(judged["before"], judged["after"])
    report["status"] = "finished"
    folder.write_report(report)
    _present(config, folder.path, parts, judged, report)
    return monitored["value"] if monitored else report["systems"]["after"]["metrics"]["ndcg@10"]["mean"]


def _train(
    folder: RunFolder, parts: Parts, report: dict[str, Any], means: Mapping[str, Mapping[str, float]], clock: Clock
) -> dict[str, Any] | None:
    """Train, and write the model with the best weights; return which metric chose them, None if none did.

    `means` is what the untuned encoder had on dev; what came of the training goes into the report.
    """
    try:
        train(parts)
    except NotFiniteError:
        keep_best(folder.path, parts, report)
        raise
    clock.lap("train")
    if parts.negatives is not None:
        report["negatives"] = _choices(parts.negatives)
    monitored = restore_best(parts)
    say_if_worse(monitored, means, lower=monitored is not None and parts.trainer.checkpoint_callback.mode == "min")
    report["monitored"] = monitored
    with whole_folder(folder.path / "model") as model:
        parts.encoder.save_pretrained(model)
    return monitored


def _present(
    config: DictConfig, folder: Path, parts: Parts, judged: dict[str, Judgement], report: dict[str, Any]
) -> None:
    """Write the card and the figures of a finished run, print its results, and give them to its trackers."""
    try:
        write_card(folder)
    except Exception as error:  # the model is worth more than its card
        log.warning("The model card could not be written (%s: %s)", type(error).__name__, error)
    outcome = illustrate(folder, parts.task, judged, report, folder / HISTORY / "metrics.csv")
    show(config, folder, parts.task, judged, report)  # before the tracker, which may fail
    log_results(parts.loggers, outcome)
    log_model(parts.loggers, folder / "model", outcome.numbers)


def device_type(accelerator: str) -> str:
    """Return the type of device that one of Lightning's accelerators runs on here."""
    if accelerator in ("gpu", "cuda", "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    return accelerator


def restore_best(parts: Parts) -> dict[str, Any] | None:
    """Load the best validated weights; return which metric chose them and its value, or None if none did."""
    callback = parts.trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or not callback.best_model_path or callback.best_model_score is None:
        return None
    checkpoint = torch.load(callback.best_model_path, map_location=parts.module.device, weights_only=True)
    parts.module.load_state_dict(checkpoint["state_dict"])
    return {
        "metric": callback.monitor,
        "value": callback.best_model_score.item(),
        "step": checkpoint["global_step"],
        "epoch": checkpoint["epoch"],
    }


def keep_best(folder: Path, parts: Parts, report: dict[str, Any]) -> None:
    """Write the best validated weights of a run that cannot go on as its model, if there are any, and say so."""
    monitored = restore_best(parts)
    if monitored is None:
        log.warning("No weights had been validated before that, so there is no model.")
    else:
        report["monitored"] = monitored
        with whole_folder(folder / "model") as model:
            parts.encoder.save_pretrained(model)
        log.warning("The best weights before that, of step %d, are in %s", monitored["step"], folder / "model")


def show(
    config: DictConfig, folder: Path, task: RetrievalTask, judged: dict[str, Judgement], report: dict[str, Any]
) -> None:
    """Print the final table and where everything is."""
    console = Console()
    systems = {name: judgement.results for name, judgement in judged.items()}
    results.print_table(f"{_described(task)}; mean and 95 % interval over queries", systems, console)
    if "gain" in report:
        results.print_gain(report["gain"]["ndcg@10"], console)
    grades = {name: judgement.top_grades for name, judgement in judged.items()}
    results.print_top(config.query, {name: judgement.top for name, judgement in judged.items()}, console, grades)
    results.print_files(folder, console)


class Clock:
    """Writes the seconds between laps into a mapping."""

    def __init__(self, laps: dict[str, float]) -> None:
        self._laps = laps
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Record the seconds since the last lap."""
        now = time.perf_counter()
        self._laps[name] = round(now - self._last, 2)
        self._last = now


def _choices(negatives: MineNegatives) -> list[dict[str, Any]]:
    """Return what came of each choice of negatives: when it was made, how long it took, what it gave."""
    return [{"step": choice.step, "seconds": choice.seconds, **asdict(choice.summary)} for choice in negatives.history]


def _described(task: RetrievalTask) -> str:
    return f"{task.name}: {len(task.queries):,} queries, {len(task.corpus):,} documents"


def _sizes(parts: Parts) -> dict[str, Any]:
    task = parts.task
    return {
        "name": parts.data.name,
        "train_pairs": len(parts.data.train),
        "judged_on": task.name,
        "queries": len(task.queries),
        "documents": len(task.corpus),
    }


def _quiet(first: bool) -> None:
    """Keep out of the terminal what nobody can act on: lines of Lightning's, and what the first process says anyway."""
    if not first:
        logging.disable(logging.WARNING)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # the momentum encoder
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
