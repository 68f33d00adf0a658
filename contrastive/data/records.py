"""Text data in one form: records to train on, and retrieval tasks to judge on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Record:
    """One training example: a query, a document that answers it, and documents that do not.

    Attributes:
        query: Text of the query.
        positive: Text of the document to be found.
        negatives: Texts of documents known not to answer it, hardest first.
        query_id: Id of the query.
        positive_id: Id of the positive document.
        negative_ids: Ids of the negatives, in their order.
        grades: Grade of every judged document by id; those above 0 are known positives and never negatives.
        score: Target of a scored pair, for losses that want one.
        teacher_scores: Scores a teacher gave the positive and then each negative, for distillation.
        source: Name of the data set it comes from, where several are mixed.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    query_id: str = ""
    positive_id: str = ""
    negative_ids: tuple[str, ...] = ()
    grades: Mapping[str, int] = field(default_factory=dict)
    score: float | None = None
    teacher_scores: tuple[float, ...] | None = None
    source: str = ""

    def negative_names(self) -> tuple[str, ...]:
        """Return the id of each negative, "" where there is none.

        Raises:
            ValueError: If some have an id and others do not.
        """
        if self.negative_ids and len(self.negative_ids) != len(self.negatives):
            raise ValueError(
                f"query {self.query_id!r}: expected an id for each of {len(self.negatives)} negatives, "
                f"got {len(self.negative_ids)}"
            )
        return self.negative_ids or ("",) * len(self.negatives)


@dataclass(frozen=True, slots=True)
class RetrievalTask:
    """Queries to rank a corpus for, and what is relevant.

    Attributes:
        name: Name of the split, for tables and file names.
        queries: Text of each query by id.
        corpus: Text of each document by id.
        qrels: Grade of each judged document by query id and document id; 0 is irrelevant, higher is better.
    """

    name: str
    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    def best_pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the ids of each query and each document of its highest grade, if that is above 0."""
        for query_id, grades in self.qrels.items():
            best = max(grades.values(), default=0)
            yield from ((query_id, document_id) for document_id, grade in grades.items() if grade == best > 0)


@dataclass(frozen=True, slots=True)
class Account:
    """What became of what a reader found: nothing that a person gives is left out, or ignored, in silence.

    Attributes:
        rows_read: Rows, or documents, that were read.
        left_out: How many of them were not used, by the reason why.
        columns: Name of the column that was read, by what it was read as (query, positive, title, ...).
        unused_columns: Columns that nothing was read from.
        remarks: What else a person should know before training, a sentence each.
    """

    rows_read: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    unused_columns: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def rows_used(self) -> int:
        """Rows that were used."""
        return self.rows_read - sum(self.left_out.values())


@dataclass(frozen=True, slots=True)
class TextData:
    """A data set: training records, a task to tune on, and a task to be scored once.

    A split that the source lacks is empty or `None`. `account` says what was read and what was not, if the source was
    read and not made.
    """

    name: str
    train: Sequence[Record] = ()
    dev: RetrievalTask | None = None
    test: RetrievalTask | None = None
    account: Account | None = None
