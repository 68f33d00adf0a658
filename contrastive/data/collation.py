"""From records to batches, with ids by which a loss knows one text from another.

Whether two texts are one is decided here, once: texts that share a string id or a normalised text get the same integer,
so that everything downstream compares integers (`masks.known_positive`) and nothing else.

Records are read once and not kept: they may be more than fit into memory.
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from contrastive.data.batch import Batch
from contrastive.data.identities import Identities, Items, Lists, Numbers
from contrastive.data.near_duplicates import near_duplicate_groups
from contrastive.data.records import Record

_log = logging.getLogger(__name__)
_Pairs = tuple[Numbers, Numbers]


class Collator:
    """Makes batches of records; a `collate_fn` that can be sent to worker processes.

    A query's known positives are its own, every document that any record grades above 0 for it, and the positives of
    all records that ask the same (by query id or normalised text). A negative that is one of them, or the text of the
    query itself, is dropped and counted.

    Args:
        records: All records that batches will be made of; fixes the ids.
        corpus: Documents by id that later records may bring as negatives, for instance those mined during training.
        num_negatives: At most this many negatives of each query, the first ones; `None` takes all.

    Attributes:
        left_out: How many negatives of the records are dropped, by the reason why.

    Raises:
        ValueError: If only some records have a score or teacher scores, or lengths within a record differ.
    """

    def __init__(
        self, records: Sequence[Record], *, corpus: Mapping[str, str] | None = None, num_negatives: int | None = None
    ) -> None:
        if num_negatives is not None and num_negatives < 0:
            raise ValueError(f"expected num_negatives of at least 0, got {num_negatives}")
        self.num_negatives = num_negatives
        queries, documents = Items(), Items()
        for name, text in (corpus or {}).items():  # first, so that its ids do not depend on what was mined
            documents.add(name, text)
        asked, answers = array("q"), array("q")
        against, negatives = array("q"), array("q")
        without = Counter[str]()
        for record in tqdm(records, desc="Indexing", unit=" records", delay=5, leave=False, disable=None):
            _check_teacher_scores(record)
            without.update(_lacking(record))
            query = queries.add(record.query_id, record.query)
            positives = [documents.add(record.positive_id, record.positive)]
            for name, text in zip(record.negative_names(), record.negatives, strict=True):
                against.append(query)
                negatives.append(documents.add(name, text))
            further = (name for name, grade in record.grades.items() if grade > 0 and name != record.positive_id)
            positives += [documents.add(name, None) for name in further]
            asked.extend([query] * len(positives))
            answers.extend(positives)
        for name in ("score", "teacher_scores"):
            if 0 < without[name] < len(records):
                raise ValueError(
                    f"expected {name} in all records or in none, got {without[name]} of {len(records)} without"
                )
        self._has_grades = not without["grade"]
        some_have_negatives = num_negatives != 0 and any(record.negatives for record in records)
        self._least_taught = 2 if some_have_negatives else 1
        self._queries, self._documents = Identities(queries), Identities(documents)
        own = self._documents.find_all(queries.digests()[1])
        self._meet = bool((own >= 0).any())
        itself = self._queries.of_items[own >= 0], own[own >= 0]
        known = self._queries.of_items[asked], self._documents.of_items[answers]
        self._never = Lists(*(np.concatenate(numbers) for numbers in zip(known, itself, strict=True)))
        given = self._queries.of_items[against], self._documents.of_items[negatives]
        self.left_out = self._count(given, {"its query's own text": itself, "a known answer to its query": known})
        if self.left_out:
            _log.warning("Of %s negatives in the data, left out: %s", f"{len(negatives):,}", _in_words(self.left_out))

    def __call__(self, records: Sequence[Record]) -> Batch:
        """Make a batch of records, each with a query among those the collator was built from.

        Raises:
            ValueError: If a text is not among those the collator was built from.
        """
        query_ids = [self._queries.of(record.query) for record in records]
        kept = [self._negatives(record, self._never[number]) for record, number in zip(records, query_ids, strict=True)]
        layout = [
            (row, places[column])
            for column in range(max(map(len, kept), default=0))
            for row, places in enumerate(kept)
            if column < len(places)
        ]
        documents = [record.positive for record in records] + [records[row].negatives[i] for row, i in layout]
        return Batch(
            queries=[record.query for record in records],
            documents=documents,
            query_ids=torch.tensor(query_ids, dtype=torch.long),
            key_ids=torch.tensor([self._documents.of(text) for text in documents], dtype=torch.long),
            positive_ids=self._ids_of(query_ids),
            owners=torch.tensor([*range(len(records)), *(row for row, _ in layout)], dtype=torch.long),
            grades=torch.tensor([float(r.grades[r.positive_id]) for r in records]) if self._has_grades else None,
            targets=_scores(records),
            teacher_scores=_teacher_scores(records, kept, self._least_taught),
            own_ids=torch.tensor([self._documents.find(record.query) for record in records]) if self._meet else None,
            onward_ids=self._ids_of([self._queries.find(r.positive) for r in records]) if self._meet else None,
        )

    def identities(self, records: Sequence[Record], *, near: bool = False) -> list[tuple[str, ...]]:
        """Return, for each record, what it may not share with another of its batch: its query and its positive.

        A query and a positive of one text count as one, so that no query meets itself as a document.

        Args:
            records: Records among those the collator was built from.
            near: Whether also documents that are nearly the same, see `near_duplicate_groups`, as one another or as a
                query.
        """
        found: list[tuple[str, ...]] = []
        for record in records:
            own = self._documents.find(record.query) if self._meet else -1
            numbers = self._queries.of(record.query), self._documents.of(record.positive)
            sides = (f"query {numbers[0]}", f"document {numbers[1]}")
            found.append(sides if own in (-1, numbers[1]) else (*sides, f"document {own}"))
        if near:
            groups = near_duplicate_groups([text for record in records for text in (record.positive, record.query)])
            of_documents = set(groups[::2])  # queries that are only like one another may meet
            for row, (document, query) in enumerate(zip(groups[::2], groups[1::2], strict=True)):
                shared = {document, query} & of_documents
                found[row] += tuple(f"near {group}" for group in sorted(shared))
        return found

    def texts(self, records: Sequence[Record]) -> tuple[dict[int, str], dict[int, str]]:
        """Return a text for each query id, and one for each document id, positives and negatives, of records."""
        queries: dict[int, str] = {}
        documents: dict[int, str] = {}
        for record in records:
            queries.setdefault(self._queries.of(record.query), record.query)
            for text in (record.positive, *record.negatives):
                documents.setdefault(self._documents.of(text), text)
        return queries, documents

    def _negatives(self, record: Record, never: Sequence[int]) -> list[int]:
        """Return the places of the negatives to keep."""
        allowed = [i for i, text in enumerate(record.negatives) if self._documents.of(text) not in never]
        return allowed[: self.num_negatives]

    def _ids_of(self, queries: Sequence[int]) -> Tensor:
        """Return the ids of what is never a negative of some queries, padded with -1; all -1, at least one, for -1."""
        ids = [torch.tensor(self._never[query] if query >= 0 else [-1]) for query in queries]
        return pad_sequence(ids, batch_first=True, padding_value=-1)

    def _count(self, given: _Pairs, reasons: Mapping[str, _Pairs]) -> dict[str, int]:
        """Count the negatives that are dropped by the first reason why, given (query, document) numbers of each."""
        left, width = given[0] * len(self._documents) + given[1], len(self._documents)
        found = {}
        for reason, (queries, documents) in reasons.items():
            dropped = np.isin(left, queries * width + documents)
            found[reason] = int(dropped.sum())
            left = left[~dropped]
        return {reason: count for reason, count in found.items() if count}


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} that are {reason}" for reason, count in counts.items())


def _lacking(record: Record) -> list[str]:
    """Name what the record lacks of that which a batch has only if all its records do."""
    lacks = {
        "score": record.score is None,
        "teacher_scores": record.teacher_scores is None,
        "grade": record.positive_id not in record.grades,
    }
    return [name for name, missing in lacks.items() if missing]


def _check_teacher_scores(record: Record) -> None:
    if record.teacher_scores is not None and len(record.teacher_scores) != 1 + len(record.negatives):
        raise ValueError(
            f"query {record.query_id!r}: expected {1 + len(record.negatives)} teacher scores, for the positive and "
            f"each negative, got {len(record.teacher_scores)}"
        )


def _scores(records: Sequence[Record]) -> Tensor | None:
    scores = [record.score for record in records if record.score is not None]
    return torch.tensor(scores, dtype=torch.float) if scores else None


def _teacher_scores(records: Sequence[Record], kept: Sequence[Sequence[int]], least: int) -> Tensor | None:
    """Return the scores of the positive and of the negatives kept, [Q, 1 + N], padded with NaN to `least` columns.

    A batch that happens to have no negatives is not one of data that have none, which losses refuse.
    """
    rows = [
        torch.tensor([record.teacher_scores[0], *(record.teacher_scores[1 + i] for i in places)])
        for record, places in zip(records, kept, strict=True)
        if record.teacher_scores is not None
    ]
    if not rows:
        return None
    scores = pad_sequence(rows, batch_first=True, padding_value=float("nan"))
    if scores.shape[1] < least:
        # Not [Q, Q], which would be taken for the scores of all documents.
        scores = pad(scores, (0, least - scores.shape[1] + (len(rows) == least)), value=float("nan"))
    return scores
