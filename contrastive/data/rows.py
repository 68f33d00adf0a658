"""Rows of a data file, one at a time, each with the place it comes from.

Memory holds a row, or for Parquet a thousand, however large the file is; only a JSON array is loaded whole. Text is
UTF-8 with or without a byte order mark.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Rows = Iterator[tuple[str, dict[str, Any]]]

_LONGEST_CELL = 2**24  # characters; Python's own limit of 2**17 refuses long documents
_PARQUET_ROWS = 1000


def rows(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    r"""Read the rows of a JSON-lines, JSON, CSV, TSV or Parquet file; all but the last may be compressed with gzip.

    The first line of a CSV or TSV file names its columns, and its values are all text. A `.json` file holds an array of
    objects, or an object a line. Blank lines are skipped.

    Args:
        path: The file; its ending says what it holds.

    Returns:
        For each row where it is, such as "pairs.csv, line 12" (the line on which it begins), and its values by column.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the ending is unknown, the file is empty or damaged, or a row is malformed; it names the line.

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
    return _not_empty(file, read(file))


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


def _lines(file: Path) -> Iterator[str]:
    """Yield the lines of a text file with their ends."""
    number = 0
    with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as lines:
        try:
            for number, line in enumerate(lines, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{file}, line {number}: expected UTF-8, got the byte {error.object[error.start]:#x}"
            ) from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{file}, line {number + 1}: damaged or cut short: {error}") from error


def _json_lines(file: Path) -> Rows:
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            where = f"{file}, line {number}"
            yield where, _json_object(where, _parse(where, line))


def _json(file: Path) -> Rows:
    first = next((line.lstrip()[:1] for line in _lines(file) if line.strip()), "")
    if first != "[":
        yield from _json_lines(file)
        return
    for number, value in enumerate(_parse(str(file), "".join(_lines(file))), 1):
        where = f"{file}, item {number}"
        yield where, _json_object(where, value)


def _parse(where: str, text: str) -> Any:
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # half an emoji can be neither written nor tokenised
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        whole = text.rstrip()  # else what is cut short is said to go wrong on the next line
        wrong = json.JSONDecodeError(error.msg, whole, min(error.pos, len(whole)))
        place = f"line {wrong.lineno}, column {wrong.colno}" if "\n" in whole else f"column {wrong.colno}"
        raise ValueError(f"{where}: malformed JSON: {error.msg} ({place})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: malformed JSON: {error}") from error
    return value


def _json_object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {str(value)[:60]!r}")
    return value


def _separated(delimiter: str) -> Callable[[Path], Rows]:
    def read(file: Path) -> Rows:
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
        cells = csv.reader(_lines(file), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            where = f"{file}, line {cells.line_num + 1}"
            try:
                row = next(cells)
            except StopIteration:
                return
            except csv.Error as error:
                raise ValueError(f"{where}: malformed, or a quote is not closed: {error}") from error
            if not row:
                continue
            if header is None:
                header = _distinct(where, row)
            elif len(row) != len(header):
                raise ValueError(f"{where}: expected {len(header)} cells, as in the header, got {len(row)}")
            else:
                yield where, dict(zip(header, row, strict=True))

    return read


def _parquet(file: Path) -> Rows:
    import pyarrow  # type: ignore[import-untyped]
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


def _distinct(where: str, names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{where}: expected distinct column names, got {', '.join(map(repr, twice))} more than once")
    return names


_TEXT_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".jsonlines": _json_lines,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
}
_READERS = _TEXT_READERS | {f"{name}.gz": read for name, read in _TEXT_READERS.items()} | {".parquet": _parquet}
ENDINGS = tuple(_READERS)
