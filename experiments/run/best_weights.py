"""Train, and leave the best validated weights as the model of the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from contrastive.data.whole_files import whole_folder
from contrastive.encoder.finite import NotFiniteError
from experiments.run.checkpoints import DamagedError, WholeCheckpoints, verify
from experiments.run.continuation import SaveToContinue
from experiments.run.dev_lines import say_if_worse
from experiments.run.parts import Parts
from experiments.run.ranks import train
from experiments.run.report import note_negatives, timed

log = logging.getLogger(__name__)


def train_and_keep_best(folder: Path, parts: Parts, report: dict[str, Any]) -> None:
    """Train, and write the model with the best weights, those of a training that could not go on too.

    Args:
        folder: Of the run.
        parts: Of the run.
        report: Gets which metric chose the weights, None if none did, and what came of the negatives.
    """
    try:
        with timed(report, "train"):
            train(parts)
    except NotFiniteError:
        best = report["monitored"] = restore_best(parts)
        if best is None:
            log.warning("No weights had been validated before that, so there is no model.")
        else:
            _write(folder, parts)
            log.warning("The best weights before that, of step %d, are in %s", best["step"], folder / "model")
        raise
    report["seconds"]["train"] += sum(
        each.before for each in parts.trainer.callbacks if isinstance(each, SaveToContinue)
    )
    note_negatives(parts, report)
    best = report["monitored"] = restore_best(parts)
    say_if_worse(best, report["dev"], lower=best is not None and parts.trainer.checkpoint_callback.mode == "min")
    _write(folder, parts)


def restore_best(parts: Parts) -> dict[str, Any] | None:
    """Load the best validated weights; return which metric chose them and its value, or None if none did."""
    callback = parts.trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or not callback.best_model_path or callback.best_model_score is None:
        return None
    if isinstance(parts.trainer.strategy.checkpoint_io, WholeCheckpoints):
        try:
            verify(Path(callback.best_model_path))
        except DamagedError as error:
            log.warning("%s: the last weights are kept in the place of the best", error)
            return None
    checkpoint = torch.load(callback.best_model_path, map_location=parts.module.device, weights_only=True)
    parts.module.load_state_dict(checkpoint["state_dict"])
    return {
        "metric": callback.monitor,
        "value": callback.best_model_score.item(),
        "step": checkpoint["global_step"],
        "epoch": checkpoint["epoch"],
    }


def _write(folder: Path, parts: Parts) -> None:
    with whole_folder(folder / "model") as model:
        parts.encoder.save_pretrained(model)
