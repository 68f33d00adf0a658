"""Files and folders that are complete or absent under their name, whatever happens while they are written.

What is written is on the disk before it takes its name: after a power cut there is the old content or the new, and not
a name with nothing behind it. A disk that is full is said as one, with the name of what was to be written.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, whose file takes the name `path` at the end of the block, in the place of one there.

    If the block raises, its file is deleted and one that was there stays.

    Args:
        path: The file, in a folder that is there. The path to write to is in the same folder and ends in `.tmp`.

    Raises:
        OSError: If it cannot be written; with the name of the file if the disk is full.

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
        with naming(path):
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes the name `path` at the end of the block, in the place of one there.

    If the block raises, its folder is deleted and one that was there stays.

    Args:
        path: The folder, in one that is there. The folder to write into is beside it and ends in `.tmp`.

    Raises:
        OSError: If it cannot be written; with the name of the folder if the disk is full.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    replaced = temporary.with_suffix(".old.tmp")
    try:
        with naming(path):
            temporary.mkdir()
            yield temporary
            for written in temporary.rglob("*"):
                _sync(written)
            with suppress(FileNotFoundError):
                path.rename(replaced)
            temporary.rename(path)
            _sync(path.parent)
    finally:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        for left in (temporary, replaced):
            rmtree(left, ignore_errors=True)


def disk_is_full(error: BaseException) -> bool:
    """Whether an error comes of a disk without room, a quota, or a file system's largest file."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise a full disk as an `OSError` with the name of what was to be written, whichever library found it."""
    try:
        yield
    except Exception as error:
        number = _number(error)
        if number in _NO_ROOM:
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _number(error: BaseException | None) -> int:
    """Return the number of the system's error that an error comes from, 0 if there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if found := re.search(r"\bos error (\d+)\b", str(error)):  # as libraries in Rust say it: safetensors
            return int(found[1])
        error = error.__cause__ or error.__context__
    return 0


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, where the system can say so."""
    try:
        number = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):  # what knows no such thing
            raise
    finally:
        os.close(number)
