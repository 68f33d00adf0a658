"""What is logged of training beside loss and gradient: speed, learning rate, and what the loss says of the batches."""

from __future__ import annotations

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import LambdaLR

from contrastive.batch import Batch
from contrastive.training.module import ContrastiveModule


class LogTraining(Callback):
    """Logs speed, learning rate and health of a `ContrastiveModule`, every `Trainer(log_every_n_steps=...)` steps.

    The time is that of a batch from its start to this callback: `FillMemory` before it counts, what comes later, such
    as `MineNegatives`, does not.
    """

    def __init__(self) -> None:
        self._started = 0.0
        self._tokens_before = 0

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002
        pl_module: lightning.LightningModule,
        batch: Batch,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Note the time, and the tokens seen before."""
        assert isinstance(pl_module, ContrastiveModule)
        self._started, self._tokens_before = time.perf_counter(), pl_module.encoder.tokens_seen.real

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Batch,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Log, if it is time to; the summary waits for the device."""
        assert isinstance(pl_module, ContrastiveModule)
        assert pl_module.latest is not None
        if trainer.global_step % max(1, trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return
        num_pairs, seconds = len(pl_module.latest), time.perf_counter() - self._started
        speed = (pl_module.encoder.tokens_seen.real - self._tokens_before) / seconds
        # The one number that differs between ranks. All of them come here, at the same steps.
        pl_module.log("train/tokens_per_second", speed, sync_dist=True, reduce_fx="sum", batch_size=num_pairs)
        schedule = pl_module.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        pl_module.log_dict(
            {
                "train/pairs_per_second": num_pairs / seconds,
                "train/learning_rate": schedule.get_last_lr()[0],
                **{f"train/{name}": value for name, value in pl_module.health.summary().items()},
            },
            batch_size=num_pairs,
        )
        pl_module.health.clear()
