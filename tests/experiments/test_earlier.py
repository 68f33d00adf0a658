"""What an earlier attempt at a run finished is read back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrastive.evaluation import Rankings, evaluate_rankings
from experiments.evaluate.judging import judge_bm25
from experiments.postings.generator import jobs
from experiments.results.judgement import Judgement
from experiments.run.earlier import check_data, read_judgement, write_judgement
from experiments.run.run_folder import RunFolder


def test_a_judgement_is_read_back_as_it_was(tmp_path: Path) -> None:
    task = jobs(train_pairs=8, dev_queries=4, test_queries=4).test
    assert task is not None
    folder = RunFolder(tmp_path, writes=True)
    bm25 = judge_bm25(task, "data scientist")
    query = next(iter(task.queries))
    ranked = Rankings({query: ("d1", "d2")}, {query: (0.1 + 0.2, 0.1)})
    judged = Judgement(
        *(bm25.rankings, bm25.results, [(1 / 3, "a text")], [2], {"alignment": 0.1}, {"random": [0.25, 1 / 7]}, "dot"),
        put_right=(ranked, ranked),
    )
    for name, judgement in (("BM25", bm25), ("before", judged)):
        write_judgement(folder, name, judgement)
        found = read_judgement(folder, name)
        assert found.summary() == judgement.summary()
        assert found.top == judgement.top
        assert evaluate_rankings(found.rankings, task) == judgement.results == found.results
        assert (found.similarities, found.similarity) == (judgement.similarities, judgement.similarity)
    assert found.asked is None
    assert found.put_right is not None
    assert [list(each.scores[query]) for each in found.put_right] == [[0.1 + 0.2, 0.1]] * 2
    assert sorted(path.name for path in tmp_path.rglob("*.json")) == ["judged-BM25.json", "judged-before.json"]
    folder.forget()
    assert not list(tmp_path.rglob("*.json"))


def test_other_data_are_refused() -> None:
    account = {"rows_read": None, "pairs": 8, "batches": {"size": 4}, "tokens": {}}
    check_data(account, {**account, "tokens": {"queries": 1}}, Path("run"))
    check_data(None, account, Path("run"))
    with pytest.raises(ValueError, match=r"that the run in run began with, batches {'size': 4}, got {'size': 5}"):
        check_data(account, {**account, "batches": {"size": 5}}, Path("run"))
