"""One training job, from a composed configuration to a folder of results.

The order is chosen so that a mistake costs seconds: everything is built and checked first, the baselines are judged and
written next, and only then does training start. Whatever ends the run early finds what was finished on disk.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, ProgressBar
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from contrastive.data import RetrievalTask, TextData
from contrastive.encoder import Encoder
from contrastive.optimization import planned_steps
from contrastive.statistics import paired_difference
from contrastive.training import ContrastiveData, ContrastiveModule
from experiments import results
from experiments.judging import Judgement, judge_bm25, judge_encoder
from experiments.provenance import provenance
from experiments.tracking import HISTORY, finish, log_results

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a run is made of, built and checked."""

    data: TextData
    task: RetrievalTask
    encoder: Encoder
    module: ContrastiveModule
    datamodule: ContrastiveData
    trainer: lightning.Trainer
    loggers: list[Any]


def train_and_judge(config: DictConfig) -> float:
    """Run the job; return the monitored metric, or the final nDCG@10 if nothing was monitored."""
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "config.yaml", resolve=True)
    _quiet()
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    parts = build(config, folder)
    origin = provenance()
    report: dict[str, Any] = {"status": "running", "data": _sizes(parts), **origin, "systems": {}}
    for logger in parts.loggers:
        logger.log_hyperparams({**OmegaConf.to_container(config, resolve=True), **origin})
    try:
        return _run(config, folder, parts, report)
    except BaseException as error:  # Lightning turns Ctrl-C into SystemExit
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        report["status"] = "interrupted" if interrupted else f"failed: {type(error).__name__}: {error}"
        log.warning("\nThe run was stopped (%s). What was finished is in %s", report["status"], folder)
        raise
    finally:
        results.write_json(folder / "metrics.json", report)
        finish(parts.loggers, failed=report["status"] != "finished")


def _run(config: DictConfig, folder: Path, parts: Parts, report: dict[str, Any]) -> float:
    console = Console()
    clock = Clock(report.setdefault("seconds", {}))
    judged: dict[str, Judgement] = {}

    def judge(name: str) -> None:
        log.info("Judging %s on %s", name, _described(parts.task))
        if name == "BM25":
            judged[name] = judge_bm25(parts.task, config.query)
        else:
            encoder = parts.encoder.to(parts.trainer.strategy.root_device)  # Lightning puts it back on the CPU
            judged[name] = judge_encoder(encoder, parts.task, judged["BM25"].rankings, config.query)
        results.write_system(folder, name, judged[name].rankings, judged[name].results)
        report["systems"][name] = judged[name].summary()
        clock.lap(f"judge {name}")
        results.write_json(folder / "metrics.json", report)

    judge("BM25")
    if config.before:
        judge("before")
    parts.trainer.fit(parts.module, parts.datamodule)
    clock.lap("train")
    monitored = restore_best(parts)
    report["monitored"] = monitored
    parts.encoder.save_pretrained(folder / "model")
    judge("after")
    if config.before:
        report["gain"] = gain(judged["before"], judged["after"])
    report["status"] = "finished"
    show(config, folder, parts.task, judged, report, console)  # before the tracker, which may fail
    rankings = {name: judgement.rankings for name, judgement in judged.items()}
    examples = results.example_rows(parts.task, rankings)
    log_results(parts.loggers, final_numbers(report), ["query", *judged], examples)
    return monitored["value"] if monitored else report["systems"]["after"]["metrics"]["ndcg@10"]["mean"]


def build(config: DictConfig, folder: Path) -> Parts:
    """Build every part, cheap ones first, and refuse what cannot work before anything long starts."""
    loss: nn.Module = instantiate(config.loss)
    optimizer = instantiate(config.optimizer)
    if config.judge not in ("dev", "test"):
        raise ValueError(f"expected judge to be dev or test, got {config.judge!r}")
    data: TextData = instantiate(config.data)
    task = data.dev if config.judge == "dev" else data.test
    if task is None:
        raise ValueError(f"expected data {data.name!r} to have a {config.judge} split to judge on, it has none")
    if not data.train:
        raise ValueError(f"expected data {data.name!r} to have training records, it has none; see experiments.evaluate")
    datamodule = ContrastiveData(
        data.train, data.dev, batch_size=config.batch_size, seed=config.seed, num_negatives=config.num_negatives
    )
    encoder: Encoder = instantiate(config.encoder)
    callbacks = build_callbacks(config, validates=data.dev is not None and config.trainer.limit_val_batches != 0)
    loggers = instantiate(config.logger, folder=folder)
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, default_root_dir=str(folder))
    total_steps = planned_steps(len(datamodule.batches), trainer)
    module = ContrastiveModule(encoder, loss, optimizer, total_steps=total_steps)
    module.rehearse(datamodule.collate(datamodule.records[: config.batch_size]))
    return Parts(data, task, encoder, module, datamodule, trainer, loggers)


def build_callbacks(config: DictConfig, *, validates: bool) -> list[Callback]:
    """Build the callbacks, without those that the trainer's own switches turn off or that have nothing to watch."""
    unwanted: tuple[type[Callback], ...] = ()
    if not validates:
        log.info("There is nothing to validate on: the last weights are kept.")
        unwanted += (EarlyStopping, ModelCheckpoint)
    if not config.trainer.enable_progress_bar:
        unwanted += (ProgressBar,)
    if not config.trainer.get("enable_checkpointing", True):
        unwanted += (ModelCheckpoint,)
    built = (instantiate(callback) for callback in config.callbacks.values() if callback is not None)
    return [callback for callback in built if not isinstance(callback, unwanted)]


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


def gain(before: Judgement, after: Judgement) -> dict[str, Any]:
    """Return the paired difference after - before of each headline metric, over the same queries."""
    queries = list(before.results.per_query)
    gains = {}
    for metric in results.HEADLINE:
        first, second = ([j.results.per_query[query][metric] for query in queries] for j in (after, before))
        difference = paired_difference(first, second)
        gains[metric] = {
            "mean": difference.mean,
            "low": difference.low,
            "high": difference.high,
            "p_value": difference.p_value,
        }
    return gains


def show(
    config: DictConfig,
    folder: Path,
    task: RetrievalTask,
    judged: dict[str, Judgement],
    report: dict[str, Any],
    console: Console,
) -> None:
    """Print the final table and where everything is; draw the plots."""
    systems = {name: judgement.results for name, judgement in judged.items()}
    title = f"{_described(task)}; mean and 95 % interval over queries"
    results.print_table(title, systems, console)
    if "gain" in report:
        change = report["gain"]["ndcg@10"]
        console.print(
            f"after - before, nDCG@10: {change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}], "
            f"p = {change['p_value']:.4f} (paired randomisation test)",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    results.print_top(config.query, {name: judgement.top for name, judgement in judged.items()}, console)
    results.plot_results(folder / "results.png", systems)
    results.plot_training(folder / "training.png", folder / HISTORY / "metrics.csv")
    console.print(f"\nEverything is in {folder}", soft_wrap=True, markup=False, highlight=False)
    for name, what in FILES.items():
        if any(folder.glob(name)):
            console.print(f"  {name:22}{what}", markup=False, highlight=False, soft_wrap=True)


FILES = {
    "model": "the encoder, for sentence-transformers, transformers and contrastive",
    "metrics.json": "means, intervals, gains, timings, versions",
    "*.per_query.csv": "every metric of every query, a file a system",
    "*.trec": "rankings as TREC run files",
    "history/metrics.csv": "loss, gradient norm, learning rate, speed, dev metrics by step",
    "*.png": "plots of the results and of the training",
    "checkpoints": "best and last checkpoint of Lightning",
    "wandb": "the Weights & Biases run; wandb sync uploads an offline one",
    "config.yaml": "the configuration, resolved",
    "run.log": "the log, with times",
}


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


def final_numbers(report: Mapping[str, Any]) -> dict[str, float]:
    """Flatten the report to `<system>/<metric>` for a tracker's summary."""
    numbers: dict[str, float] = {}
    for system, judged in report["systems"].items():
        means = {metric: cell["mean"] for metric, cell in judged["metrics"].items()}
        numbers |= {f"{system}/{name}": value for name, value in {**means, **judged["embedding_health"]}.items()}
    return numbers


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


def _quiet() -> None:
    """Keep Lightning's lines and warnings that say nothing a user can act on out of the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
