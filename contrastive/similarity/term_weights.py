"""Weights of terms: a text is a vector over a vocabulary, most of it zeros, of which a corpus keeps the others alone.

In a batch they are a tensor [B, V], like any embeddings. A corpus of 100,000 texts would take 12 GB of zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_DENSE = 2**26
"""Weights that stand in memory as a matrix at a time, 256 MiB in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class TermWeights:
    """The weights of B texts, packed: those of text i are at `offsets[i] : offsets[i + 1]`, terms ascending.

    Args:
        terms: Number of each term, int32 [N].
        weights: What it weighs, [N].
        offsets: Where the texts begin, and N; [B + 1], on the CPU.
        width: Terms of the vocabulary, V.

    Raises:
        ValueError: If the shapes do not fit each other.

    Example:
        >>> texts = TermWeights.of(torch.tensor([[0.0, 2.0, 0.0], [0.5, 0.0, 1.0]]))
        >>> texts.terms.tolist(), len(texts)
        ([1, 0, 2], 2)
        >>> texts[1:].dense()
        tensor([[0.5000, 0.0000, 1.0000]])
    """

    terms: Tensor
    weights: Tensor
    offsets: Tensor
    width: int

    def __post_init__(self) -> None:
        if self.terms.ndim != 1 or self.terms.shape != self.weights.shape:
            raise ValueError(
                f"expected terms and weights [N], got {list(self.terms.shape)} and {list(self.weights.shape)}"
            )
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.terms) or (self.offsets.diff() < 0).any():
            raise ValueError(f"expected offsets that rise from 0 to {len(self.terms)}, got {self.offsets}")

    @classmethod
    def of(cls, dense: Tensor) -> TermWeights:
        """Keep what is not 0 of weights [B, V]."""
        rows, terms = dense.nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=len(dense)).cpu()
        return cls(terms.int(), dense[rows, terms], _offsets(counts), dense.shape[1])

    @classmethod
    def join(cls, parts: Sequence[TermWeights]) -> TermWeights:
        """Put the texts of several one after the other, at least of one."""
        counts = torch.cat([part.offsets.diff() for part in parts])
        terms, weights = (torch.cat([getattr(part, name) for part in parts]) for name in ("terms", "weights"))
        return cls(terms, weights, _offsets(counts), parts[0].width)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights.device

    @property
    def shape(self) -> tuple[int, int]:
        """Texts and terms, as of a matrix."""
        return len(self), self.width

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> TermWeights:
        """Return some texts, in the order asked for; a slice without steps copies nothing."""
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            offsets = self.offsets[start : max(start, stop) + 1]
            places: slice | Tensor = slice(int(offsets[0]), int(offsets[-1]))
            return TermWeights(self.terms[places], self.weights[places], offsets - offsets[0], self.width)
        if isinstance(rows, slice):
            rows = range(len(self))[rows]  # tensors take no step below 0
        chosen = torch.arange(len(self))[rows.cpu() if isinstance(rows, Tensor) else list(rows)]
        counts = self.offsets.diff()[chosen]
        offsets = _offsets(counts)
        within = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(counts)
        places = (self.offsets[:-1][chosen].repeat_interleave(counts) + within).to(self.device)
        return TermWeights(self.terms[places], self.weights[places], offsets, self.width)

    def to(self, device: torch.device) -> TermWeights:
        """Return them elsewhere."""
        return TermWeights(self.terms.to(device), self.weights.to(device), self.offsets, self.width)

    def dense(self) -> Tensor:
        """Return the weights of all terms, [B, V], zeros included."""
        dense = self.weights.new_zeros(self.shape)
        dense[self._rows(), self.terms.long()] = self.weights
        return dense

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield some texts at a time, as places and a matrix [b, V] that fits into memory."""
        size = max(1, _DENSE // max(1, self.width))
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self[rows].dense()

    def products(self, queries: Tensor) -> Tensor:
        """Return the dot product of queries [Q, V] with each text, [Q, B], exactly, in the precision of the queries."""
        starts, weights = self.offsets[:-1].to(self.terms), self.weights.to(queries.dtype)
        # A quarter of the time of a sparse COO matrix, and without the warning of a CSR one.
        return embedding_bag(self.terms, queries.T.contiguous(), starts, per_sample_weights=weights, mode="sum").T

    def longest(self) -> TermWeights:
        """Return the text whose weights have the largest sum of squares, if there is any."""
        squares = self.weights.double().square()
        return self[squares.new_zeros(len(self)).index_add_(0, self._rows(), squares).topk(min(1, len(self))).indices]

    def _rows(self) -> Tensor:
        return torch.arange(len(self)).repeat_interleave(self.offsets.diff()).to(self.device)


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
