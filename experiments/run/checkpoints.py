"""Checkpoints on the disk: whole or absent, with a checksum inside that tells a damaged one.

The checksum is the comment at the end of the file, which is a zip archive as `torch.save` makes it: every reader of
checkpoints reads it still, and no second file can be missing or another one's.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from contrastive.data.whole_files import whole_file

log = logging.getLogger(__name__)

_NAME = b"sha256 "
_COMMENT = len(_NAME) + 2 * hashlib.sha256().digest_size
_LENGTH = 2
"""Bytes of the length of an archive's comment, which stands right before it."""

STEPS = "step-*.ckpt"
"""Checkpoints to continue from; their names sort as their steps do."""


class DamagedError(OSError):
    """A checkpoint is not as it was written."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the one it replaces, which is there until the new one is complete and on the disk.

    Lightning's own writes it in the folder of temporary files, often another disk, and copies it over the old one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write a checkpoint, with its checksum."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(Path(path)) as temporary:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)  # into an open file, whose errors are the system's
            seal(temporary)


def seal(path: Path) -> None:
    """Put the checksum of a checkpoint into it."""
    with path.open("r+b") as file:
        file.seek(-_LENGTH, os.SEEK_END)  # an archive without a comment ends with the length of it, 0
        comment = _NAME + _digest(file, file.tell()).encode()
        file.write(len(comment).to_bytes(_LENGTH, "little") + comment)


def verify(path: Path) -> None:
    """Read a checkpoint through and compare it with its checksum.

    Raises:
        DamagedError: If it is not as it was written, or has no checksum.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - _COMMENT
        file.seek(max(size, 0))
        comment = file.read()
        if size < _LENGTH or comment != _NAME + _digest(file, size - _LENGTH).encode():
            raise DamagedError(f"expected a checkpoint as it was written, {path} is damaged")


def newest(folder: Path) -> Path | None:
    """Return the latest checkpoint of a run to continue from that is undamaged, None if there is none."""
    for path in sorted(folder.glob(STEPS), reverse=True):
        try:
            verify(path)
        except OSError as error:
            log.warning("%s; the one before is taken", error)
        else:
            return path
    return None


def best_of(path: Path) -> Path:
    """Return the name of the best weights that there were when a checkpoint was written."""
    return path.with_suffix(".best")


def discard(folder: Path, *, keep: int = 0) -> None:
    """Delete the checkpoints to continue from, all but the last few, and what was left of one half written."""
    latest = {path.stem for path in sorted(folder.glob(STEPS), reverse=True)[:keep]}
    for path in [*folder.glob("step-*"), *folder.glob("*.tmp")]:
        if path.stem not in latest:
            path.unlink(missing_ok=True)


def _digest(file: BinaryIO, size: int) -> str:
    """Return the checksum of the beginning of a file, and leave the file right behind that."""
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0:
        part = file.read(min(size, 2**20))
        if not part:
            break
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()
