"""The built-in engine: every query against every document that passes the filters, in the order of evaluation.

Notable decisions:

- Documents stand in parts, in memory or memory-mapped. What is added is a further part, and what is removed is left out
  of its part, so that neither touches what is there.
- A filter comes first, then the ranking: k documents that pass are found if there are so many.
- Scores and ties are those of `contrastive.evaluation.retrieve`, a block of documents at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contrastive.evaluation.ties import TieBreaker
from contrastive.search.columns import Columns
from contrastive.search.contracts import Filter, Metadata
from contrastive.similarity import Embeddings, ProductSimilarity, TermWeights, cosine, score_texts, size_of

_BLOCK = 2048
"""Queries and documents that are compared at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Documents that were added together: their ids, embeddings and columns, [n] each."""

    ids: Sequence[str]
    embeddings: Embeddings
    columns: Columns


class ExactEngine:
    """Compares a query with all documents.

    Args:
        similarity: How embeddings are compared, see `similarity_of`.
        parts: Documents to begin with.
        removed: Of each of these parts the rows that do not count, none unless given.

    Raises:
        ValueError: If an id occurs twice among those that count.

    Example:
        >>> from contrastive.similarity import dot
        >>> engine = ExactEngine(dot)
        >>> engine.add(["a", "b"], torch.tensor([[1.0, 0.0], [0.0, 1.0]]), [{"place": "Bonn"}, {"place": "Ulm"}])
        >>> engine.search(torch.tensor([[3.0, 1.0]]), k=2)
        [[('a', 3.0), ('b', 1.0)]]
        >>> engine.search(torch.tensor([[3.0, 1.0]]), k=2, filters=[Filter("place", "=", "ulm")])
        [[('b', 1.0)]]
    """

    def __init__(
        self, similarity: ProductSimilarity, parts: Sequence[Part] = (), removed: Sequence[NDArray[np.int64]] = ()
    ) -> None:
        self.similarity = similarity
        self._parts = list(parts)
        self._alive = [np.ones(len(part.ids), bool) for part in parts]
        for alive, rows in zip(self._alive, removed, strict=False):
            alive[rows] = False
        self._ties: TieBreaker | None = None
        self._ties = self._tie_breaker()

    @property
    def ids(self) -> list[str]:
        """Ids of the documents, in the order in which they were added."""
        return [
            part.ids[row]
            for part, alive in zip(self._parts, self._alive, strict=True)
            for row in np.flatnonzero(alive).tolist()
        ]

    def rows(self, filters: Sequence[Filter]) -> NDArray[np.bool_]:
        """Return which documents, in the order of `ids`, pass all filters."""
        kept = [part.columns.rows(filters)[alive] for part, alive in zip(self._parts, self._alive, strict=True)]
        return np.concatenate([np.zeros(0, bool), *kept])

    def add(self, ids: Sequence[str], embeddings: Embeddings, metadata: Sequence[Metadata]) -> None:
        """Add documents; an id that is there is replaced.

        Raises:
            ValueError: If ids, embeddings and metadata differ in number, or an id occurs twice.
        """
        if not len(ids) == len(embeddings) == len(metadata):
            got = f"{len(embeddings)} and {len(metadata)} of {len(ids)}"
            raise ValueError(f"expected an embedding and metadata of each id, got {got}")
        TieBreaker(ids)
        new = set(ids)
        self._leave_out([[row for row, id_ in enumerate(part.ids) if id_ in new] for part in self._parts])
        self._parts.append(Part(list(ids), embeddings, Columns.of(metadata)))
        self._alive.append(np.ones(len(ids), bool))

    def remove(self, ids: Collection[str]) -> None:
        """Remove documents.

        Raises:
            KeyError: If one is not there; then none is removed.
        """
        missing = set(ids) - set(self.ids)
        if missing:
            raise KeyError(f"expected ids of the index to remove, got {min(missing)!r}")
        gone = set(ids)
        self._leave_out([[row for row, id_ in enumerate(part.ids) if id_ in gone] for part in self._parts])

    def _leave_out(self, rows: Sequence[Sequence[int]]) -> None:
        for alive, of_part in zip(self._alive, rows, strict=True):
            alive[list(of_part)] = False
        self._ties = None

    def count(self) -> int:
        """Return how many documents there are."""
        return int(sum(alive.sum() for alive in self._alive))

    def close(self) -> None:
        """Let go of the documents."""
        self._parts, self._alive, self._ties = [], [], None

    @torch.no_grad()
    def search(self, queries: Embeddings, k: int, filters: Sequence[Filter] = ()) -> list[list[tuple[str, float]]]:
        """Return ids and scores of the k closest documents to each query that pass all filters, best first.

        Raises:
            ValueError: If `k` is below 1, or a score is not finite.
        """
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}")
        self._follow(queries.device)
        ties, chosen = self._tie_breaker(), list(self._chosen(filters))
        found = []
        for top in range(0, len(queries), _BLOCK):
            asked = queries[top : top + _BLOCK]
            size = self._size(asked, chosen)
            best = torch.empty(len(asked), 0, dtype=torch.long, device=queries.device)
            for documents, places in _blocks(chosen):
                scores = score_texts(self.similarity, asked, documents)
                candidates = torch.cat([best, ties.pack(scores / size, places)], dim=1)
                best = candidates.topk(min(k, candidates.shape[1])).values
            for row in best:
                ids, shares = ties.unpack(row)
                found.append([(id_, size * share) for id_, share in zip(ids, shares, strict=True)])
        return found

    def _tie_breaker(self) -> TieBreaker:
        """Return the order of the ids, which takes a while to find and is kept until they change."""
        if self._ties is None:
            self._ties = TieBreaker(self.ids)
        return self._ties

    def _chosen(self, filters: Sequence[Filter]) -> Iterator[_Chosen]:
        """Yield, part by part, the rows that pass all filters, and their places among all ids."""
        before = 0
        for part, alive in zip(self._parts, self._alive, strict=True):
            rows = np.flatnonzero(alive & part.columns.rows(filters))
            places = before + np.cumsum(alive)[rows] - 1
            before += int(alive.sum())
            if len(rows):
                yield _Chosen(part.embeddings, torch.from_numpy(rows), torch.from_numpy(places))

    def _size(self, queries: Embeddings, chosen: Sequence[_Chosen]) -> float:
        """Return what scores are measured by, see `retrieve`, as it is of all documents that are chosen."""
        if self.similarity is cosine or not isinstance(queries, Tensor) or not chosen:
            return 1.0
        found = [(of_part.embeddings, of_part.rows) for of_part in chosen]
        vectors = [embeddings[rows] for embeddings, rows in found if isinstance(embeddings, Tensor)]
        terms = [embeddings[rows] for embeddings, rows in found if isinstance(embeddings, TermWeights)]
        if len(vectors) == len(found):
            return self.similarity.size(queries, torch.cat(vectors))
        return size_of(self.similarity, queries, TermWeights.join(terms)) if len(terms) == len(found) else 1.0

    def _follow(self, device: torch.device) -> None:
        """Bring the documents to where the queries are: the encoder may have moved."""
        for number, part in enumerate(self._parts):
            if part.embeddings.device != device:
                self._parts[number] = replace(part, embeddings=part.embeddings.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class _Chosen:
    """Rows of a part, ascending, and the places of their ids among all."""

    embeddings: Embeddings
    rows: Tensor
    places: Tensor


def _blocks(chosen: Sequence[_Chosen]) -> Iterator[tuple[Embeddings, Tensor]]:
    """Yield embeddings and places of some documents at a time; what stands together is not copied."""
    for of_part in chosen:
        for left in range(0, len(of_part.rows), _BLOCK):
            rows = of_part.rows[left : left + _BLOCK]
            first, last = int(rows[0]), int(rows[-1])
            together = last - first + 1 == len(rows)
            documents = of_part.embeddings[first : last + 1] if together else of_part.embeddings[rows]
            yield documents, of_part.places[left : left + _BLOCK]
