"""Every pair of a query and a positive in some tables, as numbers; the texts stay on disk."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from contrastive.data.columns import Columns, Row
from contrastive.data.identities import Digests, Numbers, digest, text_digest, word_order_key
from contrastive.data.noticing import Notes
from contrastive.data.row_reader import RowReader
from contrastive.data.shown import listed
from contrastive.data.stored import StoredRows

SPLITS = ("train", "dev", "test")
TRAIN, DEV, TEST = range(3)
Table = Iterable[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The R rows of some tables and the P pairs of a query and a positive in them.

    Attributes:
        rows: The texts.
        splits: Place of each row's split in `SPLITS`, [R].
        queries: Digest of each row's query, [R].
        words: Digest of the words of each row's query in whatever order, [R].
        contents: Digest of all texts of each row, [R]; choices that must not depend on the order of the rows go by it.
        scores: Score of each row, [R], if the tables have scores.
        numbers: Number of each pair's row, [P].
        places: Which of the row's positives each pair has, [P].
        positives: Digest of each pair's positive, [P].
        notes: What was noticed about the rows.
    """

    rows: StoredRows
    splits: NDArray[np.uint8]
    queries: Digests
    words: Digests
    contents: Digests
    scores: NDArray[np.float64] | None
    numbers: Numbers
    places: NDArray[np.int32]
    positives: Digests
    notes: Notes


def read_pairs(tables: Mapping[str, Table], columns: Columns, *, strip_html: bool = False) -> Pairs:
    """Read and check a table for each split, and put them on disk.

    Texts without an id get one that follows from the text: q or d and 16 hexadecimal digits.

    Raises:
        ValueError: If a row is malformed (see `RowReader`), or an id stands for two texts.
    """
    noting = _Noting(RowReader(columns, strip_html=strip_html))
    rows = StoredRows(noting.take(tables))
    pairs = noting.pairs(rows)
    _refuse_ambiguous("query", noting.query_ids, pairs.queries, np.arange(len(rows)), rows)
    _refuse_ambiguous("positive", noting.positive_ids, pairs.positives, pairs.numbers, rows)
    return pairs


def made_id(kind: str, key: int) -> str:
    """Return the id of a text that has none in the data."""
    return f"{kind}{key:016x}"


class _Noting:
    """Takes down the numbers of rows as they pass by; the attributes are those of `Pairs`."""

    def __init__(self, read: RowReader) -> None:
        self._read = read
        self.splits, self.places, self.numbers, self.scores = array("B"), array("i"), array("q"), array("d")
        self.queries, self.words, self.contents, self.positives = array("Q"), array("Q"), array("Q"), array("Q")
        self.query_ids, self.positive_ids = array("Q"), array("Q")

    def take(self, tables: Mapping[str, Table]) -> Iterator[Row]:
        for split, table in tables.items():
            bar = tqdm(table, desc=f"Reading {split}", unit=" rows", delay=2, leave=False, disable=None)
            for where, values in bar:
                yield self._note(SPLITS.index(split), self._read(where, values))

    def _note(self, split: int, row: Row) -> Row:
        """Return the row with all its ids."""
        query = text_digest(row.query)
        documents = [text_digest(text) for text in (*row.positives, *row.negatives)]
        count = len(row.positives)
        self.numbers.extend([len(self.queries)] * count)
        self.places.extend(range(count))
        self.positives.extend(documents[:count])
        self.positive_ids.extend(digest(id_) if id_ else 0 for id_ in row.positive_ids)
        self.splits.append(split)
        self.queries.append(query)
        self.words.append(digest(word_order_key(row.query), b"words"))
        self.contents.append(digest(" ".join(map(str, (query, *documents)))))
        self.query_ids.append(digest(row.query_id) if row.query_id else 0)
        if row.score is not None:
            self.scores.append(row.score)
        made = [made_id("d", document) for document in documents]
        return row._replace(
            query_id=row.query_id or made_id("q", query),
            positive_ids=[given or made_ for given, made_ in zip(row.positive_ids, made[:count], strict=True)],
            negative_ids=made[count:],
        )

    def pairs(self, rows: StoredRows) -> Pairs:
        return Pairs(
            rows,
            splits=np.array(self.splits),
            queries=np.array(self.queries),
            words=np.array(self.words),
            contents=np.array(self.contents),
            scores=np.array(self.scores) if self.scores else None,
            numbers=np.array(self.numbers),
            places=np.array(self.places),
            positives=np.array(self.positives),
            notes=self._read.notes,
        )


def _refuse_ambiguous(what: str, given: array[int], texts: Digests, numbers: Numbers, rows: StoredRows) -> None:
    """Refuse an id, by digest, that rows give to different texts; 0 is no id."""
    ids = np.array(given)
    order = np.argsort(ids, kind="stable")
    ids, texts = ids[order], texts[order]
    clashes = np.flatnonzero((ids[1:] == ids[:-1]) & (texts[1:] != texts[:-1]) & (ids[1:] != 0))
    if len(clashes):
        first, second = rows.read(sorted(numbers[order[clashes[0] : clashes[0] + 2]].tolist()))
        ids_of = [{row.query_id} if what == "query" else set(row.positive_ids) for row in (first, second)]
        shared = listed(map(repr, sorted(ids_of[0] & ids_of[1])))
        raise ValueError(
            f"{second.where}: {what} id {shared} stands for another text in {first.where} "
            f"(columns.{what}_id=false ignores such ids)"
        )
