"""From what is typed as `--data` to the reader that gets it."""

from pathlib import Path

import pytest

from experiments.composing import compose


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
