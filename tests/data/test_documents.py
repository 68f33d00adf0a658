import gzip
import json
import logging
from pathlib import Path

import pytest

from contrastive.data import documents
from contrastive.data.documents import read_documents


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


# Names and fields


@pytest.mark.parametrize(
    "header",
    ["ID,Title,Description", "Id , TITLE,job-description", "Doc_ID,Job Title,jobDescription", "JOB ID,headline,Body"],
)
def test_case_and_what_stands_between_words_do_not_matter(header: str, tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(f"{header},pay\nx 1,Baker,bakes,20\n")
    found = read_documents(path)
    assert found.texts == {"x_1": "Baker\nbakes"}
    assert tuple(found.account.columns.values()) == tuple(header.split(","))
    assert found.account.unused_columns == ("pay",)


def test_names_that_are_given_do_not_matter_to_a_letter_either(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", {"Long Text": "cooks", "title": "Chef", "id": "a"})
    assert documents(path, columns={"text": "long_text", "title": False, "id": False}) == {"1": "cooks"}


def test_a_name_that_could_be_two_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1: the column 'text' could be 'Text' or 'TEXT'"):
        documents(write(tmp_path / "c.jsonl", {"Text": "a", "TEXT": "b"}))
    assert documents(write(tmp_path / "c.jsonl", {"text": "a", "TEXT": "b"})) == {"1": "a"}


def test_fields_may_come_and_go(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.jsonl",
        {"id": 1, "body": "bakes"},
        {"id": 2, "title": "Chef", "description": "cooks"},
        {"id": 3, "title": "Driver"},
        {"title": "Nurse", "text": float("nan"), "id": 4, "note": "x"},
    )
    found = read_documents(path)
    assert found.texts == {"1": "bakes", "2": "Chef\ncooks", "3": "Driver", "4": "Nurse"}
    assert found.account.columns == {"id": "id", "title": "title", "text": "body, description, text"}
    assert found.account.unused_columns == ("note",)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"text": "x"}, {"text": "y", "id": 7}, r"line 2: found an id in the column 'id', which the rows before lack"),
        ({"id": 1.5, "text": "x"}, {}, r"line 1: expected an id in the column 'id', got the float 1\.5"),
        ({"id": True, "text": "x"}, {}, r"line 1: expected an id in the column 'id', got the bool True"),
        ({"id": "a b", "text": "x"}, {"id": "a_b", "text": "y"}, r"line 2: a second document with the id 'a_b' \(col"),
        ({"id": "a", "text": "x"}, {"id": "b", "text": ["z" * 300_000]}, r"line 2: expected a text .* the list \['zzz"),
    ],
)
def test_ids_and_texts_that_do_not_fit_are_refused(
    first: dict[str, object], second: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        documents(write(tmp_path / "c.jsonl", first, second))
    assert len(str(caught.value)) < 500


def test_cells_that_say_there_is_nothing_are_empty_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("title,text\nChef,NaN\nnull,drives\nN/A,None\n")
    found = read_documents(path)
    assert found.texts == {"1": "Chef", "2": "drives"}
    assert found.account.left_out == {"without text": 1}
    assert (found.account.rows_read, found.account.rows_used) == (3, 2)
    assert "2 cells of column 'text' say nan, null, none or n/a: they are empty" in found.account.remarks


# Markup


def postings(share: int, tmp_path: Path) -> Path:
    rows = [
        {"title": "R&amp;D<br>chef", "text": f"<p>cooks</p><p>no {i}</p>"}
        if i < share
        else {"title": "a", "text": "a<b"}
        for i in range(10)
    ]
    return write(tmp_path / "c.jsonl", *rows)


def test_much_html_is_taken_out_and_counted(tmp_path: Path) -> None:
    found = read_documents(postings(2, tmp_path))
    assert found.texts["1"] == "R&D chef\ncooks\nno 0"
    assert found.texts["3"] == "a\na<b"
    assert found.account.remarks == ("2 of 10 documents have HTML, which was taken out",)


def test_little_html_stays_unless_told_otherwise(tmp_path: Path) -> None:
    path = postings(1, tmp_path)
    assert documents(path)["1"] == "R&amp;D<br>chef\n<p>cooks</p><p>no 0</p>"
    assert "1 of 10 documents have HTML, which stays" in read_documents(path).account.remarks[0]
    assert documents(path, strip_html=True)["1"] == "R&D chef\ncooks\nno 0"
    assert documents(postings(9, tmp_path), strip_html=False)["1"].startswith("R&amp;D<br>")


def test_separator_and_encoding_are_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes("title;text\nKöchin;kocht\n".encode("cp1252"))
    assert documents(path, separator="semicolon", encoding="cp1252") == {"1": "Köchin\nkocht"}
