"""Columns of postings in a table of LanceDB, and filters in its SQL, so that they mean what `Filter` says.

A column of postings is two of the table: what its `comparable` value is as a text, and as a number if it is one. Their
names are the column's in hexadecimal, since a column may be called anything.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from contrastive.search.contracts import Filter, Metadata, comparable, written

NOTHING = "false"
"""The condition that nothing meets."""


def text_column(name: str) -> str:
    """Return the name in the table of a column as a text."""
    return f"text_{name.encode().hex()}"


def number_column(name: str) -> str:
    """Return the name in the table of a column as a number."""
    return f"number_{name.encode().hex()}"


def columns_of(metadata: Sequence[Metadata]) -> dict[str, list[str | None] | list[float | None]]:
    """Return the columns of a table that hold those of postings.

    Example:
        >>> columns_of([{"n": "7"}, {"n": True}, {}])
        {'text_6e': ['7', 'true', None], 'number_6e': [7.0, None, None]}
    """
    columns: dict[str, list[str | None] | list[float | None]] = {}
    for name in dict.fromkeys(name for row in metadata for name in row):
        values = [comparable(row[name]) if name in row else None for row in metadata]
        columns[text_column(name)] = [None if value is None else written(value) for value in values]
        columns[number_column(name)] = [value if isinstance(value, float) else None for value in values]
    return columns


def condition(filters: Iterable[Filter], known: Collection[str]) -> str | None:
    """Return filters as a condition in SQL; None if there is none to meet.

    Args:
        filters: What has to hold, all of it.
        known: Columns of the table.

    Example:
        >>> condition([Filter("n", ">", 7.0)], {"text_6e", "number_6e"})
        '(number_6e > 7.0)'
    """
    parts = []
    for wanted in filters:
        if text_column(wanted.column) in known:
            parts.append(f"({_of(wanted)})")
        elif not wanted.holds(None):
            return NOTHING
    return " AND ".join(parts) or None


def among(ids: Collection[str]) -> str:
    """Return the condition that a document is one of some."""
    return f"id IN ({', '.join(quoted(id_) for id_ in sorted(set(ids)))})"


def quoted(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def _of(wanted: Filter) -> str:
    """Return a filter on a column that the table has."""
    text, number, value = text_column(wanted.column), number_column(wanted.column), comparable(wanted.value)
    if wanted.operator == "~":
        return f"contains({text}, {quoted(written(value))})"
    is_text = isinstance(value, str)
    column, literal = (text, quoted(value)) if isinstance(value, str) else (number, _number(value))
    if wanted.operator == "!=":
        others = f" OR {number} IS NOT NULL" if is_text else ""
        return f"{column} IS NULL OR {column} != {literal}{others}"
    return f"{column} {wanted.operator} {literal}" + (f" AND {number} IS NULL" if is_text else "")


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else f"CAST('{value}' AS DOUBLE)"
