"""What to do where a step ran out of memory: said by who knows the settings, in place of how much was missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from contrastive.encoder.encoder import Encoder
from contrastive.encoder.micro_batches import default_tokens_per_batch
from contrastive.encoder.two_towers import TwoTowers

_ON_PROCESSORS = ("can't allocate memory", "not enough memory")


class OutOfMemoryError(RuntimeError):
    """Raised where a step of training ran out of memory; says with which settings it may not."""


@contextmanager
def advising(encoder: Encoder | TwoTowers, when: str, *, cached: bool) -> Iterator[None]:
    """Turn running out of memory inside the block into advice.

    Args:
        encoder: What is trained.
        when: At which step.
        cached: Whether its micro-batches are computed again in the backward pass.

    Raises:
        OutOfMemoryError: If it did.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or not _is_meant(error):
            raise
        budget = encoder.tower("document").tokens_per_batch or default_tokens_per_batch(encoder.device)
        smaller = f"encoder.tokens_per_batch={max(1, budget // 2)} (half of now)"
        advice = f"{smaller}; then a smaller batch_size or encoder.gradient_checkpointing=true"
        if not cached:
            advice = f"trainer.cached=true, which takes the memory of one micro-batch for the batch; then {advice}"
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise OutOfMemoryError(f"out of memory {when} ({said}). What helps: {advice}") from error


def _is_meant(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in str(error) for said in _ON_PROCESSORS)
