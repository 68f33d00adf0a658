"""The built-in engine: every query against every document that passes the filters, in the order of evaluation.

Notable decisions:

- Documents stand in parts, in memory or memory-mapped. What is added is a further part, and what is removed is left out
  of its part, so that neither touches what is there.
- A filter comes first, then the ranking: k documents that pass are found if there are so many.
- Scores and ties are those of `contrastive.evaluation.retrieve`. Of one vector a text, a pass in float32 leaves the few
  documents that can be among the k best (see `first_pass`); of others all are scored, a block at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from contrastive.evaluation.ties import TieBreaker
from contrastive.search.columns import Columns
from contrastive.search.contracts import Filter, Metadata
from contrastive.search.engines.snapshot import Found, Part, Snapshot
from contrastive.similarity import Embeddings, ProductSimilarity

__all__ = ["ExactEngine", "Part"]


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
        self._snapshot: Snapshot | None = None
        self._snapshot = self._standing()

    @property
    def ids(self) -> list[str]:
        """Ids of the documents, in the order in which they were added."""
        return self._standing().ids

    def rows(self, filters: Sequence[Filter]) -> NDArray[np.bool_]:
        """Return which documents, in the order of `ids`, pass all filters."""
        return self._standing().rows(filters)

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
        self._snapshot = None

    def count(self) -> int:
        """Return how many documents there are."""
        return int(sum(alive.sum() for alive in self._alive))

    def close(self) -> None:
        """Let go of the documents."""
        self._parts, self._alive, self._snapshot = [], [], None

    @torch.no_grad()
    def search(self, queries: Embeddings, k: int, filters: Sequence[Filter] = ()) -> Found:
        """Return ids and scores of the k closest documents to each query that pass all filters, best first.

        Raises:
            ValueError: If `k` is below 1, or a score is not finite.
        """
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}")
        self._follow(queries.device)
        return self._standing().search(queries, k, filters)

    @torch.no_grad()
    def best_of(self, queries: Embeddings, among: Sequence[Sequence[str]], k: int) -> Found:
        """Return ids and scores of the k closest to each query among documents of its own, by their ids, best first.

        Raises:
            KeyError: If one is not there.
            ValueError: If `k` is below 1, or a score is not finite.
        """
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}")
        self._follow(queries.device)
        return self._standing().best_of(queries, among, k)

    def _standing(self) -> Snapshot:
        """Return the documents as they are, which takes a while to find and is kept until they change."""
        if self._snapshot is None:
            self._snapshot = Snapshot(self.similarity, list(self._parts), self._alive)
        return self._snapshot

    def _follow(self, device: torch.device) -> None:
        """Bring the documents to where the queries are: the encoder may have moved."""
        for number, part in enumerate(self._parts):
            if part.embeddings.device != device:
                self._parts[number] = replace(part, embeddings=part.embeddings.to(device))
                self._snapshot = None
