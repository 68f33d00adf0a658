"""Vectors of a corpus in fewer bits: two bytes, one, two bits or one bit for each dimension that is kept.

A query stays as it is. What documents are multiplied by before they are rounded to levels, and queries before they are
compared with these levels, are two matrices [D, d], which also choose the dimensions: so a block of documents is read
by looking its levels up, and the widths and scales of dimensions cost nothing.

Notable decisions:

- Dimensions are the leading principal axes of a sample of the corpus, about zero and not about its mean, as products
  are: what is left of a product is as much of it as can be.
- Principal axes, and all dimensions in one or two bits, are made as wide as each other in documents, and stay as they
  are in queries, so that small dimensions count for more than in the vectors: of the ways tried on one set of real
  postings the one that lost least (docs/representations.md). One factor brings scores to the size of a cosine.
- Two bits have the four levels that lose least of a normal variable (Max, "Quantizing for minimum distortion", 1960).

Shape letters: N vectors, D width, d dimensions kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import embedding, pad

BITS = (16, 8, 2, 1)
"""Bits of a dimension that there are."""

_LEVELS = {1: (-1.0, 1.0), 2: (-1.510, -0.4528, 0.4528, 1.510)}
"""Of a dimension whose root mean square is 1, equally far from the bounds between them."""

_BYTE = 127


@dataclass(frozen=True, slots=True, eq=False)
class Codec:
    """How the vectors of a corpus are written in bits, and read.

    Args:
        bits: Of a dimension, see `BITS`.
        of_documents: What vectors are multiplied by before they are rounded, [D, d].
        of_queries: What a query is multiplied by before it is compared with what is read, [D, d].

    Raises:
        ValueError: If there is no way to write so many bits, or the matrices are not of one shape.

    Example:
        >>> vectors = torch.nn.functional.normalize(torch.randn(100, 8), dim=1)
        >>> codec = Codec.fit(vectors, bits=8)
        >>> codes = codec.encode(vectors)
        >>> codes.dtype, codes.shape, bool((codec.restored(codes) - vectors).abs().max() < 0.01)
        (torch.int8, torch.Size([100, 8]), True)
    """

    bits: int
    of_documents: Tensor
    of_queries: Tensor

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"expected bits to be one of {', '.join(map(str, BITS))}, got {self.bits}")
        if self.of_documents.ndim != 2 or self.of_documents.shape != self.of_queries.shape:
            shapes = [list(matrix.shape) for matrix in (self.of_documents, self.of_queries)]
            raise ValueError(f"expected two matrices [D, d] of one shape, got {shapes[0]} and {shapes[1]}")

    @classmethod
    @torch.no_grad()
    def fit(cls, vectors: Tensor, *, bits: int, dimensions: int | None = None) -> Codec:
        """Choose dimensions and levels by a sample of vectors [N, D], at least one.

        Args:
            vectors: The sample, as they are compared: of length 1 for a cosine.
            bits: Of a dimension.
            dimensions: Principal axes to keep; None keeps the dimensions as they are.

        Raises:
            ValueError: If there is no vector, or they have fewer dimensions.
        """
        vectors = _full_precision(vectors)
        if vectors.ndim != 2 or not len(vectors):
            raise ValueError(f"expected at least one vector [N, D] to fit to, got {list(vectors.shape)}")
        width = vectors.shape[1]
        if dimensions is not None and not 1 <= dimensions <= width:
            raise ValueError(f"expected dimensions from 1 to {width} for these vectors, got {dimensions}")
        axes = torch.eye(width, device=vectors.device)
        if dimensions is not None:
            axes = torch.linalg.eigh((vectors.T @ vectors).double())[1].flip(1)[:, :dimensions].to(vectors.dtype)
        turned = vectors @ axes
        tiny = torch.finfo(turned.dtype).tiny
        even = dimensions is not None or bits < 8
        widths = turned.square().mean(0).sqrt().clamp_min(tiny) if even else torch.ones_like(turned[0])
        steps = (turned / widths).abs().amax(0).clamp_min(tiny) if bits == 8 else torch.ones_like(widths)
        codec = cls(bits, axes / (widths * steps), axes * steps)
        if not even:
            return codec
        read = codec.decode(codec.encode(vectors)) * steps
        return replace(codec, of_queries=codec.of_queries * ((read * turned).sum() / read.square().sum()))

    @property
    def device(self) -> torch.device:
        """Where its matrices are."""
        return self.of_queries.device

    def to(self, device: torch.device) -> Codec:
        """Return it elsewhere."""
        return replace(self, of_documents=self.of_documents.to(device), of_queries=self.of_queries.to(device))

    def same_as(self, other: Codec | None) -> bool:
        """Whether another reads and writes the same."""
        return other is not None and (
            self.bits == other.bits
            and torch.equal(self.of_documents, other.of_documents)
            and torch.equal(self.of_queries, other.of_queries)
        )

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """Write vectors [N, D]: [N, d] in float16 or int8, or [N, bytes] in uint8, several dimensions a byte."""
        turned = _full_precision(vectors) @ self.of_documents
        if self.bits == 16:
            return turned.half()
        if self.bits == 8:
            return (turned * _BYTE).round().clamp(-_BYTE, _BYTE).to(torch.int8)
        levels = turned.new_tensor(_LEVELS[self.bits])
        places = torch.bucketize(turned, (levels[1:] + levels[:-1]) / 2)
        a_byte = 8 // self.bits
        places = pad(places, (0, -places.shape[1] % a_byte))
        places = places.view(len(places), places.shape[1] // a_byte, a_byte)
        return (places << self._shifts(places.device)).sum(-1).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """Read what was written, [N, d] in float32: for products with `asking`."""
        if self.bits == 16:
            return _full_precision(codes)
        if self.bits == 8:
            return codes.float() / _BYTE
        places = torch.arange(256, device=codes.device)[:, None] >> self._shifts(codes.device)
        of_byte = torch.tensor(_LEVELS[self.bits], device=codes.device)[places % 2**self.bits]
        return embedding(codes.int(), of_byte).flatten(1)[:, : self.of_queries.shape[1]]

    def asking(self, vectors: Tensor) -> Tensor:
        """Bring vectors of queries, [N, D], to what they are compared with, [N, d]."""
        return _full_precision(vectors) @ self.of_queries

    def restored(self, codes: Tensor) -> Tensor:
        """Return vectors [N, D] whose products with those of queries are those of what was written."""
        return self.decode(codes) @ self.of_queries.T

    def _shifts(self, device: torch.device) -> Tensor:
        return torch.arange(0, 8, self.bits, device=device)


def _full_precision(vectors: Tensor) -> Tensor:
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))
