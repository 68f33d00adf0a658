"""What a loss can tell about a batch at no extra cost: an accumulator the caller owns, filled without synchronising."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Health:
    """Collects detached values under a name, in any number of pieces, and gives their mean when asked.

    Example:
        >>> import torch
        >>> health = Health()
        >>> health.record("positive_similarity", torch.tensor([0.5, 0.7]))
        >>> health.record("positive_similarity", torch.tensor([0.9, 0.1]), torch.tensor([True, False]))
        >>> round(health.summary()["positive_similarity"], 2)
        0.7
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def record(self, name: str, values: Tensor | float, selected: Tensor | None = None) -> None:
        """Keep sum and number of values (any shape) under `name`; nothing is copied to the host.

        Args:
            name: What the values are.
            values: The values; NaN is left out.
            selected: Which of them count, bool of the same shape; None counts all.
        """
        values = torch.as_tensor(values).detach().float()
        counted = ~values.isnan() if selected is None else selected.detach() & ~values.isnan()
        total, count = torch.where(counted, values, 0).sum(), counted.sum()
        if name in self._sums:
            total, count = self._sums[name] + total, self._counts[name] + count
        self._sums[name], self._counts[name] = total, count

    def summary(self) -> dict[str, float]:
        """Return the mean of the values recorded under each name, NaN if there are none; synchronises."""
        return {name: (total / self._counts[name]).item() for name, total in self._sums.items()}

    def clear(self) -> None:
        """Forget everything recorded so far."""
        self._sums.clear()
        self._counts.clear()

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return what was recorded so far, for a checkpoint."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from what `state_dict` returned."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
