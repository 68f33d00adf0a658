"""The random numbers that come next, as a part of a checkpoint: those of Python, NumPy, and torch on every device."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from contrastive.training.distributed import world_size


def random_state() -> dict[str, Any]:
    """Return the state of all generators that are shared, as plain values and tensors.

    Example:
        >>> import torch
        >>> state = random_state()
        >>> first = torch.rand(2)
        >>> set_random_state(state)
        >>> torch.equal(torch.rand(2), first)
        True
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on with the random numbers of a state; devices that are not there now, or were not then, are left as they are.

    Args:
        state: Of `random_state`.
    """
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    for device, own in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(own.cpu(), device)


def random_states_of_ranks() -> list[dict[str, Any]]:
    """Return the state of every process, by rank; all of them have to ask."""
    states: list[Any] = [random_state()] * world_size()
    if world_size() > 1:
        dist.all_gather_object(states, states[0])
    return states
