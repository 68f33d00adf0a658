"""How often negatives are chosen again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """After how many epochs, or instead steps, something is to be done again; None for both is never.

    Attributes:
        every_n_epochs: Above 0; 0.5 is twice an epoch, in whole steps.
        every_n_steps: Optimiser steps, at least 1.

    Raises:
        ValueError: If both are given, or one is out of range.

    Example:
        >>> [step for step in range(10) if Interval(every_n_epochs=1.5).is_due(step=step, steps_an_epoch=2)]
        [3, 6, 9]
    """

    every_n_epochs: float | None = None
    every_n_steps: int | None = None

    def __post_init__(self) -> None:
        both = self.every_n_epochs is not None and self.every_n_steps is not None
        epochs = 1 if self.every_n_epochs is None else self.every_n_epochs
        steps = 1 if self.every_n_steps is None else self.every_n_steps
        if both or not epochs > 0 or steps < 1:
            raise ValueError(
                "expected every_n_epochs above 0 or every_n_steps of at least 1, and the other null; "
                f"got {self.every_n_epochs} and {self.every_n_steps}"
            )

    def is_due(self, *, step: int, steps_an_epoch: int) -> bool:
        """Tell whether it is to be done after so many optimiser steps."""
        if self.every_n_steps is None and self.every_n_epochs is None:
            return False
        every = self.every_n_steps or max(1, round((self.every_n_epochs or 0) * steps_an_epoch))
        return step > 0 and step % every == 0
