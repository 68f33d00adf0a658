"""What search is made of: postings, filters on their columns, engines that hold vectors, and hits.

Any engine that keeps `Engine` may stand behind `SearchIndex`; what a posting, a filter and a score mean is said here,
once, and nothing else needs to know which engine it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import ge, gt, le, lt
from typing import Literal, Protocol, TypeAlias, get_args

from contrastive.data.shown import short
from contrastive.similarity import Embeddings

Value: TypeAlias = str | float | bool
Metadata: TypeAlias = Mapping[str, Value]
"""What a posting says beside its text, by column; a column that it does not have is not there."""

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "~"]
System = Literal["hybrid", "bm25", "encoder"]
"""What ranks: BM25 and the encoder mixed, BM25 alone, or the encoder alone."""


@dataclass(frozen=True, slots=True)
class Posting:
    """A document to be found: its title is the first line of its text."""

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)


def comparable(value: Value) -> float | str:
    """Return a value as filters compare it: a number, or words in lower case with single blanks.

    A text that is a number is one, since a CSV file has texts alone; a bool is the word for it.

    Example:
        >>> [comparable(value) for value in (True, "50000", 3, " New  York ", "nan", "1e3")]
        ['true', 50000.0, 3.0, 'new york', 'nan', 1000.0]
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return " ".join(value.lower().split())
    return float(value)


def written(value: float | str) -> str:
    """Return a `comparable` value as a text: a whole number without its point."""
    return f"{int(value)}" if isinstance(value, float) and value.is_integer() else str(value)


@dataclass(frozen=True, slots=True)
class Filter:
    """What a posting's column must be; of several filters a posting has to pass each.

    Values are compared as `comparable` has them: without regard to case, "50000" as a number. `~` is for a part of a
    text. Smaller and larger are for two numbers, or two texts by the alphabet, as dates are written: 2026-11-29. A
    posting without the column passes `!=` alone.

    Attributes:
        column: Name of the column.
        operator: How it is compared.
        value: With what.

    Example:
        >>> remote = Filter("remote", "=", True)
        >>> [remote.keeps(metadata) for metadata in ({"remote": True}, {"remote": "TRUE"}, {"remote": False}, {})]
        [True, True, False, False]
    """

    column: str
    operator: Operator
    value: Value

    def __post_init__(self) -> None:
        if self.operator not in get_args(Operator):
            raise ValueError(f"expected an operator of {' '.join(get_args(Operator))}, got {self.operator!r}")

    def __str__(self) -> str:
        """Say it as `parse_filter` reads it."""
        value = str(self.value).lower() if isinstance(self.value, bool) else f"{self.value}"
        return f"{self.column}{self.operator}{value}"

    def keeps(self, metadata: Metadata) -> bool:
        """Whether a posting with these columns passes."""
        return self.holds(comparable(metadata[self.column]) if self.column in metadata else None)

    def holds(self, value: float | str | None) -> bool:
        """Whether a `comparable` value of the column passes; None is none."""
        wanted = comparable(self.value)
        if value is None:
            return self.operator == "!="
        if self.operator == "~":
            return written(wanted) in written(value)
        if self.operator in ("=", "!="):
            return (value == wanted) == (self.operator == "=")
        return isinstance(value, str) == isinstance(wanted, str) and bool(_COMPARED[self.operator](value, wanted))


def parse_filter(text: str) -> Filter:
    """Read a filter as a person types it: a column, an operator and a value.

    Raises:
        ValueError: If one of them is missing.

    Example:
        >>> parse_filter("salary>=50000")
        Filter(column='salary', operator='>=', value=50000.0)
        >>> parse_filter("company ~ acme"), parse_filter("remote=true")  # doctest: +NORMALIZE_WHITESPACE
        (Filter(column='company', operator='~', value='acme'),
         Filter(column='remote', operator='=', value=True))
    """
    found = _FILTER.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"expected a filter such as place=Berlin, remote=true, salary>=50000 or company~acme, got {short(text)}"
        )
    column, operator, written = found.groups()
    value: Value = float(written) if _NUMBER.fullmatch(written) else written
    if written.lower() in ("true", "false"):
        value = written.lower() == "true"
    return Filter(column, operator, value)  # type: ignore[arg-type]


class Engine(Protocol):
    """Holds embeddings by id, and finds those closest to a query among those whose columns pass filters.

    Embeddings are what an encoder makes: a vector a text, `TokenVectors`, or weights of the terms of a vocabulary; an
    engine is made for one of these and one similarity. Higher scores are closer, and those of the similarity.
    """

    def add(self, ids: Sequence[str], embeddings: Embeddings, metadata: Sequence[Metadata]) -> None:
        """Add documents, one a row of each argument; an id that is there is replaced."""
        ...

    def remove(self, ids: Collection[str]) -> None:
        """Remove documents.

        Raises:
            KeyError: If one is not there; then none is removed.
        """
        ...

    def search(self, queries: Embeddings, k: int, filters: Sequence[Filter] = ()) -> list[list[tuple[str, float]]]:
        """Return ids and scores of the k closest documents to each query that pass all filters, best first."""
        ...

    def count(self) -> int:
        """Return how many documents there are."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """A document found for a query.

    Attributes:
        rank: Its place, 1 is the best.
        id: Id of the document.
        score: Similarity of query and document, that of the encoder (a cosine is -1 to 1), higher is closer; from 0
            to 1 of a mixture with BM25; of BM25 alone its score.
        title: The first line of the document, its beginning if that is long.
        text: The whole document.
        passage: The part of the document that is closest to the query; None if not asked for, or if it has no text.
        passage_score: Similarity of query and passage, by the encoder.
        metadata: What the document says beside its text, by column.
    """

    rank: int
    id: str
    score: float
    title: str
    text: str
    passage: str | None = None
    passage_score: float | None = None
    metadata: Metadata = field(default_factory=dict)


_FILTER = re.compile(r"([^=<>!~]*[^=<>!~\s])\s*(>=|<=|!=|=|<|>|~)\s*(\S.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)

_COMPARED: Mapping[str, Callable[..., object]] = {"<": lt, "<=": le, ">": gt, ">=": ge}
