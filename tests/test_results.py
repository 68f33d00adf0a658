"""Files and tables that a run leaves behind."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from contrastive.data import RetrievalTask
from contrastive.evaluation import Rankings, evaluate_rankings
from experiments import results

TASK = RetrievalTask("test", {"q": "python"}, {"a": "Developer\n\nPython", "b": "Chef"}, {"q": {"a": 1}})
RANKINGS = Rankings({"q": ["a", "b"]}, {"q": [0.9, 0.1]})


def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    results.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        results.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_table_fits_eighty_columns_with_every_number() -> None:
    out = console()
    results.print_table("title", {"before": evaluate_rankings(RANKINGS, TASK)}, out)
    printed = out.file.getvalue()
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.count("1.000\n") + printed.count("1.000 ") >= len(results.HEADLINE)
    assert printed.count("[1.000, 1.000]") == len(results.HEADLINE)


def test_top_documents_are_printed_with_score_and_title() -> None:
    out = console()
    results.print_top("python [bold]", {"after": [(0.5, TASK.corpus["a"])]}, out)
    assert "python [bold]" in out.file.getvalue()
    assert "1. 0.500  Developer · Python" in out.file.getvalue()


def test_first_line_is_cut_with_an_ellipsis() -> None:
    assert results.first_line("a\n\n b ") == "a · b"
    assert results.first_line("x" * 100, width=10) == "x" * 9 + "…"


def test_examples_hold_the_best_documents_of_each_system() -> None:
    assert results.example_rows(TASK, {"BM25": RANKINGS}, depth=1) == [["python", "Developer · Python"]]


def test_no_history_no_plot(tmp_path: Path) -> None:
    assert results.plot_training(tmp_path / "plot.png", tmp_path / "metrics.csv") is False
    (tmp_path / "metrics.csv").write_text("step,train/loss,dev/ndcg@10\n0,1.5,\n1,1.0,\n1,,0.5\n")
    assert results.plot_training(tmp_path / "plot.png", tmp_path / "metrics.csv") is True
    assert (tmp_path / "plot.png").stat().st_size > 0
