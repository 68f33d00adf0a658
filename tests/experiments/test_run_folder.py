"""A run has its folder for itself, and leaves a finished one as it is."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments.results.files import write_json
from experiments.run import run_folder
from experiments.run.run_folder import claimed, forget_refused, new_folder


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    wanted = str(tmp_path / "2026-01-02" / "03-04-05-dcl")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(new_folder, [wanted] * 8))
    assert sorted(made) == [wanted, *(f"{wanted}-{number}" for number in range(2, 9))]
    assert all(Path(folder).is_dir() for folder in made)


@pytest.mark.parametrize("rank", ["RANK", "LOCAL_RANK"])
def test_a_process_that_joins_a_run_joins_its_folder(
    rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = str(tmp_path / "run")
    assert new_folder(wanted) == wanted
    monkeypatch.setenv(rank, "1")
    assert new_folder(wanted) == wanted
    monkeypatch.setenv(rank, "0")
    assert new_folder(wanted) == f"{wanted}-2"


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"status": "finished"})
    with pytest.raises(FileExistsError, match=f"without a finished run, there is one in {tmp_path}: take another"):
        claimed(tmp_path, writes=True).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("status", ["interrupted", "failed: why", "running", "pruned: at stage 1"])
def test_a_run_that_did_not_finish_is_begun_again_in_its_folder(status: str, tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"status": status})
    with claimed(tmp_path, writes=True) as folder:
        assert json.loads((tmp_path / "metrics.json").read_text()) == {"status": status}
        folder.start("seed: 1\n", {"status": "running"})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"status": "running"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "metrics.json"]


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        claimed(tmp_path, writes=True),
        pytest.raises(FileExistsError, match=f"no other process runs in, one does in {tmp_path}"),
        claimed(tmp_path, writes=True),
    ):
        pytest.fail("two have it")
    with claimed(tmp_path, writes=True):
        pass


def test_a_file_system_without_locks_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(run_folder.FileLock, "acquire", unknown)
    with claimed(tmp_path, writes=True) as folder:
        assert folder.writes


def test_the_other_processes_of_a_run_write_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run"
    write_json(tmp_path / "metrics.json", {"status": "finished"})
    for folder in (path, tmp_path):
        with claimed(folder, writes=False) as joined:
            joined.start("seed: 1\n", {"status": "running"})
            joined.write_ending({"status": "failed"})
    assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
    path.mkdir()
    with claimed(path, writes=False):
        pass
    assert not path.exists()  # Hydra made it for a process that did not know the folder of the first


def test_what_never_started_does_not_replace_what_an_earlier_run_says(tmp_path: Path) -> None:
    for status in ("interrupted", "failed: a misspelt loss"):
        with claimed(tmp_path, writes=True) as folder:
            folder.write_ending({"status": status})
        assert json.loads((tmp_path / "metrics.json").read_text()) == {"status": "interrupted"}


def test_a_run_that_was_refused_leaves_no_folder_and_another_stays(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for names in ([], ["run.log"], ["metrics.json", "run.log"]):
        path.mkdir()
        for name in names:
            (path / name).touch()
        forget_refused(path)
        assert not path.exists()
    forget_refused(path)
    path.mkdir()
    for name in ("metrics.json", "config.yaml"):
        (path / name).touch()
    forget_refused(path)
    assert len(list(path.iterdir())) == 2


def test_an_ending_that_cannot_be_written_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with claimed(tmp_path, writes=True) as folder:
        folder.path = tmp_path / "gone"
        folder.write_ending({"status": "failed"})
    assert "How the run ended could not be written" in caplog.text
