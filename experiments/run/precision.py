"""What `trainer.precision=auto` means for a run: measured by its first process, and the same in all of them."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from contrastive.encoder import Encoder, TwoTowers
from contrastive.training.precision import measured_precision, precision_by_capability

log = logging.getLogger(__name__)

_DECIDED = "CONTRASTIVE_PRECISION"
"""Where the first process leaves what it decided to those that Lightning starts from it."""


def settle_precision(trainer: DictConfig, encoder: Encoder | TwoTowers) -> None:
    """Replace the precision `auto` of a trainer's configuration by the one in which the encoder trains fastest here.

    Processes that were started from outside, by torchrun or Slurm, cannot ask one another yet, and might measure
    differently: they go by what the processor says of itself.
    """
    if trainer.precision != "auto":
        return
    device = device_type(trainer.accelerator)
    precision, why = precision_by_capability(device), "by what the device can do"
    if rank_zero_only.rank != 0:
        precision = os.environ.get(_DECIDED, precision)  # type: ignore[assignment]
    elif device == "cpu" and not started_from_outside():
        precision, why = measured_precision(*_sizes(encoder))
        os.environ[_DECIDED] = precision
    log.info("precision: %s (%s)", precision, why)
    trainer.precision = precision


def started_from_outside() -> bool:
    """Whether the processes of a run were started by torchrun or Slurm, and not by the first of them."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1


def device_type(accelerator: str) -> str:
    """Return the type of device that one of Lightning's accelerators runs on here."""
    if accelerator in ("gpu", "cuda", "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    return accelerator


def _sizes(encoder: Encoder | TwoTowers) -> tuple[int, int, int]:
    """Return the width, the heads and the inner width of an encoder's layers, as far as its model says."""
    config: Any = encoder.tower("document").backbone.config
    width = int(config.hidden_size)
    heads = int(getattr(config, "num_attention_heads", 1))
    return width, heads if width % heads == 0 else 1, int(getattr(config, "intermediate_size", 4 * width))
