"""Nothing that is not finite is trained with: a run stops at a NaN or infinity, or leaves the step out, and says where.

Notable decisions:

- One check of the loss and one of the gradient's norm a step, both numbers that are logged anyway. After a NaN the
  weights would be NaN for good, so going on could only hide what happened.
- A step that is left out is one of the schedule and of the count of steps, with no gradient: the optimiser changes
  nothing. All ranks leave it out, if one has to. Where that happens time and again, the run stops all the same.
- With float16 (`16-mixed`) infinite gradients are how the scaler finds its scale, so they are left to it, as long as it
  can still find one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from contrastive.data.batch import Batch
from contrastive.data.shown import short
from contrastive.encoder.finite import NotFiniteError

OnNonfinite = Literal["stop", "skip"]
"""Whether a run stops at a step whose loss or gradient is not finite, or leaves it out."""

_log = logging.getLogger(__name__)
_RECORDS_SHOWN = 3
_MOST_IN_A_ROW = 10
_SMALLEST_SCALE = 2.0**-10
_ADVICE = (
    "This step is not taken and training stops. Where training diverges, a lower optimizer.learning_rate, a longer "
    "optimizer.warmup_ratio or trainer.gradient_clip_val help; a higher temperature or trainer.precision=32-true where "
    "it never began"
)


@dataclass
class Skipping:
    """Which steps are left out, because something in them was not finite.

    Attributes:
        total: How many so far.
        in_a_row: How many since the latest that was taken.
        reason: Why the step that is under way has to be.
    """

    total: int = 0
    in_a_row: int = 0
    reason: NotFiniteError | None = None

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Keep what is refused inside the block as the reason, rather than let it stop the run."""
        try:
            yield
        except NotFiniteError as error:
            self.reason = self.reason or error

    def count(self, is_left_out: bool) -> None:
        """Count a step, and say why it is left out.

        Raises:
            NotFiniteError: If too many were left out in a row.
        """
        reason, self.reason = self.reason, None
        if not is_left_out:
            self.in_a_row = 0
            return
        why = str(reason or "another process has what is not finite").removesuffix(f". {_ADVICE}")
        if self.in_a_row + 1 >= _MOST_IN_A_ROW:  # not counted: who goes on comes to this step again
            raise NotFiniteError(f"left out {_MOST_IN_A_ROW} steps in a row, the last since: {why}. {_ADVICE}")
        self.total += 1
        self.in_a_row += 1
        _log.warning("This step is left out, %d so far: %s", self.total, why)


def check_loss(loss: Tensor, queries: Tensor, keys: Tensor, batch: Batch, when: str) -> None:
    """Refuse a loss that is not finite; this waits for the device.

    Args:
        loss: Its value.
        queries: Embeddings of the queries, [Q, D].
        keys: Embeddings of the documents, [K, D].
        batch: Their texts.
        when: At which step.

    Raises:
        NotFiniteError: If it is NaN or infinite; names the pairs whose embeddings are, or else the first of the batch.
    """
    if math.isfinite(value := loss.item()):
        return
    bad = [row for row in range(len(batch)) if not (queries[row].isfinite().all() and keys[row].isfinite().all())]
    which = f"not finite are the embeddings of {len(bad)}" if bad else "all with finite embeddings"
    raise NotFiniteError(
        f"expected a finite loss, got {value} {when} from {len(batch)} pairs, {which}: "
        f"{_described([batch], bad)}. {_ADVICE}"
    )


def check_gradient(norm: Tensor, batches: Sequence[Batch], when: str, scaler: Any = None) -> None:
    """Refuse a gradient that is not finite, before the optimiser takes it; this waits for the device.

    Args:
        norm: Of the gradient.
        batches: Those it comes from.
        when: At which step.
        scaler: Of float16 gradients, which leaves out such steps and finds a smaller scale.

    Raises:
        NotFiniteError: If the norm is NaN or infinite, or the scaler's scale has become so small that it never ends.
    """
    if scaler is not None:
        if scaler.get_scale() < _SMALLEST_SCALE:
            raise NotFiniteError(
                f"expected finite float16 gradients {when}, got none at any scale down to {scaler.get_scale():.1e}; "
                "trainer.precision=bf16-mixed and 32-true have the range for larger ones"
            )
    elif not math.isfinite(value := norm.item()):
        raise NotFiniteError(
            f"expected a finite gradient, got one with norm {value} {when} from {sum(map(len, batches))} pairs: "
            f"{_described(batches, [])}. {_ADVICE}"
        )


def _described(batches: Sequence[Batch], rows: Sequence[int]) -> str:
    """Name the pairs in some rows of the first batch, or the first pairs of all batches if no rows are given."""
    if rows:
        pairs = [(batches[0].queries[row], batches[0].documents[row]) for row in rows]
    else:
        pairs = [pair for batch in batches for pair in zip(batch.queries, batch.documents, strict=False)]
    shown = " and ".join(f"{short(query)} with {short(document)}" for query, document in pairs[:_RECORDS_SHOWN])
    further = len(pairs) - _RECORDS_SHOWN
    return shown + (f" and {further} more" if further > 0 else "") if pairs else "no pair on this process"
