import gzip
import json
import logging
from pathlib import Path

import pytest

from contrastive.data import documents


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_title_stands_in_the_first_line(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", {"_id": "a", "title": "Chef", "text": "cooks"}, {"_id": "b", "text": "drives"})
    assert documents(path) == {"a": "Chef\ncooks", "b": "drives"}


def test_a_folder_stands_for_its_corpus(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl", {"_id": "a", "title": None, "text": "cooks 🙂"})
    assert documents(tmp_path) == documents(tmp_path / "corpus.jsonl") == {"a": "cooks 🙂"}


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("id", "job_title", "description"), None),
        (("doc_id", "name", "body"), None),
        (("key", "head", "long"), {"id": "key", "title": "head", "text": "long"}),
        (("id", "title", "long"), {"text": "long"}),
    ],
)
def test_columns_are_recognised_or_named(
    names: tuple[str, str, str], columns: dict[str, str | None] | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "c.jsonl", dict(zip(names, ("a", "Chef", "cooks"), strict=True)))
    assert documents(path, columns=columns) == {"a": "Chef\ncooks"}


def test_without_ids_the_place_in_the_file_is_the_id(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b"\xef\xbb\xbftitle,text\r\nChef,cooks\r\nDriver,drives\r\n")
    assert documents(path) == {"1": "Chef\ncooks", "2": "Driver\ndrives"}


def test_ids_may_be_numbers_and_a_file_compressed(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": 7, "text": "cooks"}\n'))
    assert documents(path) == {"7": "cooks"}


def test_blanks_in_an_id_become_underscores(tmp_path: Path) -> None:
    assert documents(write(tmp_path / "c.jsonl", {"id": "job 7 b", "text": "cooks"})) == {"job_7_b": "cooks"}


def test_blank_documents_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "c.jsonl", {"id": "a", "text": " "}, {"id": "b", "text": "x"}, {"id": "c", "text": None})
    with caplog.at_level(logging.WARNING):
        assert documents(path) == {"b": "x"}
    assert "left out 2 documents without text" in caplog.text


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([{"query": "x", "answer": "y"}], None, r"line 1: expected a column of texts .* there are query, answer"),
        ([{"text": "x"}], {"text": "body"}, r"line 1: expected the column 'body' for text, there are text"),
        ([{"text": "x"}], {"body": "text"}, r"expected columns among id, title, text, got body"),
        ([{"text": "x"}, {"text": 3}], None, r"line 2: expected a text in column 'text', got the int 3"),
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], None, r"line 2: a second document with the id 'a'"),
        ([{"id": "a", "text": "x"}, {"text": "y"}], None, r"line 2: expected an id in the column 'id'"),
        ([{"text": ""}], None, r"expected documents in .*, found none with text"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(
    rows: list[dict[str, object]], columns: dict[str, str | None] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        documents(write(tmp_path / "c.jsonl", *rows), columns=columns)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"corpus\.jsonl"):
        documents(tmp_path)
