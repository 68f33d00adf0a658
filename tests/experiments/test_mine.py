"""`python -m experiments.mine`, from a command line to a file that can be trained on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from contrastive.data import Record, files
from contrastive.negatives import BM25, Filters, Mined, Moment
from experiments.mine.__main__ import main
from experiments.mine.quality import CHOSEN, Judged, judge_filters
from experiments.postings.generator import jobs

SMALL = ["data.train_pairs=40", "data.dev_queries=2", "data.test_queries=2"]

Mine = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def mine(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mine:
    """Call the program on a small data set; return the rows that it wrote."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*arguments: str) -> list[dict[str, Any]]:
        out = tmp_path / "negatives.parquet"
        main(["--data", "jobs", "--model", str(tiny_model_folder), "--out", str(out), *SMALL, *arguments])
        rows: list[dict[str, Any]] = parquet.read_table(out).to_pylist()
        return rows

    return call


@pytest.mark.parametrize("strategy", ["random", "bm25", "dense", "mixed"])
def test_every_pair_has_a_row_with_its_negatives(
    strategy: str, mine: Mine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    margin_off = [] if strategy == "random" else ["negatives.filters.relative_margin=null"]
    rows = mine("--strategy", strategy, "--count", "2", *margin_off)
    records = jobs(train_pairs=40, dev_queries=2, test_queries=2).train
    assert [row["query"] for row in rows] == [record.query for record in records]
    texts = {record.positive_id: record.positive for record in records}
    for row, record in zip(rows, records, strict=True):
        assert (row["positive_id"], row["positive"]) == (record.positive_id, record.positive)
        assert len(row["negative"]) <= 2
        assert row["negative"] == [texts[id_] for id_ in row["negative_id"]]
        assert not set(row["negative_id"]) & {id_ for id_, grade in record.grades.items() if grade > 0}
        lengths = {len(row[f"negative{name}"]) for name in ("", "_id", "_score", "_rank")} | {len(row["source"])}
        assert len(lengths) == 1
    found = sum(len(row["negative"]) for row in rows)
    printed = capsys.readouterr().out
    assert re.search(rf"negatives +│ +{found} ", printed)
    assert "refused: known_positive" in printed
    assert f"written: {tmp_path}" in printed
    assert [path.name for path in tmp_path.glob("*.parquet*")] == ["negatives.parquet"]


def test_a_path_that_looks_like_markup_is_printed_as_it_is(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "of [").mkdir()
    out = tmp_path / "of [" / "today].parquet"
    main(["--data", "jobs", "--model", str(tiny_model_folder), "--out", str(out), *SMALL, "negatives=random"])
    assert "of [/today].parquet" in capsys.readouterr().out


def test_the_file_can_be_trained_on(mine: Mine, tmp_path: Path) -> None:
    rows = mine("--strategy", "random", "--count", "3")
    data = files(train=tmp_path / "negatives.parquet", held_out=0.0)
    assert [record.query_id for record in data.train] == [row["query_id"] for row in rows]
    assert [list(record.negatives) for record in data.train] == [row["negative"] for row in rows]
    assert all(record.score is None for record in data.train)


def test_what_was_mined_is_read_the_second_time(mine: Mine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = mine("--strategy", "bm25")
    assert "mined in" in caplog.text
    assert mine("--strategy", "bm25") == first
    assert "negatives of 40 pairs from the cache" in caplog.text
    assert len(list((tmp_path / "cache").rglob("*.json.gz"))) == 1


def test_filters_are_judged_by_the_grades(mine: Mine, capsys: pytest.CaptureFixture[str]) -> None:
    mine("--strategy", "bm25", "--judge-filters")
    printed = capsys.readouterr().out
    assert re.search(r"relative_margin +│ +\d+ +│ +\d+ +│ +[\d.]+% ", printed)
    assert re.search(r"chosen +│ +\d+ +│ +\d+ +│ +[\d.]+% ", printed)


def test_a_filter_is_right_about_what_the_grades_call_relevant() -> None:
    records = [
        Record("nurse", "nurse", (), "q1", "d1", grades={"d1": 2, "d2": 1, "d3": 1, "d5": 0}),
        Record("chef", "nurse at night", (), "q2", "d2"),
        Record("cook", "nurse" + " who likes a long walk in a town by the sea" * 12, (), "q3", "d3"),
        Record("bake", "nurse in a house", (), "q4", "d4"),
        Record("sing", "nurse and her dog", (), "q5", "d5"),
    ]
    # The longest is the furthest: d3 is chosen; d2, d4 and d5 score above half as much as d1.
    strategy = Mined(BM25(), filters=Filters(relative_margin=0.5))
    judged = judge_filters(records, strategy, Moment())
    assert judged == {"relative_margin": Judged(3, 1), CHOSEN: Judged(1, 1)}
    assert judged["relative_margin"].share == pytest.approx(1 / 3)
    judged = judge_filters(records, Mined(BM25(), count=2), Moment())
    assert judged == {CHOSEN: Judged(2, 1)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "negatives.csv"], r"error: expected --out to end in \.parquet, got negatives\.csv"),
        (["nonsense"], "error: expected settings as name=value, got 'nonsense'"),
        (["--count", "0"], "error: expected count of at least 1, got 0"),
        (["negatives.filters.max_rnk=3"], "error: .*max_rnk"),
        (["--data", "no-such"], "error: expected data to be a file, a folder, or one of .*, got no-such"),
        (["--device", "abacus"], "error: expected a device that torch has here, got 'abacus'"),
        (["--strategy", "cross_encoder"], r"error: expected a value for negatives\.source\.scorer\.name_or_path"),
        (["--strategy", "mixed", "--judge-filters"], "error: expected a strategy of one source"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments: list[str], message: str, mine: Mine) -> None:
    with pytest.raises(SystemExit, match=message):
        mine(*arguments)
