"""The text of a file, line by line: its encoding, its line ends, and limits that keep what is damaged out of memory."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

_LONGEST_LINE = 2**25
_LONGEST_TEXT = 2**27  # of a compressed file that is read as a whole: a few kilobytes may unpack to any size
_PIECE = 2**20

# UTF-32's first, since it begins like UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def lines(file: Path, encoding: str | None = None) -> Iterator[str]:
    """Yield the lines of a text file with their ends, which are line feeds, or carriage returns if it has no others.

    Args:
        file: The file, which is unpacked if its name ends in `.gz`.
        encoding: Name of its encoding; None for UTF-8. A byte order mark says it better, and wins.

    Raises:
        ValueError: If it has another encoding, is damaged, or a line has no end; it names the line.
    """
    return _pieces(file, encoding, by_line=True)


def text(file: Path, encoding: str | None = None) -> Iterator[str]:
    """Yield the same text in pieces of a megabyte or so, however long its lines are."""
    return _pieces(file, encoding, by_line=False)


def _pieces(file: Path, encoding: str | None, *, by_line: bool) -> Iterator[str]:
    number = 1
    size = 0
    packed = file.suffix.lower() == ".gz"
    known = encoding or "utf-8"
    with cast(BinaryIO, gzip.open(file)) if packed else file.open("rb") as source:
        try:
            known = _marked(source) or known
            decoded = io.TextIOWrapper(source, known, newline=_line_end(source))
            while piece := decoded.readline(_LONGEST_LINE) if by_line else decoded.read(_PIECE):
                size += len(piece)
                if by_line and len(piece) == _LONGEST_LINE:
                    raise ValueError(
                        f"{file}, line {number}: expected a line of fewer than {_LONGEST_LINE:,} characters"
                    )
                if packed and not by_line and size > _LONGEST_TEXT:
                    raise ValueError(
                        f"{file}: expected fewer than {_LONGEST_TEXT:,} characters in a compressed file that is read "
                        "as a whole; write an object a line instead"
                    )
                if "\0" in piece:
                    raise ValueError(
                        f"{file}, line {number}: expected text, got a NUL character; if this is UTF-16, say so: "
                        "data.encoding=utf-16-le"
                    )
                yield piece.lstrip("\ufeff") if size == len(piece) else piece  # without marks, however many
                number += 1 if by_line else piece.count("\n")
        except UnicodeDecodeError as error:
            # A piece is decoded before its first line is handed on, so all lines before it have been counted.
            number += error.object[: error.start].decode(known, "ignore").count("\n")
            raise ValueError(f"{file}, line {number}: {_not_decoded(error, encoding)}") from None
        except LookupError:
            raise ValueError(f"expected an encoding that Python knows, such as cp1252, got {encoding!r}") from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{file}, line {number}: damaged or cut short: {error}") from error


def _marked(source: BinaryIO) -> str | None:
    """Return the encoding that a byte order mark stands for, if there is one."""
    start = _peek(source)
    return next((known for mark, known in _MARKS if start.startswith(mark)), None)


def _line_end(source: BinaryIO) -> str:
    start = _peek(source)
    return "\r" if b"\r" in start and b"\n" not in start else "\n"


def _peek(source: BinaryIO) -> bytes:
    """Return the next bytes, some thousands where there are, without taking them."""
    return cast(io.BufferedReader, source).peek(io.DEFAULT_BUFFER_SIZE)


def _not_decoded(error: UnicodeDecodeError, encoding: str | None) -> str:
    byte = f"got the byte {error.object[error.start]:#x}"
    if encoding is not None:
        return f"expected {encoding}, {byte}"
    if b"\0" in error.object:
        return f"expected UTF-8, {byte} and NUL characters; if this is UTF-16, say so: data.encoding=utf-16-le"
    return (
        f"expected UTF-8, {byte}; data.encoding=cp1252 reads what Excel and others write in Western Europe, "
        "data.encoding=NAME any other"
    )
