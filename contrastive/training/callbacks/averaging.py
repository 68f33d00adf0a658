"""An exponential moving average of the weights, which is what is validated, kept and judged."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import EMAWeightAveraging

from contrastive.similarity import MaxSimilarity, similarity_of
from contrastive.training.module import ContrastiveModule


class AverageWeights(EMAWeightAveraging):
    """Lightning's `EMAWeightAveraging` for a `ContrastiveModule`, whose checkpoints are right in a validation too.

    A checkpoint has the average as its `state_dict`, so the best one is an average, and beside it the weights that
    training goes on with.

    Args:
        decay: Share of the average that stays at a step, above 0 and below 1; it reaches back about 1 / (1 - decay) of
            them.

    Raises:
        ValueError: If the decay cannot be; at the start of training, if there is a queue of token vectors, which grows.
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"expected a decay above 0 and below 1, got {decay}")
        super().__init__(use_buffers=False, decay=decay)  # those of the memory are keys, and not to be averaged
        self._is_swapped = False

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Copy the weights."""
        assert isinstance(pl_module, ContrastiveModule)
        if pl_module.memory is not None and isinstance(similarity_of(pl_module.encoder), MaxSimilarity):
            raise ValueError("expected no average of the weights beside memory=queue of token vectors, got both")
        super().setup(trainer, pl_module, stage)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the weights of training back first, where what ended a validation has this checkpoint written."""
        if self._is_swapped:
            self._swap_models(pl_module)  # in place: what the checkpoint has of the module changes with it
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put the weights of training back, unless a checkpoint did."""
        if self._is_swapped:
            super().on_validation_epoch_end(trainer, pl_module)

    def _swap_models(self, pl_module: lightning.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._is_swapped = not self._is_swapped
