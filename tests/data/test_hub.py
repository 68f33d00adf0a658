"""Data sets in the layout of the hub, from folders and without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pyarrow import parquet

from contrastive.data import TextData, hub

ROOT = Path(__file__).parents[2]
SIZES = {"train": 8, "validation": 2, "test": 3}
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a data set like that of the reference tutorial, in one of the layouts of the hub."""

    def made(layout: str = "parquet", splits: Sequence[str] = tuple(SIZES), **columns: Any) -> Path:
        folder = tmp_path / "set"
        (folder / "data").mkdir(parents=True)
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# A data set\n")
        for split in splits:
            rows = [
                {
                    "query": f"{split} skills {i}",
                    "job_description_pos": f"{split} posting {i}, 👩‍⚕️",
                    "job_description_neg": f"{split} other {i}",
                    **columns,
                }
                for i in range(SIZES.get(split, 2))
            ]
            if layout == "parquet":
                parquet.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
            elif layout == "csv":
                lines = [
                    ",".join(f'"{cell}"' for cell in cells) for cells in (rows[0], *(row.values() for row in rows))
                ]
                (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
            else:
                (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return made


def sizes(data: TextData) -> tuple[int, int | None, int | None]:
    return len(data.train), data.dev and len(data.dev.queries), data.test and len(data.test.queries)


@pytest.mark.parametrize("layout", ["parquet", "csv", "jsonl"])
def test_a_folder_in_the_layout_of_the_hub(layout: str, make: Make) -> None:
    data = hub(make(layout))
    assert data.name == "set"
    assert sizes(data) == (8, 2, 3)
    assert data.train[1].query == "train skills 1"
    assert data.train[1].positive == "train posting 1, 👩‍⚕️"
    assert data.train[1].negatives == ("train other 1",)
    assert data.test is not None
    assert len(data.test.corpus) == 2 * sum(SIZES.values())
    assert sorted(data.test.queries.values()) == ["test skills 0", "test skills 1", "test skills 2"]


@pytest.mark.parametrize(
    ("there", "splits", "expected"),
    [
        (["train", "validation", "test"], {"dev": False}, (8, None, 3)),
        (["train", "validation", "test"], {"dev": "test", "test": "validation"}, (8, 3, 2)),
        (["train", "validation", "test"], {"train": False, "dev": None}, (0, 2, 3)),
        (
            ["train", "validation", "test"],
            {
                "train": "test",
                "dev": False,
                "test": False,
            },
            (1, 1, 1),
        ),
        (["train", "test"], {}, (8, None, 3)),
        (["train"], {}, (6, 1, 1)),
        (["test"], {"train": False}, (0, None, 3)),
    ],
)
def test_splits_are_found_or_named(
    there: list[str], splits: dict[str, Any], expected: tuple[int, int | None, int | None], make: Make
) -> None:
    assert sizes(hub(make(splits=there), splits=splits)) == expected


def test_other_names_of_the_dev_split(make: Make) -> None:
    folder = make("jsonl")
    (folder / "validation.jsonl").rename(folder / "dev.jsonl")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in ("train", "dev", "test"))
        + "---\n"
    )
    assert sizes(hub(folder)) == (8, 2, 3)


def test_one_of_several_configurations(make: Make) -> None:
    folder = make("jsonl")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: large\n  data_files: train.jsonl\n"
        "- config_name: small\n  data_files: test.jsonl\n---\n"
    )
    assert sizes(hub(folder, config="small")) == (1, 1, 1)
    with pytest.raises(ValueError, match=r"set: not a readable data set: .*Config name is missing.*'large', 'small'"):
        hub(folder)
    with pytest.raises(ValueError, match=r"'huge' not found\. Available: \['large', 'small'\]"):
        hub(folder, config="huge")


def test_all_choices_are_passed_on(make: Make) -> None:
    folder = make(score=0.5, query_id=None, extra=1)
    data = hub(
        folder,
        splits={"dev": False, "test": False},
        columns={"negatives": []},
        min_score=0.5,
        held_out=0.25,
        max_queries=1,
        max_train_pairs=3,
        corpus_size=2,
        seed=1,
    )
    assert sizes(data) == (3, 1, 1)
    assert data.train[0].negatives == ()
    assert data.test is not None
    assert len(data.test.corpus) == 2
    others = [hub(folder, splits={"dev": False, "test": False}, min_score=0.5, seed=seed).test for seed in range(4)]
    assert len({str(test.queries) for test in others if test}) > 1
    with pytest.raises(ValueError, match=r"with a score of 0\.75"):
        hub(folder, min_score=0.75)
    overlapping = {"dev": "train", "test": False}
    assert sizes(hub(folder, splits=overlapping, min_score=0.5, overlap="warn")) == (8, 8, None)
    with pytest.raises(ValueError, match="'train' and 'dev' share 8 queries"):
        hub(folder, splits=overlapping, min_score=0.5)


def test_rows_are_named_and_checked(make: Make) -> None:
    with pytest.raises(ValueError, match=r"set, split train, row 1: expected a text in column 'query', got the int 7"):
        hub(make(query=7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"splits": {"train": "big"}},
            r"expected a split 'big' to use as train, got train, validation, test \(splits\.",
        ),
        ({"splits": {"dev": "dev"}}, r"expected a split 'dev' to use as dev, got train, validation, test"),
        ({"splits": {"valid": "dev"}}, r"expected splits among train, dev, test, got 'valid'"),
        (
            {"columns": {"query": "skills"}},
            r"row 1: expected a column 'skills', .* There are 'query', 'job_description_p",
        ),
    ],
)
def test_what_the_data_set_lacks_is_said(options: dict[str, Any], message: str, make: Make) -> None:
    with pytest.raises(ValueError, match=message):
        hub(make(), **options)


def test_a_missing_train_split_lists_those_there_are(make: Make) -> None:
    with pytest.raises(ValueError, match=r"expected a split 'train' to use as train, got validation, test"):
        hub(make(splits=["validation", "test"]))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.parquet", "query,pos\na,b\n", "not a readable data set: ArrowInvalid: Parquet magic bytes not found"),
        (
            "train.csv",
            "query,pos\na,b\nc,d,e\n",
            r"not a readable data set: ParserError: .*Expected 2 fields in line 3",
        ),
    ],
)
def test_damaged_folders_are_refused(file: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        hub(tmp_path / "bad")


def test_folders_without_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected files such as train\.csv .* found none that"):
        hub(tmp_path)
    (tmp_path / "notes.md").touch()
    with pytest.raises(FileNotFoundError, match=r"expected files such as train\.csv .* found none that"):
        hub(tmp_path)


def test_names_that_cannot_be_fetched_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no local folder 'nobody/none'.*unset HF_HUB_OFFLINE.*hf auth login"):
        hub("nobody/none")
    for name in (tmp_path / "nowhere", "./nowhere", "~/nowhere/at/all", "no/where/at/all"):
        with pytest.raises(FileNotFoundError, match=r"expected a folder or a name on the hub .* found no folder"):
            hub(name)
    (tmp_path / "pairs.csv").touch()
    with pytest.raises(ValueError, match=r"got the file .*pairs\.csv; `files` reads files"):
        hub(tmp_path / "pairs.csv")
    with pytest.raises(ValueError, match="expected held_out"):
        hub("nobody/none", held_out=2)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (datasets.exceptions.DatasetNotFoundError("'org/name' is a gated dataset"), "gated dataset.*hf auth login"),
        (ConnectionError("no route"), r"ConnectionError: no route\)\. Check the name and the network"),
    ],
)
def test_whatever_the_hub_says_is_passed_on(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(FileNotFoundError, match=message):
        hub("org/name")


def test_name_configuration_and_revision_reach_the_hub(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    loaded = datasets.load_dataset(str(make()))
    asked: list[Any] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **named: asked.append((given, named)) or loaded)
    data = hub("org/name", config="small", revision="v1")
    assert data.name == "org/name"
    assert asked == [(("org/name", "small"), {"revision": "v1"})]


def test_progress_bars_are_quiet_and_left_as_they_were(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make()
    assert not datasets.are_progress_bars_disabled()
    hub(folder)
    assert not datasets.are_progress_bars_disabled()
    assert "Generating" not in capsys.readouterr().err
    datasets.disable_progress_bars()
    try:
        hub(folder)
        assert datasets.are_progress_bars_disabled()
    finally:
        datasets.enable_progress_bars()


def test_the_configuration_of_the_tutorial_reads_a_local_copy(make: Make) -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", overrides=["data=ai_jobs", f"data.name={make(extra='ignored')}"])
        assert compose("config", overrides=["data=ai_jobs"]).data.name == "shawhin/ai-job-embedding-finetuning"
    assert sizes(instantiate(config.data)) == (8, 2, 3)


def test_what_a_data_set_holds_is_accounted_for(make: Make) -> None:
    data = hub(make(splits=("train", "validation", "extra"), note="x"), overlap="warn")
    account = data.account
    assert account is not None
    assert account.rows_read == len(data.train) + len(data.dev.queries) > 0
    assert account.left_out == {}
    assert account.columns == {
        "query": "query",
        "positive": "job_description_pos",
        "negatives": "job_description_neg",
    }
    assert account.unused_columns == ("note",)
    assert account.remarks == ("splits that are not used: extra",)
