"""`python -m experiments.compare` on made-up folders of finished runs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from finished_run import CONFIG, finished_report
from rich.console import Console

from contrastive.data import RetrievalTask
from contrastive.evaluation import Rankings, evaluate_rankings
from contrastive.statistics import against_baseline, hierarchical_bootstrap
from experiments.compare.__main__ import main
from experiments.compare.comparison import comparison
from experiments.compare.report import as_csv, as_json, as_markdown, print_report
from experiments.compare.systems import name_systems
from experiments.evaluate.judging import Judgement, gain

MakeRun = Callable[..., Path]
QUERIES = [f"q{number}" for number in range(40)]


def scores_of(seed: int, gain: float = 0.0) -> dict[str, float]:
    hardness = np.random.default_rng(0).uniform(0.2, 0.7, len(QUERIES))
    noise = np.random.default_rng(seed + 1).normal(0, 0.02, len(QUERIES))
    return dict(zip(QUERIES, (hardness + noise + gain).tolist(), strict=True))


def write_scores(path: Path, scores: Mapping[str, float]) -> None:
    rows = "".join(f"{query},{score},{score / 2}\n" for query, score in scores.items())
    path.write_text(f"query_id,ndcg@10,map\n{rows}", encoding="utf-8")


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write the folder of a run, without its model; `config` and `report` replace top-level values."""

    def make(
        name: str, *, seed: int = 0, temperature: float = 0.05, gain: float = 0.0, scores: Any = None, **changes: Any
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        loss = {"_target_": "contrastive.losses.InfoNCELoss", "temperature": temperature}
        callbacks = {"checkpoint": {"dirpath": f"{folder}/checkpoints"}, "progress": {"refresh_rate": seed}}
        config = {**CONFIG, "loss": loss, "callbacks": callbacks, "folder": str(folder), "seed": seed}
        config |= changes.get("config", {})
        report = {**finished_report(), **changes.get("report", {})}
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
        write_scores(folder / "after.per_query.csv", scores or scores_of(seed, gain))
        write_scores(folder / "before.per_query.csv", scores_of(-1, -0.1))
        return folder

    return make


@pytest.fixture
def runs(make_run: MakeRun) -> list[Path]:
    """Two systems of three seeds, the second better by 0.1."""
    first = [make_run(f"a{seed}", seed=seed) for seed in range(3)]
    return first + [make_run(f"b{seed}", seed=seed + 5, temperature=0.1, gain=0.1) for seed in range(3)]


def printed(report: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_report(report, console)
    return console.file.getvalue()


def test_runs_that_differ_in_their_seed_only_are_one_system(runs: list[Path]) -> None:
    report = comparison([runs[0], runs[3], *runs])
    assert [(row.system, row.seeds) for row in report.rows] == [
        ("loss.temperature=0.05", [0, 1, 2]),
        ("loss.temperature=0.1", [5, 6, 7]),
    ]
    assert report.baseline == "loss.temperature=0.05"
    assert report.num_queries == 40


def test_numbers_are_those_of_the_library(runs: list[Path]) -> None:
    report = comparison(runs, alpha=0.1)
    first, second = ([list(scores_of(s, g).values()) for s in seeds] for seeds, g in (((0, 1, 2), 0), ((5, 6, 7), 0.1)))
    expected = against_baseline({"a": first, "b": second}, "a", confidence=0.9)["b"]
    assert report.rows[0].against is None
    assert report.rows[1].against == expected
    assert [row.mean for row in report.rows] == [hierarchical_bootstrap(s, confidence=0.9) for s in (first, second)]
    assert expected.holm_p < 0.01
    assert expected.comparison.mean == pytest.approx(0.1, abs=0.02)
    assert report.caveats == []


def test_numbers_are_those_that_the_run_itself_reports(make_run: MakeRun) -> None:
    texts = {query: query for query in QUERIES}
    task = RetrievalTask("test", texts, texts, {query: {query: 1} for query in QUERIES})
    judged = {}
    for seed, system in enumerate(("before", "after")):
        random = np.random.default_rng(seed)
        found = {query: random.permutation(QUERIES).tolist() for query in QUERIES}
        rankings = Rankings(found, {query: [0.0] * len(QUERIES) for query in QUERIES})
        judged[system] = Judgement(rankings, evaluate_rankings(rankings, task), [])
    folder = make_run("a")
    for system, judgement in judged.items():
        judgement.results.write_csv(folder / f"{system}.per_query.csv")
    before, after = comparison([folder], "before", metric="map").rows
    assert (before.mean, after.mean) == tuple(judged[name].results.intervals["map"] for name in ("before", "after"))
    assert after.against is not None
    found = after.against.comparison
    assert gain(judged["before"], judged["after"])["map"] == {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "p_value": found.randomisation_p,
    }


def test_hybrids_are_compared_where_asked_and_a_run_without_one_says_so(make_run: MakeRun) -> None:
    folders = [make_run("a"), make_run("b", temperature=0.1, gain=0.1)]
    for folder in folders:
        (folder / "hybrid.per_query.csv").write_text((folder / "after.per_query.csv").read_text())
    assert [row.mean for row in comparison(folders, row="hybrid").rows] == [
        row.mean for row in comparison(folders).rows
    ]
    (folders[1] / "hybrid.per_query.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no hybrid\.per_query\.csv"):
        comparison(folders, row="hybrid")


def test_queries_are_matched_by_id_whatever_their_order(make_run: MakeRun) -> None:
    scores = scores_of(0)
    folders = [make_run("a", scores=scores), make_run("b", temperature=1, scores=dict(reversed(scores.items())))]
    against = comparison(folders).rows[1].against
    assert against is not None
    assert (against.comparison.mean, against.comparison.randomisation_p) == (0, 1)


def test_one_metric_is_compared(make_run: MakeRun) -> None:
    folders = [make_run("a"), make_run("b", temperature=1, gain=0.1)]
    assert comparison(folders, metric="map").rows[0].mean.mean == pytest.approx(
        comparison(folders).rows[0].mean.mean / 2
    )
    with pytest.raises(ValueError, match=r"expected the metric to be one of ndcg@10, map, in .*got 'mrr'"):
        comparison(folders, metric="mrr")


@pytest.mark.parametrize("baseline", ["loss.temperature=0.1", "folder", "before"])
def test_baseline_is_chosen(runs: list[Path], baseline: str) -> None:
    report = comparison(runs, str(runs[4]) if baseline == "folder" else baseline)
    assert report.baseline == ("before" if baseline == "before" else "loss.temperature=0.1")
    assert report.rows[0].system == report.baseline
    (against, *others) = [row.against.comparison.mean for row in report.rows if row.against is not None]
    assert against == pytest.approx(0.1 if baseline == "before" else -0.1, abs=0.02)
    assert len(others) == (baseline == "before")


def test_a_folder_that_is_the_baseline_need_not_be_named_twice(runs: list[Path]) -> None:
    report = comparison(runs[:3], str(runs[4]))
    assert [row.seeds for row in report.rows] == [[6], [0, 1, 2]]


def test_one_system_is_compared_with_the_untrained_encoder_or_not_at_all(runs: list[Path]) -> None:
    (baseline, row) = comparison(runs[:2], "before").rows
    assert (baseline.seeds, row.system) == ([], "InfoNCELoss")
    with pytest.raises(ValueError, match=r"expected two systems to compare, got runs of InfoNCELoss alone; --baseline"):
        comparison(runs[:2])
    for name in ("BM25", "BM25+spelling"):  # which runs of before do not have
        with pytest.raises(FileNotFoundError, match=rf"found no {re.escape(name)}\.per_query\.csv in .*a0"):
            comparison(runs, name)
    write_scores(runs[1] / "before.per_query.csv", scores_of(-1))
    with pytest.raises(
        ValueError, match=r"expected before to be the same in all runs, .*a1 differs .* 40 of 40 queries"
    ):
        comparison(runs, "before")


def test_queries_that_moved_most_are_named_in_both_directions(make_run: MakeRun) -> None:
    moved = dict(zip(QUERIES, [0.1, -0.2, 0.3, -0.05], strict=False))
    base = dict.fromkeys(QUERIES, 0.5)
    folders = [
        make_run("a", scores=base),
        make_run("b", temperature=1, scores={q: 0.5 + moved.get(q, 0) for q in base}),
    ]
    (folders[1] / "queries.csv").write_text("query_id,query\nq2,python |\nq1,[red]sql\n", encoding="utf-8")
    report = comparison(folders)
    assert [(row.query_id, row.text) for row in report.moved] == [
        ("q2", "python |"), ("q0", None), ("q1", "[red]sql"), ("q3", None)
    ]  # fmt: skip
    assert [row.query_id for row in comparison(folders, num_moved=1).moved] == ["q2", "q1"]
    assert "  +0.300 (0.500 to 0.800)  q2  python |\n" in printed(report)
    assert "  -0.200 (0.500 to 0.300)  q1  [red]sql\n" in printed(report)
    assert "| q2 | python \\| | 0.500 | 0.800 | +0.300 |\n" in as_markdown(report)


def test_one_seed_is_said_to_be_one(make_run: MakeRun) -> None:
    folders = [make_run("a"), make_run("b", temperature=1, gain=0.1)]
    (caveat,) = comparison(folders).caveats
    assert "One seed only of loss.temperature=0.05; loss.temperature=1: the spread over training is unknown" in caveat
    assert caveat in printed(comparison(folders))
    assert caveat in as_markdown(comparison(folders))
    (caveat,) = comparison([*folders, make_run("a1", seed=1)]).caveats
    assert "One seed only of loss.temperature=1:" in caveat


def test_no_difference_found_is_no_equality(make_run: MakeRun) -> None:
    folders = [make_run("a"), make_run("b", temperature=1, scores=scores_of(9)), make_run("c", temperature=2, gain=0.1)]
    caveat = comparison(folders).caveats[1]
    assert "Not shown to differ from loss.temperature=0.05 at 0.05: loss.temperature=1. That does not" in caveat


def test_many_systems_are_counted_and_not_listed(make_run: MakeRun) -> None:
    folders = [make_run(f"{number}", temperature=number, scores=scores_of(number)) for number in range(1, 8)]
    alone, undecided = comparison(folders).caveats
    assert alone.startswith("One seed only of 7 of 7 systems:")
    assert "Not shown to differ from loss.temperature=1 at 0.05: 6 of 6 systems. That does not" in undecided


def test_other_states_of_the_code_are_said(make_run: MakeRun) -> None:
    folders = [make_run("a"), make_run("b", temperature=1, gain=0.1, report={"git": {"commit": "other"}})]
    assert "The runs come from 2 states of the code" in comparison(folders).caveats[-1]


def test_other_queries_are_refused_unless_the_common_ones_are_asked_for(make_run: MakeRun) -> None:
    scores = scores_of(1, 0.1)
    del scores["q3"], scores["q8"]
    folders = [make_run("a"), make_run("b", temperature=1, scores={**scores, "new": 0.5})]
    with pytest.raises(ValueError, match=r"the same queries, 3 of 41 are not in all of them, such as 'q3'; --common"):
        comparison(folders)
    report = comparison(folders, common=True)
    assert report.num_queries == 38
    assert "Compared on the 38 queries that all runs have, of 41" in report.caveats[0]
    lonely = make_run("c", temperature=2, scores={"q0": 0.5, "x": 0.1})
    with pytest.raises(ValueError, match="expected at least 2 queries in all runs, got 1"):
        comparison([*folders, lonely], common=True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"config": {"judge": "dev"}}, r"judge \(test and dev\)"),
        ({"config": {"data": {**CONFIG["data"], "path": "/other"}}}, r"data\.path \(.*help-pages and /other\)"),
        ({"report": {"data": {**finished_report()["data"], "documents": 3}}}, r"its documents \(7890 and 3\)"),
        ({"report": {"data": {**finished_report()["data"], "train_pairs": 3}}}, r"its train_pairs \(1234 and 3\)"),
    ],
)
def test_other_data_are_refused_unless_asked_for(make_run: MakeRun, changes: Any, named: str) -> None:
    folders = [make_run("a"), make_run("b", seed=1, gain=0.1, **changes)]
    with pytest.raises(ValueError, match=rf"same data and split, .*a and .*b differ in {named}; --different-data"):
        comparison(folders)
    report = comparison(folders, different_data=True)
    assert len({row.system for row in report.rows}) == 2
    assert all(re.match(r"(its )?(judge|data\.path|documents|train_pairs)=", row.system) for row in report.rows)
    assert "The data differ in " in report.caveats[0]


def test_the_same_run_twice_is_one_and_a_repeated_run_is_refused(make_run: MakeRun, runs: list[Path]) -> None:
    twin = make_run("twin", seed=1)
    with pytest.raises(
        ValueError, match=r"expected runs that differ, .*a1 and .*twin have the same settings and seed 1"
    ):
        comparison([*runs, twin])


def test_systems_are_named_by_what_can_be_compared() -> None:
    infonce = {"loss._target_": "contrastive.losses.InfoNCELoss", "loss.temperature": 0.05, "batch_size": 8}
    triplet = {"loss._target_": "contrastive.losses.TripletLoss", "loss.margin": 0.1, "batch_size": 8}
    names = name_systems([infonce, {**infonce, "loss.temperature": 0.1}, triplet, {**triplet, "batch_size": 16}])
    assert names == [
        "InfoNCELoss, loss.temperature=0.05, batch_size=8",
        "InfoNCELoss, loss.temperature=0.1, batch_size=8",
        "TripletLoss, batch_size=8",
        "TripletLoss, batch_size=16",
    ]
    assert name_systems([infonce, triplet]) == ["InfoNCELoss", "TripletLoss"]


def test_systems_of_one_name_are_told_apart_by_their_folders(make_run: MakeRun) -> None:
    of_another = {"loss": {"_target_": "another.InfoNCELoss", "temperature": 0.05}}
    report = comparison([make_run("a"), make_run("b", gain=0.1, config=of_another)])
    assert [row.system for row in report.rows] == ["InfoNCELoss (a)", "InfoNCELoss (b)"]


def test_table_fits_eighty_columns_with_every_number(runs: list[Path]) -> None:
    report = comparison(runs)
    text = printed(report)
    against = report.rows[1].against
    assert against is not None
    found = against.comparison
    assert max(map(len, text.splitlines())) <= 80
    for number in (
        f"[{report.rows[0].mean.low:.3f}, {report.rows[0].mean.high:.3f}]",
        f"[{found.low:+.3f}, {found.high:+.3f}]",
        f"{found.mean:+.3f}",
        f"{found.randomisation_p:.4f}",
        f"{against.holm_p:.4f}",
        f"{found.effect_size:+.2f}",
        "(3 seeds)",
        "95 % intervals",
    ):
        assert number in text
    assert "(not trained)" in printed(comparison(runs, "before"))


def test_settings_are_no_markup(make_run: MakeRun) -> None:
    asking = {"encoder": {**CONFIG["encoder"], "query_prompt": "[bold]"}}
    text = printed(comparison([make_run("a"), make_run("b", config=asking, scores=scores_of(1))]), width=120)
    assert "│ encoder.query_prompt=[bold] │" in text
    assert "Queries that moved most, encoder.query_prompt=[bold]:" in text


def test_files_hold_the_table(runs: list[Path]) -> None:
    report = comparison(runs)
    baseline, row = csv.DictReader(io.StringIO(as_csv(report)))
    against = report.rows[1].against
    assert against is not None
    assert (baseline["system"], baseline["seeds"], baseline["difference"]) == ("loss.temperature=0.05", "0 1 2", "")
    assert float(row["difference"]) == against.comparison.mean
    assert float(row["holm_p"]) == against.holm_p
    assert float(row["benjamini_hochberg_p"]) == against.screening_p
    assert float(row["t_test_p"]) == against.comparison.t_test.p_value
    assert f"| loss.temperature=0.1 | 3 | {report.rows[1].mean.mean:.3f} [" in as_markdown(report)


def test_json_has_no_infinite_number(make_run: MakeRun) -> None:
    half, more = dict.fromkeys(QUERIES, 0.5), dict.fromkeys(QUERIES, 0.75)
    report = comparison([make_run("a", scores=half), make_run("b", temperature=1, scores=more)])
    found = json.loads(as_json(report), parse_constant=pytest.fail)
    assert found["rows"][1]["against"]["comparison"]["effect_size"] is None
    assert found["rows"][1]["against"]["comparison"]["mean"] == 0.25


def test_command_prints_and_writes(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*map(str, runs), "--alpha", "0.1", "--moved", "1"]
    main([*command, "--json", "--output", str(tmp_path / "new" / "table.csv")])
    found = json.loads(capsys.readouterr().out)
    assert (found["alpha"], found["num_queries"], len(found["moved"])) == (0.1, 40, 1)
    assert (tmp_path / "new" / "table.csv").read_text().startswith("system,seeds,metric")
    main([*command, "--output", str(tmp_path / "table.md")])
    assert "90 % intervals" in capsys.readouterr().out
    assert (tmp_path / "table.md").read_text().startswith("# ndcg@10 on 40 queries, 90 % intervals")


def unfinished(folder: Path) -> None:
    report = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**report, "status": "interrupted"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unfinished, r"expected a finished run, the status of .*a0 is 'interrupted'"),
        (lambda folder: (folder / "config.yaml").unlink(), r"the folder of a run, found no config\.yaml in .*a0"),
        (lambda folder: (folder / "metrics.json").unlink(), r"the folder of a run, found no metrics\.json in .*a0"),
        (lambda folder: (folder / "metrics.json").write_text("{"), r"as experiments\.run writes them in .*a0"),
        (lambda folder: (folder / "metrics.json").write_text("[]"), r"as experiments\.run writes them in .*a0"),
        (lambda folder: (folder / "config.yaml").write_text("a: ["), r"as experiments\.run writes them in .*a0"),
        (lambda folder: (folder / "config.yaml").write_text("seed: 1"), r"as experiments\.run writes them in .*a0"),
        (lambda folder: (folder / "after.per_query.csv").unlink(), r"found no after\.per_query\.csv in .*a0"),
        (
            lambda folder: (folder / "after.per_query.csv").write_text("query_id,ndcg@10\nq0,good\n"),
            r"expected a number, got 'good' in .*after\.per_query\.csv, line 2",
        ),
        (
            lambda folder: (folder / "after.per_query.csv").write_text("query_id,ndcg@10\n"),
            r"expected a query in .*after\.per_query\.csv, got none",
        ),
    ],
)
def test_what_is_no_finished_run_is_said_in_one_line(
    runs: list[Path], damage: Callable[[Path], object], message: str
) -> None:
    damage(runs[0])
    with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
        main([*map(str, runs)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alpha", "5"], "expected --alpha between 0 and 1, got 5"),
        (["--moved", "-1"], "expected --moved of at least 0, got -1"),
        (["--output", "table.txt"], r"expected --output to end in \.md or \.csv, got table\.txt"),
        (
            ["--baseline", "none"],
            "one of: loss.temperature=0.05; loss.temperature=0.1; before; BM25; BM25.spelling; got 'none'",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(runs: list[Path], options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
        main([*map(str, runs), *options])
