"""The optimiser, its learning-rate schedule, and how many steps there will be.

The schedule counts its steps itself: reading Lightning's `Trainer.estimated_stepping_batches` builds the loader early
and loses its position on resume.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import lightning
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from contrastive.encoder.adapters import plain
from contrastive.encoder.backbone import block_lists, block_places
from contrastive.encoder.encoder import Encoder


@dataclass(frozen=True, slots=True)
class LinearDecayAdamW:
    """AdamW whose learning rate rises linearly for the warm-up and then falls linearly to zero.

    Attributes:
        learning_rate: Peak learning rate of the encoder.
        weight_decay: Decoupled weight decay of matrices; biases, norms and the loss have none
            (Loshchilov and Hutter, 2019).
        warmup_ratio: Share of the steps spent warming up, from 0 to 1.
        loss_learning_rate: Peak learning rate of the loss's own parameters, such as a learnable temperature.
        layer_decay: What the learning rate of a transformer block is multiplied by to get that of the block below it;
            the embeddings are below the first, and what comes after the last block has its rate (Clark et al. 2020,
            ELECTRA, https://arxiv.org/abs/2003.10555, appendix B). 1 gives all weights the same.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    loss_learning_rate: float = 1e-2
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"expected learning_rate > 0, got {self.learning_rate}")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"expected warmup_ratio from 0 to 1, got {self.warmup_ratio}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"expected layer_decay above 0 and up to 1, got {self.layer_decay}")

    def __call__(self, encoder: nn.Module, loss: nn.Module, total_steps: int) -> tuple[AdamW, LambdaLR]:
        """Build the optimiser of the trainable parameters and its schedule over `total_steps` steps."""
        weights = [p for p in encoder.parameters() if p.requires_grad]
        groups = [
            *self._groups(encoder, [p for p in weights if p.ndim > 1], weight_decay=self.weight_decay),
            *self._groups(encoder, [p for p in weights if p.ndim <= 1], weight_decay=0.0),
            {"params": list(loss.parameters()), "weight_decay": 0.0, "lr": self.loss_learning_rate},
        ]
        # Fused: one pass over the weights, on processors too, with the same numbers.
        optimizer = AdamW([group for group in groups if group["params"]], lr=self.learning_rate, fused=True)
        # It could unscale float16 gradients as it steps; then nobody could clip them, and Lightning refuses to.
        optimizer._step_supports_amp_scaling = False
        warmup = math.ceil(self.warmup_ratio * total_steps)

        def share_of_peak(step: int) -> float:
            rising = (step + 1) / (warmup + 1)
            falling = (total_steps - step) / max(1, total_steps - warmup)
            return max(0.0, min(rising, falling, 1.0))

        return optimizer, LambdaLR(optimizer, share_of_peak)

    def _groups(self, encoder: nn.Module, weights: Iterable[nn.Parameter], **settings: float) -> list[dict[str, Any]]:
        """Put weights of the same learning rate together, those of the highest first."""
        steps_down = {} if self.layer_decay == 1 else blocks_above(encoder)
        groups: dict[int, list[nn.Parameter]] = {}
        for weight in weights:
            groups.setdefault(steps_down.get(id(weight), 0), []).append(weight)
        return [
            {"params": groups[steps], "lr": self.learning_rate * self.layer_decay**steps, **settings}
            for steps in sorted(groups)
        ]


def blocks_above(encoder: nn.Module) -> dict[int, int]:
    """Return, by the id of each weight of an encoder's transformer, how many blocks are above its own.

    Raises:
        ValueError: If the blocks cannot be found.
    """
    found: dict[int, int] = {}
    for tower in encoder.modules():
        if not isinstance(tower, Encoder):
            continue
        backbone = plain(tower.backbone)
        if not block_lists(backbone):
            name = type(backbone).__name__
            raise ValueError(f"expected optimizer.layer_decay 1: {name} has no list of its transformer blocks")
        last = backbone.config.num_hidden_layers - 1
        found |= {weight: last - min(place, last) for weight, place in block_places(backbone).items()}
    return found


def batches_of_epoch(batches: int, trainer: lightning.Trainer) -> int:
    """Return how many of the batches of an epoch a trainer takes."""
    limit = trainer.limit_train_batches
    return int(batches * limit) if isinstance(limit, float) else min(batches, limit)


def planned_steps(batches_per_epoch: int, trainer: lightning.Trainer) -> int:
    """Return how many optimiser steps a trainer will take with so many batches an epoch.

    Raises:
        ValueError: If the trainer has no end, or there is no batch to train on.
    """
    batches = batches_of_epoch(batches_per_epoch, trainer)
    if batches < 1:
        limit = trainer.limit_train_batches
        raise ValueError(f"expected at least one training batch, got {batches_per_epoch} limited to {limit}")
    max_epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
    if max_epochs < 0 and trainer.max_steps < 0:
        raise ValueError("expected trainer.max_epochs or trainer.max_steps to bound the run, got neither")
    steps_of_epochs = max_epochs * math.ceil(batches / trainer.accumulate_grad_batches)
    bounds = [bound for bound in (steps_of_epochs, trainer.max_steps) if bound >= 0]
    return min(bounds)
