"""Steps over several batches: a window of them gives one gradient, their mean, and an epoch's last window may be short.

Lightning divides the loss of every batch by `accumulate_grad_batches`, however many there are in the window, and writes
a checkpoint wherever in a window it is asked to, without the gradients that are under way.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import nn


def average_window(parameters: Iterable[nn.Parameter], batches: int, accumulate: int) -> None:
    """Make gradients that are a sum over `batches`, each divided by `accumulate`, the mean over these batches.

    Args:
        parameters: Those whose gradient is changed, where they have one.
        batches: In the window, of which all have had their backward pass.
        accumulate: What the loss of each was divided by.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if batches != accumulate and gradients:
        torch._foreach_mul_(gradients, accumulate / batches)


def batches_of_steps(ready: int, processed: int, *, accumulate: int, is_last: bool) -> int:
    """Count the batches of an epoch that went into a step of the optimiser.

    Args:
        ready: Batches that were begun.
        processed: Batches that were gone through, with or without a step.
        accumulate: Batches in a window.
        is_last: Whether the latest that was begun is the last of the epoch, which ends its window.

    Example:
        >>> batches_of_steps(5, 5, accumulate=4, is_last=False), batches_of_steps(5, 5, accumulate=4, is_last=True)
        (4, 5)
    """
    finished = is_last and ready == processed
    return processed if finished else processed - processed % accumulate


def rewind_to_step(checkpoint: MutableMapping[str, Any], accumulate: int) -> None:
    """Let a checkpoint of Lightning's claim no more batches than its weights have seen: those of a begun window go.

    Without this, who goes on from it would leave these batches out, and take a step of what is left of the window.

    Args:
        checkpoint: As Lightning's hook gives it; changed in place.
        accumulate: Batches in a window.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    current, total = progress["current"], progress["total"]
    seen = batches_of_steps(
        current["ready"], current["processed"], accumulate=accumulate, is_last=progress["is_last_batch"]
    )
    if seen == current["processed"]:
        return
    for name in current:
        total[name] -= current[name] - seen
        current[name] = seen
    progress["is_last_batch"] = False
