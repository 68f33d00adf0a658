"""The history of a run: begun anew, or gone on with after as many rows as a checkpoint knows."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from experiments.run.history import History


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "history" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logged(folder: Path, *steps: int, kept: int | None = None) -> History:
    history = History(folder)
    if kept is not None:
        history.keep(kept)
    for step in steps:
        history.log_metrics({"loss": step / 10, **({"late": 1.0} if step > 2 else {})}, step)
    return history


def test_rows_are_counted_and_new_columns_join(tmp_path: Path) -> None:
    assert History(tmp_path / "other").rows == 0
    assert logged(tmp_path, 1, 2, 3).rows == 3
    assert rows(tmp_path) == [
        {"late": "", "loss": "0.1", "step": "1"},
        {"late": "", "loss": "0.2", "step": "2"},
        {"late": "1.0", "loss": "0.3", "step": "3"},
    ]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_continued_history_has_each_row_once(tmp_path: Path) -> None:
    logged(tmp_path / "straight", 1, 2, 3, 4)
    logged(tmp_path / "stopped", 1, 2, 3)
    with (tmp_path / "stopped" / "history" / "metrics.csv").open("a") as file:
        file.write("0.")  # killed while it wrote
    assert logged(tmp_path / "stopped", 3, 4, kept=2).rows == 4
    both = [(tmp_path / name / "history" / "metrics.csv").read_text() for name in ("straight", "stopped")]
    assert both[0] == both[1]


def test_without_that_it_begins_anew(tmp_path: Path) -> None:
    logged(tmp_path, 1, 2)
    history = logged(tmp_path)
    history.log_hyperparams({"seed": 0})
    assert len(rows(tmp_path)) == 2  # nothing is logged yet
    history.log_metrics({"loss": 5.0}, 5)
    assert [row["step"] for row in rows(tmp_path)] == ["5"]
    assert logged(tmp_path, 6, kept=0).rows == 1
    assert [row["step"] for row in rows(tmp_path)] == ["6"]


def test_fewer_rows_than_were_written_are_refused(tmp_path: Path) -> None:
    logged(tmp_path, 1)
    with pytest.raises(ValueError, match=r"expected 2 rows in .*metrics.csv, got 1"):
        logged(tmp_path, kept=2)
