"""Which documents can be among the closest: all are scored in float32, whose error is bounded.

A ranking is decided in float64, see `retrieve`, which has all documents written anew in twice the bytes. A product in
float32 reads them once, and leaves a few that may be among the k best, to be scored in float64. Nothing of this is a
guess: where more documents are as close as float32 can tell, more are returned.

The bound. A product of D numbers, summed in any order, with D of them rounded or D less, is off by at most D u times
the lengths of the two vectors, u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1);
a length of them by half of it. With some roundings more, of a query, a quotient, a difference, all is below
(1.5 D + 16) u; taken for it is (2 D + 32) u. That holds where nothing is too small or too large for float32: a vector
whose length is out of the ordinary has its documents scored in float64 alone.

A document is among the k best if it is not a step of rounding (1e-6, see `ties`) behind the k-th score. So what is in
float32 within two bounds and a step of the k-th largest may be among them, and nothing else.

Shape letters: Q queries, N documents, n some of them, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from contrastive.search.engines.together import Together
from contrastive.similarity import ProductSimilarity, cosine, full_precision

_ROWS = 4096
"""Documents that are compared at once."""

_ROWS_OF_ONE = 256
"""Documents in each of the products with a single query, where there are many: their batch takes a third to two thirds
of the time of the one product, that of a matrix and a vector, for which MKL waits for the memory."""

_TOGETHER = 10_000
"""Documents from which on it pays to wait for another thread's product, to have the next together with others."""

_SCORES = 2**24
"""Scores that stand in memory at a time, 64 MiB."""

_SHORTEST, _LONGEST = 1e-12, 1e15
"""Lengths between which products of two vectors, and squares of most of what adds up to them, are those of float32."""

_GROUP = 64
"""Documents of which the best is looked at to find how good the k-th best is at least."""

_STEP = 1.5e-6
"""Scores that differ by more, as a share of their size, are no ties."""


def lengths_of(vectors: Tensor) -> Tensor:
    """Return the lengths of vectors [n, D] as `ProductSimilarity.size` measures them; infinity for one out of bounds.

    A vector of zeros has the length 0.
    """
    found = [torch.linalg.vector_norm(full_precision(part), dim=-1).float() for part in torch.split(vectors, _ROWS)]
    lengths = torch.cat([torch.zeros(0), *found])
    odd = (~((lengths > _SHORTEST) & (lengths < _LONGEST))).nonzero()[:, 0]
    return lengths.index_fill(0, odd[vectors[odd].ne(0).any(1)], math.inf)


class FirstPass:
    """Scores documents in float32, and finds those that can be among the closest.

    Args:
        similarity: `cosine`, `dot` or `euclidean`.
        parts: The vectors of all documents, [n, D] each, on the CPU.
        lengths: Their lengths, see `lengths_of`, [n] each.

    Attributes:
        lengths: Those of all documents, [N].
    """

    def __init__(self, similarity: ProductSimilarity, parts: Sequence[Tensor], lengths: Sequence[Tensor]) -> None:
        self._similarity = similarity
        self._parts = parts
        self.lengths = torch.cat([*lengths])
        self._longest = float(self.lengths.max())
        self._divisors = torch.where(self.lengths > 0, self.lengths, 1) if similarity is cosine else None
        self._most = max(1, _SCORES // max(1, len(self.lengths)))
        self._scores = self._scored if len(self.lengths) < _TOGETHER else Together(self._scored, self._most)

    def contenders(self, queries: Tensor, k: int, kept: Tensor | None, size: float) -> Iterator[Tensor] | None:
        """Yield, of each query, which documents can be among the k best, ascending; None if that cannot be said.

        Args:
            queries: Embeddings, [Q, D].
            k: How many are looked for, of more.
            kept: Which documents count, [N]; None for all.
            size: What scores are measured by, see `retrieve`.
        """
        longest = self._longest if kept is None else float(self.lengths.where(kept, 0).max())
        queries = queries.double()
        asked = torch.linalg.vector_norm(queries, dim=-1).tolist()
        if not (math.isfinite(longest) and all(_SHORTEST < length < _LONGEST for length in asked)):
            return None
        slack = [self._slack(length, longest, size) for length in asked]
        return self._contenders(self._similarity.prepare(queries).float(), k, kept, slack)

    def _contenders(self, queries: Tensor, k: int, kept: Tensor | None, slack: list[float]) -> Iterator[Tensor]:
        for start in range(0, len(queries), self._most):
            scores = self._scores(queries[start : start + self._most])
            for place, of_query in enumerate(scores, start):
                if kept is not None:
                    of_query = of_query.where(kept, -math.inf)
                yield _best(of_query, k, slack[place])

    def _slack(self, asked: float, longest: float, size: float) -> float:
        """Return how far behind the k-th a document may be, two bounds and a step, for a query of some length."""
        twice = 2 * (self._parts[0].shape[1] + 16) * torch.finfo(torch.float32).eps
        if self._similarity is cosine:
            return twice + _STEP
        if not self._similarity.lengths_matter:
            return twice * longest * asked + _STEP * size
        # Scores are products less half of the square of a document's length: half of what the square of the distance
        # is less than that of the query's length. So a step of a distance of at most `reach` counts that many times.
        reach = asked + longest
        return twice * longest * reach + _STEP * size * (reach + _STEP * size)

    def _scored(self, queries: Tensor) -> Tensor:
        """Return scores of prepared queries, [Q, N], whose order is that of the similarity."""
        scores = torch.empty(len(queries), len(self.lengths))
        start = 0
        with torch.autocast("cpu", enabled=False):
            for vectors in (rows for part in self._parts for rows in torch.split(part, _ROWS)):
                here = slice(start, start := start + len(vectors))
                products = _products(vectors.float(), queries.T).T
                if self._divisors is not None:
                    torch.div(products, self._divisors[here], out=scores[:, here])
                elif self._similarity.lengths_matter:
                    lengths = self.lengths[here]
                    torch.addcmul(products, lengths, lengths, value=-0.5, out=scores[:, here])
                else:
                    scores[:, here] = products
        return scores


def products_are_float32() -> bool:
    """Whether products of float32 are float32: a program may have allowed less, for their speed."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # none before PyTorch 2.9
    if matmul is None:
        return torch.get_float32_matmul_precision() == "highest"
    return matmul.fp32_precision in ("none", "ieee")


def _products(vectors: Tensor, queries: Tensor) -> Tensor:
    """Return the products [n, Q] of vectors [n, D] with queries [D, Q]."""
    if queries.shape[1] > 1 or len(vectors) < _ROWS:
        return torch.mm(vectors, queries)
    grouped = vectors.view(-1, _ROWS_OF_ONE, vectors.shape[1])
    return torch.bmm(grouped, queries.expand(len(grouped), *queries.shape)).flatten(0, 1)


def _best(scores: Tensor, k: int, slack: float) -> Tensor:
    """Return, ascending, the places of those scores [N] that are not further than the slack behind the k-th largest."""
    columns = _from(scores, _kth_at_least(scores, k) - slack)
    if len(columns) > 4 * k:
        found = scores[columns]
        columns = columns[_from(found, float(found.topk(k).values[-1]) - slack)]
    return columns


def _kth_at_least(scores: Tensor, k: int) -> float:
    """Return what the k-th largest of scores [N] is not below: the k-th largest of the largest of groups of them."""
    groups = len(scores) // _GROUP
    if groups < 4 * k:
        return float(scores.topk(k).values[-1])
    largest = scores[: groups * _GROUP].view(_GROUP, groups).amax(0)  # neighbours, which may be alike, in other groups
    return float(largest.topk(k).values[-1])


def _from(scores: Tensor, least: float) -> Tensor:
    """Return the places of scores of at least so much, without those that do not count."""
    return (scores >= max(least, torch.finfo(torch.float32).min)).nonzero()[:, 0]
