import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from contrastive.data.queries.query_writers import clean_queries, write_queries


@pytest.mark.parametrize(
    ("line", "query"),
    [
        ("python, sql, remote", "python, sql, remote"),
        ("1. python dev", "python dev"),
        ("(2) python dev", "python dev"),
        ("12: python dev", "python dev"),
        ("- python dev", "python dev"),
        ("  \u2022 python   dev ", "python dev"),
        ("**3.** python dev", "python dev"),
        ("Query 1: python dev", "python dev"),
        ("Search query: python dev", "python dev"),
        ("- 1) 'python dev'", "python dev"),
        ('"python dev",', "python dev"),
        ("\u201cpython dev\u201d", "python dev"),
        ("3 years python", "3 years python"),
        ("1.5 years python", "1.5 years python"),
        ("10+ years python", "10+ years python"),
        ("python - remote, 2. shift", "python - remote, 2. shift"),
        ("nurses' jobs", "nurses' jobs"),
        ('"nurse\'s aide"', "nurse's aide"),
        ('the "big four"', 'the "big four"'),
        ('"big four" audit', '"big four" audit'),
        ('"big four" or "top ten"', '"big four" or "top ten"'),
        ("c++", "c++"),
        (" ".join(["word"] * 30), " ".join(["word"] * 30)),
    ],
)
def test_a_query_is_freed_of_numbers_bullets_and_quotes(line: str, query: str) -> None:
    assert clean_queries([line], 3) == [query]


@pytest.mark.parametrize("line", ["", "  ", "---", "```json", "**Here are 3 queries:**", " ".join(["word"] * 31)])
def test_what_is_no_query_is_dropped(line: str) -> None:
    assert clean_queries([line, "chef"], 3) == ["chef"]


def test_duplicates_are_dropped_before_the_queries_are_counted() -> None:
    assert clean_queries(["Chef", "chef", "1. CHEF", "nurse", "cook"], 2) == ["Chef", "nurse"]


class Writer:
    """Writes each document in capitals, and remembers what it was asked."""

    def __init__(self, **settings: object) -> None:
        self.settings = settings
        self.calls: list[list[str]] = []

    def __call__(self, documents: Sequence[str]) -> list[list[str]]:
        self.calls.append(list(documents))
        return [[document.upper()] for document in documents]


class Streamer(Writer):
    """Hands over one document at a time, last first, until it meets one that raises."""

    def __init__(self, failures: dict[str, BaseException] | None = None) -> None:
        super().__init__()
        self.failures = failures or {}
        self.lines: list[int] = []
        self.file: Path | None = None

    def stream(self, documents: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        for i in reversed(range(len(documents))):
            if documents[i] in self.failures:
                raise self.failures[documents[i]]
            self.calls.append([documents[i]])
            yield i, [documents[i].upper()]
            if self.file is not None:
                self.lines.append(len(self.file.read_text().splitlines()))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "queries.jsonl"


def test_only_what_the_file_lacks_is_written(file: Path) -> None:
    writer = Writer(model="a")
    assert write_queries(writer, ["x", "y"], file) == [["X"], ["Y"]]
    assert write_queries(writer, ["z", "y", "x"], file) == [["Z"], ["Y"], ["X"]]
    assert writer.calls == [["x", "y"], ["z"]]
    assert len(file.read_text().splitlines()) == 3
    again = Writer(model="a")
    assert write_queries(again, ["x", "y", "z"], file) == [["X"], ["Y"], ["Z"]]
    assert again.calls == []


def test_other_settings_and_changed_documents_are_written_anew(file: Path) -> None:
    write_queries(Writer(model="a"), ["x"], file)
    other, changed = Writer(model="b"), Writer(model="a")
    write_queries(other, ["x"], file)
    write_queries(changed, ["x "], file)
    assert (other.calls, changed.calls) == ([["x"]], [["x "]])


def test_equal_documents_are_asked_for_once_and_blank_ones_never(file: Path) -> None:
    writer = Writer()
    assert write_queries(writer, [" \n"], file) == [[]]
    assert not file.exists()
    queries = write_queries(writer, ["x", " \n", "x", ""], file)
    assert queries == [["X"], [], ["X"], []]
    assert queries[0] is not queries[2]
    assert writer.calls == [["x"]]


def test_a_plain_writer_is_called_with_batches(file: Path) -> None:
    writer = Writer()
    assert write_queries(writer, list("abcde"), file, batch_size=2) == [[c] for c in "ABCDE"]
    assert writer.calls == [["a", "b"], ["c", "d"], ["e"]]


def test_a_streaming_writer_is_saved_document_by_document(file: Path) -> None:
    writer = Streamer()
    writer.file = file
    assert write_queries(writer, ["a", "b", "c"], file) == [["A"], ["B"], ["C"]]
    assert writer.lines == [1, 2, 3]


def test_the_later_of_two_lines_wins(file: Path) -> None:
    write_queries(Writer(), ["x"], file)
    row = json.loads(file.read_text())
    with file.open("a") as lines:
        lines.write(json.dumps({**row, "queries": ["other"]}) + "\n")
    assert write_queries(Writer(), ["x"], file) == [["other"]]


@pytest.mark.parametrize("left", [1, 5, 9, 30, -3, -1])
def test_a_torn_last_line_is_asked_for_again(file: Path, left: int, caplog: pytest.LogCaptureFixture) -> None:
    write_queries(Writer(), ["x", "y"], file)
    first, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + second[:left])
    writer = Writer()
    assert write_queries(writer, ["x", "y", "z"], file) == [["X"], ["Y"], ["Z"]]
    # Without its end of line alone, a line is whole.
    whole = left == -1
    assert writer.calls == ([["z"]] if whole else [["y", "z"]])
    assert ("line 2: torn" in caplog.text) is not whole
    again = Writer()
    assert write_queries(again, ["x", "y", "z"], file) == [["X"], ["Y"], ["Z"]]
    assert again.calls == []


@pytest.mark.parametrize("line", ['{"_id": "1", "text": "a posting"}', "a posting", '["a", "b"]', "null", '{"key": 1}'])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, line: str) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 1: expected a key and its queries, got"):
        write_queries(Writer(), ["x"], file)
    assert file.read_text() == line + "\n"


def test_half_an_emoji_harms_nobody(file: Path) -> None:
    class Halver(Writer):
        def __call__(self, documents: Sequence[str]) -> list[list[str]]:
            self.calls.append(list(documents))
            return [["\ud83d"] for _ in documents]

    writer = Halver()
    assert write_queries(writer, ["x\ud83d"], file) == [["\ud83d"]]
    assert write_queries(writer, ["x\ud83d"], file) == [["\ud83d"]]
    assert writer.calls == [["x?"]]


def test_a_failure_says_what_is_done_and_the_next_run_goes_on(file: Path) -> None:
    documents = ["a", "b", "c", "d"]
    with pytest.raises(ConnectionError, match=r"gone\n2 of 4 documents have their queries, kept in .*queries.jsonl"):
        write_queries(Streamer({"b": ConnectionError("gone")}), documents, file)
    writer = Streamer()
    assert write_queries(writer, documents, file) == [["A"], ["B"], ["C"], ["D"]]
    assert writer.calls == [["b"], ["a"]]


def test_ctrl_c_loses_nothing_that_was_written(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_queries(Streamer({"a": KeyboardInterrupt()}), ["a", "b", "c"], file)
    assert "2 of 3 documents have their queries" in caplog.text
    assert len(file.read_text().splitlines()) == 2


def test_documents_without_queries_are_remembered_and_counted(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Silent(Writer):
        def __call__(self, documents: Sequence[str]) -> list[list[str]]:
            self.calls.append(list(documents))
            return [[] if document == "x" else ["q"] for document in documents]

    writer = Silent()
    assert write_queries(writer, ["x", "y", " "], file) == [[], ["q"], []]
    assert "1 of 2 documents got no query" in caplog.text
    assert write_queries(writer, ["x"], file) == [[]]
    assert writer.calls == [["x", "y"]]


def test_progress_counts_documents(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_queries(Writer(), ["a"], file)
    assert capsys.readouterr().err == ""
    write_queries(Writer(), ["a", "b", "c", "c"], file, show_progress=True)
    shown = capsys.readouterr().err
    assert "writing queries" in shown
    assert "1/3" in shown
    assert "3/3" in shown


def test_a_writer_that_skips_documents_is_refused(file: Path) -> None:
    class Short(Writer):
        def __call__(self, documents: Sequence[str]) -> list[list[str]]:
            return super().__call__(documents)[1:]

    class Skipping(Streamer):
        def stream(self, documents: Sequence[str]) -> Iterator[tuple[int, list[str]]]:  # noqa: ARG002
            yield 0, ["A"]

    with pytest.raises(ValueError, match="expected the writer to return 2 lists of queries, got 1"):
        write_queries(Short(), ["a", "b"], file)
    with pytest.raises(ValueError, match="expected the writer to write for 2 documents, got fewer"):
        write_queries(Skipping(), ["a", "b"], file)


def test_a_stream_is_closed_when_its_queries_cannot_be_saved(file: Path) -> None:
    class Open(Streamer):
        closed = False

        def stream(self, documents: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
            try:
                yield 0, [set(documents)]  # type: ignore[list-item]
            finally:
                self.closed = True

    writer = Open()
    # The error, which is kept, keeps the stream alive.
    with pytest.raises(TypeError, match="not JSON serializable") as raised:
        write_queries(writer, ["a"], file)
    assert raised
    assert writer.closed


def test_wrong_arguments_are_refused(file: Path) -> None:
    with pytest.raises(TypeError, match="expected a sequence of texts"):
        write_queries(Writer(), "one text", file)
    with pytest.raises(ValueError, match="expected batch_size of at least 1, got 0"):
        write_queries(Writer(), ["x"], file, batch_size=0)
