"""What a loss can tell about a batch at no extra cost: an accumulator the caller owns, filled without synchronising."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor


class Health:
    """Collects detached scalars under a name and averages them when asked.

    Example:
        >>> import torch
        >>> health = Health()
        >>> health.record("positive_similarity", torch.tensor([0.5, 0.7]))
        >>> round(health.summary()["positive_similarity"], 2)
        0.6
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def record(self, name: str, value: Tensor | float) -> None:
        """Keep the mean of `value` (any shape, not empty) under `name`; nothing is copied to the host."""
        self._values[name].append(torch.as_tensor(value).detach().float().mean())

    def summary(self) -> dict[str, float]:
        """Return the mean of what was recorded under each name, leaving out NaN; synchronises."""
        return {name: torch.stack(values).nanmean().item() for name, values in self._values.items()}

    def clear(self) -> None:
        """Forget everything recorded so far."""
        self._values.clear()
