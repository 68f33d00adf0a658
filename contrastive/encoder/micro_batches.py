"""Cutting token ids into padded batches of similar length, and finding the rows of texts again.

Shape letters: B texts, T tokens of the longest of a batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contrastive.encoder.tokens import Row


@dataclass(slots=True)
class TokenCount:
    """Tokens that went through an encoder since it was made; take differences for tokens a second.

    Attributes:
        real: Tokens of the texts, special ones included, duplicates not.
        padded: Tokens computed: longest times rows of each micro-batch.
    """

    real: int = 0
    padded: int = 0


def default_tokens_per_batch(device: torch.device) -> int:
    """Return a good number of tokens of a micro-batch, padding included.

    On processors 4,096, measured with MiniLM on two cores: in float32 as fast as anything from 2,048 to 6,144, in
    bfloat16 faster than 2,048. On others 16,384, which is not measured.
    """
    return 4096 if device.type == "cpu" else 16_384


def tokens_of_a_pass(device: torch.device) -> int:
    """Return how many more tokens could be computed in the time that a pass through the model takes beside its own.

    On processors 64: with MiniLM on one core 30 to 60 in training, whose passes add to the gradient of all weights, and
    25 to 35 without gradients, measured by cutting the same tokens into more passes. On others 1,024, which is not
    measured; passes cost far more there, since their kernels are launched one by one.
    """
    return 64 if device.type == "cpu" else 1024


def micro_batches(
    lengths: Sequence[int], tokens_per_batch: int | None, *, padding: bool = True, of_a_pass: int = 64
) -> list[list[int]]:
    """Cut texts of `lengths` tokens into batches of similar length, longest first, at the least cost.

    Each batch is a list of indices with longest x rows <= `tokens_per_batch`, or one longer text alone; without
    `padding` of one length; None is one batch of all as they come. The cost of a batch is longest x rows, the tokens
    computed, and `of_a_pass` for its pass through the model, see `tokens_of_a_pass`. Found by dynamic programming over
    the cuts.

    Example:
        >>> micro_batches([2, 9, 3, 2], tokens_per_batch=6, of_a_pass=1)
        [[1], [2], [0, 3]]
    """
    if tokens_per_batch is None:
        return [list(range(len(lengths)))] if lengths else []
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    longest = np.array([lengths[i] for i in order], dtype=np.float64)
    places = np.arange(len(order) + 1)
    cost = np.zeros(len(order) + 1)  # of the first n texts
    starts = np.zeros(len(order) + 1, dtype=np.int64)  # where the last batch of the first n texts starts
    first = 0  # at which it can start: the batch gets smaller from there on
    for stop in range(1, len(order) + 1):
        while first < stop - 1 and (
            longest[first] * (stop - first) > tokens_per_batch or (not padding and longest[first] != longest[stop - 1])
        ):
            first += 1
        computed = longest[first:stop] * (stop - places[first:stop])
        total = cost[first:stop] + computed
        starts[stop] = first + int(total.argmin())
        cost[stop] = total.min() + of_a_pass
    batches: list[list[int]] = []
    stop = len(order)
    while stop > 0:
        batches.insert(0, order[starts[stop] : stop])
        stop = int(starts[stop])
    return batches


def token_counts(rows: Sequence[Row]) -> list[int]:
    """Count the tokens of each row of `token_rows`, [B]."""
    return [row.shape[-1] for row in rows]


def padded(rows: Sequence[Row], padding_id: int, further: Sequence[str] = ()) -> dict[str, Tensor]:
    """Stack rows on the left into `input_ids`, `attention_mask` (1 for a real token) and `further` inputs, [B, T] each.

    Further inputs are 0 where a text has none and where it has ended.

    Example:
        >>> padded([np.array([5, 6]), np.array([7])], padding_id=0)["input_ids"]
        tensor([[5, 6],
                [7, 0]])
    """
    counts = token_counts(rows)
    stacked = np.zeros((2 + len(further), len(rows), max(counts, default=0)), dtype=np.int64)
    stacked[0] = padding_id
    for place, (row, count) in enumerate(zip(rows, counts, strict=True)):
        stacked[0, place, :count] = row if row.ndim == 1 else row[0]
        stacked[1, place, :count] = 1
        if row.ndim == 2:
            stacked[2:, place, :count] = row[1:]
    return dict(zip(("input_ids", "attention_mask", *further), torch.from_numpy(stacked), strict=True))


def positions(distinct: Sequence[Hashable], texts: Sequence[Hashable]) -> NDArray[np.int64]:
    """Say where in `distinct` each of `texts` is, [B].

    Example:
        >>> positions(["a", "b"], ["b", "a", "b"])
        array([1, 0, 1])
    """
    index = {text: i for i, text in enumerate(distinct)}
    return np.array([index[text] for text in texts], dtype=np.int64)
