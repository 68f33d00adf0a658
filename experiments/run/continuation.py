"""What lets a run continue, after whatever ended it, as if nothing had happened.

Notable decisions:

- Checkpoints to continue from are written at one place: before the first batch of a step, where nothing is half done.
  All that came before, validations and new negatives included, is in it, and nothing of what comes next. A signal
  waits until training is there. So no other state than this one has to be taken up again. A step that fails by its
  numbers or for want of memory takes the run back there, so that another setting can go on without losing any.
- With weights, optimiser and schedule go the random numbers that come next, the rows of the history that were written,
  and what a loss has told since it was last logged; batches, negatives and clusters keep their own state.
- The two latest are kept, so that a damaged one costs minutes, each with the best weights as they were then: a link,
  since those may be replaced by later ones that a continued run has not seen yet.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from contrastive.encoder.finite import NotFiniteError
from contrastive.training import ContrastiveModule
from contrastive.training.distributed import world_size
from contrastive.training.random_state import random_states_of_ranks, set_random_state
from experiments.interruptions import Postponed
from experiments.run.checkpoints import best_of, discard
from experiments.run.history import History
from experiments.run.identity import moved
from experiments.run.step_start import FAILURES, StepStart

log = logging.getLogger(__name__)

KEPT = 2
SHARE = 0.05
"""Most of the time that may go into writing."""


class SaveToContinue(Callback):
    """Writes a checkpoint from time to time, and where a signal ends the run, from which it continues exactly.

    With several processes each keeps its own random numbers; they agree on when to write.

    Args:
        folder: For the checkpoints.
        seconds: How often to write one; less often if that takes more than a twentieth of the time. 0 is every step.
        patience: Seconds that a signal waits for the end of a step. After that the run ends where it is, and continues
            from the checkpoint before.

    Attributes:
        before: Seconds of training up to the checkpoint that this run was continued from.
    """

    def __init__(self, folder: str | Path, seconds: float = 120.0, patience: float = 20.0) -> None:
        self.folder = Path(folder)
        self.seconds = seconds
        self.patience = patience
        self.before = 0.0
        self._signals: Postponed | None = None
        self._written = self._began = self._took = 0.0
        self._random: list[Any] | None = None  # to go on with at the next batch
        self._start: StepStart | None = None  # of the step that is under way; one process alone can go back there

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Find out who listens to signals, before Lightning does."""
        self._signals = Postponed(self.patience)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Hold signals back, and start the clock."""
        assert self._signals is not None
        self._signals.begin()
        self._written = self._began = time.monotonic()

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Go on as a checkpoint says, or write one, if that is due before this step."""
        assert self._signals is not None
        assert isinstance(pl_module, ContrastiveModule)
        if self._random is not None:
            if trainer.global_rank < len(self._random):
                set_random_state(self._random[trainer.global_rank])
            self._random = None
            # What Lightning calls the step of a logged row; it counts one too many where a validation came before.
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        elif batch_idx % trainer.accumulate_grad_batches:
            return
        else:
            asked = self._agreed(self._signals.asked or 0, trainer)
            if asked or self._agreed(self._is_due(), trainer):
                self._save(trainer)
            self._signals.heed(asked or None)
        self._start = StepStart.of(trainer, pl_module) if world_size() == 1 else None

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Add what Lightning leaves out."""
        assert isinstance(pl_module, ContrastiveModule)
        checkpoint["continuation"] = {
            "random": random_states_of_ranks(),
            "health": pl_module.health.state_dict(),
            "rows": sum(logger.rows for logger in trainer.loggers if isinstance(logger, History)),
            "seconds": round(self.before + time.monotonic() - self._began, 2),
            "folder": str(self.folder.resolve()),
        }

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up what was added, and the best weights as they were then."""
        assert isinstance(pl_module, ContrastiveModule)
        kept = checkpoint["continuation"]
        self._random, self.before = kept["random"], kept["seconds"]
        pl_module.health.load_state_dict(kept["health"])
        checkpoint["callbacks"] = moved(checkpoint["callbacks"], kept["folder"], str(self.folder.resolve()))
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, History):
                logger.keep(kept["rows"])
        callback, best = trainer.checkpoint_callback, best_of(Path(str(trainer.ckpt_path)))
        if isinstance(callback, ModelCheckpoint):
            state = checkpoint["callbacks"][callback.state_key]
            callback.current_score = state["current_score"]  # it forgets that alone
            if best.exists():
                _link(best, Path(state["best_model_path"]))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """End as a signal asked that came after the last step began."""
        assert self._signals is not None
        self._signals.heed()
        self._signals.end()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Hold signals back no longer, and keep what a step that failed has not changed: all that was learnt before."""
        if self._signals is not None:
            self._signals.end()
        start = self._start
        if start is None or start.step != trainer.global_step or not isinstance(exception, FAILURES):
            return
        assert isinstance(pl_module, ContrastiveModule)
        start.go_back(pl_module)
        with suppress(NotFiniteError):  # the weights are so themselves
            if not self._save(trainer):
                return
            how = "on_nonfinite=skip leaves it out" if isinstance(exception, NotFiniteError) else "with what helps"
            log.warning("The state before this step is kept: resume=FOLDER goes on with it, %s", how)

    def _is_due(self) -> bool:
        least = self._took / SHARE if self.seconds else 0.0
        return time.monotonic() - self._written >= max(self.seconds, least)

    def _agreed(self, number: int, trainer: lightning.Trainer) -> int:
        """Return the largest number that any process has."""
        if world_size() == 1:
            return number
        largest = torch.tensor(number, device=trainer.strategy.root_device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def _save(self, trainer: lightning.Trainer) -> bool:
        """Write a checkpoint, or return False: where that cannot be, the ones before it stay, and the run goes on."""
        began, is_written = time.monotonic(), True
        # As `trainer.save_checkpoint` does, which would wait for ever for a process whose disk is full.
        checkpoint = trainer._checkpoint_connector.dump_checkpoint()
        if trainer.is_global_zero:
            path = self.folder / f"step-{trainer.global_step:09d}.ckpt"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                discard(self.folder, keep=KEPT)
                self._keep_best(trainer, best_of(path))
                trainer.strategy.save_checkpoint(checkpoint, path)
                discard(self.folder, keep=KEPT)
            except OSError as error:
                is_written = False
                log.warning("%s is not written, the run could be continued from one before: %s", path.name, error)
        self._written = time.monotonic()
        self._took = self._written - began
        return is_written

    def _keep_best(self, trainer: lightning.Trainer, path: Path) -> None:
        callback = trainer.checkpoint_callback
        path.unlink(missing_ok=True)
        if isinstance(callback, ModelCheckpoint) and callback.best_model_path:
            _link(Path(callback.best_model_path), path)


def _link(source: Path, target: Path) -> None:
    """Let a file have a second name, or where that cannot be, a copy, in the place of what has this name."""
    temporary = target.with_suffix(".link.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
