"""From records to batches, with ids by which a loss knows one text from another.

Whether two texts are one is decided here, once: texts that share a string id or a normalised text get the same integer,
so that everything downstream compares integers (`masks.known_positive`) and nothing else.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from contrastive.data.records import Record, normalise_text


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Texts of Q queries and K documents with what is known of them; `len(batch)` is Q.

    Attributes:
        queries: Text of each query.
        documents: Text of each document: the positives in the order of the queries, then the first negative of every
            query that has one, then the second negatives, and so on.
        query_ids: Integer id of each query, [Q].
        document_ids: Integer id of each document, [K].
        positive_ids: Document ids of every known positive of each query, ascending, [Q, M], padded with -1.
        owners: Index of the query that each document came with, [K].
        grades: Grade of each query's positive, [Q], if the data has grades.
        scores: Target score of each pair, [Q], if the data has them.
        teacher_scores: What a teacher gave each query's positive and then its negatives, [Q, 1 + N], padded with NaN
            where a query has fewer negatives, if the data has them.
    """

    queries: list[str]
    documents: list[str]
    query_ids: Tensor
    document_ids: Tensor
    positive_ids: Tensor
    owners: Tensor
    grades: Tensor | None = None
    scores: Tensor | None = None
    teacher_scores: Tensor | None = None

    def __len__(self) -> int:
        return len(self.queries)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


class Identities:
    """Gives one integer to all texts that share a string id or a normalised text, directly or through others.

    Integers count up from 0 in the order of first appearance.

    Args:
        items: String id (may be empty) and text of each item; `None` for a text that is not known.

    Example:
        >>> identities = Identities([("a", "Python"), ("b", "Rust"), ("c", "python ")])
        >>> [identities.of(text) for text in ("python", "rust")], identities.of_name("c")
        ([0, 1], 0)
    """

    def __init__(self, items: Iterable[tuple[str, str | None]]) -> None:
        parents: dict[str | bytes, str | bytes] = {}

        def root(key: str | bytes) -> str | bytes:
            parents.setdefault(key, key)
            while parents[key] != key:
                parents[key] = key = parents[parents[key]]
            return key

        for name, text in items:
            keys = ([name] if name else []) + ([_digest(text)] if text is not None else [])
            for key in keys:
                parents[root(key)] = root(keys[0])
        numbers: dict[str | bytes, int] = {}
        self._numbers = {key: numbers.setdefault(root(key), len(numbers)) for key in list(parents)}

    def of(self, text: str) -> int:
        """Return the integer of a text.

        Raises:
            ValueError: If the text was not among the items.
        """
        number = self._numbers.get(_digest(text))
        if number is None:
            raise ValueError(f"expected a text that the ids were made from, got {text[:60]!r}")
        return number

    def of_name(self, name: str) -> int:
        """Return the integer of a string id, which has to be among the items."""
        return self._numbers[name]


def _digest(text: str) -> bytes:
    """Stand in for a normalised text at 16 bytes, since a corpus is large."""
    return hashlib.blake2b(normalise_text(text).encode(errors="surrogatepass"), digest_size=16).digest()


class Collator:
    """Makes batches of records; a `collate_fn` that can be sent to worker processes.

    A query's known positives are its own, every document that any record grades above 0 for it, and the positives of
    all records that ask the same (by query id or normalised text). A negative that is one of them is dropped.

    Args:
        records: All records that batches will be made of; fixes the ids.
        corpus: Documents by id that later records may bring as negatives, for instance those mined during training.
        num_negatives: At most this many negatives of each query, the first ones; `None` takes all.

    Raises:
        ValueError: If only some records have a score or teacher scores, or lengths within a record differ.
    """

    def __init__(
        self, records: Sequence[Record], *, corpus: Mapping[str, str] | None = None, num_negatives: int | None = None
    ) -> None:
        if num_negatives is not None and num_negatives < 0:
            raise ValueError(f"expected num_negatives of at least 0, got {num_negatives}")
        _check(records)
        self.num_negatives = num_negatives
        self._queries = Identities((record.query_id, record.query) for record in records)
        self._documents = Identities(_documents(corpus or {}, records))
        known: defaultdict[int, set[int]] = defaultdict(set)
        for record in records:
            of_query = known[self._queries.of(record.query)]
            of_query.add(self._documents.of(record.positive))
            of_query.update(self._documents.of_name(name) for name, grade in record.grades.items() if grade > 0)
        self._known = dict(known)
        self._has_grades = all(record.positive_id in record.grades for record in records)

    def __call__(self, records: Sequence[Record]) -> Batch:
        """Make a batch of records, each with a query among those the collator was built from.

        Raises:
            ValueError: If a text is not among those the collator was built from.
        """
        query_ids = [self._queries.of(record.query) for record in records]
        kept = [self._negatives(record, self._known[number]) for record, number in zip(records, query_ids, strict=True)]
        layout = [
            (row, places[column])
            for column in range(max(map(len, kept), default=0))
            for row, places in enumerate(kept)
            if column < len(places)
        ]
        documents = [record.positive for record in records] + [records[row].negatives[i] for row, i in layout]
        positives = [torch.tensor(sorted(self._known[number])) for number in query_ids]
        return Batch(
            queries=[record.query for record in records],
            documents=documents,
            query_ids=torch.tensor(query_ids, dtype=torch.long),
            document_ids=torch.tensor([self._documents.of(text) for text in documents], dtype=torch.long),
            positive_ids=pad_sequence(positives, batch_first=True, padding_value=-1),
            owners=torch.tensor([*range(len(records)), *(row for row, _ in layout)], dtype=torch.long),
            grades=torch.tensor([float(r.grades[r.positive_id]) for r in records]) if self._has_grades else None,
            scores=_scores(records),
            teacher_scores=_teacher_scores(records, kept),
        )

    def identities(self, records: Sequence[Record]) -> list[tuple[str, str]]:
        """Return, for each record, what it may not share with another of its batch: its query and its positive."""
        return [
            (f"query {self._queries.of(record.query)}", f"document {self._documents.of(record.positive)}")
            for record in records
        ]

    def _negatives(self, record: Record, known: set[int]) -> list[int]:
        """Return the places of the negatives to keep."""
        allowed = [i for i, text in enumerate(record.negatives) if self._documents.of(text) not in known]
        return allowed[: self.num_negatives]


def _documents(corpus: Mapping[str, str], records: Sequence[Record]) -> Iterator[tuple[str, str | None]]:
    """Yield id and text of all documents, the corpus first, so that its ids do not depend on what was mined."""
    yield from corpus.items()
    for record in records:
        yield record.positive_id, record.positive
        yield from zip(record.negative_ids or ("",) * len(record.negatives), record.negatives, strict=True)
        yield from ((name, None) for name, grade in record.grades.items() if grade > 0)


def _check(records: Sequence[Record]) -> None:
    for name in ("score", "teacher_scores"):
        missing = sum(getattr(record, name) is None for record in records)
        if 0 < missing < len(records):
            raise ValueError(f"expected {name} in all records or in none, got {missing} of {len(records)} without")
    for record in records:
        if record.negative_ids and len(record.negative_ids) != len(record.negatives):
            raise ValueError(
                f"query {record.query_id!r}: expected an id for each of {len(record.negatives)} negatives, "
                f"got {len(record.negative_ids)}"
            )
        if record.teacher_scores is not None and len(record.teacher_scores) != 1 + len(record.negatives):
            raise ValueError(
                f"query {record.query_id!r}: expected {1 + len(record.negatives)} teacher scores, for the positive and "
                f"each negative, got {len(record.teacher_scores)}"
            )


def _scores(records: Sequence[Record]) -> Tensor | None:
    scores = [record.score for record in records if record.score is not None]
    return torch.tensor(scores, dtype=torch.float) if scores else None


def _teacher_scores(records: Sequence[Record], kept: Sequence[Sequence[int]]) -> Tensor | None:
    """Return the scores of the positive and of the negatives kept, [Q, 1 + N], padded with NaN."""
    rows = [
        torch.tensor([record.teacher_scores[0], *(record.teacher_scores[1 + i] for i in places)])
        for record, places in zip(records, kept, strict=True)
        if record.teacher_scores is not None
    ]
    return pad_sequence(rows, batch_first=True, padding_value=float("nan")) if rows else None
