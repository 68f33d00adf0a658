"""Ranked documents of each query, and the one rule that breaks ties.

Scores are rounded to 1e-6, of unbounded ones as a share (see `retrieve`), and equal ones ordered by document id,
ascending. Otherwise the last bits of a sum, hence the batch size and the order of the corpus, would decide which
document stands first and with it the metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contrastive.data.whole_files import whole_file

_STEPS = 1_000_000  # scores that differ by less than about 1 / _STEPS are ties
_NOTHING = torch.iinfo(torch.int64).min


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


class TieBreaker:
    """Packs score and document into one integer, higher is better, whose order is that of the ranking.

    The integers of a query are all different, so the best of them are the same however they are found: in blocks, in
    any order of the documents, on any device.

    Args:
        document_ids: The ids of the N documents, which give each its place in their ascending order.

    Raises:
        ValueError: If an id occurs twice.
    """

    nothing = _NOTHING
    """The integer of a document that is not to be ranked."""

    def __init__(self, document_ids: Sequence[str]) -> None:
        self._ordered = sorted(document_ids)
        if len(set(document_ids)) != len(document_ids):
            twice = next(a for a, b in zip(self._ordered, self._ordered[1:], strict=False) if a == b)
            raise ValueError(f"expected document ids that differ, got {twice!r} twice")
        place = {document_id: index for index, document_id in enumerate(self._ordered)}
        self._bonus = torch.tensor([len(place) - 1 - place[document_id] for document_id in document_ids])

    def pack(self, scores: Tensor, columns: slice = slice(None)) -> Tensor:
        """Map scores [..., n] of the documents in `columns` to integers [..., n].

        Raises:
            ValueError: If a score is not finite, or too large to be held to six decimals.
        """
        steps = (scores.double() * _STEPS).round()
        # A comparison with NaN is false, so this refuses NaN too.
        if not bool((steps.abs() < 2**62 / max(1, len(self._ordered))).all()):
            raise ValueError("expected finite scores of moderate size, got NaN, infinity or a very large one")
        return steps.long() * len(self._ordered) + self._bonus[columns].to(scores.device)

    def unpack(self, packed: Tensor) -> tuple[list[str], list[float]]:
        """Return documents and scores of integers [n], best first as they are, without those of `nothing`."""
        kept = packed[packed != _NOTHING].cpu()
        steps = torch.div(kept, len(self._ordered), rounding_mode="floor")
        places = len(self._ordered) - 1 - (kept - steps * len(self._ordered))
        return [self._ordered[place] for place in places.tolist()], (steps.double() / _STEPS).tolist()
