"""Files and tables that a run leaves behind."""

import csv
import io
import json
from pathlib import Path

import pytest
from matplotlib.container import BarContainer
from rich.console import Console

from contrastive.data import RetrievalTask
from contrastive.evaluation import Rankings, Results, evaluate_rankings
from contrastive.statistics import Interval
from experiments.results import figures
from experiments.results import files as results

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


def test_documents_and_queries_do_not_control_the_terminal() -> None:
    out = console()
    results.print_top("red\x1b[31m", {"after": [(0.5, "Chef\x1b[2J\x07\nsoup")]}, out)
    assert "Best postings for: red\n" in out.file.getvalue()
    assert "1. 0.500  Chef · soup\n" in out.file.getvalue()


def test_top_documents_say_whether_they_are_relevant_where_it_is_known() -> None:
    out = console()
    hits = [(0.5, "Chef"), (0.4, "Baker"), (0.3, "Cook")]
    results.print_top("cooking", {"known": hits, "unknown": hits}, out, {"known": [2, 0, 1], "unknown": None})
    lines = [line.rstrip() for line in out.file.getvalue().splitlines()]
    assert lines[3:6] == [
        "    1. 0.500  relevant (2)  Chef",
        "    2. 0.400  not relevant  Baker",
        "    3. 0.300  relevant (1)  Cook",
    ]
    assert lines[7] == "    1. 0.500  Chef"


def test_first_line_is_cut_with_an_ellipsis() -> None:
    assert results.first_line("a\n\n b ") == "a · b"
    assert results.first_line("x" * 100, width=10) == "x" * 9 + "…"


def test_examples_hold_the_best_documents_of_each_system() -> None:
    assert results.example_rows(TASK, {"BM25": RANKINGS}, depth=1) == [["python", "Developer · Python"]]


def test_gain_is_printed_with_its_sign() -> None:
    out = console()
    results.print_gain({"mean": 0.1, "low": -0.05, "high": 0.25, "p_value": 0.0123}, out)
    assert "nDCG@10: +0.100 [-0.050, +0.250], p = 0.0123" in out.file.getvalue().replace("\n", "")


def test_only_files_that_exist_are_listed(tmp_path: Path) -> None:
    (tmp_path / "BM25.trec").touch()
    out = console()
    results.print_files(tmp_path, out)
    assert "*.trec" in out.file.getvalue()
    assert "config.yaml" not in out.file.getvalue()


def test_a_row_a_query_has_the_metric_under_each_system() -> None:
    task = RetrievalTask("t", {"q": "python", "r": "chef"}, TASK.corpus, {"q": {"a": 1}, "r": {"b": 1}})
    rankings = Rankings({"q": ["a"], "r": ["a"]}, {"q": [1], "r": [1]})
    systems = {"BM25": evaluate_rankings(rankings, task), "after": evaluate_rankings(RANKINGS, task)}
    assert results.per_query_rows(task, systems) == [["q", "python", 1.0, 1.0], ["r", "chef", 0.0, 0.0]]
    assert results.per_query_rows(task, systems, "recall@100", limit=1) == [["q", "python", 1.0, 1.0]]


def test_final_numbers_are_flat() -> None:
    change = {"mean": 0.1, "low": 0.0, "high": 0.2, "p_value": 0.5}
    report = {
        "systems": {"after": {"metrics": {"map": {"mean": 0.5, "low": 0, "high": 1}}, "embedding_health": {"x": 2.0}}},
        "gain": {"map": change},
        "seconds": {"train": 3.5},
        "monitored": {"metric": "dev/map", "value": 0.25},
    }
    assert results.final_numbers(report) == {
        "after/map": 0.5,
        "after/x": 2.0,
        "gain/map": 0.1,
        "gain/map_low": 0.0,
        "gain/map_high": 0.2,
        "gain/map_p_value": 0.5,
        "seconds/train": 3.5,
        "best/dev/map": 0.25,
    }
    assert results.final_numbers({"systems": {}, "monitored": None}) == {}


def test_queries_are_written_with_their_text(tmp_path: Path) -> None:
    results.write_queries(tmp_path / "q.csv", RetrievalTask("t", {"q": 'a, "b"\n c'}, TASK.corpus, {}))
    with (tmp_path / "q.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{"query_id": "q", "query": 'a, "b"\n c'}]


def test_similarities_are_written_a_row_a_pair(tmp_path: Path) -> None:
    results.write_similarities(tmp_path / "s.csv", {"after": {"relevant": [0.5, 0.25], "random": []}})
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines == ["system,pair,cosine", "after,relevant,0.500000", "after,relevant,0.250000"]


def test_figures_show_what_there_is(tmp_path: Path) -> None:
    systems, history = {"after": evaluate_rankings(RANKINGS, TASK)}, tmp_path / "metrics.csv"
    assert set(figures.draw(tmp_path, systems, {}, history)) == {"results"}
    history.write_text("step,train/loss,dev/ndcg@10\n0,1.5,\n1,1.0,\n1,,0.5\n")
    cosines = {"after": {"relevant": [0.5], "random": []}}
    drawn = figures.draw(tmp_path, systems, cosines, history)
    assert {name: path.name for name, path in drawn.items()} == {
        "results": "results.png",
        "training": "training.png",
        "similarities": "similarities.png",
    }
    assert all(path.stat().st_size > 0 for path in drawn.values())


def test_bars_carry_means_and_intervals() -> None:
    cells = dict.fromkeys(results.HEADLINE, Interval(0.5, 0.25, 0.625))
    judged = Results({}, cells, 0)
    (axes,) = figures.results_figure({"before": judged, "after": judged}).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["before", "after"]
    bars = [container for container in axes.containers if isinstance(container, BarContainer)]
    assert [[bar.get_height() for bar in of_system] for of_system in bars] == [[0.5] * len(results.HEADLINE)] * 2
    assert axes.get_ylim() == (0, 1)
    whiskers = [segment[:, 1].tolist() for lines in axes.collections for segment in lines.get_segments()]
    assert whiskers == [[0.25, 0.625]] * 2 * len(results.HEADLINE)


def test_curves_are_drawn_over_steps() -> None:
    rows = [{"step": "3", "train/loss": "1.5", "dev/ndcg@10": ""}, {"step": "4", "train/loss": "1.0"}]
    figure = figures.training_figure(rows)
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_title() == "train/loss"
    assert axes.lines[0].get_xydata().tolist() == [[3, 1.5], [4, 1.0]]
    assert figures.training_figure([{"step": "1", "other": "2"}]) is None


def test_the_dev_curve_is_drawn_beside_bm25_and_the_untuned_encoder() -> None:
    dev, bm25, untuned = "dev/ndcg@10", "dev/bm25_ndcg@10", "dev/untuned_ndcg@10"
    rows = [
        {"step": "0", dev: "0.40", bm25: "0.5", untuned: "0.40"},
        {"step": "0", "train/loss": "1.5"},
        {"step": "8", dev: "0.45", bm25: "0.5", untuned: "0.40"},
    ]
    figure = figures.training_figure(rows)
    assert figure is not None
    loss, axes = figure.axes
    curve, *lines = (line.get_xydata().tolist() for line in axes.lines)
    assert curve == [[0, 0.40], [8, 0.45]]
    assert [[y for _, y in line] for line in lines] == [[0.5, 0.5], [0.4, 0.4]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["BM25 0.500", "untuned 0.400"]
    assert loss.get_legend() is None


def test_every_kind_of_pair_is_drawn_as_shares_on_one_scale() -> None:
    cosines = {
        "before": {"relevant": [0.5, 1.0 + 1e-7], "random": [-0.2, 0.1], "bm25_hard": []},
        "after": {"relevant": [0.9], "random": [0.0], "bm25_hard": [0.3]},
    }
    figure = figures.similarity_figure(cosines)
    assert figure is not None
    before, after = figure.axes
    assert (before.get_title(), after.get_title()) == ("before", "after")
    assert (before.get_xlim(), before.get_ylim()) == (after.get_xlim(), after.get_ylim())
    for axes, expected in ((before, [1, 1, 0]), (after, [1, 1, 1])):
        shares = [sum(bar.get_height() for bar in bars) for bars in axes.containers]
        assert shares == pytest.approx(expected)  # a cosine that rounding took beyond 1 is not lost
    assert len(figure.legends[0].get_texts()) == 3
    assert figures.similarity_figure({"after": {"relevant": []}}) is None


@pytest.mark.parametrize(("similarity", "label"), [("dot", "dot product"), ("euclidean", "minus the distance")])
def test_scores_that_are_no_cosines_are_called_by_their_name_and_all_drawn(
    similarity: str, label: str, tmp_path: Path
) -> None:
    scores = {"after": {"relevant": [-30.0, -2.0, -1.5], "random": [-41.0], "bm25_hard": []}}
    figure = figures.similarity_figure(scores, similarity)
    assert figure is not None
    assert figure.axes[0].get_xlabel() == f"{label} of query and document"
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == pytest.approx(2)
    results.write_similarities(tmp_path / "s.csv", scores, similarity)
    assert (tmp_path / "s.csv").read_text().startswith(f"system,pair,{similarity}\n")
