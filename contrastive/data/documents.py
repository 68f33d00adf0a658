"""Reading documents that nobody has asked for yet: a corpus without queries."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from contrastive.data.cells import clean_id, described, is_missing, is_placeholder, placeholder_remark, text
from contrastive.data.json_rows import Rows
from contrastive.data.markup import has_markup, markup_fate, strip_markup
from contrastive.data.names import find, first_usual
from contrastive.data.records import Account
from contrastive.data.rows import json_lines, rows
from contrastive.data.shown import listed, short

_log = logging.getLogger(__name__)

_USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("_id", "id", "doc_id", "document_id", "job_id", "posting_id", "job_posting_id"),
    "title": ("title", "job_title", "headline", "name"),
    "text": ("text", "document", "description", "job_description", "body", "content", "contents", "passage"),
}
_MUCH_HTML = 0.2
"""With HTML in at least this share of the documents, it is taken out of all."""

Asked = Mapping[str, str | Literal[False] | None]
StripHTML = bool | Literal["auto"]


Cells = dict[str, str | float | bool]
"""What a document says beside its text, by column."""


class Documents(NamedTuple):
    """Documents that were read: text by id, what became of the rows, and the further columns of each by id."""

    texts: dict[str, str]
    account: Account
    metadata: Mapping[str, Cells] = {}


def documents(
    path: str | Path,
    *,
    columns: Asked | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    strip_html: StripHTML = "auto",
) -> dict[str, str]:
    r"""Read the documents of a file, or of a folder with a `corpus.jsonl`: text by id, the title in the first line.

    Documents without text are left out, and counted in the log. Blanks in an id become underscores, since TREC files
    cannot hold them. A cell that says no more than nan, null, none or n/a is empty.

    Args:
        path: A file that `rows` reads, or a folder in the BEIR layout.
        columns: Names of the columns "id", "title" and "text"; what is missing is recognised by the usual names, in
            each row anew, and False is for no such column. Case, blanks, underscores and hyphens do not matter.
            Without an id column a document's id is its place in the file, from 1; a title is not needed.
        separator: What stands between the columns of a CSV or TSV file; see `rows`.
        encoding: Encoding of the file; see `rows`.
        strip_html: Whether to take HTML out of the documents that have some (see `strip_markup`); "auto" does where
            they are a fifth of all, or more.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If there is no text column, a cell is not text, an id is missing or occurs twice, or every document
            is blank.

    Example:
        >>> file = getfixture("tmp_path") / "postings.csv"
        >>> _ = file.write_text("Title,description\nNurse,Nights at a hospital\n")
        >>> documents(file)
        {'1': 'Nurse\nNights at a hospital'}
    """
    found = read_documents(path, columns=columns, separator=separator, encoding=encoding, strip_html=strip_html)
    blank = sum(found.account.left_out.values())
    if blank:
        _log.warning("%s: left out %d documents without text", path, blank)
    return found.texts


def read_documents(
    path: str | Path,
    *,
    columns: Asked | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    strip_html: StripHTML = "auto",
    complete: bool = False,
    title_separator: str = "\n",
    what: str = "document",
    metadata: bool = False,
) -> Documents:
    """Read documents, or queries, with an account of them.

    Args:
        path: See `documents`, as for the arguments up to `strip_html`.
        columns: Names of the columns.
        separator: What stands between columns.
        encoding: Encoding of the file.
        strip_html: Whether to take HTML out.
        complete: Whether this is a file of the BEIR layout: an object a line, each with an id and a text, even blank.
        title_separator: What stands between the title and the text.
        what: What they are, for messages.
        metadata: Whether to keep the further columns: texts, numbers, yes or no, lists of these as one text, and what
            an object such as `metadata` holds as columns of their own.

    Raises:
        FileNotFoundError: See `documents`.
        ValueError: See `documents`.
    """
    source = Path(path) / "corpus.jsonl" if Path(path).is_dir() else Path(path)
    found = json_lines(source) if complete else rows(source, separator=separator, encoding=encoding)
    reading = _Reading(columns or {}, complete, what, metadata)
    parts, account = reading.read(found)
    with_html = sum(any(map(has_markup, both)) for both in parts.values())
    stripped = strip_html is True or (strip_html == "auto" and with_html >= _MUCH_HTML * len(parts))
    if with_html and stripped:
        parts = {
            id_: (" ".join(strip_markup(title).split("\n")), strip_markup(body)) for id_, (title, body) in parts.items()
        }
    texts = {id_: title_separator.join(filter(str.strip, both)) for id_, both in parts.items()}
    kept = texts if complete else {id_: joined for id_, joined in texts.items() if joined}
    if not kept:
        raise ValueError(f"expected {what}s in {source}, found none with text")
    remarks = [*account.remarks]
    if with_html:
        remarks.append(f"{with_html:,} of {len(parts):,} {what}s have HTML, {markup_fate(stripped=stripped)}")
    left_out = {"without text": len(texts) - len(kept)} if len(kept) < len(texts) else {}
    account = Account(account.rows_read, left_out, account.columns, account.unused_columns, (*remarks,))
    return Documents(kept, account, {id_: cells for id_, cells in reading.metadata.items() if id_ in kept})


def _cells(row: Mapping[str, Any]) -> Cells:
    """Return the values of a row that a person could ask for."""
    cells: Cells = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            cells |= _cells(value)
        elif isinstance(value, list):
            cells |= _cells({name: ", ".join(str(item) for item in value if isinstance(item, str | int | float))})
        elif isinstance(value, bool):
            cells[name] = value
        elif isinstance(value, int | float) and not is_missing(value):
            cells[name] = float(value)
        elif isinstance(value, date):
            cells[name] = value.isoformat()
        elif isinstance(value, str) and not is_missing(value) and not is_placeholder(value):
            cells[name] = value.strip()
    return cells


class _Reading:
    """Reads rows one after another; which column is which is asked of each."""

    def __init__(self, asked: Asked, complete: bool, what: str, keep: bool) -> None:
        if set(asked) - set(_USUAL_NAMES):
            raise ValueError(f"expected columns among {', '.join(_USUAL_NAMES)}, got {listed(asked)}")
        self._asked = asked
        self._complete = complete
        self._what = what
        self._keep = keep
        self.metadata: dict[str, Cells] = {}
        self._used: dict[str, dict[str, None]] = {kind: {} for kind in _USUAL_NAMES}
        self._unused: dict[str, None] = {}
        self._empty: Counter[str] = Counter()
        self._has_ids: bool | None = None
        self._names = lru_cache(self._recognised)

    def read(self, found: Rows) -> tuple[dict[str, tuple[str, str]], Account]:
        """Return title and text by id, and an account that does not say yet what is left out."""
        parts: dict[str, tuple[str, str]] = {}
        first = ""
        number = 0
        for number, (where, row) in enumerate(found, 1):
            first = first or f"{where}: %s, there are {listed(row)}"
            try:
                names = self._names(tuple(row))
                id_ = self._id(row, names["id"], number)
                title, body = (self._text(row, names[kind]) for kind in ("title", "text"))
                if self._complete and not (names["text"] and isinstance(row[names["text"]], str)):
                    raise ValueError(f"expected a text, got {described(row.get(names['text'] or ''))}")
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            if id_ in parts:
                raise ValueError(
                    f"{where}: a second {self._what} with the id {short(id_)}"
                    + ("" if self._complete else " (columns.id=false takes the place in the file)")
                )
            parts[id_] = title, body
            if self._keep:
                used = set(names.values())
                self.metadata[id_] = _cells({name: value for name, value in row.items() if name not in used})
            self._unused |= dict.fromkeys(
                name
                for name in row
                if name not in names.values() and name not in self._unused and not is_missing(row[name])
            )
        self._check(first)
        return parts, self._account(number)

    def _recognised(self, row: tuple[str, ...]) -> dict[str, str | None]:
        names: dict[str, str | None] = {}
        for kind, usual in _USUAL_NAMES.items():
            asked = self._asked.get(kind)
            name = None if asked is False else first_usual(usual, row) if asked is None else find(asked, row)
            names[kind] = name
            self._used[kind] |= {} if name is None else {name: None}
        return names

    def _id(self, row: Mapping[str, Any], name: str | None, number: int) -> str:
        if self._has_ids is None:
            self._has_ids = name is not None or self._complete
        if not self._has_ids:
            if name is not None:
                raise ValueError(
                    f"found an id in the column {name!r}, which the rows before lack (columns.id=false: no ids)"
                )
            return str(number)
        column = name or next(iter(self._used["id"]), "_id")
        value = row.get(column)
        id_ = clean_id(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if not id_:
            raise ValueError(f"expected an id in the column {column!r}, got {described(value)}")
        return id_

    def _text(self, row: Mapping[str, Any], name: str | None) -> str:
        value = row.get(name) if name is not None else None
        if name is None or is_missing(value):
            return ""
        if isinstance(value, str) and is_placeholder(value) and not self._complete:
            self._empty[name] += 1
            return ""
        return text(name, value)

    def _check(self, first: str) -> None:
        """Refuse rows of which none had a column that was asked for, or any for the text."""
        for kind, found in self._used.items():
            asked = self._asked.get(kind)
            if asked and not found and first:
                raise ValueError(first % f"expected the column {asked!r} for {kind}")
        if not self._used["text"] and first:
            usual = ", ".join(_USUAL_NAMES["text"])
            raise ValueError(first % f"expected a column of texts ({usual}); columns.text names another")

    def _account(self, rows_read: int) -> Account:
        used: Sequence[str] = [name for found in self._used.values() for name in found]
        return Account(
            rows_read,
            columns={kind: ", ".join(found) for kind, found in self._used.items() if found},
            unused_columns=tuple(name for name in self._unused if name not in used),
            remarks=tuple(placeholder_remark(name, count, "empty") for name, count in self._empty.items()),
        )
