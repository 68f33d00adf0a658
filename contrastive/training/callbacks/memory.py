"""Filling the memory after each batch, by the encoder in training or by one that follows it."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from contrastive.data.batch import Batch
from contrastive.training.distributed import gather
from contrastive.training.module import ContrastiveModule


class FillMemory(Callback):
    """Puts the keys of each batch, of all ranks, into the memory of a `ContrastiveModule`, if that has one.

    With a momentum encoder they are that one's, which follows the encoder at each step of the optimiser.
    """

    def __init__(self) -> None:
        self._followed = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Note the steps that were followed before a checkpoint."""
        self._followed = trainer.global_step

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, _outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Follow a step, and push the keys."""
        assert isinstance(pl_module, ContrastiveModule)
        memory, slow, latest = pl_module.memory, pl_module.momentum_encoder, pl_module.latest
        if memory is None:
            return
        if slow is not None:
            if trainer.global_step > self._followed:
                self._followed = trainer.global_step
                slow.update(pl_module.encoder)
            with trainer.precision_plugin.forward_context():  # in the precision of a step
                keys = slow(batch.documents, side="document")
            latest = gather(batch.embedded(keys[: len(batch)], keys))
        assert latest is not None
        assert latest.key_ids is not None
        # A step that is left out, `on_nonfinite="skip"`, must not spoil the next ones.
        finite = latest.keys.isfinite().flatten(1).all(1)
        memory.push(latest.keys[finite], latest.key_ids[finite])
