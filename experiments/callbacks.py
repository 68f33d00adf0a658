"""Small Lightning callbacks and plugins, and how one ends a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO

from contrastive.finite import NotFiniteError
from contrastive.whole_files import whole_file

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
                # As `trainer.save_checkpoint` does, which waits for the other processes: they may not have failed.
                checkpoint = trainer._checkpoint_connector.dump_checkpoint()
                trainer.strategy.save_checkpoint(checkpoint, self.path)
            except (NotFiniteError, OSError) as error:  # must not take the place of what ended the training
                log.warning("%s is not written: %s", self.path.name, error)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the one it replaces, which is there until the new one is complete and on the disk.

    Lightning's own writes it in the folder of temporary files, often another disk, and copies it over the old one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write a checkpoint."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(Path(path)) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)  # into an open file, whose errors are the system's


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar without the logger's version number."""

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Return what to show beside the bar."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
