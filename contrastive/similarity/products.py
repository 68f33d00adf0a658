"""Cosine, dot product and Euclidean similarity of vectors, every query against every key, higher is closer.

All three are functions of the dot product of *prepared* vectors, so retrieval and tiled losses can prepare once and
work on blocks of one matrix product. Scores are float32 or better whatever autocast says: bfloat16 embeddings are fine,
bfloat16 scores are not.

Distances are the same wherever the origin is, and are measured from the mean of the keys: a product of long
vectors that lie together has no digits left for what is between them. Where a pair is close even so, its difference is
taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from contrastive.contracts import Similarity
from contrastive.similarity.differentiation import differentiable_once

SimilarityName = Literal["cosine", "dot", "euclidean", "max_sim", "max_dot"]


AddGradients = Callable[[Tensor, Tensor | None, Tensor | None, Tensor | None], None]
"""Called with the gradient of a block of scores, [r, K], and where those of queries, keys and temperature go, if
wanted: sets that of the queries, which are in no other block, and adds to the others."""


@dataclass(frozen=True, slots=True, repr=False)
class ProductSimilarity:
    """A similarity that depends on the dot product of prepared vectors, and at most their lengths.

    Shapes: queries [Q, D], keys [K, D], scores [Q, K].

    Attributes:
        name: The word for it in a configuration.
        prepare: Maps embeddings [B, D] to prepared vectors [B, D], float32 or better.
        lengths_matter: Whether scores are minus the distance of the prepared vectors, and not their dot product.

    Example:
        >>> import torch
        >>> cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0], [-4.0, 3.0]]))
        tensor([[1., 0.]])
        >>> euclidean(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([[-5.]])
    """

    name: SimilarityName
    prepare: Callable[[Tensor], Tensor]
    lengths_matter: bool = False

    shape: ClassVar[str] = "D"
    """What an embedding is, in letters: a vector; of some similarities, vectors of tokens."""

    def __repr__(self) -> str:
        return self.name

    @property
    def by_products(self) -> bool:
        """Whether scores are products of vectors, so that nothing but these is kept to bring their gradient back."""
        return not self.lengths_matter

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Map queries [Q, D] and keys [K, D] to scores [Q, K], higher is closer.

        Raises:
            ValueError: If the embeddings are not of that shape, or differ in width.
        """
        check_shapes(queries, keys, self)
        with torch.autocast(queries.device.type, enabled=False):
            return self.scores(self.prepare(queries), self.prepare(keys))

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Map prepared queries [Q, D] and keys [K, D] to scores [Q, K]."""
        return -_distances(queries, keys) if self.lengths_matter else queries @ keys.T

    def score_block(
        self,
        queries: Tensor,
        keys: Tensor,
        temperature: float | Tensor,
        *,
        out: Tensor,
        graph: bool,
        flipped: bool = False,  # noqa: ARG002
    ) -> AddGradients:
        """Write the scores of prepared queries [r, D] and keys [K, D], divided by the temperature, into `out` [r, K].

        Args:
            queries: Those of some rows.
            keys: Those of all columns.
            temperature: A number or a tensor.
            out: Where to write.
            graph: Whether a gradient is wanted.
            flipped: Whether the keys ask and the queries answer, which is the same for a vector a text.

        Returns:
            What brings a gradient of these, [r, K], to both sides; only with `graph`.
        """
        if not self.lengths_matter:
            if isinstance(temperature, Tensor):
                queries = queries / temperature  # a pass over these, and not over the scores
                torch.mm(queries, keys.T, out=out)
            else:
                torch.addmm(out, queries, keys.T, beta=0, alpha=1 / temperature, out=out)
            return partial(_add_of_products, queries, keys, temperature)
        # Autograd follows distances down to the embeddings: a gradient that is made of products of long vectors has no
        # digits left for the differences of close ones.
        leaves = [side.detach().requires_grad_(graph) for side in (queries, keys)]
        if isinstance(temperature, Tensor) and temperature.requires_grad:
            leaves.append(temperature := temperature.detach().requires_grad_(graph))
        with torch.set_grad_enabled(graph):
            logits = self.scores(leaves[0], leaves[1]) / temperature
        out.copy_(logits.detach())
        return partial(_add_of_graph, logits, leaves)

    def of_pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the scores of left [..., D] and right [..., D], row by row: [...], in float32 or better."""
        return self.scores_of_pairs(self.prepare(left), self.prepare(right))

    def scores_of_pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the scores of prepared left [..., D] and right [..., D], row by row, [...]."""
        if not self.lengths_matter:
            return (left * right).sum(-1)
        distances: Tensor = torch.linalg.vector_norm(left - right, dim=-1)
        return -distances

    @torch.no_grad()
    def size(self, queries: Tensor, keys: Tensor) -> float:
        """Return the power of two nearest to the largest score that queries [Q, D] and keys [K, D] could have.

        1 for cosine, whatever the embeddings, and where nothing can be said.
        """
        if self.name == "cosine" or not len(queries) or not len(keys):
            return 1.0
        return self.size_by(queries, *self.extent(keys))

    def extent(self, keys: Tensor) -> tuple[Tensor | float, float]:
        """Return from where vectors [K, D] are measured, the middle of them or 0, and how far the farthest is from it.

        That is what `size` asks of them, and what may be kept.
        """
        keys = self.prepare(keys)
        middle = _middle(keys) if self.lengths_matter else 0
        return middle, torch.linalg.vector_norm(keys - middle, dim=-1).max().item()

    def size_by(self, queries: Tensor, middle: Tensor | float, farthest: float) -> float:
        """Return the `size` by the extent of the keys; of at least one query."""
        asked = torch.linalg.vector_norm(self.prepare(queries) - middle, dim=-1).max().item()
        bound = asked + farthest if self.lengths_matter else asked * farthest
        return 2.0 ** round(math.log2(bound)) if 0 < bound < math.inf else 1.0


def _add_of_products(
    queries: Tensor,
    keys: Tensor,
    temperature: float | Tensor,
    of_scores: Tensor,
    of_queries: Tensor | None,
    of_keys: Tensor | None,
    of_temperature: Tensor | None,
) -> None:
    """Make the gradients, see `AddGradients`, of scores that are products of queries divided by a temperature.

    By a tensor the queries are divided already.
    """
    if not isinstance(temperature, Tensor):
        if of_queries is not None:
            torch.addmm(of_queries, of_scores, keys, beta=0, alpha=1 / temperature, out=of_queries)
        if of_keys is not None:
            of_keys.addmm_(of_scores.T, queries, alpha=1 / temperature)
        return
    if of_queries is not None or of_temperature is not None:
        divided = torch.mm(of_scores, keys, out=of_queries).div_(temperature)
        if of_temperature is not None:
            of_temperature -= (divided * queries).sum()
    if of_keys is not None:
        of_keys.addmm_(of_scores.T, queries)


def _add_of_graph(scores: Tensor, leaves: Sequence[Tensor], of_scores: Tensor, *gradients: Tensor | None) -> None:
    """Make the gradients, see `AddGradients`, of scores that have a graph."""
    of_queries, *others = zip(gradients, torch.autograd.grad(scores, leaves, of_scores), strict=False)
    if of_queries[0] is not None:
        of_queries[0].copy_(of_queries[1])
    for gradient, more in others:
        if gradient is not None:
            gradient += more


def full_precision(embeddings: Tensor) -> Tensor:
    """Return half-precision embeddings as float32, others as they are."""
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def unit(embeddings: Tensor) -> Tensor:
    """Scale each vector of [B, D] to length 1; zero stays zero, with a gradient as small as a unit vector's."""
    embeddings = full_precision(embeddings)
    return embeddings / _lengths(embeddings)


def prepare_unit(embeddings: Tensor) -> Tensor:
    """Do as `unit`; what is differentiated can be so once."""
    embeddings = full_precision(embeddings)
    if not (torch.is_grad_enabled() and embeddings.requires_grad):
        return unit(embeddings)
    prepared: Tensor = _Unit.apply(embeddings)  # type: ignore[no-untyped-call]
    return prepared


def _lengths(embeddings: Tensor) -> Tensor:
    """Return the lengths of vectors [..., D], [..., 1], 1 in place of 0."""
    lengths: Tensor = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
    return lengths.masked_fill(lengths == 0, 1)


class _Unit(torch.autograd.Function):
    """`unit`, whose gradient takes a few passes over the vectors and no further memory."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        """Return vectors of length 1, or zeros."""
        lengths = _lengths(vectors)
        prepared = vectors / lengths
        ctx.save_for_backward(prepared, lengths)
        return prepared

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, of_prepared: Tensor) -> tuple[Tensor]:
        """Return what of the gradient turns the vectors, by their lengths."""
        prepared, lengths = ctx.saved_tensors
        with torch.autocast(prepared.device.type, enabled=False):  # a backward pass may run under it too
            along = torch.linalg.vecdot(of_prepared, prepared)[..., None]
        return (torch.addcmul(of_prepared, prepared, along, value=-1).div_(lengths),)


_CLOSE = 2**14
"""Below so many roundings of the squared lengths, a squared distance is taken from the difference: above it, what a
product leaves of it is good to 1e-4."""


def _distances(queries: Tensor, keys: Tensor) -> Tensor:
    """Return Euclidean distances [Q, K] of queries [Q, D] and keys [K, D]; the gradient at distance 0 is 0."""
    if queries.is_cuda:  # looking for close pairs would wait for the device, which is quick enough in float64
        squared, squared_lengths = _squared_distances(queries.double(), keys.double())
        apart = squared > 4 * torch.finfo(squared.dtype).eps * squared_lengths  # the rest is what rounding left of 0
        return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0).to(queries.dtype)
    squared, squared_lengths = _squared_distances(queries, keys)
    apart = squared > _CLOSE * torch.finfo(squared.dtype).eps * squared_lengths
    if apart.all():
        return squared.sqrt()
    rows, columns = (~apart).nonzero(as_tuple=True)
    if len(rows) > 4 * (len(queries) + len(keys)):  # more than duplicates: [pairs, D] might not fit
        return torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
    close = torch.linalg.vector_norm(queries[rows] - keys[columns], dim=-1)
    return torch.where(apart, squared, 1).sqrt().index_put((rows, columns), close)


def _squared_distances(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared distances by one product, and what their rounding is relative to, both [Q, K]."""
    middle = _middle(keys)
    queries, keys = queries - middle, keys - middle
    squared_lengths = queries.square().sum(-1)[:, None] + keys.square().sum(-1)[None, :]
    return torch.addmm(squared_lengths, queries, keys.T, alpha=-2), squared_lengths


def _middle(keys: Tensor) -> Tensor:
    """Return the mean of keys [K, D], [D]; 0 where it is not finite, as one bad key must not make all of them so."""
    return torch.where((middle := keys.detach().mean(0)).isfinite(), middle, 0)


cosine = ProductSimilarity("cosine", prepare=prepare_unit)
"""Cosine of the angle, in [-1, 1]."""

dot = ProductSimilarity("dot", prepare=full_precision)
"""Dot product, unbounded."""

euclidean = ProductSimilarity("euclidean", prepare=full_precision, lengths_matter=True)
"""Minus the Euclidean distance, at most 0; the gradient at distance 0 is 0."""


def check_shapes(queries: Tensor, keys: Tensor, similarity: Similarity = cosine) -> None:
    """Refuse embeddings that are not two batches of the same width, of what a similarity compares.

    Raises:
        ValueError: Naming both shapes.
    """
    shape = similarity.shape if isinstance(similarity, ProductSimilarity) else "D"
    dimensions = {queries.ndim, keys.ndim}
    if dimensions != {2 + shape.count(",")} or queries.shape[-1] != keys.shape[-1]:
        asked, answering = (shape.replace("T", f"T{side}") for side in "qk")
        raise ValueError(
            f"expected queries [Q, {asked}] and keys [K, {answering}] with the same D, "
            f"got {list(queries.shape)} and {list(keys.shape)}"
        )
