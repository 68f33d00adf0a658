"""Who counts in a row of logits, and how much: by the masks of its parts, and by the scores themselves.

Shape letters: r rows of a block, C candidates of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor

from contrastive.contracts import Health
from contrastive.losses.core.directions import Part
from contrastive.losses.core.log_sums import LogSums, log_sums
from contrastive.losses.core.options import Hardened, SoftmaxOptions
from contrastive.losses.core.reduction import check_choice
from contrastive.masks import Mask, diagonal


@dataclass
class Rows:
    """A block of rows, and who counts in it.

    Attributes:
        rows: Which rows they are, [r].
        logits: Scores divided by the temperature, [r, C].
        positive: The positive of each row, an index [r], or bool [r, C].
        left_out: Which are no negatives, bool [r, C]; None for nobody. A positive among them stays a positive.
        log_weights: Logarithms of the weights of the negatives, broadcast to [r, C], or None.
    """

    rows: Tensor
    logits: Tensor
    positive: Tensor
    left_out: Tensor | None = None
    log_weights: Tensor | None = None

    @cached_property
    def sums(self) -> LogSums:
        """The log-sums of each row."""
        return log_sums(self.logits, self.positive, self.left_out, self.log_weights)

    def sum_up(self, overwrite: Callable[..., LogSums]) -> LogSums:
        """Set the log-sums to those of a function that overwrites the logits, of which none are left."""
        self.sums = overwrite(self.logits, self.positive, self.left_out, self.log_weights)
        self.logits = self.logits[:0]
        return self.sums

    def tilted(self, factor: float) -> LogSums:
        """Return the log-sums of the logits times a factor, as at another temperature."""
        return log_sums(self.logits * factor, self.positive, self.left_out, self.log_weights)

    def count_negatives(self) -> Tensor:
        """Return the number of negatives of each row, integers [r]."""
        left_out, number = self.left_out, self.logits.shape[1]
        if self.log_weights is not None:
            left_out = _either(left_out, self.log_weights == -math.inf)
        if self.positive.dtype == torch.bool:
            left_out = _either(left_out, self.positive)
            return number - left_out.sum(1)
        if left_out is None:
            return torch.full_like(self.rows, number - 1)
        left_out = left_out.expand(len(self.rows), number)
        return number - 1 - left_out.sum(1) + left_out.gather(1, self.positive[:, None])[:, 0]

    def is_positive(self) -> Tensor:
        """Return which are positives, bool [r, C]."""
        if self.positive.dtype == torch.bool:
            return self.positive
        none = self.positive.new_zeros(len(self.rows), self.logits.shape[1], dtype=torch.bool)
        return none.scatter_(1, self.positive[:, None], value=True)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which negatives their scores leave out, and how much they weigh; see `SoftmaxOptions`.

    Raises:
        ValueError: If a number is out of its range or not finite, or the word is not known.
    """

    false_negative_margin: float | None = None
    drop_hardest: float = 0.0
    hardness: float = 0.0
    hardened: Hardened = "all"

    def __post_init__(self) -> None:
        if not 0 <= self.drop_hardest < 1:
            raise ValueError(f"expected drop_hardest from 0 to below 1, got {self.drop_hardest}")
        if not 0 <= self.hardness < math.inf:
            raise ValueError(f"expected a finite hardness of at least 0, got {self.hardness}")
        if self.false_negative_margin is not None and not math.isfinite(self.false_negative_margin):
            raise ValueError(f"expected a finite false_negative_margin, got {self.false_negative_margin}")
        check_choice("hardened", self.hardened, get_args(Hardened))

    @classmethod
    def of(cls, options: SoftmaxOptions) -> Selection:
        """Read the options of a softmax loss."""
        return cls(options["false_negative_margin"], options["drop_hardest"], options["hardness"], options["hardened"])

    def suspicious(self, scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Select the negatives, bool [r, C], whose scores make them suspicious of being positives."""
        suspicious = torch.zeros_like(negative)
        if self.false_negative_margin is not None:
            own = torch.where(positive, scores, 0).sum(1) / positive.sum(1).clamp_min(1)
            suspicious = scores > own[:, None] + self.false_negative_margin
        if self.drop_hardest and scores.shape[1]:
            ranked = torch.where(negative, scores, -torch.inf).sort(1, descending=True).values
            dropped = (negative.sum(1, keepdim=True) * self.drop_hardest).long()
            suspicious = suspicious | (scores > ranked.gather(1, dropped))
        return suspicious


UNSELECTED = Selection()
"""Scores leave nobody out, and all weigh the same."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Chooses who counts in a block of rows, by masks and by scores."""

    temperature: float | Tensor
    parts: Sequence[Part]
    selection: Selection = field(default_factory=Selection)

    @property
    def one_each(self) -> bool:
        """Whether candidate i is the one positive of row i."""
        return self.parts[0].positive is diagonal() and all(part.positive is None for part in self.parts[1:])

    def __call__(self, logits: Tensor, rows: Tensor) -> Rows:
        """Return the rows [r] of logits [r, C] with their positives, those left out, and weights."""
        positive = rows if self.one_each else self._block("positive", rows, default=False)
        assert positive is not None
        left_out, log_weights = (
            self._block("left_out", rows, default=False),
            self._block("log_weights", rows, default=0),
        )
        block = Rows(rows, logits, positive, left_out, log_weights)
        return block if self.selection == UNSELECTED else self._by_score(block)

    @torch.no_grad()
    def _by_score(self, block: Rows) -> Rows:
        """Change who is left out and weights as the scores of the block say."""
        scores = block.logits.detach() * self.temperature
        left_out, log_weights = block.left_out, block.log_weights
        if self.selection.hardness:
            harder = self.selection.hardness * scores
            hardened = self._block("hardened", block.rows, default=True)
            harder = harder if hardened is None else torch.where(hardened, harder, 0)
            log_weights = harder if log_weights is None else log_weights + harder
        if self.selection.false_negative_margin is not None or self.selection.drop_hardest:
            positive = block.is_positive()
            negative = ~_either(left_out, positive)
            left_out = _either(left_out, self.selection.suspicious(scores, positive, negative))
        return replace(block, left_out=left_out, log_weights=log_weights)

    def _block(self, name: str, rows: Tensor, *, default: float) -> Tensor | None:
        """Put what the parts say of some rows side by side, [r, C]; None if none of them says anything."""
        told = [getattr(part, name) for part in self.parts]
        if all(each is None for each in told):
            return None
        blocks, widths = [], [len(part.candidates) for part in self.parts]
        everyone = torch.arange(max(widths), device=rows.device)
        for width, each in zip(widths, told, strict=True):
            if isinstance(each, Mask):
                each = each(rows, everyone[:width])
            elif each is None:
                each = torch.full((), default, device=rows.device)  # a tensor of a number would wait for a GPU
            blocks.append(each.expand(len(rows), width))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)

    def record(self, block: Rows, health: Health) -> None:
        """Record what the block tells."""
        positive, ineligible = block.is_positive(), self._block("ineligible", block.rows, default=False)
        eligible = ~_either(ineligible, positive)
        negative = eligible if block.left_out is None else eligible & ~block.left_out
        record_rows(health, block.logits, self.temperature, positive, eligible, negative)


def _either(one: Tensor | None, other: Tensor) -> Tensor:
    """Return who is in one of two selections."""
    return other if one is None else one | other


def record_rows(
    health: Health,
    logits: Tensor,
    temperature: float | Tensor,
    positive: Tensor,
    eligible: Tensor,
    negative: Tensor,
) -> None:
    """Record what a block of rows tells: similarities, temperature, shares of excluded pairs and unanswered rows.

    `effective_negatives` is the exponential of the entropy of the softmax over a row's negatives: how many of them
    share the gradient.
    """
    with torch.no_grad():
        temperature = torch.as_tensor(temperature).detach()
        scores = logits.detach() * temperature
        health.record("positive_similarity", scores, positive)
        health.record("negative_similarity", scores, negative)
        health.record("temperature", temperature)
        health.record("excluded_share", (~negative).float(), eligible)
        health.record("unanswered", ~(positive.any(1) & negative.any(1)))
        probabilities = torch.where(negative, logits, torch.finfo(logits.dtype).min).softmax(1)
        entropy = torch.special.entr(probabilities).sum(1)
        health.record("effective_negatives", entropy.exp(), negative.any(1))
