"""Which column of a table holds the queries, the positives and the rest, and what a row of it says, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

_USUAL = {
    "query": r"query|anchor|question|sentence_?1|text_?1",
    "positive": r"(.+_)?pos(itive)?s?|document|doc|answer|passage|sentence_?2|text_?2",
    "negatives": r"(.+_)?neg(ative)?s?(_?\d+)?",
    "score": r"score|label|similarity|similarity_score",
    "query_id": r"query_id|qid",
    "positive_id": r"pos(itive)?_ids?",
}
_SAME_IN_ALL_ROWS = ("query", "positive", "score")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a table of pairs; `None` for one to recognise, `False` for one not to use.

    Attributes:
        query: Texts of the queries.
        positive: Texts of the documents to be found; a cell may hold a list of several.
        negatives: One or more columns of documents that do not answer the query; a cell may hold a list, or nothing.
        score: Scores of the pairs.
        query_id: Ids of the queries.
        positive_id: Ids of the positives; a list where there are several.
    """

    query: str | None = None
    positive: str | None = None
    negatives: Sequence[str] | str | Literal[False] | None = None
    score: str | Literal[False] | None = None
    query_id: str | Literal[False] | None = None
    positive_id: str | Literal[False] | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Columns:
        """Take the names from a mapping.

        Raises:
            ValueError: If it has other keys than the attributes.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(given or {}) - set(known))
        if unknown:
            raise ValueError(f"expected columns among {', '.join(known)}, got {', '.join(map(repr, unknown))}")
        return cls(**(given or {}))

    def named(self, role: str) -> tuple[str, ...] | None:
        """Return the names that one of the attributes gives."""
        names = getattr(self, role)
        if names is None:
            return None
        return () if names is False else (names,) if isinstance(names, str) else tuple(names)


class Row(NamedTuple):
    """A query, what one row of a table says of it, and where that row is; an id that is not there is empty."""

    where: str
    query: str
    query_id: str
    positives: Sequence[str]
    positive_ids: Sequence[str]
    negatives: Sequence[str]
    negative_ids: Sequence[str]
    score: float | None


def row_reader(columns: Columns) -> Callable[[str, Mapping[str, Any]], Row]:
    """Return a function that takes from a row, given its place, what the columns hold.

    The function raises `ValueError`, naming the place, for a value that is not what its column should hold and for a
    row with another query, positive or score column than the first it was given. Negatives and ids may come and go.
    """
    first: list[Columns] = []

    @lru_cache
    def find(names: tuple[str, ...]) -> Columns:
        if not first:
            first.append(recognise(names, columns))
            return first[0]
        present = [name for name in columns.named("negatives") or () if name in names]
        found = recognise(names, replace(columns, negatives=present) if columns.negatives else columns)
        if any(found.named(role) != first[0].named(role) for role in _SAME_IN_ALL_ROWS):
            used = [repr(name) for role in _SAME_IN_ALL_ROWS for name in first[0].named(role) or ()]
            raise ValueError(f"expected {', '.join(used)}, as in the first row, got the columns {', '.join(names)}")
        return found

    def read(where: str, values: Mapping[str, Any]) -> Row:
        try:
            return _checked(where, values, find(tuple(values)))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    return read


def recognise(names: Sequence[str], wanted: Columns) -> Columns:
    """Find the columns that are wanted, or that have a usual name, among those of a table.

    Raises:
        ValueError: If a column that is wanted is missing, the query or the positive cannot be recognised, or something
            could be any of several columns.

    Example:
        >>> found = recognise(["anchor", "pos", "neg_10", "neg_2"], Columns())
        >>> found.query, found.positive, found.negatives
        ('anchor', 'pos', ('neg_2', 'neg_10'))
    """
    given = {role: wanted.named(role) for role in _USUAL}
    there = f"There are {', '.join(map(repr, names))}" if names else "There are none"
    for role, asked in given.items():
        for name in asked or ():
            if name not in names:
                raise ValueError(f"expected a column {name!r}, as said in columns.{role}, found none. {there}")
    taken = {name for asked in given.values() for name in asked or ()}
    found: dict[str, Any] = {}
    for role, usual in _USUAL.items():
        chosen = given[role]
        if chosen is None:
            if role.endswith("_id"):  # the id of what is in a column "job" is in "job_id"
                usual += f"|{re.escape(_plain(found[role.removesuffix('_id')]))}_ids?"
            chosen = tuple(name for name in names if name not in taken and re.fullmatch(usual, _plain(name)))
            chosen = tuple(sorted(chosen, key=_last_number)) if role == "negatives" else chosen
        if role == "negatives":
            found[role] = chosen
        elif len(chosen) > 1:
            raise ValueError(f"the {role} could be {' or '.join(map(repr, chosen))}; say which in columns.{role}")
        elif not chosen and role in ("query", "positive"):
            alone = " (documents without queries are for data=corpus)" if role == "query" else ""
            raise ValueError(f"no column has a usual name for the {role}; name it in columns.{role}{alone}. {there}")
        else:
            found[role] = chosen[0] if chosen else False
    return Columns(**found)


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name.strip().lower())


def _last_number(name: str) -> int:
    digits = re.search(r"\d+$", name)
    return int(digits[0]) if digits else 0


def _checked(where: str, row: Mapping[str, Any], columns: Columns) -> Row:
    """Take the values of a row out of its resolved columns."""
    assert columns.query is not None
    assert columns.positive is not None
    query, positives = _text(columns.query, row[columns.query]), _texts(columns.positive, row[columns.positive])
    for column, texts in ((columns.query, [query]), (columns.positive, positives)):
        if not texts or not all(map(str.strip, texts)):
            raise ValueError(f"expected a text in column {column!r}, got an empty {'one' if texts else 'list'}")
    negatives = [text for name in columns.named("negatives") or () for text in _texts(name, row[name], nullable=True)]
    return Row(
        where=where,
        query=query,
        query_id=_ids(columns.query_id, row, 1)[0],
        positives=positives,
        positive_ids=_ids(columns.positive_id, row, len(positives)),
        negatives=[text for text in negatives if text.strip()],
        negative_ids=(),
        score=_score(columns.score, row[columns.score]) if columns.score else None,
    )


def _texts(name: str, value: Any, *, nullable: bool = False) -> list[str]:
    """Take a cell of one text or a list of them; with `nullable` there may be none."""
    values = value if isinstance(value, list) else [value]
    return [_text(name, text) for text in values if not (nullable and text is None)]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text in column {name!r}, got {_described(value)}")
    return value


def _ids(name: str | Literal[False] | None, row: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Take a cell of one id or a list of them, for so many texts; empty ids if the cell is null."""
    value = row[name] if name else None
    if value is None:
        return ("",) * count
    ids = value if isinstance(value, list) else [value]
    for id_ in ids:
        if not isinstance(id_, str | int) or isinstance(id_, bool):
            raise ValueError(f"expected an id, a text or an integer, in column {name!r}, got {_described(id_)}")
    if len(ids) != count:
        raise ValueError(f"expected {count} ids, one for each text, in column {name!r}, got {len(ids)}")
    return tuple(map(str, ids))


def _score(name: str, value: Any) -> float:
    """Take a finite number, which in a CSV file is text."""
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(
            f"expected a finite number in column {name!r}, got {_described(value)} (columns.score=false ignores scores)"
        )
    return score


def _described(value: Any) -> str:
    return "nothing (null)" if value is None else f"the {type(value).__name__} {value!r:.60}"
