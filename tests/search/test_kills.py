"""kill -9 of a build or a change at every moment of it: the index that was there opens, and the next one completes."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import killed
import pytest

from contrastive.encoder import Encoder
from contrastive.search import Posting, SearchIndex, open_index
from contrastive.search.disk import building


@pytest.fixture(scope="module")
def folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indices by engine and by what was killed."""
    folder = tmp_path_factory.mktemp("killed")
    engines = ["exact", *(["lance"] if find_spec("lancedb") else [])]
    command = [sys.executable, killed.__file__, tiny_model_folder, folder, *engines]
    subprocess.run(command, check=True)
    return folder


@pytest.mark.parametrize("what", ["build", "update"])
@pytest.mark.parametrize("engine", ["exact", "lance"])
def test_an_index_survives_being_killed(
    engine: str, what: str, folder: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "lance":
        pytest.importorskip("lancedb")
    monkeypatch.setattr(building, "SIZE", 2)
    before, after = (content(in_memory(tiny_encoder, postings)) for postings in (killed.BEFORE, killed.AFTER))
    for moment in killed.moments_of(engine, what):
        path = folder / engine / what / moment
        stands = moment in ("after write 1", "after rmtree 1")
        assert content(open_index(path, tiny_encoder)) == (after if stands else before), path
        killed.change(what, path, tiny_encoder)
        assert content(open_index(path, tiny_encoder)) == after, path
        names = {each.name for each in path.iterdir()}
        assert names == {"index.json", "segments", "words", *(["vectors"] if engine == "lance" else [])}, path
        assert len(list((path / "words").iterdir())) == 1, path
        assert len(list((path / "segments").iterdir())) == (4 if what == "build" else 5), path


def in_memory(encoder: Encoder, postings: list[Posting]) -> SearchIndex:
    return SearchIndex(encoder, {posting.id: posting.text for posting in postings})


def content(index: SearchIndex) -> Any:
    """Return all that is found, rounded."""
    return [
        sorted((hit.id, round(hit.score, 4)) for hit in index.search([query], 99, passages=False, system=system)[0])
        for query in ("nurse hospital", "data kitchen")
        for system in ("encoder", "bm25")
    ]
