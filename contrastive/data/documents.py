"""Reading documents that nobody has asked for yet: a corpus without queries."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrastive.data.rows import rows

_log = logging.getLogger(__name__)

_USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("_id", "id", "doc_id", "document_id", "docid"),
    "title": ("title", "job_title", "headline", "name"),
    "text": ("text", "document", "description", "job_description", "body", "content", "contents", "passage"),
}


def documents(path: str | Path, *, columns: Mapping[str, str | None] | None = None) -> dict[str, str]:
    r"""Read the documents of a file, or of a folder with a `corpus.jsonl`: text by id, the title in the first line.

    Documents without text are left out, and counted in the log. Blanks in an id become underscores, since TREC files
    cannot hold them.

    Args:
        path: A file that `rows` reads, or a folder in the BEIR layout.
        columns: Names of the columns "id", "title" and "text"; what is missing is recognised by the usual names.
            Without an id column a document's id is its place in the file, from 1; a title is not needed.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If there is no text column, a cell is not text, an id is missing or occurs twice, or every document
            is blank.

    Example:
        >>> file = getfixture("tmp_path") / "postings.csv"
        >>> _ = file.write_text("title,description\nNurse,Nights at a hospital\n")
        >>> documents(file)
        {'1': 'Nurse\nNights at a hospital'}
    """
    source = Path(path) / "corpus.jsonl" if Path(path).is_dir() else Path(path)
    asked = columns or {}
    if set(asked) - set(_USUAL_NAMES):
        raise ValueError(f"expected columns among {', '.join(_USUAL_NAMES)}, got {', '.join(asked)}")
    found: dict[str, str] = {}
    names: dict[str, str | None] = {}
    blank = 0
    for number, (where, row) in enumerate(rows(source), 1):
        names = names or {kind: _name(kind, asked.get(kind), row, where) for kind in _USUAL_NAMES}
        id_ = str(number) if names["id"] is None else _id(row.get(names["id"]), names["id"], where)
        parts = (_text(row, names[kind], where) for kind in ("title", "text"))
        text = "\n".join(part for part in parts if part.strip())
        if id_ in found:
            raise ValueError(f"{where}: a second document with the id {id_!r}")
        if text:
            found[id_] = text
        else:
            blank += 1
    if blank:
        _log.warning("%s: left out %d documents without text", source, blank)
    if not found:
        raise ValueError(f"expected documents in {source}, found none with text")
    return found


def _name(kind: str, asked: str | None, row: Mapping[str, Any], where: str) -> str | None:
    """Return the name of a column; None for one that may be missing and is."""
    if asked is not None:
        if asked not in row:
            raise ValueError(f"{where}: expected the column {asked!r} for {kind}, there are {', '.join(row)}")
        return asked
    name = next((name for name in _USUAL_NAMES[kind] if name in row), None)
    if name is None and kind == "text":
        raise ValueError(
            f"{where}: expected a column of texts ({', '.join(_USUAL_NAMES['text'])}), there are {', '.join(row)}; "
            "columns.text names another"
        )
    return name


def _id(value: Any, name: str, where: str) -> str:
    id_ = "_".join(str(value).split()) if isinstance(value, str | int) else ""
    if not id_:
        raise ValueError(f"{where}: expected an id in the column {name!r}, got {value!r}")
    return id_


def _text(row: Mapping[str, Any], name: str | None, where: str) -> str:
    value = None if name is None else row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected text in the column {name!r}, got {type(value).__name__} {value!r}")
    return value
