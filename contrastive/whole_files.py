"""Files that are complete or absent under their name, whatever happens while they are written."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, whose file takes the name `path` at the end of the block, in the place of one there.

    If the block raises, its file is deleted and one that was there stays.

    Args:
        path: The file, in a folder that is there. The path to write to is in the same folder and ends in `.tmp`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(Path(folder, "a.txt")) as temporary:
        ...         _ = temporary.write_text("all of it")
        ...     Path(folder, "a.txt").read_text()
        'all of it'
    """
    temporary = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
