"""Lists under keys, a line of JSON each, in one file that grows while they are made.

For what is many, small and dear, such as queries that a model wrote: unlike what a `Store` keeps, nothing is ever
deleted, a file that cannot be written is an error, and one that holds something else is refused and left alone.

Lines are appended as values arrive, so that what was stopped continues where it was. Of equal keys the later line
counts. A line that a killed process tore is passed over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contrastive.data.store import one_at_a_time

_log = logging.getLogger(__name__)

_LINE_START = '{"key": "'

Append = Callable[[str, Sequence[Any]], None]


class KeyedLines:
    """A file of keyed lists.

    Args:
        path: The file; made, with its folder, when there is something to write.
        field: What the lists are of: their name in each line.

    Example:
        >>> lines = KeyedLines(getfixture("tmp_path") / "lines.jsonl", "queries")
        >>> with lines.appending() as append:
        ...     append("a key", ["night nurse"])
        >>> lines.read()
        {'a key': ['night nurse']}
    """

    def __init__(self, path: str | Path, field: str) -> None:
        self.path = Path(path)
        self.field = field

    def read(self, *, say_torn: bool = True) -> dict[str, list[Any]]:
        """Read the list of each key.

        Args:
            say_torn: Whether to warn of lines that are passed over.

        Raises:
            ValueError: If the file is something else.
        """
        if not self.path.exists():
            return {}
        found: dict[str, list[Any]] = {}
        with self.path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                row = _parsed(line)
                if isinstance(row, dict) and isinstance(row.get("key"), str) and isinstance(row.get(self.field), list):
                    found[row["key"]] = row[self.field]
                elif row is not None or not (line.startswith(_LINE_START) or _LINE_START.startswith(line.rstrip("\n"))):
                    raise ValueError(
                        f"{self.path}, line {number}: expected a key and its {self.field}, got {line[:60]!r}"
                    )
                elif say_torn:
                    _log.warning("%s, line %d: torn, its document is asked for again", self.path, number)
        return found

    @contextmanager
    def appending(self) -> Iterator[Append]:
        """Give what appends a line, to one process at a time; read again inside, for what others have written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(self.path.with_name(f"{self.path.name}.lock")), self.path.open("a+b") as lines:
            if lines.tell() > 0:
                lines.seek(-1, 2)
                if lines.read() != b"\n":  # a torn line is ended, lest the next be glued to it
                    lines.write(b"\n")
                    lines.flush()

            def append(key: str, values: Sequence[Any]) -> None:
                # ASCII keeps half an emoji, which UTF-8 cannot.
                lines.write(json.dumps({"key": key, self.field: values}).encode() + b"\n")
                lines.flush()

            yield append


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
