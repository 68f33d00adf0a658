"""What a step changes before its weights do, noted at its start: a step that fails leaves the run as it was before."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import lightning
from torch import Tensor

from contrastive.encoder.finite import NotFiniteError
from contrastive.training import ContrastiveModule
from contrastive.training.out_of_memory import OutOfMemoryError
from contrastive.training.random_state import random_state, set_random_state

FAILURES = (NotFiniteError, OutOfMemoryError)
"""What ends a run by a step that another setting may let succeed."""


class StepStart(NamedTuple):
    """Where a run of one process is at the start of a step; weights and optimiser are as then until it is taken.

    Attributes:
        step: Steps that were made.
        random: Random numbers that come next.
        health: What a loss has told since it was last logged.
        memory: Keys of earlier batches, where a step has several batches, the first of which fill it.
    """

    step: int
    random: dict[str, Any]
    health: dict[str, dict[str, Tensor]]
    memory: dict[str, Any] | None

    @classmethod
    def of(cls, trainer: lightning.Trainer, module: ContrastiveModule) -> StepStart:
        """Note where a run is, before the first batch of a step."""
        fills = module.memory is not None and trainer.accumulate_grad_batches > 1
        return cls(
            trainer.global_step,
            random_state(),
            module.health.state_dict(),
            copy.deepcopy(module.memory.state_dict()) if fills and module.memory is not None else None,
        )

    def go_back(self, module: ContrastiveModule) -> None:
        """Put back what the batches of the step have changed since."""
        set_random_state(self.random)
        module.health.load_state_dict(self.health)
        if module.memory is not None and self.memory is not None:
            module.memory.load_state_dict(self.memory)
