"""The program that builds and changes an index, and search in one."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from contrastive.search.disk.manifest import read_manifest, rebuild_command
from experiments.index.__main__ import main as index
from experiments.search.__main__ import main as search

ROWS = [
    {"_id": "n", "title": "Nurse", "text": "Nights in a hospital", "metadata": {"place": "Bonn", "tags": ["a", "b"]}},
    {"_id": "c", "title": "Chef", "text": "Kitchen years", "remote": True, "salary": 50000},
    {"_id": "d", "text": "python developer", "metadata": {"place": "Ulm"}},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "postings.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture
def run(tiny_model_folder: Path, capsys: pytest.CaptureFixture[str], caplog: Any) -> Any:
    caplog.set_level(logging.INFO)

    def called(program: Any, *arguments: object) -> list[str]:
        program([*map(str, arguments), "--model", str(tiny_model_folder), "--device", "cpu"])
        printed = capsys.readouterr().out
        return [hit["id"] for hit in json.loads(printed)["hits"]] if printed else []

    return called


@pytest.mark.parametrize("engine", [[], ["--engine", "lance", "--url", "vectors of mine"]])
def test_an_index_is_built_searched_filtered_and_changed(
    engine: list[str], run: Any, file: Path, tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine:
        pytest.importorskip("lancedb")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "index"
    run(index, "--data", file, "--out", folder, *engine)
    assert (tmp_path / "vectors of mine").exists() == ("--url" in engine)
    assert (f"embeddings at {tmp_path / 'vectors of mine'}" in caplog.text) == ("--url" in engine)
    assert "3 documents, " in caplog.text
    found = ["nurse", "--json", "--index", folder]
    assert sorted(run(search, *found)) == ["c", "d", "n"]
    assert run(search, *found, "--filter", "place=bonn", "--filter", "tags~b") == ["n"]
    assert run(search, *found, "--filter", "salary>=50000", "--filter", "remote=true") == ["c"]
    assert run(search, *found, "--bm25", "--data", file) == ["n"]
    more = tmp_path / "more.jsonl"
    more.write_text('{"_id": "n", "text": "nurse in a ward", "place": "Ulm"}\n{"_id": "m", "text": "engineer"}\n')
    run(index, "--out", folder, "--add", more, "--remove", "c")
    assert sorted(run(search, *found)) == ["d", "m", "n"]
    assert sorted(run(search, *found, "--filter", "place=Ulm", "--data", file)) == ["d", "n"]
    for arguments, message in (
        (["--remove", "x"], "error: expected ids of the index to remove, got 'x'"),
        (["--remove", "n", "--data", file], "error: expected --data, or --add and --remove, got both"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(index, "--out", folder, *arguments)
    with pytest.raises(SystemExit, match=r"error: expected a column of the postings, got 'plaec'\. There are 'place'"):
        run(search, *found, "--filter", "plaec=Ulm")
    with pytest.raises(SystemExit, match="error: expected a filter such as place=Berlin"):
        run(search, *found, "--filter", "place")
    file.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1]) + "\n")
    command = r"python -m experiments.index --out \S+ --model \S+ --data \S+ --device cpu "
    with pytest.raises(SystemExit, match=rf"error: .*they have changed; {command}{' '.join(engine[:3])}.*builds it"):
        run(search, *found, "--data", file)
    caplog.clear()
    run(search, *found)
    assert f"{file} has changed since the index {folder} was built; python -m experiments.index" in caplog.text


def test_an_engine_that_is_not_there_is_said(
    run: Any, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    run(index, "--data", file, "--out", folder)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    for arguments, message in (
        (["--engine", "exact", "--link"], "error: expected the engine lance for a URL or links, got exact"),
        (["--url", "elsewhere"], "error: expected the engine lance for a URL or links, got none"),
        (["--engine", "lance"], "error: expected LanceDB for this engine.* pip install 'contrastive-losses.engine.'"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(index, "--data", file, "--out", folder, *arguments)
    assert sorted(run(search, "nurse", "--json", "--index", folder)) == ["c", "d", "n"]


def test_candidates_can_be_asked_for(run: Any, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with pytest.raises(SystemExit, match="error: expected an index of tokens with the engine exact for candidates"):
        run(index, "--data", file, "--out", folder, "--candidates", "2")
    run(index, "--data", file, "--out", folder, "--candidates", "0")
    assert "--candidates 0" in rebuild_command(read_manifest(folder), folder, "MODEL")


def test_a_first_search_builds_the_index(run: Any, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    first = run(search, "nurse", "--json", "--data", file, "--index", folder)
    file.unlink()
    assert run(search, "nurse", "--json", "--index", folder) == first
    file.write_text('{"_id": "1", "text": "a"}\n{"_id": "2", "text": \n')
    with pytest.raises(SystemExit, match=r"error: .*postings\.jsonl, line 2: malformed JSON"):
        run(index, "--data", file, "--out", folder)
    assert run(search, "nurse", "--json", "--index", folder) == first
    with pytest.raises(SystemExit, match=r"error: expected an index in .*none; python -m experiments.index --out"):
        run(index, "--out", tmp_path / "nothing", "--remove", "1")
