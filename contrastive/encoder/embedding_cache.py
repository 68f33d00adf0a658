"""Embeddings on disk: what was embedded once is read back, and an interrupted encoding goes on where it stopped.

Notable decisions:

- A file is named by a digest of what decides its content: the weights, `encoder.settings`, the side, and the texts in
  their order. So no file is ever out of date, and any file may be deleted at any time.
- The tokenizer and the kind of network are taken to go with the weights. The device and the sizes of micro-batches,
  which move the last bits of an embedding, are not in the name.
- A file gets its name once it is complete, so processes may share a folder. Of those that want the same embeddings at
  the same time one computes them and the others wait.
- When the folder grows over its limit, the files that were not read or written for the longest time go.
- Long lists are encoded in parts that are kept until the whole is written. Each part is one call of the encoder, which
  sorts by length within it.
- A file ends in a CRC-32 of its numbers, which is compared when it is opened: 1 s for each GB. Zeros where a disk lost
  something are not taken for embeddings. What is not finite is not kept.
- The cache saves time and is not needed: a folder that cannot be written, or is full, is a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from contrastive.contracts import Side, TextEncoder
from contrastive.data.texts import check_texts
from contrastive.data.whole_files import whole_file
from contrastive.encoder.micro_batches import positions

_log = logging.getLogger(__name__)

_SAID: set[Path] = set()
"""Folders of which it was said that they cannot be written."""


def default_folder() -> Path:
    """Return the folder of embeddings in the user's cache folder, `$XDG_CACHE_HOME` or else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contrastive" / "embeddings"


class KeyedEncoder(TextEncoder, Protocol):
    """A text encoder that says what its embeddings depend on.

    `settings` holds, as plain values, what beside the weights in `state_dict` decides the embedding of a text.
    """

    @property
    def dimension(self) -> int:
        """Width D of an embedding."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its embeddings are made."""
        ...

    @property
    def settings(self) -> Mapping[str, object]:
        """Pooling, prompts, maximum length and the like."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the weights by name."""
        ...


class EmbeddingCache:
    """Embeds lists of texts, each once for as long as its file is there.

    Args:
        folder: Where the files are; made when there is something to write.
        part_size: Texts encoded at a time; an interruption loses at most so many.
        max_bytes: Size of the folder beyond which the files used least recently are deleted.

    Raises:
        ValueError: If `part_size` is below 1.

    Example:
        >>> from contrastive.encoder import Encoder, embedded_minilm
        >>> encoder = Encoder.from_pretrained(embedded_minilm())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = EmbeddingCache(folder)
        ...     first = cache.embed(encoder, ["a nurse", "a cook"], side="document")
        ...     again = cache.embed(encoder, ["a nurse", "a cook"], side="document")  # read, not computed
        ...     bool((first == again).all())
        True
    """

    def __init__(self, folder: str | Path, *, part_size: int = 4096, max_bytes: int = 8 << 30) -> None:
        if part_size < 1:
            raise ValueError(f"expected part_size of at least 1, got {part_size}")
        self.folder = Path(folder)
        self.part_size = part_size
        self.max_bytes = max_bytes

    def embed(
        self, encoder: KeyedEncoder, texts: Sequence[str], *, side: Side, show_progress: bool = False
    ) -> NDArray[np.float32]:
        """Return the embeddings of texts, [B, D] in their order, from the disk or computed and kept there.

        What is read is memory-mapped. The array may be changed; that does not reach the file.

        Args:
            encoder: What to embed with.
            texts: Any number of texts; equal ones are encoded once.
            side: Which prompt to use.
            show_progress: Show a progress bar.

        Raises:
            TypeError: If `texts` is one string, or holds something other than strings.
        """
        check_texts(texts)
        if len(texts) == 0:
            return np.zeros((0, encoder.dimension), np.float32)
        key = embedding_key(encoder, texts, side=side)
        path = self.folder / f"{key}.npy"
        kept = self._kept(path, encoder, len(texts), side)
        if kept is not None:
            return kept
        with turn(self.folder / f"{key}.lock") as writable:
            kept = self._kept(path, encoder, len(texts), side)  # by another process, while this one waited
            if kept is not None:
                return kept
            started = time.perf_counter()
            distinct = list(dict.fromkeys(texts))
            embeddings = self._encode(encoder, distinct, key, side, show_progress, writable)
            if len(distinct) < len(texts):
                embeddings = embeddings[positions(distinct, texts)]
            if not writable:
                return embeddings
            with optional(self.folder):
                _write(path, embeddings)
                for part in self.folder.glob(f"{key}.part-*.npy"):
                    part.unlink(missing_ok=True)
                self._say_kept(len(texts), side, time.perf_counter() - started)
                self._make_room(path)
        return embeddings

    def _say_kept(self, number: int, side: Side, seconds: float) -> None:
        what = "queries" if side == "query" else "documents"
        _log.info("%s %s embedded in %.0f s and cached in %s", f"{number:,}", what, seconds, self.folder)

    def _kept(self, path: Path, encoder: KeyedEncoder, num_texts: int, side: Side) -> NDArray[np.float32] | None:
        """Read embeddings, and note that they were of use."""
        kept = _read(path, (num_texts, encoder.dimension))
        if kept is not None:
            _log.info("%s %s embeddings from the cache in %s", f"{num_texts:,}", side, self.folder)
            with suppress(OSError):  # somebody else's folder, or the file is just being deleted; it is open
                os.utime(path)
        return kept

    def _make_room(self, newest: Path) -> None:
        """Delete the files used least recently while the folder is too large, but never the newest."""
        files = []
        for file in self.folder.iterdir():
            with suppress(OSError):
                stat = file.stat()
                files.append((stat.st_mtime, stat.st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total > self.max_bytes and file.suffix in (".npy", ".json") and file != newest:
                with suppress(OSError):
                    file.unlink()
                    total -= size

    def _encode(
        self, encoder: KeyedEncoder, texts: Sequence[str], key: str, side: Side, show_progress: bool, writable: bool
    ) -> NDArray[np.float32]:
        """Encode what is not there yet, part by part."""
        several = len(texts) > self.part_size
        parts: list[NDArray[np.float32]] = []
        found = 0
        with tqdm(
            total=len(texts), desc="embedding", unit=" texts", disable=not (show_progress and several), leave=False
        ) as bar:
            for start in range(0, len(texts), self.part_size):
                part = texts[start : start + self.part_size]
                path = self.folder / f"{key}.part-{start}-{start + len(part)}.npy"
                rows = _read(path, (len(part), encoder.dimension))
                if rows is None:
                    encoded = encoder.encode(part, side=side, show_progress=show_progress, as_numpy=False)
                    rows = encoded.float().cpu().numpy()
                    if writable and several:
                        with optional(self.folder):
                            _write(path, rows)
                else:
                    found += len(part)
                parts.append(rows)
                bar.update(len(part))
        if found:
            _log.info("%s of them had been embedded before an interruption", f"{found:,}")
        return np.concatenate(parts)


def embedding_key(encoder: KeyedEncoder, texts: Sequence[str], *, side: Side) -> str:
    """Return the name under which the embeddings of texts are kept, a digest in hexadecimal digits.

    It differs if the weights, their precision, a setting, the side, a text or the order of the texts does.
    """
    digest = hashlib.blake2b(digest_size=20)
    # How embeddings are compared does not decide them.
    settings = {name: value for name, value in encoder.settings.items() if name.split(".")[-1] != "similarity"}
    described = {"version": 2, "side": side, "dimension": encoder.dimension, "settings": settings}
    if not getattr(getattr(encoder, side, encoder), "padding", True):
        described["padding"] = False  # it is done without where it would change embeddings
    _add(digest, json.dumps(described, sort_keys=True).encode())
    add_weights(digest, encoder.state_dict())
    for text in texts:
        _add(digest, text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


@contextmanager
def turn(path: Path) -> Iterator[bool]:
    """Let one process at a time into the block, with whether the folder of the lock can be written.

    Where it cannot be, that is a warning, and all may go in.
    """
    with ExitStack() as held:
        writable = False
        with optional(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()  # to know now if it is read-only, and not after an hour
            held.enter_context(locked(path))
            writable = True
        yield writable


@contextmanager
def optional(folder: Path) -> Iterator[None]:
    """Go on after the block, with a warning, if something cannot be written into a folder that only saves time."""
    try:
        yield
    except (OSError, NotImplementedError) as error:  # the latter from a file system without locks
        if folder not in _SAID:
            _SAID.add(folder)
            _log.warning("Nothing is kept in %s, which cannot be written (%s); the work goes on.", folder, error)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the block, and leave no file behind."""
    with FileLock(path):
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()  # who waits for it finds out and tries again


def add_weights(digest: hashlib.blake2b, weights: Mapping[str, Tensor]) -> None:
    """Take the names, kinds, shapes and values of weights into a digest."""
    for name, tensor in sorted(weights.items()):
        _add(digest, f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        _add(digest, tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _add(digest: hashlib.blake2b, content: bytes | memoryview) -> None:
    # With the length in front, ["ab", "c"] and ["a", "bc"] are told apart.
    digest.update(memoryview(content).nbytes.to_bytes(8, "little"))
    digest.update(content)


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """Open a file of embeddings; None if there is none or it is damaged."""
    try:
        # Copy on write: a read-only array cannot become a tensor without a warning.
        embeddings = np.lib.format.open_memmap(path, mode="c")
        if embeddings.shape != shape or embeddings.dtype != np.float32:
            raise ValueError(f"expected float32 {list(shape)}, got {embeddings.dtype} {list(embeddings.shape)}")
        with path.open("rb") as file:
            file.seek(embeddings.offset + embeddings.nbytes)
            if file.read() != _checksum(embeddings):
                raise ValueError("its numbers are not those that were written")
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy parses the header as Python source, which fails in many ways
        _log.warning("%s is damaged and is computed again (%s: %s)", path, type(error).__name__, error)
        return None
    return embeddings


def _write(path: Path, embeddings: NDArray[np.float32]) -> None:
    if not np.isfinite(embeddings).all():
        return
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, embeddings)
        file.write(_checksum(embeddings))


def _checksum(embeddings: NDArray[np.float32]) -> bytes:
    return zlib.crc32(np.ascontiguousarray(embeddings).data).to_bytes(4, "little")
