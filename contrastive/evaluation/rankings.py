"""Ranked documents of each query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contrastive.data.whole_files import whole_file


@dataclass(frozen=True, slots=True)
class Rankings:
    """Documents of each query, best first.

    Attributes:
        documents: Document ids by query id.
        scores: Their scores, rounded, never increasing; higher is better.
    """

    documents: Mapping[str, Sequence[str]]
    scores: Mapping[str, Sequence[float]]

    def top(self, query_id: str, depth: int) -> list[tuple[str, float]]:
        """Return the first documents of a query with their scores."""
        return list(zip(self.documents[query_id][:depth], self.scores[query_id][:depth], strict=True))

    def write_trec(self, path: str | Path, tag: str) -> None:
        """Write a TREC run file: query, Q0, document, rank from 1, score, tag.

        trec_eval sorts by the score, in single precision, and ignores the rank. So a score that is not below the one
        before is written as the next smaller float32, which keeps our order.

        Raises:
            ValueError: If an id or the tag has whitespace in it, which the format cannot hold.
        """
        with whole_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
            for query_id, documents in self.documents.items():
                last = np.float32(np.inf)
                for place, (document_id, score) in enumerate(zip(documents, self.scores[query_id], strict=True), 1):
                    last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
                    columns = (query_id, "Q0", document_id, str(place), f"{last:.9g}", tag)
                    if any(not column or column.split() != [column] for column in columns):
                        raise ValueError(f"expected ids and a tag without whitespace, got {columns}")
                    print(*columns, file=file)

    @classmethod
    def read_trec(cls, path: str | Path) -> Rankings:
        """Read a TREC run file that lists the documents of each query best first."""
        documents: dict[str, list[str]] = {}
        scores: dict[str, list[float]] = {}
        with Path(path).open(encoding="utf-8") as lines:
            for line in lines:
                query_id, _, document_id, _, score, _ = line.split()
                documents.setdefault(query_id, []).append(document_id)
                scores.setdefault(query_id, []).append(float(score))
        return cls(documents, scores)
