"""Vectors of tokens: a text is as many vectors as it has tokens, in a batch padded, in a corpus one after the other.

In a batch they are a tensor [B, T, D], like any embeddings to whoever cuts, joins or gathers them; a vector of zeros is
no token. A corpus has texts of very different lengths, and would be mostly zeros: there they are packed, and may be
kept in fewer bits (`contrastive.codec`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from contrastive.codec import Codec


@dataclass(frozen=True, slots=True, eq=False)
class TokenVectors:
    """The vectors of B texts, packed: those of text i are `vectors[offsets[i] : offsets[i + 1]]`.

    Args:
        vectors: Of all tokens, [N, D]; what the codec made of them, if there is one.
        offsets: Where the texts begin, and N; [B + 1], on the CPU.
        codec: How they are kept in fewer bits; None for vectors as they are.

    Raises:
        ValueError: If the shapes do not fit each other.

    Example:
        >>> texts = TokenVectors.pack(torch.tensor([[[1.0], [2.0]], [[3.0], [0.0]]]))
        >>> len(texts), texts.lengths.tolist()
        (2, [2, 1])
        >>> texts[1:].padded()
        tensor([[[3.]]])
    """

    vectors: Tensor
    offsets: Tensor
    codec: Codec | None = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.offsets.ndim != 1 or not len(self.offsets):
            raise ValueError(
                f"expected vectors [N, D] and offsets [B + 1], got {list(self.vectors.shape)} and "
                f"{list(self.offsets.shape)}"
            )
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.vectors) or (self.lengths < 0).any():
            raise ValueError(f"expected offsets that rise from 0 to {len(self.vectors)}, got {self.offsets}")

    @classmethod
    def pack(cls, padded: Tensor) -> TokenVectors:
        """Pack vectors [B, T, D], zeros for absent tokens."""
        present = padded.any(-1)
        return cls.of_lengths(padded[present], present.sum(1))

    @classmethod
    def of_lengths(cls, vectors: Tensor, lengths: Tensor, codec: Codec | None = None) -> TokenVectors:
        """Return texts of so many tokens each, [B], which stand in `vectors` one after the other."""
        return cls(vectors, _offsets(lengths.cpu()), codec)

    @classmethod
    def join(cls, parts: Sequence[TokenVectors]) -> TokenVectors:
        """Put the texts of several one after the other, at least of one.

        Raises:
            ValueError: If they are kept by different codecs.
        """
        codec, lengths = parts[0].codec, torch.cat([part.lengths for part in parts])
        if not all(part.codec is codec or (codec is not None and codec.same_as(part.codec)) for part in parts):
            raise ValueError("expected token vectors that are all kept by one codec, got several")
        with torch.autocast(parts[0].device.type, enabled=False):  # which knows no cat of float16 on a CPU
            return cls(torch.cat([part.vectors for part in parts]), _offsets(lengths), codec)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text, [B]."""
        return self.offsets.diff()

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self.vectors.device

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> TokenVectors:
        """Return some texts, in the order asked for; a slice without steps copies nothing."""
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            offsets = self.offsets[start : max(start, stop) + 1]
            return replace(self, vectors=self.vectors[offsets[0] : offsets[-1]], offsets=offsets - offsets[0])
        if isinstance(rows, slice):
            rows = range(len(self))[rows]  # tensors take no step below 0
        chosen = torch.arange(len(self))[rows.cpu() if isinstance(rows, Tensor) else list(rows)]
        lengths = self.lengths[chosen]
        offsets = _offsets(lengths)
        within = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(lengths)
        places = (self.offsets[:-1][chosen].repeat_interleave(lengths) + within).to(self.device)
        return replace(self, vectors=self.vectors.index_select(0, places), offsets=offsets)  # a third of the time of []

    def to(self, target: torch.device | torch.dtype) -> TokenVectors:
        """Return them elsewhere, or in another precision, that is without a codec."""
        if self.codec is None or isinstance(target, torch.dtype):
            restored = self.restored()
            return TokenVectors(restored.vectors.to(target), restored.offsets)
        return TokenVectors(self.vectors.to(target), self.offsets, self.codec.to(target))

    def restored(self) -> TokenVectors:
        """Return them as vectors [N, D], without a codec: those that compare as what it kept does."""
        return self if self.codec is None else TokenVectors(self.codec.restored(self.vectors), self.offsets)

    def padded(self) -> Tensor:
        """Return them as a batch, [B, T, D] with T tokens of the longest, zeros for absent tokens."""
        if self.codec is not None:
            return self.restored().padded()
        longest = int(self.lengths.max()) if len(self) else 0
        padded = self.vectors.new_zeros(len(self), longest, self.vectors.shape[1])
        present = torch.arange(longest) < self.lengths[:, None]
        padded[present.to(self.device)] = self.vectors
        return padded


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Put embeddings [B, D] or [B, T, D] one after the other, at least one; with as many tokens as the longest has.

    Example:
        >>> concatenate([torch.ones(1, 1, 2), torch.ones(1, 3, 2)]).shape
        torch.Size([2, 3, 2])
    """
    if parts[0].ndim == 3:
        longest = max(part.shape[1] for part in parts)
        parts = [pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    return torch.cat([*parts])


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
