"""The store on disk: never made twice, never mixed up, never half there; and never more than there is room for."""

import errno
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from contrastive.data import store as module
from contrastive.data.keyed_lines import KeyedLines
from contrastive.data.store import Store, key_of, user_folder

KEY = key_of("a text")


def texts(folder: Path, **options: object) -> Store[str]:
    return Store(folder, ".txt", Path.read_text, Path.write_text, **options)  # type: ignore[arg-type]


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def test_a_value_is_made_once(tmp_path: Path) -> None:
    made = texts(tmp_path / "a" / "b").find_or_make(KEY, lambda: "made")
    assert (made.value, made.kept) == ("made", True)
    assert made.seconds is not None
    read = texts(tmp_path / "a" / "b").find_or_make(KEY, pytest.fail)
    assert (read.value, read.seconds) == ("made", None)
    assert files(tmp_path / "a" / "b") == [".txt"]


def test_keys_tell_apart_what_differs() -> None:
    described = [{"a": 1}, {"a": 2}, {"a": "1"}, ["x"], "x", None, "\ud83d", "?"]
    contents = [["ab", "c"], ["a", "bc"], ["ab"], ["ab", ""], ["a", "b"], ["b", "a"], ["\ud83d"], ["?"]]
    keys = [*map(key_of, described), *(key_of(None, content) for content in contents)]
    assert len(set(keys)) == len(described) + len(contents)


def test_equal_things_have_one_key() -> None:
    assert key_of({"a": 1, "b": 2}, ["x"]) == key_of({"b": 2, "a": 1}, iter([b"x"]))
    assert key_of(None, [memoryview(b"abcdefgh").cast("d")]) == key_of(None, [b"abcdefgh"])


def test_the_key_of_written_queries_stays_what_it_was() -> None:
    """Somebody paid for them."""
    assert key_of([{"model": "m"}, "a text"]) == "5b6a1a87b36e0c8bfc03d64b33bef7afd52a28ea5062e791842b73819eb5f30a"


def test_kinds_share_a_folder(tmp_path: Path) -> None:
    other = Store(tmp_path, ".other.txt", Path.read_text, Path.write_text, max_bytes=1)
    texts(tmp_path).find_or_make(KEY, lambda: "a long text")
    assert other.find_or_make(KEY, lambda: "other").value == "other"
    assert len(files(tmp_path)) == 2


def test_what_is_damaged_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def read(path: Path) -> str:
        if not path.read_text().endswith("."):
            raise KeyError("its end")
        return path.read_text()

    store = Store(tmp_path, ".txt", read, Path.write_text)
    (tmp_path / f"{KEY}.txt").write_text("hal")
    assert store.find_or_make(KEY, lambda: "whole.").value == "whole."
    assert caplog.text.count(f"{KEY}.txt is damaged and is computed again (KeyError: 'its end')") == 1
    assert store.find_or_make(KEY, pytest.fail).value == "whole."


def test_a_file_that_is_half_written_has_no_name(tmp_path: Path) -> None:
    def stop(path: Path, _: str) -> None:
        path.write_text("half")
        assert files(tmp_path) == [".lock", ".tmp"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path, ".txt", Path.read_text, stop).find_or_make(KEY, lambda: "whole")
    assert files(tmp_path) == []


def test_of_those_that_want_the_same_at_once_one_makes_it(tmp_path: Path) -> None:
    together, made = Barrier(4), []

    def make() -> str:
        time.sleep(0.05)
        made.append(1)
        return "made"

    def ask(_: int) -> str:
        together.wait(10)
        return texts(tmp_path).find_or_make(KEY, make).value

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == ["made"] * 4
    assert made == [1]
    assert files(tmp_path) == [".txt"]


def test_a_lock_that_a_killed_process_left_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / f"{KEY}.lock").touch()
    assert texts(tmp_path).find_or_make(KEY, lambda: "made").value == "made"
    assert files(tmp_path) == [".txt"]


def test_without_locks_things_are_kept_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(module.FileLock, "__enter__", none)
    assert texts(tmp_path).find_or_make(KEY, lambda: "made").kept
    assert files(tmp_path) == [".txt"]


def test_parts_stay_until_the_whole_is_there(tmp_path: Path) -> None:
    store = texts(tmp_path)

    def interrupted() -> str:
        store.part(KEY, "0-1", lambda: "one ")
        raise KeyboardInterrupt

    def whole() -> str:
        first = store.part(KEY, "0-1", pytest.fail)
        assert first.seconds is None
        return first.value + store.part(KEY, "1-2", lambda: "two").value

    with pytest.raises(KeyboardInterrupt):
        store.find_or_make(KEY, interrupted)
    assert files(tmp_path) == [".txt"]
    assert store.find_or_make(KEY, whole).value == "one two"
    assert [file.name for file in tmp_path.iterdir()] == [f"{KEY}.txt"]


def test_what_is_not_worth_it_is_not_kept(tmp_path: Path) -> None:
    found = texts(tmp_path, worth=str.isalpha).find_or_make(KEY, lambda: "1")
    assert (found.value, found.kept) == ("1", False)
    assert files(tmp_path) == []


def test_the_files_used_least_recently_make_room(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("somebody else's, with a name of another kind")
    store = texts(tmp_path)
    for number, text in enumerate("abc"):
        store.find_or_make(key_of(text), lambda: "12345")
        os.utime(tmp_path / f"{key_of(text)}.txt", (number, number))
    store.find_or_make(key_of("a"), pytest.fail)  # which is now the latest
    texts(tmp_path, max_bytes=10).find_or_make(key_of("d"), lambda: "12345")
    assert {file.stem for file in tmp_path.iterdir()} == {"mine", key_of("a"), key_of("d")}
    texts(tmp_path, max_bytes=0).find_or_make(key_of("e"), lambda: "12345")
    assert {file.stem for file in tmp_path.iterdir()} == {"mine", key_of("e")}


def test_a_folder_that_cannot_be_written_is_a_warning_of_each_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    for _job in range(2):
        store = texts(tmp_path / "file")
        assert not store.part(KEY, "0", lambda: "made").kept
        found = store.find_or_make(KEY, lambda: "made")
        assert (found.value, found.kept) == ("made", False)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all(f"in {tmp_path / 'file'}, which cannot be written" in line for line in said)


def test_a_disk_that_fills_up_on_the_way_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def full(_path: Path, _text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path, ".txt", Path.read_text, full)
    assert not store.find_or_make(KEY, lambda: store.part(KEY, "0", lambda: "made").value).kept
    assert caplog.text.count(f"in {tmp_path}, which cannot be written") == 1
    assert files(tmp_path) == []


def test_what_is_there_is_read_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts(tmp_path).find_or_make(KEY, lambda: "made")

    def read_only(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", read_only)
    monkeypatch.setattr(module.os, "utime", read_only)
    assert texts(tmp_path).find_or_make(KEY, pytest.fail).value == "made"


def test_the_folders_are_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_folder("embeddings") == tmp_path / "contrastive" / "embeddings"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_folder("embeddings") == tmp_path / "home" / ".cache" / "contrastive" / "embeddings"


def test_lines_are_appended_by_one_process_at_a_time(tmp_path: Path) -> None:
    lines = KeyedLines(tmp_path / "new" / "lines.jsonl", "values")
    together, read = Barrier(3), []

    def add(name: str) -> None:
        together.wait(10)
        with lines.appending() as append:
            read.append(len(lines.read()))
            time.sleep(0.02)
            append(name, [name])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add, "abc"))
    assert read == [0, 1, 2]
    assert lines.read() == {name: [name] for name in "abc"}
    assert files(tmp_path / "new") == [".jsonl"]


def test_lines_need_no_lock_where_none_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(_: object) -> None:
        raise PermissionError("a folder of somebody else")

    monkeypatch.setattr(module.FileLock, "__enter__", refused)
    caplog.set_level(logging.INFO)
    lines = KeyedLines(tmp_path / "lines.jsonl", "values")
    with lines.appending() as append:
        append("a", [1])
    assert lines.read() == {"a": [1]}
    assert not caplog.text
