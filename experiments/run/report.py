"""What a run says of itself: what it begins with, how long each part took, and what it shows at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from contrastive.data import RetrievalTask
from contrastive.negatives.summary import described as negatives_described
from experiments.evaluate.judging import Judgement
from experiments.model_card.card import write_card
from experiments.results import files as results
from experiments.results.figures import illustrate
from experiments.results.provenance import base_models, provenance
from experiments.run.history import HISTORY
from experiments.run.parts import Parts
from experiments.run.tracking import ids, log_model, log_results
from experiments.run.training_account import tell

log = logging.getLogger(__name__)


def opening(config: DictConfig, parts: Parts, command: Sequence[str] | None) -> dict[str, Any]:
    """Return what is known of a run that can begin, and tell it to its trackers and on the terminal."""
    origin = provenance(command)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    for tracker in parts.trainer.loggers:
        tracker.log_hyperparams({**settings, **origin})
    report: dict[str, Any] = {
        "data": {
            "name": parts.data.name,
            "train_pairs": len(parts.data.train),
            "judged_on": parts.task.name,
            "queries": len(parts.task.queries),
            "documents": len(parts.task.corpus),
        },
        "trained_on": parts.trained_on,
        "base_models": base_models(settings["encoder"]),
        **origin,
        **ids(parts.trainer.loggers),
        "systems": {},
    }
    tell(parts.trained_on, parts.data.name)
    if parts.negatives is not None:
        log.info("Negatives: %s", negatives_described(parts.negatives.summary))
    note_negatives(parts, report)
    return report


def note_negatives(parts: Parts, report: dict[str, Any]) -> None:
    """Note what came of each choice of negatives: when it was made, how long it took, what it gave."""
    negatives = parts.negatives
    if negatives is not None:
        report["negatives"] = [
            {"step": choice.step, "seconds": choice.seconds, **asdict(choice.summary)} for choice in negatives.history
        ]


@contextmanager
def timed(report: dict[str, Any], name: str) -> Iterator[None]:
    """Note the seconds that what is inside the block takes."""
    began = time.perf_counter()
    yield
    report.setdefault("seconds", {})[name] = round(time.perf_counter() - began, 2)


def described(task: RetrievalTask) -> str:
    """Return the name and the size of a task."""
    return f"{task.name}: {len(task.queries):,} queries, {len(task.corpus):,} documents"


def present(
    config: DictConfig, folder: Path, parts: Parts, judged: Mapping[str, Judgement], report: Mapping[str, Any]
) -> None:
    """Write the card and the figures of a finished run, print its results, and give them to its trackers."""
    try:
        write_card(folder)
    except Exception as error:  # the model is worth more than its card
        log.warning("The model card could not be written (%s: %s)", type(error).__name__, error)
    outcome = illustrate(folder, parts.task, judged, report, folder / HISTORY / "metrics.csv")
    console = Console()
    systems = {name: judgement.results for name, judgement in judged.items()}
    results.print_table(f"{described(parts.task)}; mean and 95 % interval over queries", systems, console)
    if "gain" in report:
        results.print_gain(report["gain"]["ndcg@10"], console)
    if "hybrid" in report:
        console.print(f"hybrid: {report['hybrid']['said']}", markup=False, highlight=False, soft_wrap=True)
    grades = {name: judgement.top_grades for name, judgement in judged.items()}
    results.print_top(config.query, {name: judgement.top for name, judgement in judged.items()}, console, grades)
    results.print_files(folder, console)
    log_results(parts.trainer.loggers, outcome)  # after what is printed, since a tracker may fail
    log_model(parts.trainer.loggers, folder / "model", outcome.numbers)
