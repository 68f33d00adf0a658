"""Rows of a data file, one at a time, each with the place it comes from.

Memory holds a row, or for Parquet a thousand, however large the file is; only a JSON array is loaded whole. Text is
UTF-8, or what a byte order mark or the caller says.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from contrastive.data.json_rows import Rows, array_or_lines, object_a_line
from contrastive.data.lines import lines
from contrastive.data.shown import listed, short

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "tilde": "~"}
"""Names of what separates columns, since a shell or Hydra take some of these characters for their own."""

_LONGEST_CELL = 2**24  # characters; Python's own limit of 2**17 refuses long documents
_PARQUET_ROWS = 1000


def rows(
    path: str | Path, *, separator: str | None = None, encoding: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    r"""Read the rows of a JSON-lines, JSON, CSV, TSV or Parquet file; all but the last may be compressed with gzip.

    The first line of a CSV or TSV file names its columns, and its values are all text; a line `sep=;` may stand before
    it, and a column without a name is called by its place. A `.json` file holds an array of objects, or an object a
    line. Blank lines are skipped, those of separators alone too.

    Args:
        path: The file; its ending says what it holds.
        separator: What stands between the columns of a CSV or TSV file, a character or one of comma, semicolon, tab,
            pipe and tilde; None for what its ending says.
        encoding: Encoding of the text of all but a Parquet file; None for UTF-8.

    Returns:
        For each row where it is, such as "pairs.csv, line 12" (the line on which it begins), and its values by column.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the ending is unknown, the file is empty or damaged, a row is malformed, or a separator or an
            encoding is given for a file that has none; it names the line.

    Example:
        >>> file = getfixture("tmp_path") / "pairs.csv"
        >>> _ = file.write_text("query,answer\nnurse,ICU nurse wanted\n")
        >>> next(rows(file))[1]
        {'query': 'nurse', 'answer': 'ICU nurse wanted'}
    """
    file = Path(path).expanduser()
    read = _READERS.get(ending(file))
    if not file.is_file():
        raise FileNotFoundError(f"expected the file {file}, found {'a folder' if file.is_dir() else 'none'}")
    if read is None:
        raise ValueError(f"{file}: expected a file ending in {', '.join(ENDINGS)}, got {file.name!r}")
    return _not_empty(file, read(file, SEPARATORS.get(separator or "", separator), encoding))


def json_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the rows of a file that holds an object a line, whatever it is called, even those with half an emoji.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: See `rows`.
        ValueError: See `rows`.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"expected the file {file}, found none")
    return _not_empty(file, object_a_line(file, None, strict=False))


def ending(path: Path) -> str:
    """Return the ending that says what a file holds, in lower case, `.gz` included."""
    return "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()


def _not_empty(file: Path, found: Rows) -> Rows:
    empty = True
    for row in found:
        empty = False
        yield row
    if empty:
        raise ValueError(f"{file} is empty: expected at least one row")


def _json_lines(file: Path, separator: str | None, encoding: str | None) -> Rows:
    _refuse(file, "separator", separator)
    return object_a_line(file, encoding)


def _json(file: Path, separator: str | None, encoding: str | None) -> Rows:
    _refuse(file, "separator", separator)
    return array_or_lines(file, encoding)


def _separated(file: Path, separator: str | None, encoding: str | None, *, usual: str) -> Rows:
    if separator is not None and len(separator) != 1:
        raise ValueError(f"expected a separator of one character, or {', '.join(SEPARATORS)}, got {separator!r}")
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    found = lines(file, encoding)
    skipped, delimiter = 0, separator or usual
    first = next(found, "")
    said = first.rstrip("\r\n")
    if said[:4].lower() == "sep=" and len(said) == 5:  # Excel's own way to say it
        skipped, delimiter = 1, separator or said[4]
        separator, first = delimiter, next(found, "")
    cells = csv.reader(_then(first, found), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        where = f"{file}, line {skipped + cells.line_num + 1}"
        try:
            row = next(cells)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{where}: malformed, or a quote is not closed: {error}") from error
        if not any(row):
            continue
        if header is None:
            _refuse_other_separator(where, row, separator, usual)
            header = _distinct(where, [name if name.strip() else f"(column {i})" for i, name in enumerate(row, 1)])
        elif row == header:
            raise ValueError(f"{where}: found the header once more; take this line out")
        elif len(row) < len(header) or any(row[len(header) :]):
            raise ValueError(f"{where}: expected {len(header)} cells, as in the header, got {len(row)}")
        else:
            yield where, dict(zip(header, row, strict=False))


def _then(first: str, others: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from others


def _refuse_other_separator(where: str, header: list[str], separator: str | None, usual: str) -> None:
    """Refuse a header of one column that another character would make several of."""
    others = [name for name, character in SEPARATORS.items() if character != usual and character in header[0]]
    if separator is None and len(header) == 1 and others:
        settings = " or ".join(f"data.separator={name}" for name in others)
        raise ValueError(
            f"{where}: expected columns with {usual!r} between them, got the one column {short(header[0])}; "
            f"{settings} reads a file with another character between them (data.separator="
            f"{'tab' if usual == chr(9) else 'comma'} if it has one column)"
        )


def _parquet(file: Path, separator: str | None, encoding: str | None) -> Rows:
    _refuse(file, "separator", separator)
    _refuse(file, "encoding", encoding)
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        # Without a buffer size a whole row group is held at once.
        with parquet.ParquetFile(file, buffer_size=2**20) as opened:
            _distinct(str(file), opened.schema_arrow.names)
            for batch in opened.iter_batches(batch_size=_PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", row
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{file}: damaged, or not Parquet, after row {number}: {error}") from error


def _refuse(file: Path, name: str, value: str | None) -> None:
    if value is not None:
        raise ValueError(f"{file}: expected no {name} for a file of this kind, got {value!r}")


def _distinct(where: str, names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{where}: expected distinct column names, got {listed(map(repr, twice))} more than once")
    return names


_TEXT_READERS: dict[str, Callable[[Path, str | None, str | None], Rows]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".jsonlines": _json_lines,
    ".json": _json,
    ".csv": partial(_separated, usual=","),
    ".tsv": partial(_separated, usual="\t"),
}
_READERS = _TEXT_READERS | {f"{name}.gz": read for name, read in _TEXT_READERS.items()} | {".parquet": _parquet}
ENDINGS = tuple(_READERS)
