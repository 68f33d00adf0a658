"""Checkpoints on the disk: whole, with a checksum inside, the latest undamaged one first."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.run.checkpoints import DamagedError, WholeCheckpoints, best_of, discard, newest, verify


def written(path: Path, value: float = 1.0) -> Path:
    WholeCheckpoints().save_checkpoint({"weights": torch.full((1000,), value)}, path)
    return path


@pytest.mark.parametrize("options", [{}, {"mmap": True}])
def test_a_checkpoint_with_its_checksum_is_read_as_any_other(options: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path / "folder" / "best.ckpt", 3.0)
    verify(path)
    assert torch.equal(torch.load(path, weights_only=True, **options)["weights"], torch.full((1000,), 3.0))


@pytest.mark.parametrize("damage", ["a bit", "the checksum", "half", "all but the checksum", "empty"])
def test_a_damaged_checkpoint_is_told(damage: str, tmp_path: Path) -> None:
    path = written(tmp_path / "step-000000001.ckpt")
    content = bytearray(path.read_bytes())
    if damage in ("a bit", "the checksum"):
        content[1500 if damage == "a bit" else -1] ^= 1
    path.write_bytes({"half": content[:2000], "all but the checksum": content[-50:], "empty": b""}.get(damage, content))
    with pytest.raises(DamagedError, match=f"expected a checkpoint as it was written, {path} is damaged"):
        verify(path)


def test_the_one_before_a_damaged_one_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest(tmp_path) is None
    first, second = (written(tmp_path / f"step-00000000{step}.ckpt") for step in (1, 2))
    assert newest(tmp_path) == second
    second.write_bytes(second.read_bytes()[:-1])
    assert newest(tmp_path) == first
    assert f"{second} is damaged; the one before is taken" in caplog.text


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "best.ckpt")

    def filling(_: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("experiments.run.checkpoints.torch.save", filling)
    with pytest.raises(OSError, match="No space left"):
        written(path, 2.0)
    verify(path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_latest_are_kept_with_the_best_weights_of_then(tmp_path: Path) -> None:
    paths = [tmp_path / f"step-{step:09d}.ckpt" for step in (9, 10, 11)]
    for path in (*paths, *map(best_of, paths), best_of(tmp_path / "step-000000012.ckpt"), tmp_path / "half.ab.tmp"):
        path.touch()
    (tmp_path / "best.ckpt").touch()
    discard(tmp_path, keep=2)
    kept = {*paths[1:], *map(best_of, paths[1:]), tmp_path / "best.ckpt"}
    assert set(tmp_path.iterdir()) == kept
