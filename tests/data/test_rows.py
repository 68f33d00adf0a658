"""Reading rows: every format says the same, and what is wrong with a file is said with the line."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive.data import lines, rows

ROWS = [{"query": "Köln, 👩‍⚕️", "answer": 'a "good"\njob'}, {"query": "naïve", "answer": "x\ty"}]
CSV = 'query,answer\n"Köln, 👩‍⚕️","a ""good""\njob"\nnaïve,x\ty\n'
TSV = 'query\tanswer\n"Köln, 👩‍⚕️"\t"a ""good""\njob"\nnaïve\t"x\ty"\n'
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / name

    return written


def values(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in rows(path)]


def places(path: Path) -> list[str]:
    return [where.removeprefix(str(path)) for where, _ in rows(path)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", CSV, [2, 4]),
        ("a.tsv", TSV, [2, 4]),
        ("a.jsonl", JSONL, [1, 2]),
        ("a.ndjson", JSONL, [1, 2]),
        ("A.JSONL", JSONL, [1, 2]),
        ("a.json", JSONL, [1, 2]),
        ("v1.2.csv", CSV, [2, 4]),
    ],
)
@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("bom", [False, True])
@pytest.mark.parametrize("crlf", [False, True])
def test_text_files_say_the_same(
    name: str, content: str, expected: list[int], gz: bool, bom: bool, crlf: bool, write: Write
) -> None:
    text = content.replace("\n", "\r\n") if crlf else content
    path = write(name + ".gz" * gz, ("\ufeff" if bom else "") + text)
    found = [{key: value.replace("\r\n", "\n") for key, value in row.items()} for row in values(path)]
    assert found == ROWS
    assert places(path) == [f", line {number}" for number in expected]


def test_parquet_is_read_batch_by_batch(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = [{"query": f"q {i}", "neg": [f"n {i}", None], "score": i / 2, "id": i} for i in range(2500)]
    parquet.write_table(pa.Table.from_pylist(table), path)
    assert values(path) == table
    assert places(path) == [f", row {number}" for number in range(1, 2501)]


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_json_array_is_read_item_by_item(bom: str, write: Write) -> None:
    path = write("a.json", bom + "\n " + json.dumps(ROWS, indent=1))
    assert values(path) == ROWS
    assert places(path) == [", item 1", ", item 2"]


def test_blank_lines_are_skipped_and_counted(write: Write) -> None:
    assert places(write("a.jsonl", '\n{"a": 1}\r\n \t\n{"a": 2}\n\n')) == [", line 2", ", line 4"]
    assert places(write("a.csv", "\na,b\n\n1,2\n\n")) == [", line 4"]


def test_only_line_feeds_end_a_line(write: Write) -> None:
    row = {"a": "one\u2028two\x85three\x0cfour"}
    assert values(write("a.jsonl", json.dumps(row, ensure_ascii=False))) == [row]


def test_values_of_json_keep_their_types(write: Write) -> None:
    row = {"text": "a", "negatives": ["b", None], "score": 0.5, "id": 7, "nothing": None}
    assert values(write("a.jsonl", json.dumps(row))) == [row]


def test_long_cells_are_read(write: Write) -> None:
    assert values(write("a.csv", f"a,b\n{'x' * 200_000},y\n"))[0]["a"] == "x" * 200_000


def test_rows_are_read_one_at_a_time(write: Write) -> None:
    found = rows(write("a.jsonl", '{"a": 1}\n{"a": \n'))
    assert next(found)[1] == {"a": 1}
    with pytest.raises(ValueError, match="line 2"):
        next(found)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": \n', r"a\.jsonl, line 3: malformed JSON: Expecting value \(column 6\)$"),
        ("a.jsonl", '{"a": 1}\n["b"]\n', r"a\.jsonl, line 2: expected an object, got \"\['b'\]\""),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl, line 1: malformed JSON"),
        ("a.jsonl", r'{"a": "\ud83d"}', r"a\.jsonl, line 1: malformed JSON: .*surrogates"),
        ("a.jsonl", r'{"a": "\uDE00"}', r"a\.jsonl, line 1: malformed JSON: .*surrogates"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl, line 2: expected UTF-8, got the byte 0xff"),
        ("a.csv", b"a,b\n1,2\n1,\xe9\n", r"a\.csv, line 3: expected UTF-8, got the byte 0xe9"),
        ("a.csv", 'a,b\n"x\ny",2\n1,2,3\n', r"a\.csv, line 4: expected 2 cells, as in the header, got 3"),
        ("a.csv", "a,b\n1,2\n1\n", r"a\.csv, line 3: expected 2 cells, as in the header, got 1"),
        ("a.tsv", "a\tb\n1\n", r"a\.tsv, line 2: expected 2 cells, as in the header, got 1"),
        ("a.csv", 'a,b\n1,2\n"1,2\n3,4\n', r"a\.csv, line 3: malformed, or a quote is not closed"),
        ("a.csv", 'a,b\n1,"2"3\n', r"a\.csv, line 2: malformed, or a quote is not closed"),
        ("a.csv", "a,b,a\n1,2,3\n", r"a\.csv, line 1: expected distinct column names, got 'a' more than once"),
        ("a.csv", "a,b\n1,2\na,b\n", r"a\.csv, line 3: found the header once more"),
        ("a.json", '[{"a": 1}, 2]', r"a\.json, item 2: expected an object, got '2'"),
        ("a.json", '[{"a": 1}', r"a\.json: malformed JSON"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', r"a\.json: malformed JSON: .*delimiter \(line 2, column 7\)$"),
        ("a.json", '{\n "a": 1\n}', r"a\.json: one JSON object that is no row, with the keys 'a'"),
        ("a.json", '{\n "a": 1', r"a\.json, line 1: malformed JSON"),
        ("a.jsonl", "", r"a\.jsonl is empty"),
        ("a.jsonl", "\n \n", r"a\.jsonl is empty"),
        ("a.json", "", r"a\.json is empty"),
        ("a.json", "[]", r"a\.json is empty"),
        ("a.csv", "", r"a\.csv is empty"),
        ("a.csv", "a,b\n", r"a\.csv is empty"),
        ("a.csv.gz", "", r"a\.csv\.gz is empty"),
        ("a.parquet", "a,b\n1,2\n", r"a\.parquet: damaged, or not Parquet"),
        (
            "a.txt",
            "a,b\n",
            r"expected a file ending in \.jsonl, \.ndjson, .*\.csv, .*\.jsonl\.gz, .*\.parquet, got 'a\.t",
        ),
        ("a.gz", "a,b\n", r"expected a file ending in \.jsonl, .* got 'a\.gz'"),
        ("jsonl", "{}", r"expected a file ending in \.jsonl, .* got 'jsonl'"),
    ],
)
def test_what_is_wrong_is_said_with_the_line(name: str, content: str | bytes, message: str, write: Write) -> None:
    with pytest.raises(ValueError, match=message):
        values(write(name, content))


def test_damaged_gzip_files_are_refused(write: Write, tmp_path: Path) -> None:
    path = write("a.jsonl.gz", "".join(f'{{"a": "{i * i * 7919}"}}\n' for i in range(10_000)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz, line [1-9]\d{2,}: damaged or cut short"):
        values(path)
    path.write_bytes(whole[:10] + b"\xff" * 100)
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz, line 1: damaged or cut short: .*invalid block type"):
        values(path)
    (tmp_path / "b.csv.gz").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"b\.csv\.gz, line 1: damaged or cut short: Not a gzipped file"):
        values(tmp_path / "b.csv.gz")


def test_an_endless_quote_is_not_read_into_memory(write: Write) -> None:
    path = write("a.csv", 'a,b\n1,2\n"' + "3,4 and so on\n" * 1_400_000)
    with pytest.raises(ValueError, match=r"a\.csv, line 3: malformed, or a quote is not closed: field larger than"):
        values(path)


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pa.table({"a": [str(i) * 50 for i in range(5000)]}), path, compression="zstd", row_group_size=2500
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet: damaged, or not Parquet, after row \d+"):
        values(path)
    parquet.write_table(pa.table({"a": pa.array([], pa.string())}), path)
    with pytest.raises(ValueError, match=r"a\.parquet is empty"):
        values(path)
    parquet.write_table(pa.table([pa.array(["x"]), pa.array(["y"])], names=["a", "a"]), path)
    with pytest.raises(ValueError, match=r"a\.parquet: expected distinct column names, got 'a'"):
        values(path)


def test_parquet_with_bytes_that_are_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    buffers = [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    broken = pa.Array.from_buffers(pa.string(), 1, buffers)
    parquet.write_table(pa.table({"a": broken}), path)
    with pytest.raises(ValueError, match=r"a\.parquet: damaged, or not Parquet, after row 0: .*0xff"):
        values(path)


def test_missing_files_are_missing_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected the file .*nowhere\.csv, found none"):
        rows(tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        rows(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="expected a file ending in"):
        rows(tmp_path / "a.txt")


def test_the_home_folder_is_known(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.jsonl", '{"a": 1}')
    monkeypatch.setenv("HOME", str(path.parent))
    assert values(Path("~/a.jsonl")) == [{"a": 1}]


# Separators


@pytest.mark.parametrize(
    ("name", "separator", "character"),
    [
        ("a.csv", "semicolon", ";"),
        ("a.csv", "tab", "\t"),
        ("a.csv.gz", "pipe", "|"),
        ("a.csv", "~", "~"),
        ("a.tsv", "comma", ","),
    ],
)
def test_another_separator_is_named_and_read(name: str, separator: str, character: str, write: Write) -> None:
    path = write(name, f"query{character}answer\ncook{character}soup of the day\n")
    setting = separator if separator != "~" else "tilde"
    with pytest.raises(
        ValueError, match=rf"line 1: expected columns with .* between.*; data\.separator={setting} reads"
    ):
        values(path)
    assert next(rows(path, separator=separator))[1] == {"query": "cook", "answer": "soup of the day"}


def test_a_file_of_one_column_is_read_if_that_is_said(write: Write) -> None:
    path = write("a.csv", "text; or not\ncook; waiter\n")
    with pytest.raises(ValueError, match=r"data\.separator=comma if it has one column"):
        values(path)
    assert [row for _, row in rows(path, separator="comma")] == [{"text; or not": "cook; waiter"}]


def test_the_first_line_may_say_the_separator(write: Write) -> None:
    path = write("a.csv", "sep=;\r\nquery;answer\r\ncook;soup, hot\r\n")
    assert values(path) == [{"query": "cook", "answer": "soup, hot"}]
    assert places(path) == [", line 3"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.csv", {"separator": "semi"}, "expected a separator of one character, or comma, semicolon, .* got 'semi'"),
        ("a.jsonl", {"separator": ";"}, "expected no separator for a file of this kind, got ';'"),
        ("a.json", {"separator": "tab"}, "expected no separator for a file of this kind, got '.t'"),
        ("a.csv", {"encoding": "nope-8"}, "expected an encoding that Python knows, such as cp1252, got 'nope-8'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name: str, options: dict[str, str], message: str, write: Write) -> None:
    with pytest.raises(ValueError, match=message):
        list(rows(write(name, '{"a": 1}\n'), **options))


def test_columns_without_a_name_are_called_by_their_place(write: Write) -> None:
    path = write("a.csv", "query,,answer, \ncook,x,soup,\n,,,\nwait,y,serve,,,\n")
    assert values(path)[1] == {"query": "wait", "(column 2)": "y", "answer": "serve", "(column 4)": ""}
    assert places(path) == [", line 2", ", line 4"]


# Encodings and line ends


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz"])
def test_a_byte_order_mark_says_the_encoding(encoding: str, name: str, write: Write) -> None:
    mark = "\ufeff" if encoding[-2:] in ("le", "be") else ""
    content = CSV if name == "a.csv" else JSONL
    assert values(write(name, (mark + content).encode(encoding))) == ROWS


def test_other_encodings_are_named_with_the_line_and_read(write: Write) -> None:
    path = write("a.csv", ("query,answer\n" + "cook,soup\n" * 2000 + "Köchin,“café”\n").encode("cp1252"))
    with pytest.raises(ValueError, match=r"line 2002: expected UTF-8, got the byte 0xf6; data\.encoding=cp1252 reads"):
        values(path)
    assert list(rows(path, encoding="cp1252"))[-1][1] == {"query": "Köchin", "answer": "“café”"}
    with pytest.raises(ValueError, match=r"line 2002: expected ascii, got the byte 0xf6$"):
        list(rows(path, encoding="ascii"))


def test_carriage_returns_alone_end_lines(write: Write) -> None:
    path = write("a.csv", 'query,answer\rcook,"soup\rhot"\rwait,serve\r')
    assert values(path) == [{"query": "cook", "answer": "soup\rhot"}, {"query": "wait", "answer": "serve"}]


@pytest.mark.parametrize("content", [CSV, "a,b\nc,d\n"])
def test_nul_characters_are_refused(content: str, write: Write) -> None:
    with pytest.raises(ValueError, match=r"line \d: expected .* NUL characters?.* data\.encoding=utf-16-le"):
        values(write("a.csv", content.encode("utf-16-le")))


@pytest.mark.parametrize(
    ("name", "start", "message"),
    [
        ("a.jsonl.gz", '{"a": "', r"a\.jsonl\.gz, line 1: expected a line of fewer than 4,096 characters"),
        ("a.csv.gz", 'a\n"', r"a\.csv\.gz, line 2: expected a line of fewer than 4,096 characters"),
        ("a.json.gz", '[{"a": "', r"a\.json\.gz: expected fewer than 8,192 characters in a compressed file"),
    ],
)
def test_what_unpacks_without_end_is_not_held_in_memory(
    name: str, start: str, message: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_LONGEST_LINE", 4096)
    monkeypatch.setattr(lines, "_LONGEST_TEXT", 8192)
    monkeypatch.setattr(lines, "_PIECE", 1024)
    path = write(name, start + "x" * 2_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            values(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# JSON of another shape


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "value",
    [
        {"records": [{"query": "a", "answer": "b"}], "count": 1},
        {"query": ["a", "b"], "answer": ["c", "d"]},
        {"query": {"0": "a"}, "answer": {"0": "b"}},
    ],
)
def test_one_object_that_holds_a_table_is_named(value: object, indent: int | None, name: str, write: Write) -> None:
    message = r"one JSON object that is no row, with the keys '(records', 'count|query', 'answer)': expected an array"
    if indent and name == "a.jsonl":
        message = "line 1: malformed JSON"
    with pytest.raises(ValueError, match=message):
        values(write(name, json.dumps(value, indent=indent)))


def test_objects_on_several_lines_are_named(write: Write) -> None:
    objects = "\n".join(json.dumps(row, indent=1) for row in ROWS)
    with pytest.raises(ValueError, match="several objects on more lines than one each: expected an array"):
        values(write("a.json", objects))


def test_rows_with_lists_beside_texts_are_rows(write: Write) -> None:
    row = {"query": "a", "positives": ["b"], "entities": [{"x": 1}], "scores": [1, 2]}
    assert values(write("a.json", json.dumps(row))) == values(write("a.jsonl", json.dumps(row))) == [row]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps([[{"text": "x" * 300_000}]])),
        ("a.json", json.dumps({f"key {i}": {"x": "y" * 1000} for i in range(1000)})),
        ("a.csv", ",".join(f"name {i % 400}" for i in range(1000)) + "\n"),
        ("a.csv", "x;" * 10_000 + "\n"),
    ],
)
def test_messages_stay_short(name: str, content: str, write: Write) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        values(write(name, content))
    assert len(str(caught.value)) < 700
