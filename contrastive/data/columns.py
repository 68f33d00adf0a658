"""Which column of a table holds the queries, the positives and the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from contrastive.data.names import find, there_are, words

# A column of labels that were not known would let rows labelled 0 train as if they were relevant.
_LABEL = r"label|rating|relevance|relevancy|grade|similarity|match|duplicate|paraphrase|relatedness"
_USUAL = {
    "query": r"query|anchor|question|sentence_?1|text_?1",
    "positive": r"(.+_)?pos(itive)?s?|document|doc|answer|passage|sentence_?2|text_?2",
    "negatives": r"(.+_)?neg(ative)?s?(_?\d+)?",
    "score": rf"score|sim|relevant|(is_?)?({_LABEL})s?|is_?relevant|({_LABEL}|gold|human)_?(score|label|rating|grade)",
    "query_id": r"query_?id|qid",
    "positive_id": r"pos(itive)?_?ids?",
}


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
        lists: Which of these columns hold lists that are written as text, such as ['a', 'b']; a list in the column of
            queries is joined by commas.
    """

    query: str | None = None
    positive: str | None = None
    negatives: Sequence[str] | str | Literal[False] | None = None
    score: str | Literal[False] | None = None
    query_id: str | Literal[False] | None = None
    positive_id: str | Literal[False] | None = None
    lists: Sequence[str] | str | Literal[False] | None = None

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
    given = {role: _given(role, wanted.named(role), names) for role in _USUAL}
    taken = {name for asked in given.values() for name in asked or ()}
    found: dict[str, Any] = {"lists": _given("lists", wanted.named("lists"), names, missing="ok")}
    for role, usual in _USUAL.items():
        chosen = given[role]
        if chosen is None:
            if role.endswith("_id"):  # the id of what is in a column "job" is in "job_id"
                usual += f"|{re.escape(words(found[role.removesuffix('_id')]))}_?ids?"
            chosen = tuple(name for name in names if name not in taken and re.fullmatch(usual, words(name)))
            chosen = tuple(sorted(chosen, key=_last_number)) if role == "negatives" else chosen
        if role == "negatives":
            found[role] = chosen
        elif len(chosen) > 1:
            raise ValueError(f"the {role} could be {' or '.join(map(repr, chosen))}; say which in columns.{role}")
        elif not chosen and role in ("query", "positive"):
            alone = " (documents without queries are for data=corpus)" if role == "query" else ""
            raise ValueError(
                f"no column has a usual name for the {role}; name it in columns.{role}{alone}. {there_are(names)}"
            )
        else:
            found[role] = chosen[0] if chosen else False
    return Columns(**found)


def _given(
    role: str, asked: tuple[str, ...] | None, names: Sequence[str], *, missing: Literal["error", "ok"] = "error"
) -> tuple[str, ...] | None:
    """Return what a table calls the columns that are asked for."""
    if asked is None:
        return None
    found = {name: find(name, names) for name in asked}
    for name, there in found.items():
        if there is None and missing == "error":
            raise ValueError(f"expected a column {name!r}, as said in columns.{role}, found none. {there_are(names)}")
    return tuple(there for there in found.values() if there is not None)


def _last_number(name: str) -> int:
    digits = re.search(r"\d+$", name)
    return int(digits[0]) if digits else 0
