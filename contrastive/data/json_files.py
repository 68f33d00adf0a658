"""Reading JSON that somebody else may have written: what is not as expected is one line that names the file."""

from __future__ import annotations

import json
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
