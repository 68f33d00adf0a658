"""The file of a hybrid: what is written is read, and what is not as a run writes it is refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contrastive.evaluation import Hybrid, read_hybrid, write_hybrid
from contrastive.statistics import Difference

WEIGHTS = {"BM25+spelling": 0.35, "encoder": 0.65}
HYBRID = Hybrid(WEIGHTS, WEIGHTS, "encoder", Difference(0.03, 0.01, 0.05, 0.002), "jobs-dev", 80)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_hybrid(tmp_path) is None
    assert write_hybrid(tmp_path, HYBRID) == tmp_path / "hybrid.json"
    assert read_hybrid(tmp_path) == HYBRID
    alone = replace(HYBRID, weights={"BM25+spelling": 1.0, "encoder": 0.0})
    write_hybrid(tmp_path, alone)
    assert read_hybrid(tmp_path) == alone
    assert [path.name for path in tmp_path.iterdir()] == ["hybrid.json"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"weights": {"BM25": 0.5, "encoder": 0.5}},
            "expected weights of BM25.spelling, encoder, from 0 to 1 and 1 in all",
        ),
        ({"weights": {"encoder": 0.5}}, "expected weights of"),
        ({"weights": {"encoder": float("nan")}}, "expected weights of"),
        ({"tried": {"encoder": "1"}}, "expected a number for encoder, got '1'"),
        ({"weights": [0.5, 0.5]}, r"expected weights by system, got \[0.5, 0.5\]"),
        ({"gain": {"mean": 0.1}}, "no 'low'"),
        ({"depth": 50}, "expected {.*1000}, got {.*50}"),
        ({"queries": None}, "int"),
    ],
)
def test_what_no_run_writes_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write_hybrid(tmp_path, HYBRID)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(
        ValueError, match=rf"expected .*hybrid\.json to say the hybrid of BM25\+spelling and encoder.*{said}"
    ):
        read_hybrid(tmp_path)


def test_a_file_that_is_no_json_or_lacks_a_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hybrid.json").write_text("{")
    with pytest.raises(ValueError, match=r"expected .*hybrid\.json to be JSON"):
        read_hybrid(tmp_path)
    (tmp_path / "hybrid.json").write_text("{}")
    with pytest.raises(ValueError, match=r"hybrid\.json to say .*: no 'scale'"):
        read_hybrid(tmp_path)
