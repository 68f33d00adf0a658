"""Reading JSON that somebody else may have written, and lines of JSON that we did.

What is not as expected in the former is one line that names the file.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else, or is no JSON.
    """
    return _read(path, dict, "an object")  # type: ignore[no-any-return]


def read_objects(path: Path) -> list[dict[str, Any]]:
    """Read a JSON file that holds a list of objects.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else, or is no JSON.
    """
    items: list[Any] = _read(path, list, "a list of objects")
    for item in items:
        if not isinstance(item, dict):
            raise ValueError(f"expected {path} to hold a list of objects, got {item!r:.80} in it")
    return items


def read_lines(path: Path) -> Iterator[Any]:
    """Yield what `write_lines` wrote.

    Raises:
        Exception: Of many kinds, if anything is wrong with the file: it holds a checksum.
    """
    if path.stat().st_size == 0:  # which gzip takes for a file of no lines
        raise ValueError("it is empty")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """Write each row as a line of JSON to a file that is compressed by gzip."""
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=3) as file:
        for row in rows:
            print(json.dumps(row), file=file)


def _read(path: Path, kind: type, described: str) -> Any:
    try:
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError(f"expected {path} to hold {described}, got JSON that is nested too deeply") from error
    except ValueError as error:  # of the encoding too
        raise ValueError(f"expected {path} to be JSON: {error}") from error
    if not isinstance(content, kind):
        raise ValueError(f"expected {path} to hold {described}, got {content!r:.80}")
    return content
