"""Small Lightning callbacks, and how one ends a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, TQDMProgressBar

from contrastive.finite import NotFiniteError

log = logging.getLogger(__name__)


class NotWorthFinishing(Exception):  # noqa: N818  # nothing went wrong
    """Raised by a callback to end a run whose result will not be needed; says why."""


class SaveWhenInterrupted(Callback):
    """Writes a full checkpoint when training is ended by Ctrl-C or an error.

    Lightning's own `OnExceptionCheckpoint` also makes the next `fit` resume from whatever it finds in the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002
        exception: BaseException,
    ) -> None:
        """Save, if there is anything to save yet and somebody may go on with it."""
        if trainer.global_step > 0 and not isinstance(exception, NotWorthFinishing):
            try:
                trainer.save_checkpoint(self.path)
            except NotFiniteError as error:  # must not take the place of what ended the training
                log.warning("%s is not written: %s", self.path.name, error)


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar without the logger's version number."""

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Return what to show beside the bar."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
