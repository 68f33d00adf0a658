"""From what is typed as `--data` to the reader that gets it."""

import re
from pathlib import Path

import pytest
from hydra.errors import OverrideParseException

from experiments.composing import check_overrides, compose, said


@pytest.mark.parametrize(
    ("files", "reader"),
    [
        (["qrels/test.tsv"], "contrastive.data.beir"),
        (["corpus.jsonl"], "contrastive.data.beir"),
        (["train.csv"], "contrastive.data.files"),
        ([], "contrastive.data.files"),
    ],
)
def test_a_folder_goes_to_the_reader_of_its_layout(files: list[str], reader: str, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert compose(data=str(tmp_path)).data._target_ == reader
    assert compose(data=str(tmp_path)).data.path == str(tmp_path)


def test_a_file_goes_to_the_reader_of_files(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").touch()
    assert compose(data=str(tmp_path / "pairs.csv")).data._target_ == "contrastive.data.files"


@pytest.mark.parametrize(
    "name",
    ["O'Brien", "a [b] (c) {d}", "a=b,c", "back\\slash", "ends\\", "both\\'", "求人 $HOME", ' "quoted" ', "#1;~|*?!&"],
)
def test_paths_reach_the_reader_and_the_encoder_as_they_are(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "pairs.csv").touch()
    config = compose(data=str(folder / "pairs.csv"), model=str(folder))
    assert (config.data.path, config.encoder.name_or_path) == (str(folder / "pairs.csv"), str(folder))


@pytest.mark.parametrize("name", ["${oc.env:HOME}", "a${", "\\${seed}"])
def test_references_in_paths_are_not_looked_up(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=r"expected no \$\{ in a path or a name"):
        compose(data=str(tmp_path / name))
    with pytest.raises(ValueError, match=r"expected no \$\{ in a path or a name"):
        compose(model=str(tmp_path / name))


@pytest.mark.parametrize("value", ["my jobs (1).csv", "a=b", "'O'Brien'"])
def test_what_hydra_cannot_read_is_shown_with_quotes_that_it_can(value: str) -> None:
    with pytest.raises(OverrideParseException) as caught:
        compose(data="files", overrides=[f"data.path={value}"])
    hint = re.search(r'"(data\.path=.*)" as you would type it', said(caught.value))
    assert hint is not None
    assert compose(data="files", overrides=[hint[1]]).data.path == value.strip("'")
    with pytest.raises(OverrideParseException):
        check_overrides(["-m", "seed=1", f"data.path={value}"])


def test_what_is_said_does_not_control_the_terminal() -> None:
    assert said(ValueError("got \x1b[31mred\x07")) == "got red"
