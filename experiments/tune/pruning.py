"""Ends the training of a trial that does worse than others did at the same point.

- The point is the share of the training that is done, in stages, and not the step: with another batch size the same
  step has seen other data.
- After the last stage nothing is left to save, so a trial that gets there is finished.
- What was reported is part of a checkpoint: a trial that goes on where another was cut off has all its reports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import lightning
from lightning.pytorch.callbacks import Callback

from experiments.run.callbacks import NotWorthFinishing

if TYPE_CHECKING:
    from optuna.trial import Trial

    from contrastive.training import ContrastiveModule


class ReportToTrial(Callback):
    """Tells a trial the monitored metric at each stage, and ends the run if the trial is to be pruned.

    Args:
        trial: The trial that is running.
        monitor: Name of the metric, such as `dev/ndcg@10`.
        stages: Into how many the training is divided; a validation belongs to the closest.
    """

    def __init__(self, trial: Trial, monitor: str, stages: int) -> None:
        self.trial = trial
        self.monitor = monitor
        self.stages = stages
        self.reports: list[tuple[int, float]] = []

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report, if this validation is the first of its stage.

        Raises:
            ValueError: If the metric is not among those of the validation.
            NotWorthFinishing: If the trial is to be pruned.
        """
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(map(str, trainer.callback_metrics)))
            raise ValueError(f"expected callbacks.checkpoint.monitor to be one of {known}, got {self.monitor}")
        value = trainer.callback_metrics[self.monitor].item()
        total_steps = cast("ContrastiveModule", pl_module).total_steps
        stage = round(self.stages * trainer.global_step / total_steps)
        if stage <= self._reported or not math.isfinite(value):
            return
        self._report(stage, value)
        if stage < self.stages and self.trial.should_prune():
            raise NotWorthFinishing(f"at stage {stage} of {self.stages}, {self.monitor} {value:.4f}")

    def state_dict(self) -> dict[str, Any]:
        """Return what was reported, for a checkpoint."""
        return {"reports": self.reports}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Report what was reported before a checkpoint, of another trial with the same settings."""
        for stage, value in state_dict["reports"]:
            self._report(stage, value)

    @property
    def _reported(self) -> int:
        return self.reports[-1][0] if self.reports else 0

    def _report(self, stage: int, value: float) -> None:
        self.reports.append((stage, value))
        self.trial.report(value, stage)
