"""Small Lightning callbacks, and how one ends a run."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, TQDMProgressBar


class NotWorthFinishing(Exception):  # noqa: N818  # nothing went wrong
    """Raised by a callback to end a run whose result will not be needed; says why."""


class SpreadValidations(Callback):
    """Validates at even distances, where a step ends, and at the end of each epoch and of the run.

    Lightning rounds the distance down and leaves it at that: a quarter of 30 batches are 7, so that the last validation
    is of batch 28, or of one in the middle of a step, with `accumulate_grad_batches`. `val_check_interval` and
    `check_val_every_n_epoch` keep their meaning.
    """

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Decide whether a validation follows this batch."""
        if trainer.val_check_batch is None or trainer.num_training_batches == float("inf"):
            return  # by the clock, or of unknown length
        over_epochs = trainer.check_val_every_n_epoch is None
        place = trainer.fit_loop.total_batch_idx if over_epochs else batch_idx
        # Lightning validates where the number of batches so far is a multiple.
        trainer.val_check_batch = place + 1 if self._is_due(trainer, batch_idx, place, over_epochs) else place + 2

    def _is_due(self, trainer: lightning.Trainer, batch_idx: int, place: int, over_epochs: bool) -> bool:
        in_step = batch_idx % trainer.accumulate_grad_batches
        ends_epoch = batch_idx + 1 == trainer.num_training_batches
        if not ends_epoch and in_step + 1 < trainer.accumulate_grad_batches:
            return False
        if (ends_epoch and not over_epochs) or 0 <= trainer.max_steps <= trainer.global_step + 1:
            return True
        interval = trainer.val_check_interval
        distance = interval if isinstance(interval, int) else interval * trainer.num_training_batches
        before, after = ((count + 1e-6) // distance for count in (place - in_step, place + 1))
        return bool(after > before)


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar without the logger's version number."""

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Return what to show beside the bar."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
