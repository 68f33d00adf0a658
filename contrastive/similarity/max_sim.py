"""Late interaction: every token of a query looks for the token of the document that is closest to it.

The score is the mean over the query's tokens of the largest cosine with a token of the document (ColBERT, Khattab and
Zaharia 2020, section 3.3, where it is the sum): in [-1, 1] as a cosine is, so that a temperature keeps its meaning,
whatever the length of a query.

Notable decisions:

- Nothing of the size [Q, Tq, K, Tk] stands in memory: tokens are compared a block at a time, and of each block the
  largest score of a token with a document is kept, and which token gave it. That is enough for the backward pass, which
  touches one token of a document for each token of a query: a tenth of the time of the two products it replaces.
- Where several tokens are equally close the first of them gets the gradient.
- An absent token is a vector of zeros, see `token_vectors`. A text without tokens has the score 0 with any other, and
  nobody gets a gradient of it.

Shape letters: Q queries of Tq tokens, K keys of Tk tokens, D width, n present tokens of all queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from contrastive.similarity.differentiation import differentiable_once
from contrastive.similarity.products import AddGradients, ProductSimilarity, full_precision, prepare_unit

_BLOCK, _GPU_BLOCK = 2**19, 2**26
"""Scores of tokens that are made at a time: 2 MiB in float32, which a cache holds until the largest are found, a fifth
of the time of the whole; on a GPU 256 MiB, as a block takes as long to launch as to make."""

_BLOCK_ROWS = 512
"""Tokens of queries in a block: enough for the matrix product."""

_BLOCK_SLOPES = 2**22
"""Pairs of a token and a key whose gradients are brought back at a time, 16 MiB in float32."""


@dataclass(frozen=True, slots=True, repr=False)
class MaxSimilarity(ProductSimilarity):
    """The mean, or sum, over a query's tokens of the largest product with a token of the document.

    Shapes: queries [Q, Tq, D], keys [K, Tk, D], scores [Q, K]; vectors of zeros are absent tokens.

    Attributes:
        mean: Whether it is the mean over the tokens.

    Example:
        >>> query = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
        >>> keys = torch.tensor([[[3.0, 0.0], [3.0, 4.0]], [[0.0, -1.0], [0.0, 0.0]]])
        >>> max_sim(query, keys)
        tensor([[ 0.9000, -0.5000]])
    """

    shape: ClassVar[str] = "T, D"
    mean: bool = True

    @property
    def by_products(self) -> bool:
        """No: which token is closest is kept as well."""
        return False

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Map prepared queries [Q, Tq, D] and keys [K, Tk, D] to scores [Q, K]."""
        if torch.is_grad_enabled() and (queries.requires_grad or keys.requires_grad):
            scores: Tensor = _Scores.apply(queries, keys, self.mean)  # type: ignore[no-untyped-call]
            return scores
        return _compare(queries, keys, graph=False, mean=self.mean)[0]

    def score_block(
        self,
        queries: Tensor,
        keys: Tensor,
        temperature: float | Tensor,
        *,
        out: Tensor,
        graph: bool,
        flipped: bool = False,
    ) -> AddGradients:
        """Write the scores of prepared queries and keys, divided by the temperature, into `out` [r, K].

        Returns:
            What brings a gradient of these, [r, K], to both sides; only with `graph`.
        """
        asking, answering = (keys, queries) if flipped else (queries, keys)
        scores, closest = _compare(asking, answering, graph=graph, mean=self.mean)
        torch.div(scores.T if flipped else scores, temperature, out=out)

        def add(
            of_scores: Tensor, of_queries: Tensor | None, of_keys: Tensor | None, of_temperature: Tensor | None
        ) -> None:
            if of_queries is not None:
                of_queries.zero_()
            of_scores = (of_scores.T if flipped else of_scores) / temperature
            if of_temperature is not None:
                of_temperature -= (of_scores * scores).sum() / temperature
            closest.add_gradients(answering, of_scores, *((of_keys, of_queries) if flipped else (of_queries, of_keys)))

        return add

    def scores_of_pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the scores of prepared left [B, Tq, D] and right [B, Tk, D], row by row, [B]."""
        right = right if right.shape[-2] else pad(right, (0, 0, 0, 1))
        with torch.autocast(left.device.type, enabled=False):
            products = left @ right.transpose(-1, -2)
        largest = products.masked_fill(~right.any(-1)[..., None, :], -torch.inf).max(-1).values  # of equals the first
        present = left.any(-1) & right.any(-1).any(-1, keepdim=True)
        total = torch.where(present, largest, 0).sum(-1)
        return total / present.sum(-1).clamp_min(1) if self.mean else total

    def size(self, queries: Tensor, keys: Tensor) -> float:  # noqa: ARG002
        """Return 1, as for a cosine."""
        return 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Closest:
    """Which tokens made the scores of queries and keys: what is needed to bring a gradient back.

    Attributes:
        tokens: The present tokens of all queries, [n, D].
        places: Where they are in queries [Q * Tq, D], [n].
        owners: Whose they are, [n].
        shares: What each counts for in the score of its query, [n].
        closest: The token of each key that is closest to each token, [n, K]; none without a graph.
        answers: Which keys have a token, [K]: whoever has none gives and gets nothing.
    """

    tokens: Tensor
    places: Tensor
    owners: Tensor
    shares: Tensor
    closest: Tensor
    answers: Tensor

    def add_gradients(self, keys: Tensor, of_scores: Tensor, of_queries: Tensor | None, of_keys: Tensor | None) -> None:
        """Add to the gradients of queries [Q, Tq, D] and keys [K, Tk, D] what one of the scores, [Q, K], gives them."""
        if not len(self.tokens) or not keys.shape[0] or not keys.shape[1]:
            return
        starts = torch.arange(len(keys), device=keys.device) * keys.shape[1]
        size = max(1, _BLOCK_SLOPES // len(keys))
        for start in range(0, len(self.tokens), size):
            rows = slice(start, start + size)
            slopes = of_scores[self.owners[rows]] * self.shares[rows, None] * self.answers
            closest = self.closest[rows] + starts
            if of_queries is not None:
                added = embedding_bag(closest, keys.flatten(0, 1), per_sample_weights=slopes, mode="sum")
                of_queries.flatten(0, 1).index_add_(0, self.places[rows], added)
            if of_keys is not None:
                _add_by_place(of_keys.flatten(0, 1), closest.flatten(), slopes.flatten(), self.tokens[rows])


@torch.no_grad()
def _compare(queries: Tensor, keys: Tensor, *, graph: bool, mean: bool) -> tuple[Tensor, _Closest]:
    """Return the scores [Q, K] of prepared queries [Q, Tq, D] and keys [K, Tk, D], and which tokens made them."""
    present = _present(queries)
    places = present.flatten().nonzero()[:, 0]
    tokens = queries.flatten(0, 1)[places]
    owners = places // max(1, queries.shape[1])
    counts = present.sum(1).clamp_min(1).to(tokens.dtype)
    shares = (1 / counts if mean else torch.ones_like(counts))[owners]
    scores = tokens.new_zeros(len(queries), len(keys))
    closest = torch.zeros(len(tokens), len(keys) if graph else 0, dtype=_index_type(keys), device=keys.device)
    here, numbers = _present(keys), torch.arange(len(keys), device=keys.device)
    first = here.to(torch.uint8).argmax(1) if keys.shape[1] and not here.all() else None

    def filled(columns: slice) -> Tensor:
        """Return some keys, whose absent tokens repeat the first one there is: never closer than all that are there."""
        if first is None:
            return keys[columns]
        return torch.where(here[columns, :, None], keys[columns], keys[numbers[columns], first[columns]][:, None])

    for rows, columns, products in _blocks(tokens, keys.shape[:2], filled):
        if graph:
            largest, place = products.max(-1)
            if first is not None:
                place = torch.where(here[numbers[columns], place], place, first[columns])
            closest[rows, columns] = place.to(closest.dtype)
        else:
            largest = products.amax(-1)
        scores[:, columns].index_add_(0, owners[rows], largest * shares[rows, None])
    return scores, _Closest(tokens, places, owners, shares, closest, here.any(1))


class _Scores(torch.autograd.Function):
    """Scores with a graph."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, mean: bool) -> Tensor:
        """Return the scores, [Q, K]."""
        scores, ctx.closest = _compare(queries, keys, graph=True, mean=mean)
        ctx.shape = queries.shape
        ctx.save_for_backward(keys)
        return scores

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, of_scores: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of queries and keys."""
        (keys,) = ctx.saved_tensors
        of_queries, of_keys = of_scores.new_zeros(ctx.shape), torch.zeros_like(keys)
        ctx.closest.add_gradients(keys, of_scores, of_queries, of_keys)
        return of_queries, of_keys, None


def _blocks(
    tokens: Tensor, shape: Sequence[int], keys: Callable[[slice], Tensor]
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield rows of tokens [n, D], columns of keys [K, Tk, D], and their products [r, c, Tk], memory used again."""
    number, length = shape
    if not length or not len(tokens):
        return
    most_rows = min(len(tokens), _BLOCK_ROWS)
    size = _BLOCK if tokens.device.type == "cpu" else _GPU_BLOCK
    most_columns = max(1, min(number, size // max(1, most_rows * length)))
    buffer = tokens.new_empty(most_rows * most_columns * length)
    for left in range(0, number, most_columns):
        columns = slice(left, min(left + most_columns, number))
        compared = keys(columns).flatten(0, 1)
        for top in range(0, len(tokens), most_rows):
            rows = slice(top, min(top + most_rows, len(tokens)))
            height = rows.stop - top
            products = buffer[: height * len(compared)].view(height, len(compared))
            torch.mm(tokens[rows], compared.T, out=products)
            yield rows, columns, products.view(height, -1, length)


def _add_by_place(total: Tensor, places: Tensor, weights: Tensor, tokens: Tensor) -> None:
    """Add weight w times its token to a place of the total, for all places [n * K] of tokens [n, D]."""
    order = places.argsort()
    found, counts = torch.unique_consecutive(places[order], return_counts=True)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])
    whose = order // max(1, len(places) // max(1, len(tokens)))
    sums = embedding_bag(whose, tokens, offsets=offsets, per_sample_weights=weights[order], mode="sum")
    total.index_add_(0, found, sums)


def _present(vectors: Tensor) -> Tensor:
    """Return which of prepared vectors [B, T, D] are not all zeros, [B, T]: by their lengths, which is the quickest."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return lengths != 0


def _index_type(keys: Tensor) -> torch.dtype:
    return torch.int16 if keys.shape[1] <= torch.iinfo(torch.int16).max else torch.int32


max_sim = MaxSimilarity("max_sim", prepare=prepare_unit)
"""Mean over the tokens of a query of the largest cosine with a token of the document, in [-1, 1]."""

max_dot = MaxSimilarity("max_dot", prepare=full_precision, mean=False)
"""Sum over the tokens of a query of the largest dot product with a token of the document, as ColBERT has it: of queries
whose tokens weigh differently, since the length of a token's vector is what it weighs."""
