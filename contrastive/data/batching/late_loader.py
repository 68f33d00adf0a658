"""A loader whose batches are chosen no earlier than they are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader


class LateLoader(DataLoader[Any]):
    """A loader that turns to its sampler when the first batch of a pass is asked for.

    Resuming, Lightning makes the iterator before it sets the epoch, and workers would fetch batches of another one.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Make the iterator of a loader, and its workers, with the first batch."""
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Tell Lightning, which looks for this method, that an epoch can be resumed; `ContrastiveData` keeps where."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Do nothing, see `state_dict`."""
