"""What was made once, kept on disk under a key: embeddings, mined negatives, rankings.

Notable decisions:

- A key is a digest of all that decides a value, see `key_of`. So no file is ever out of date, and any file may be
  deleted at any time.
- A file gets its name once it is complete, and is checked when it is read: a damaged one is made again.
- Of processes that want the same at the same time one makes it and the others wait, however long that takes.
- What takes long can be made in parts, which are kept until the whole is there: an interruption loses one part.
- When the files of a kind grow over their limit, those that were not read or written for the longest time go.
- All this saves time and is not needed: a folder that cannot be written, or is full, is a warning of each `Store`, and
  so of each job of a sweep.
- Many small values that somebody paid for are the lines of one file in place of a file each, see `keyed_lines`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock

from contrastive.data.whole_files import whole_file

_log = logging.getLogger(__name__)

Value = TypeVar("Value")


def key_of(described: object, content: Iterable[str | bytes | memoryview] = ()) -> str:
    """Return a digest, in hexadecimal digits, of what decides a value.

    Args:
        described: Settings and versions, as values that JSON knows; the order of names does not matter.
        content: What is too long for that, texts and numbers, in an order that does matter.

    Example:
        >>> key_of({"side": "query"}, ["ab", "c"]) == key_of({"side": "query"}, ["a", "bc"])
        False
    """
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for part in content:
        written = memoryview(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
        digest.update(written.nbytes.to_bytes(8, "little"))  # in front, so that where parts end counts
        digest.update(written)
    return digest.hexdigest()


def user_folder(name: str) -> Path:
    """Return a folder of this library in the user's cache folder, `$XDG_CACHE_HOME` or else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contrastive" / name


@dataclass(frozen=True, slots=True)
class Found(Generic[Value]):
    """A value and where it is from.

    Attributes:
        value: The value.
        seconds: What it took to make it; None if it was read.
        kept: Whether it is on disk now.
    """

    value: Value
    seconds: float | None = None
    kept: bool = True


class Store(Generic[Value]):
    """Values of one kind in a folder, a file each.

    Args:
        folder: Where the files are; made when there is something to write. Other kinds may share it.
        suffix: How the files of this kind end.
        read: Reads a file; raises, with any error, if it is not as it was written.
        write: Writes a value to a path.
        worth: Whether a value is to be kept; None keeps all.
        max_bytes: Size of all files of this kind beyond which those used least recently are deleted.

    Example:
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(folder, ".txt", Path.read_text, Path.write_text)
        ...     [store.find_or_make(key_of("a text"), lambda: made).value for made in ("first", "second")]
        ['first', 'first']
    """

    def __init__(
        self,
        folder: str | Path,
        suffix: str,
        read: Callable[[Path], Value],
        write: Callable[[Path, Value], object],
        *,
        worth: Callable[[Value], bool] | None = None,
        max_bytes: int = 8 << 30,
    ) -> None:
        self.folder = Path(folder)
        self.suffix = suffix
        self.max_bytes = max_bytes
        self._read = read
        self._write = write
        self._worth = worth
        self._said = False

    def find_or_make(self, key: str, make: Callable[[], Value]) -> Found[Value]:
        """Return the value of a key, read from the disk, or made and kept there."""
        found = self._find(key)
        if found is None:
            with self._turn(key):
                # Another process may have made it while this one waited.
                found = self._find(key, say_damaged=False) or self._made(key, make)
                if found.seconds is not None and found.kept:
                    self._tidy(key)
        return found

    def part(self, key: str, name: str, make: Callable[[], Value]) -> Found[Value]:
        """Return a part of what is being made for a key; it is kept until the whole is. Parts differ by name."""
        whole = f"{key}.part-{name}"
        return self._find(whole) or self._made(whole, make)

    def _find(self, name: str, *, say_damaged: bool = True) -> Found[Value] | None:
        """Read a file, and note that it was of use; None if there is none or it is damaged."""
        path = self._path(name)
        try:
            value = self._read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # numpy, gzip and JSON fail in many ways
            if say_damaged:
                _log.warning("%s is damaged and is computed again (%s: %s)", path, type(error).__name__, error)
            return None
        with suppress(OSError):  # somebody else's folder, or the file is just being deleted
            os.utime(path)
        return Found(value)

    def _made(self, name: str, make: Callable[[], Value]) -> Found[Value]:
        started = time.perf_counter()
        value = make()
        seconds = time.perf_counter() - started
        kept = False
        if self._worth is None or self._worth(value):
            with self._optional():
                with whole_file(self._path(name)) as temporary:
                    self._write(temporary, value)
                kept = True
        return Found(value, seconds, kept)

    def _tidy(self, key: str) -> None:
        """Delete the parts of what is whole, and the files used least recently while there is too much of this kind."""
        ours = re.compile(rf"[0-9a-f]{{40,}}(\.part-[\w-]+)?{re.escape(self.suffix)}")
        newest = self._path(key)
        with self._optional():
            for part in self.folder.glob(f"{key}.part-*{self.suffix}"):
                part.unlink(missing_ok=True)
            files = []
            for file in self.folder.iterdir():
                if ours.fullmatch(file.name):
                    with suppress(OSError):
                        stat = file.stat()
                        files.append((stat.st_mtime, stat.st_size, file))
            total = sum(size for _, size, _ in files)
            for _, size, file in sorted(files):
                if total > self.max_bytes and file != newest:
                    with suppress(OSError):
                        file.unlink()
                        total -= size

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{self.suffix}"

    @contextmanager
    def _turn(self, key: str) -> Iterator[None]:
        """Let one process at a time into the block, or all where the folder cannot be written."""
        with ExitStack() as held:
            with self._optional():
                self.folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self.folder).close()  # to say now that it is read-only, and not in an hour
                held.enter_context(one_at_a_time(self.folder / f"{key}.lock"))
            yield

    @contextmanager
    def _optional(self) -> Iterator[None]:
        """Go on after the block, with one warning, if the folder cannot be written."""
        try:
            yield
        except OSError as error:
            if not self._said:
                self._said = True
                _log.warning(
                    "Nothing is kept in %s, which cannot be written (%s); the work goes on.", self.folder, error
                )


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process at a time into the block, by a lock on a file that is gone afterwards.

    Where there can be no such file, or the file system knows no locks, all go in.
    """
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):
            held.enter_context(FileLock(path))
            held.callback(_unlink, path)
        yield


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()  # before the lock is let go: who waits for it finds out and tries again
