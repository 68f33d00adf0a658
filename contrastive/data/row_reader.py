"""What a row of a table says: its columns found and its values checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from contrastive.data import cells
from contrastive.data.columns import Columns, Row, recognise
from contrastive.data.markup import strip_markup
from contrastive.data.names import find
from contrastive.data.noticing import Notes
from contrastive.data.shown import listed

_SAME_IN_ALL_ROWS = ("query", "positive", "score")


class RowReader:
    """Takes from rows, given their places, what the columns hold.

    A call raises `ValueError`, naming the place, for a value that is not what its column should hold and for a row with
    another query, positive or score column than the first one. Negatives and ids may come and go.

    Args:
        columns: The columns that are wanted.
        strip_html: Whether to take the markup out of texts.

    Attributes:
        notes: What was noticed about the rows so far.
    """

    def __init__(self, columns: Columns, *, strip_html: bool = False) -> None:
        self.notes = Notes(columns, strip_html=strip_html)
        self._wanted = columns
        self._strip_html = strip_html
        self._first: Columns | None = None
        self._find = lru_cache(self._found)

    def __call__(self, where: str, values: Mapping[str, Any]) -> Row:
        """Read one row."""
        try:
            columns = self._find(tuple(values))
            row = _checked(where, values, columns)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        self.notes.take(values, columns, row)
        if self._strip_html:
            negatives = [text for text in map(strip_markup, row.negatives) if text.strip()]
            positives = [*map(strip_markup, row.positives)]
            row = row._replace(query=strip_markup(row.query), positives=positives, negatives=negatives)
            if not all(map(str.strip, (row.query, *row.positives))):
                raise ValueError(f"{where}: expected a text beside the HTML tags, got none")
        return row

    def _found(self, names: tuple[str, ...]) -> Columns:
        wanted = self._wanted
        if self._first is None:
            self._first = recognise(names, wanted)
            return self._first
        present = [name for name in wanted.named("negatives") or () if find(name, names)]
        found = recognise(names, replace(wanted, negatives=present) if wanted.negatives else wanted)
        if any(found.named(role) != self._first.named(role) for role in _SAME_IN_ALL_ROWS):
            used = [repr(name) for role in _SAME_IN_ALL_ROWS for name in self._first.named(role) or ()]
            raise ValueError(f"expected {', '.join(used)}, as in the first row, got the columns {listed(names)}")
        return found


def _checked(where: str, row: Mapping[str, Any], columns: Columns) -> Row:
    """Take the values of a row out of its resolved columns."""
    assert columns.query is not None
    assert columns.positive is not None
    lists = columns.named("lists") or ()
    row = (
        {name: cells.as_list(name, value) if name in lists else value for name, value in row.items()} if lists else row
    )
    query, positives = _query(columns.query, row, lists), cells.texts(columns.positive, row[columns.positive])
    for column, texts in ((columns.query, [query]), (columns.positive, positives)):
        if not texts or not all(map(str.strip, texts)):
            raise ValueError(f"expected a text in column {column!r}, got an empty {'one' if texts else 'list'}")
    negatives = (cells.texts(name, row[name], nullable=True) for name in columns.named("negatives") or ())
    query_id, positive_id = (row[name] if name else None for name in (columns.query_id, columns.positive_id))
    return Row(
        where=where,
        query=query,
        query_id=cells.ids(columns.query_id, query_id, 1)[0],
        positives=positives,
        positive_ids=cells.ids(columns.positive_id, positive_id, len(positives)),
        negatives=[text for some in negatives for text in some if text.strip() and not cells.is_placeholder(text)],
        negative_ids=(),
        score=cells.score(columns.score, row[columns.score]) if columns.score else None,
    )


def _query(name: str, row: Mapping[str, Any], lists: Sequence[str]) -> str:
    if name in lists:
        return ", ".join(cells.texts(name, row[name]))
    return cells.text(name, row[name])
