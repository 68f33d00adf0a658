"""Rows of scores, cut into blocks: who is compared, what a row loses, and the scores a block at a time.

A loss is a *formula*, what a row loses as a function of its logits and of who counts in it (`Rows`). The scores of a
block are made and masks and weights applied here; `sweeps` goes through the blocks.

Notable decision: the similarity owns how a block of scores is made and how its gradient gets back
(`ProductSimilarity.score_block`). A callable that only gives scores makes one block of all, which autograd keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from contrastive.contracts import Health, Similarity
from contrastive.losses.core.choice import Choice, Rows
from contrastive.losses.core.directions import Part
from contrastive.losses.core.log_sums import Judged
from contrastive.losses.core.reduction import or_one
from contrastive.similarity import AddGradients, ProductSimilarity

BLOCK_SCORES = 2**22
"""Scores of a block, 16 MiB in float32; small enough for a cache, large enough for the matrix product."""

LEAST_ROWS, MOST_ROWS = 256, 1024
"""Rows of a block all the same: fewer starve the matrix product, more gain nothing."""

GPU_BLOCK_SCORES = 2**26
"""The same on a GPU, 256 MiB, and as many rows as that gives: there a block takes 1 ms to launch, whatever its size."""

Formula = Callable[[Rows], Tensor | tuple[Tensor, Tensor] | Judged]
"""Maps a block of rows to the loss of each, [r]; or to what the terms of each sum to and how many they are."""


class Block(NamedTuple):
    """Some rows.

    Attributes:
        place: Where they are among all.
        rows: The rows.
        add_gradients: For each part, what brings a gradient of its columns to both sides.
    """

    place: slice
    rows: Rows
    add_gradients: list[AddGradients]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Anchors compared with candidates, and what a row loses by it.

    Attributes:
        formula: What a row loses.
        choose: Who is compared, and who counts in a row.
        similarity: Scores of prepared anchors and candidates, higher is closer.
        by_log_sums: Whether the formula looks at nothing but the log-sums of a row, and which row it is.
        tiled: Whether to work in blocks, or in one; None works in blocks where the similarity can.
        health: Told of every block.
        parameters: Tensors other than the embeddings and the temperature that the formula reads and that are trained.
        average: Whether a row's terms are averaged, and not summed up.

    Raises:
        ValueError: If blocks are wanted of a similarity that is a mere callable.
    """

    formula: Formula
    choose: Choice
    similarity: Similarity
    by_log_sums: bool = False
    tiled: bool | None = None
    health: Health | None = None
    parameters: Sequence[Tensor] = ()
    average: bool = False

    def __post_init__(self) -> None:
        if self.tiled and not isinstance(self.similarity, ProductSimilarity):
            raise ValueError(
                f"expected cosine, dot, euclidean or max_sim similarity with tiled=True, got {self.similarity!r}"
            )

    @property
    def widths(self) -> list[int]:
        """The number of columns of each part."""
        return [part.candidates.shape[0] for part in self.choose.parts]

    def tensors(self) -> list[Tensor | None]:
        """Return what may get gradients: anchors and candidates of every part, a temperature, what else is trained."""
        temperature = self.choose.temperature
        sides = [side for part in self.choose.parts for side in (part.anchors, part.candidates)]
        return [*sides, temperature if isinstance(temperature, Tensor) else None, *self.parameters]

    def is_differentiated(self) -> bool:
        """Whether a gradient is wanted of anything."""
        return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in self.tensors())

    @property
    def block_rows(self) -> int:
        """The number of rows of a block."""
        anchors = self.choose.parts[0].anchors
        return len(anchors) if self.tiled is False else block_rows(len(anchors), sum(self.widths), anchors.device)

    def blocks(self, *, graph: bool, keep: bool = False) -> Iterator[Block]:
        """Yield block after block; without any rows, one block of none.

        With `graph`, gradients can be brought back; with `keep`, the next block leaves the memory of this one alone.
        """
        assert isinstance(self.similarity, ProductSimilarity)
        parts, widths, size = self.choose.parts, self.widths, self.block_rows
        number = len(parts[0].anchors)
        everyone = torch.arange(number, device=parts[0].anchors.device)
        buffer = parts[0].anchors.new_empty(number if keep else size, sum(widths))
        for start in range(0, max(1, number), max(1, size)):
            place = slice(start, min(start + size, number))
            logits = buffer[place] if keep else buffer[: place.stop - start]
            outs = logits.split_with_sizes(widths, 1)
            adds = [self._score(part, place, out, graph) for part, out in zip(parts, outs, strict=True)]
            yield Block(place, self.choose(logits, everyone[place]), adds)

    def _score(self, part: Part, place: slice, out: Tensor, graph: bool) -> AddGradients:
        assert isinstance(self.similarity, ProductSimilarity)
        anchors, temperature = part.anchors[place], self.choose.temperature
        return self.similarity.score_block(
            anchors, part.candidates, temperature, out=out, graph=graph, flipped=part.flipped
        )

    def judge(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return what the terms of each row sum to and how many they are, [r]: 0 and 0 if it goes unanswered."""
        return self._count(rows, self.formula(rows))

    def differentiate(
        self, rows: Rows, of_rows: Tensor, leaves: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """Judge rows and return also the gradients of the leaves, and of the parameters, by `of_rows` [r].

        The leaves are the logits, or with `by_log_sums` the three log-sums.
        """
        losses = self.formula(rows)
        totals, counts = self._count(rows, losses)
        if isinstance(losses, Judged):
            of_rows = of_rows * rows.sums.answered
            of_sums = (losses.of_target, losses.of_positives, losses.of_negatives)
            return totals.detach(), counts, [of_rows * each for each in of_sums]
        trained = [each for each in self.parameters if each.requires_grad]
        gradients = torch.autograd.grad(
            (totals * of_rows).sum(), [*leaves, *trained], allow_unused=True, materialize_grads=True
        )
        return totals.detach(), counts, gradients

    def _count(self, rows: Rows, losses: Tensor | tuple[Tensor, Tensor] | Judged) -> tuple[Tensor, Tensor]:
        if isinstance(losses, Judged):
            losses = losses.losses
        totals, counts = losses if isinstance(losses, tuple) else (losses, rows.sums.answered)
        if self.average:
            totals, counts = totals / or_one(counts), counts > 0
        return totals.masked_fill(counts == 0, 0), counts


def block_rows(num_rows: int, num_columns: int, device: torch.device) -> int:
    """Return how many rows make a block."""
    if device.type == "cpu":
        return min(num_rows, max(LEAST_ROWS, min(MOST_ROWS, BLOCK_SCORES // max(num_columns, 1))))
    return min(num_rows, max(LEAST_ROWS, GPU_BLOCK_SCORES // max(num_columns, 1)))
