"""The documents of the built-in engine as they stand between two changes, and how they are ranked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contrastive.evaluation.ties import TieBreaker
from contrastive.search.columns import Columns
from contrastive.search.contracts import Filter
from contrastive.search.engines.first_pass import FirstPass, lengths_of, products_are_float32
from contrastive.similarity import (
    Embeddings,
    ProductSimilarity,
    TermWeights,
    TokenVectors,
    cosine,
    dot,
    euclidean,
    score_texts,
    size_of,
)

Found = list[list[tuple[str, float]]]
"""Ids and scores of the documents found for each query, best first."""

_BLOCK = 2048
"""Queries and documents that are compared at once."""

_MANY = 64
"""Documents below which a copy is not worth a thought."""

_SCATTERED = 16
"""Documents of token vectors that are copied at once: more do not stay close to the processor."""

_FEW, _MOST = 8, 4
"""A first pass pays if there are so many times the documents looked for, and a filter leaves one in so many."""


@dataclass(frozen=True, eq=False)
class Part:
    """Documents that were added together: their ids, embeddings and columns, [n] each."""

    ids: Sequence[str]
    embeddings: Embeddings
    columns: Columns

    @cached_property
    def lengths(self) -> Tensor:
        """What `first_pass` needs to know of vectors."""
        return lengths_of(self.vectors)

    @property
    def vectors(self) -> Tensor:
        """The embeddings where they are a vector a document."""
        if not isinstance(self.embeddings, Tensor):
            raise TypeError(f"expected a vector a document, got {type(self.embeddings).__name__}")
        return self.embeddings


class Snapshot:
    """Documents in parts, of which some do not count.

    Args:
        similarity: How embeddings are compared.
        parts: The documents.
        alive: Which of each part count.

    Raises:
        ValueError: If an id occurs twice among those that count.
    """

    def __init__(
        self, similarity: ProductSimilarity, parts: Sequence[Part], alive: Sequence[NDArray[np.bool_]]
    ) -> None:
        self.parts = parts
        self._similarity = similarity
        self._alive = torch.from_numpy(np.concatenate([np.zeros(0, bool), *alive]))
        self._removed = (~self._alive).nonzero()[:, 0]
        self._starts = [0, *accumulate(len(part.ids) for part in parts)]
        self._bounds = torch.tensor(self._starts)
        self._ties = TieBreaker(self.ids)

    @property
    def ids(self) -> list[str]:
        """Ids of those that count, in the order in which they were added."""
        return [part.ids[row] for part, rows in self._by_part(self._alive.nonzero()[:, 0]) for row in rows.tolist()]

    def rows(self, filters: Sequence[Filter]) -> NDArray[np.bool_]:
        """Return which documents, in the order of `ids`, pass all filters."""
        kept: NDArray[np.bool_] = self._kept(filters)[self._alive].numpy()
        return kept

    def search(self, queries: Embeddings, k: int, filters: Sequence[Filter] = ()) -> Found:
        """Return ids and scores of the k closest documents to each query that pass all filters, best first.

        Raises:
            ValueError: If a score is not finite.
        """
        kept = self._kept(filters)
        count = int(kept.sum()) if filters else len(kept) - len(self._removed)
        found: Found = []
        for top in range(0, len(queries), _BLOCK):
            asked = queries[top : top + _BLOCK]
            of_these = self._few(asked, k, kept, count, bool(filters)) if isinstance(asked, Tensor) else None
            if of_these is None:
                columns = kept.nonzero()[:, 0]
                of_these = self._ranked(asked, k, columns, self._size(asked, columns))
            found += of_these
        return found

    def best_of(self, queries: Embeddings, among: Sequence[Sequence[str]], k: int) -> Found:
        """Return ids and scores of the k closest to each query among documents of its own, by their ids, best first.

        Raises:
            KeyError: If one is not there.
            ValueError: If a score is not finite.
        """
        found: Found = []
        for place, ids in enumerate(among):
            query = queries[place : place + 1]
            columns = torch.tensor(sorted(self._columns[id_] for id_ in ids), dtype=torch.long)
            found += self._ranked(query, k, columns, self._size(query, columns))
        return found

    @cached_property
    def _columns(self) -> dict[str, int]:
        """Where the documents that count are, by their ids."""
        return dict(zip(self.ids, self._alive.nonzero()[:, 0].tolist(), strict=True))

    def _kept(self, filters: Sequence[Filter]) -> Tensor:
        """Return which rows of all parts count and pass all filters, [N]."""
        if not filters:
            return self._alive
        passing = [part.columns.rows(filters) for part in self.parts]
        return self._alive & torch.from_numpy(np.concatenate([np.zeros(0, bool), *passing]))

    def _few(self, queries: Tensor, k: int, kept: Tensor, count: int, is_filtered: bool) -> Found | None:
        """Rank those that can be among the k best; None if all are to be ranked."""
        if count < _FEW * k or len(kept) > _MOST * count or not products_are_float32() or self._first_pass is None:
            return None
        size = 1.0
        if self._similarity is dot:
            longest = self._first_pass.lengths.where(kept, -1).argmax()[None]
            size = self._similarity.size(queries, self._vectors(longest))
        elif self._similarity is euclidean:
            middle, farthest = self._extent_of(kept) if is_filtered else self._extent
            size = self._similarity.size_by(queries, middle, farthest)
        contenders = self._first_pass.contenders(queries, k, None if count == len(kept) else kept, size)
        if contenders is None:
            return None
        pairs = zip(torch.split(queries, 1), contenders, strict=True)
        return [self._ranked(query, k, columns, size)[0] for query, columns in pairs]

    @cached_property
    def _first_pass(self) -> FirstPass | None:
        """What finds the few; none of token vectors, which are compared in float32, of terms, and on a GPU."""
        is_plain = all(
            isinstance(part.embeddings, Tensor) and part.embeddings.device.type == "cpu" for part in self.parts
        )
        if not is_plain or self._similarity not in (cosine, dot, euclidean):
            return None
        return FirstPass(self._similarity, [each.vectors for each in self.parts], [each.lengths for each in self.parts])

    @cached_property
    def _extent(self) -> tuple[Tensor | float, float]:
        return self._extent_of(self._alive)

    def _extent_of(self, kept: Tensor) -> tuple[Tensor | float, float]:
        return self._similarity.extent(self._vectors(kept.nonzero()[:, 0]))

    def _ranked(self, queries: Embeddings, k: int, columns: Tensor, size: float) -> Found:
        """Rank some documents, ascending rows of all parts, as `retrieve` does."""
        best = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
        for documents, places in self._blocks(columns):
            packed = self._ties.pack(score_texts(self._similarity, queries, documents) / size, places)
            candidates = torch.cat([best, packed], dim=1) if best.shape[1] else packed
            best = candidates.topk(min(k, candidates.shape[1])).values
        found = []
        for row in best:
            ids, shares = self._ties.unpack(row)
            found.append([(id_, size * share) for id_, share in zip(ids, shares, strict=True)])
        return found

    def _blocks(self, columns: Tensor) -> Iterator[tuple[Embeddings, Tensor]]:
        """Yield embeddings and places among all ids of some documents at a time; what stands together is not copied."""
        places = columns - torch.searchsorted(self._removed, columns) if len(self._removed) else columns
        before = 0
        for part, of_part in self._by_part(columns):
            scattered = isinstance(part.embeddings, TokenVectors) and isinstance(_slice_of(of_part), Tensor)
            for rows in torch.split(of_part, _SCATTERED if scattered else _BLOCK):
                here = slice(before, before := before + len(rows))
                yield part.embeddings[_slice_of(rows)], places[here]

    def _by_part(self, columns: Tensor) -> Iterator[tuple[Part, Tensor]]:
        """Yield the parts that have some of the rows, ascending, and which of their own these are."""
        if len(self.parts) == 1 and len(columns):
            yield self.parts[0], columns
            return
        bounds = torch.searchsorted(columns, self._bounds).tolist()
        for part, start, (left, right) in zip(self.parts, self._starts, pairwise(bounds), strict=False):
            if right > left:
                yield part, columns[left:right] - start

    def _vectors(self, columns: Tensor) -> Tensor:
        """Return the vectors of some documents, without a copy if they are all of the only part."""
        if len(self.parts) == 1 and len(columns) == len(self._alive):
            return self.parts[0].vectors
        return torch.cat([part.vectors[rows] for part, rows in self._by_part(columns)])

    def _size(self, queries: Embeddings, columns: Tensor) -> float:
        """Return what scores are measured by, see `retrieve`, as it is of the documents in some rows."""
        if self._similarity is cosine or not isinstance(queries, Tensor) or not len(columns):
            return 1.0
        found = [(part.embeddings, rows) for part, rows in self._by_part(columns)]
        terms = [embeddings[rows] for embeddings, rows in found if isinstance(embeddings, TermWeights)]
        if len(terms) == len(found):
            return size_of(self._similarity, queries, TermWeights.join(terms))
        if all(isinstance(embeddings, Tensor) for embeddings, _ in found):
            return self._similarity.size(queries, self._vectors(columns))
        return 1.0


def _slice_of(rows: Tensor) -> slice | Tensor:
    """Return ascending rows as a slice if they are many that stand together."""
    if len(rows) < _MANY:
        return rows
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows
