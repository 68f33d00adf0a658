from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from contrastive.data.whole_files import disk_is_full, whole_file, whole_folder


def test_the_name_is_taken_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_stays_if_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with whole_file(path) as first, whole_file(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"


def test_what_takes_the_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, done = tmp_path / "a.txt", []

    def synced(number: int) -> None:
        done.append((os.fstat(number).st_ino, path.exists()))

    monkeypatch.setattr(os, "fsync", synced)
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert done == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["system", "quota", "safetensors"],
)
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_full_disk_is_said_with_what_was_to_be_written(error: Exception, whole: object, tmp_path: Path) -> None:
    path = tmp_path / "model"
    named = r"\[Errno \d+\] (No space left on device|Disk quota exceeded): '.*/model'"
    with pytest.raises(OSError, match=named) as raised, whole(path):  # type: ignore[operator]
        raise error
    assert disk_is_full(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^expected better$"), whole_file(tmp_path / "a"):
        raise ValueError("expected better")


def test_a_folder_takes_its_name_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for content in ("old", "new"):
        with whole_folder(path) as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / content).touch()
            assert path.exists() == (content == "new")
    assert [file.name for file in path.rglob("*")] == ["inner", "new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_was_there_stays_if_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    with whole_folder(path) as temporary:
        (temporary / "old").touch()
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == path and (self / "new").exists():
            raise PermissionError("not now")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(PermissionError, match="not now"), whole_folder(path) as temporary:
        (temporary / "new").touch()
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]
