"""A corpus of several vectors a text kept in fewer bytes: neighbours made one vector, fewer dimensions, fewer bits.

It is a property of the encoder, `encoder.compression=pool2-pca128-1bit`: whoever compares documents gets them from
`embedding_cache.embeddings_of`, and so gets the same. Queries stay as they are, and training does not know of it.

Notable decisions:

- Vectors of a document are pooled by Ward's hierarchical clustering of their directions, and each cluster becomes the
  direction of its mean: Clavié, Chaffin and Adams, "Reducing the Footprint of Multi-Vector Retrieval with Minimal
  Performance Impact via Token Pooling", 2024, https://arxiv.org/abs/2409.14683. Distances are Euclidean, for which
  Ward's criterion is defined, and not cosines. Their first token, which they keep alone, is like any other here.
- The codec (`contrastive.codec`) is fitted to a sample of the first documents that are compressed, and stays with what
  it wrote: documents that come later are compressed with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from contrastive.codec import BITS
from contrastive.similarity import Codec, ProductSimilarity, TokenVectors, of_tokens, similarity_of, unit

_SAMPLE = 2**16
"""Vectors that a codec is fitted to, at most."""

_CLUSTERED = 4096
"""Vectors of a text that are clustered together: 32 MiB of distances in float32; of a longer one, parts are."""

_WORDS = re.compile(r"(?:pool(?P<pooling>\d+))?-?(?:pca(?P<dimensions>\d+))?-?(?:(?P<bits>\d+)bit)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Compression:
    """What is kept of the vectors of a document.

    Attributes:
        pooling: Of so many vectors of a document one is kept; 1 keeps all.
        dimensions: Principal axes that are kept; None keeps the dimensions as they are.
        bits: Of each dimension: 16, 8, 2 or 1.

    Raises:
        ValueError: If one of these cannot be.

    Example:
        >>> Compression.of("pool2-pca128-1bit")
        Compression(pooling=2, dimensions=128, bits=1)
        >>> str(Compression(bits=8))
        '8bit'
    """

    pooling: int = 1
    dimensions: int | None = None
    bits: int = 16

    def __post_init__(self) -> None:
        if self.pooling < 1 or (self.dimensions is not None and self.dimensions < 1):
            raise ValueError(f"expected pooling and dimensions of at least 1, got {self.pooling} and {self.dimensions}")
        if self.bits not in BITS:
            raise ValueError(f"expected bits to be one of {', '.join(map(str, BITS))}, got {self.bits}")

    @classmethod
    def of(cls, words: str) -> Compression:
        """Read it from its words, some of `pool<n>`, `pca<d>` and `<b>bit`, in this order, with hyphens between.

        Raises:
            ValueError: If it is something else.
        """
        found = _WORDS.fullmatch(words)
        read = cls(**{name: int(value) for name, value in found.groupdict().items() if value}) if found else cls()
        if not words or str(read) != words:
            raise ValueError(
                f'expected compression such as "8bit", "pca128-1bit" or "pool2-pca128-2bit", got {words!r}'
            )
        return read

    def __str__(self) -> str:
        words = [
            f"pool{self.pooling}" if self.pooling > 1 else "",
            "" if self.dimensions is None else f"pca{self.dimensions}",
            f"{self.bits}bit" if self.bits < 16 else "",
        ]
        return "-".join(word for word in words if word)

    @property
    def has_codec(self) -> bool:
        """Whether vectors are written in other numbers."""
        return self.dimensions is not None or self.bits < 16


def compression_of(encoder: object) -> Compression | None:
    """Return how an encoder's documents are to be kept: by its `compression`; None for vectors as they are.

    Raises:
        ValueError: If it has one, and makes one vector a text.
    """
    compression: Compression | None = getattr(encoder, "compression", None)
    if compression is not None:
        check_compressible(compression, similarity_of(encoder))
    return compression


def check_compressible(compression: Compression, similarity: ProductSimilarity) -> None:
    """Refuse to compress what is one vector a text.

    Raises:
        ValueError: If the similarity is not of several.
    """
    if not of_tokens(similarity):
        raise ValueError(
            f"expected an encoder of several vectors a text, representation=tokens or windows=true, for "
            f"compression={compression}, got one of similarity {similarity}"
        )


@torch.no_grad()
def compress(documents: TokenVectors, compression: Compression, codec: Codec | None = None) -> TokenVectors:
    """Return documents, whose vectors are as they are compared, in fewer bytes.

    Args:
        documents: Their vectors, in any precision.
        compression: What is to be kept.
        codec: What has written the other documents of a corpus; None fits one to these.

    Raises:
        ValueError: If a vector is not finite, or they have fewer dimensions than are to be kept.
    """
    if not documents.vectors.isfinite().all():
        raise ValueError("expected finite vectors of documents to compress, got NaN or infinite ones")
    pooled = pool(documents, compression.pooling)
    if not compression.has_codec:
        return pooled.to(torch.float16)
    if codec is None:
        step = -(-len(pooled.vectors) // _SAMPLE) or 1
        codec = Codec.fit(pooled.vectors[::step], bits=compression.bits, dimensions=compression.dimensions)
    codes = [codec.encode(vectors) for vectors in torch.split(pooled.vectors, _SAMPLE)]
    return TokenVectors(torch.cat(codes), pooled.offsets, codec)


def pool(documents: TokenVectors, factor: int) -> TokenVectors:
    """Return documents with one vector for every `factor`, rounded up, the mean directions of similar ones.

    Example:
        >>> document = TokenVectors.pack(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.1, 1.0]]]))
        >>> pool(document, 2).vectors.round(decimals=2)
        tensor([[1.0000, 0.0000],
                [0.0500, 1.0000]])
    """
    if factor == 1:
        return documents
    pieces, lengths = [documents.vectors[:0].float()], []
    for start, stop in zip(documents.offsets[:-1].tolist(), documents.offsets[1:].tolist(), strict=True):
        parts = [_pooled(part, factor) for part in torch.split(documents.vectors[start:stop], _CLUSTERED)]
        pieces += parts
        lengths.append(sum(map(len, parts)))
    return TokenVectors.of_lengths(torch.cat(pieces), torch.tensor(lengths, dtype=torch.long))


def _pooled(vectors: Tensor, factor: int) -> Tensor:
    """Return the mean directions of clusters of vectors, in the order of their first vectors."""
    vectors = unit(vectors)
    number = -(-len(vectors) // factor)
    if number >= len(vectors):
        return vectors
    clusters = torch.from_numpy(_clusters(vectors, number)).to(vectors.device)
    means = vectors.new_zeros(int(clusters.max()) + 1, vectors.shape[1]).index_add_(0, clusters, vectors)
    return unit(means)


def _clusters(vectors: Tensor, number: int) -> NDArray[np.int64]:
    """Return the cluster of each vector of length 1, [N], numbered from 0 in the order of their first vectors."""
    above = torch.triu_indices(len(vectors), len(vectors), 1, device=vectors.device)
    distances = (2 - 2 * (vectors @ vectors.T)[above[0], above[1]]).clamp_min(0).sqrt()
    found = fcluster(linkage(distances.cpu().numpy(), "ward"), number, criterion="maxclust")
    _, first, clusters = np.unique(found, return_index=True, return_inverse=True)
    order: NDArray[np.int64] = first.argsort().argsort()
    return order[clusters]
