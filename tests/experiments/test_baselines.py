"""BM25 that is ranked once: the same rankings as ever, and never those of another task."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from contrastive.data import RetrievalTask
from contrastive.evaluation import bm25, bm25_rankings
from experiments.evaluate import baselines
from experiments.evaluate.baselines import USER_QUERY, bm25_once

TASK = RetrievalTask(
    name="dev",
    queries={"q1": "python developer", "q2": "night nurse"},
    corpus={"d1": "nurse, nights", "d2": "developer of python", "d3": "night nurse"},
    qrels={"q1": {"d2": 1}, "q2": {"d1": 1}},
)


def test_rankings_are_those_of_bm25_and_read_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bm25_once(TASK, "developer", tmp_path / "new")
    plain = bm25_rankings(TASK)
    for query in TASK.queries:
        assert first.documents[query] == plain.documents[query]
        assert first.scores[query] == plain.scores[query]
    assert first.documents[USER_QUERY] == ["d2"]
    monkeypatch.setattr(baselines, "bm25_rankings", None)
    assert bm25_once(TASK, "developer", tmp_path / "new") == first


@pytest.mark.parametrize(
    "other",
    [
        replace(TASK, queries={**TASK.queries, "q2": "chef"}),
        replace(TASK, corpus={**TASK.corpus, "d3": "chef"}),
        replace(TASK, qrels={**TASK.qrels, "q2": {"d3": 1}}),  # d3 is the text of q2: now an answer
    ],
    ids=["query", "document", "relevance"],
)
def test_another_task_is_ranked_anew(other: RetrievalTask, tmp_path: Path) -> None:
    bm25_once(TASK, "developer", tmp_path)
    assert bm25_once(other, "developer", tmp_path) == bm25_once(other, "developer", None)
    assert len(list(tmp_path.iterdir())) == 2


def test_rankings_are_named_by_what_is_left_out_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bm25_once(TASK, "developer", tmp_path)
    bm25_once(replace(TASK, qrels={"q1": {"d2": 2}, "q2": {"d1": 1}}), "developer", tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(baselines, "self_answers", lambda _task: {"q1": {"d1"}})  # another rule
    bm25_once(TASK, "developer", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_rankings_with_spelling_are_kept_beside_those_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, right = (bm25_once(TASK, "devloper", tmp_path, spelling=spelling) for spelling in (False, True))
    assert [rankings.documents[USER_QUERY] for rankings in (plain, right)] == [[], ["d2"]]
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(baselines, "bm25_rankings", None)
    assert bm25_once(TASK, "devloper", tmp_path, spelling=True) == right
    assert bm25_once(TASK, "devloper", tmp_path) == plain


def test_rankings_of_other_words_or_weights_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bm25_once(TASK, "developer", tmp_path)
    for name, value in (("K1", 3.0), ("B", 0.1), ("WORD", re.compile(r"\w+"))):
        monkeypatch.setattr(bm25, name, value)
        bm25_once(TASK, "developer", tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_damaged_file_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = bm25_once(TASK, "developer", tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text("{")
    assert bm25_once(TASK, "developer", tmp_path) == expected
    assert "damaged" in caplog.text


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert bm25_once(TASK, "developer", tmp_path / "file") == bm25_once(TASK, "developer", None)
    assert f"in {tmp_path / 'file'}, which cannot be written" in caplog.text
