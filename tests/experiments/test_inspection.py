"""What is found out about data before training, and the program that prints it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from contrastive.contracts import Side
from contrastive.data import Account, Record, RetrievalTask, TextData
from contrastive.encoder import Encoder
from contrastive.encoder.two_towers import TwoTowers
from experiments.data import __main__ as program
from experiments.data.inspection import Example, inspect, word_overlap
from experiments.data.inspection_report import findings, print_inspection
from experiments.data.pair_statistics import Distribution, distribution, pair_counts, pair_duplicates, pair_table

TRAIN = (
    Record("cook", "chef wanted", ("bus driver",), "q1", "d1", ("d2",), {"d1": 1}),
    Record("drive a bus", "bus driver", ("chef wanted", "nurse"), "q2", "d2", ("d1", "d3"), {"d2": 1}),
    Record("Drive  a bus", "drives", (), "q9", "d4", (), {"d4": 1}),
)
DEV = RetrievalTask(
    "dev", {"q3": "heal people", "q4": "idle"}, {"d3": "nurse", "d5": "Nurse "}, {"q3": {"d3": 2, "d5": 1}}
)
TEST = RetrievalTask("test", {"q5": "sing"}, {"d6": "we sing songs", "d7": "x"}, {"q5": {"d6": 1, "d7": 0}})
DATA = TextData("small", TRAIN, DEV, TEST)
SIDES: dict[Side, int] = {"query": 3, "document": 2}


def count_words(texts: Sequence[str], side: Side) -> list[int]:
    """A word is a token; documents have one more."""
    return [len(text.split()) + (side == "document") for text in texts]


def printed(data: TextData, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_inspection(inspect(data, count_words, SIDES), console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(output, str)
    return output


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3], (3, 3, 3, 3, 3, 3)),
        ([4, 1], (2.5, 1, 1, 4, 4, 4)),
        (list(range(200, 0, -1)), (100.5, 1, 100, 180, 198, 200)),
    ],
)
def test_a_distribution_is_made_of_values_that_occur(values: list[int], expected: tuple[float, ...]) -> None:
    found = distribution(values)
    assert (found.mean, found.minimum, found.median, found.p90, found.p99, found.maximum) == expected


def test_training_pairs_are_counted() -> None:
    (counts,) = pair_counts(pair_table(TRAIN)).values()
    assert (counts.pairs, counts.queries, counts.documents, counts.scored) == (3, 2, 4, 0)
    assert counts.pairs_a_query == Distribution(1.5, 1, 1, 2, 2, 2)
    assert counts.negatives_a_pair == Distribution(1.0, 0, 1, 2, 2, 2)


def test_training_pairs_are_counted_by_source() -> None:
    records = [replace(TRAIN[0], source="a", score=0.5), *(replace(record, source="b") for record in TRAIN[1:])]
    counts = pair_counts(pair_table(records))
    assert list(counts) == ["all", "a", "b"]
    assert counts["all"] == replace(pair_counts(pair_table(TRAIN))["all"], scored=1)
    assert [(c.pairs, c.queries, c.documents, c.scored) for c in counts.values()] == [
        (3, 2, 4, 1),
        (1, 1, 2, 1),
        (2, 1, 4, 0),
    ]
    assert counts["a"].pairs_a_query == Distribution(1.0, 1, 1, 1, 1, 1)
    assert counts["b"].negatives_a_pair == Distribution(1.0, 0, 0, 2, 2, 2)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([Record("a", "x"), Record("b", "y", ("x",))], {}),
        ([Record("a", "x"), Record("A ", " X")], {"pairs": 1}),
        ([Record("a", "x"), Record("A ", "y")], {"several_positives": 1}),
        ([Record("a", "x"), Record("b", "x"), Record("c", "X")], {"several_queries": 1}),
        ([Record("a", "x", ("y", "X"))], {"false_negatives": 1}),
        ([Record("a", "x", ("y",)), Record("a", "y")], {"several_positives": 1, "false_negatives": 1}),
        ([Record("a", "x", ("y", "z"), "q", "1", ("2", "3"), {"2": 1, "3": 0})], {"false_negatives": 1}),
        ([Record("a", "x", (), "1"), Record("A", "y", (), "2")], {"queries": 1, "several_positives": 1}),
        ([Record("a", "x", ("y",), "", "1", ("2",)), Record("b", "Y", (), "", "3")], {"documents": 1}),
    ],
)
def test_duplicates_of_training_pairs(records: list[Record], expected: dict[str, int]) -> None:
    found = asdict(pair_duplicates(pair_table(records)))
    assert found == {**dict.fromkeys(found, 0), **expected}


def test_tasks_are_counted() -> None:
    found = inspect(DATA, count_words, SIDES)
    dev, test = found.tasks["dev"], found.tasks["test"]
    assert (dev.queries, dev.documents, dev.judged, dev.unanswered, dev.grades) == (2, 2, 2, 1, {1: 1, 2: 1})
    assert dev.relevant_a_query == Distribution(1.0, 0, 0, 2, 2, 2)
    assert (test.judged, test.unanswered, test.grades, test.relevant_a_query.maximum) == (2, 0, {0: 1, 1: 1}, 1)
    assert [found.duplicates[split].documents for split in ("dev", "test")] == [1, 0]
    assert found.duplicates["dev"].queries == 0
    assert found.duplicates["dev"].pairs is None


def test_lengths_are_measured_by_kind_of_text() -> None:
    found = inspect(DATA, count_words, SIDES).lengths
    assert list(found) == [
        *("train queries", "train documents", "dev queries", "test queries", "dev documents", "test documents")
    ]
    assert found["train queries"].tokens == Distribution(7 / 3, 1, 3, 3, 3, 3)
    assert found["train queries"].characters.maximum == len("Drive  a bus")
    assert (found["train queries"].cut, found["train queries"].max_length) == (0, 3)
    assert (found["train documents"].measured, found["train documents"].cut) == (6, 4)
    assert found["test documents"].tokens == Distribution(3.0, 2, 2, 4, 4, 4)


def test_a_shared_corpus_is_measured_once() -> None:
    found = inspect(replace(DATA, dev=replace(DEV, corpus=TEST.corpus, qrels={})), count_words, SIDES)
    assert list(found.lengths)[-2:] == ["test queries", "dev and test documents"]


class Counted(tuple[Record, ...]):
    """Records that count how often one is asked for by its place."""

    reads = 0

    def __getitem__(self, place: Any) -> Any:
        self.reads += 1
        return super().__getitem__(place)


def test_large_data_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.data.inspection.SAMPLE", 4)
    monkeypatch.setattr("experiments.data.inspection_report.SAMPLE", 4)
    numbers = [str(i) for i in range(50)]
    test = RetrievalTask("test", dict.fromkeys(numbers, "a"), dict.fromkeys(numbers, "b"), {i: {i: 1} for i in numbers})
    train = Counted(Record(f"query {i}", f"text {i}", (f"other {i}",)) for i in range(50))
    data = TextData("large", train, None, test)
    found = inspect(data, count_words, SIDES)
    assert found.train["all"].pairs == 50
    assert train.reads == 4 + 1  # a slice, for near-duplicates
    assert {kind.measured for kind in found.lengths.values()} == {4}
    assert inspect(data, count_words, SIDES) == found
    assert "more than 4, lengths and overlap of words are those of a sample" in printed(data)
    assert "those of a sample" not in printed(replace(data, train=train[:1], test=None))
    monkeypatch.setattr("experiments.data.inspection.word_overlap", len)
    assert inspect(data, count_words, SIDES).word_overlap == {"train": 4, "test": 4}


@pytest.mark.parametrize(
    ("pairs", "share"),
    [
        ([("C++, SQL", "Knows c++. And SQL!")], 1.0),
        ([("c", "c++")], 0.0),
        ([("a b c d", "d c x")], 0.5),
        ([("a a b", "a")], 0.5),
        ([("a", "a"), ("a", "b")], 0.5),
        ([("?", "a")], 0.0),
    ],
)
def test_word_overlap_is_the_mean_share_of_query_words(pairs: list[tuple[str, str]], share: float) -> None:
    assert word_overlap(pairs) == share


def test_word_overlap_is_with_the_best_answers() -> None:
    grades = {"q": {"x": 1, "y": 2, "z": 0}, "r": {"x": 0}}
    graded = RetrievalTask("dev", {"q": "a b", "r": "none"}, {"x": "a b", "y": "a", "z": "b"}, grades)
    found = inspect(replace(DATA, dev=graded), count_words, SIDES)
    assert found.word_overlap == {"train": pytest.approx(1 / 9), "dev": 0.5, "test": 1.0}


def test_leaks_are_told_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    leaking = replace(TEST, queries={"q5": "COOK"}, corpus={**TEST.corpus, "d6": "Nurse"})
    found = inspect(replace(DATA, test=leaking), count_words, SIDES).leaks
    assert [sentence.split(":")[0] for sentence in found] == [
        "splits 'train' and 'test' share 1 queries",
        "splits 'dev' and 'test' share 1 top-graded documents",
    ]
    assert not caplog.records
    assert inspect(DATA, count_words, SIDES).leaks == []


def test_examples_are_spread_over_the_pairs() -> None:
    records = tuple(Record(f"query\n{i}", f"title {i}\ntext", ("no",) if i else ()) for i in range(9))
    found = inspect(TextData("x", records, DEV, None), count_words, SIDES, num_examples=3)
    assert found.examples == [
        Example("query · 0", "title 0 · text", None),
        Example("query · 3", "title 3 · text", "no"),
        Example("query · 6", "title 6 · text", "no"),
    ]
    assert len(inspect(TextData("x", records), count_words, SIDES, num_examples=20).examples) == 9
    assert inspect(TextData("x", records), count_words, SIDES, num_examples=0).examples == []
    assert inspect(TextData("x", (), None, TEST), count_words, SIDES).examples == [
        Example("sing", "we sing songs", None)
    ]


def test_findings_are_plain_words() -> None:
    assert findings(inspect(DATA, count_words, SIDES)) == [
        "dev queries without a relevant document: 1",
        "67 % of the train documents are cut at 2 tokens",
        "50 % of the test documents are cut at 2 tokens",
        "equal queries under different ids: 1 in train",
        "equal documents under different ids: 1 in dev",
        "queries with several positives: 1 in train",
        "11 % of the words of a train query stand in its answer: words alone find little",
        "0 % of the words of a dev query stand in its answer: words alone find little",
        "100 % of the words of a test query stand in its answer: word matching such as BM25 will be hard to beat",
    ]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (replace(DATA, train=()), "there are no training pairs: models can only be judged on this data"),
        (replace(DATA, dev=None), "there is no dev split: nothing to tune on"),
        (replace(DATA, test=None), "there is no test split: nothing for a final score"),
        (replace(DATA, train=(*TRAIN, Record("", "x"))), "some train queries are empty"),
        (
            replace(DATA, train=(*TRAIN, Record("b", "y", score=1.0))),
            "1 of 4 training pairs have a score: training wants all or none",
        ),
        (
            replace(
                DATA,
                train=tuple(Record(f"q {i}", f"d {i}", source="rare" if i == 0 else "common") for i in range(30)),
            ),
            "3 % of the training pairs are of rare: raise batches.source_temperature?",
        ),
        (
            replace(DATA, train=(Record("cook", "a", ("A",)),)),
            "hard negatives that are a positive of their query: 1 in train",
        ),
        (replace(DATA, train=(Record("sing", "a"),)), "splits 'train' and 'test' share 1 queries: 'q5' ('sing')"),
    ],
)
def test_what_is_odd_is_found(data: TextData, sentence: str) -> None:
    assert sentence in findings(inspect(data, count_words, SIDES))
    assert sentence not in findings(inspect(DATA, count_words, SIDES))


def test_nothing_odd_is_said_so() -> None:
    train = tuple(Record(f"{i} more", f"text {i}", score=0.5) for i in range(4))
    dev = RetrievalTask("dev", {"q": "half this"}, {"d": "this"}, {"q": {"d": 1}})
    test = RetrievalTask("test", {"r": "half that"}, {"e": "that"}, {"r": {"e": 1}})
    data = TextData("fine", train, dev, test)
    assert findings(inspect(data, count_words, {"query": 9, "document": 9})) == []
    console = Console(file=io.StringIO(), width=80)
    print_inspection(inspect(data, count_words, {"query": 9, "document": 9}), console)
    assert console.file.getvalue().endswith("What stands out\n  - nothing\n")  # type: ignore[attr-defined]


def test_tables_and_examples_fit_eighty_columns() -> None:
    records = tuple(
        replace(TRAIN[i % 3], query=f"[bold] {i} {'word ' * 20}", source=f"[b]source{i % 2}") for i in range(2000)
    )
    output = printed(replace(DATA, name="[i]small", train=records))
    for part in (
        "[i]small: to",
        "2,000",
        "[b]source1",
        "[bold] 0",
        "chef wanted",
        "0-2, mean 1.0",
        "1: 1, 2: 1",
        "at 2 and 3",
    ):
        assert part in output
    tables = output[: output.index("What stands out")]
    assert max(map(len, tables.splitlines())) <= 80
    assert "0-0" not in printed(replace(DATA, train=(Record("a", "b"),)))


def test_what_was_read_and_left_out_is_shown() -> None:
    account = Account(7, {"blank": 2}, {"query": "Search \x1b[1mterm"}, ("pay", "note"), ("odd \x1b[31mcells",))
    output = printed(replace(DATA, account=account))
    assert output.startswith("rows read: 7, 5 used\ncolumns: query from 'Search \\x1b[1mterm'\n")
    for sentence in ("odd cells", "2 rows are left out: blank", "columns that are not used: 'pay', 'note'"):
        assert f"  - {sentence}\n" in output
    assert asdict(inspect(replace(DATA, account=account), count_words, SIDES))["account"]["left_out"] == {"blank": 2}


def test_data_do_not_control_the_terminal() -> None:
    record = Record("cook \x1b[31mred", "chef\x07 \x1b]0;title\x07wanted", ("bus\x9b",), "q1", "d1", ("d2",), {"d1": 1})
    output = printed(replace(DATA, name="set \x1b[2J", train=(record,), dev=None))
    assert "cook red" in output
    assert "  positive  chef wanted" in output
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", output)


def test_data_without_training_pairs_or_tasks_is_printed() -> None:
    assert "to train on" not in printed(replace(DATA, train=()))
    assert "to judge on" not in printed(TextData("x", TRAIN))


def test_tokens_are_those_of_each_side(tiny_encoder: Encoder, tiny_model_folder: Path) -> None:
    tiny_encoder.query_prompt = "the job "
    count, most = program.token_counter(tiny_encoder)
    assert most == {"query": 64, "document": 64}
    assert count(["chef", "chef " * 100], "query") == [5, 104]
    assert count(["chef", "\ud83d"], "document")[0] == 3
    towers = TwoTowers(tiny_encoder, Encoder.from_pretrained(tiny_model_folder, max_length=8, document_prompt="the "))
    count, most = program.token_counter(towers)
    assert most == {"query": 64, "document": 8}
    assert count(["chef"], "document") == [4]
    assert count(["chef"], "query") == [5]


SMALL = ["data.train_pairs=8", "data.dev_queries=4", "data.test_queries=4"]


def test_the_program_prints_everything(tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", str(tiny_model_folder)]
    program.main(["inspect", *model, "--examples", "2", *SMALL, "data.negatives=1", "encoder.max_length=32"])
    output = capsys.readouterr().out
    for part in ("jobs: to train on", "jobs: to judge on", "cut at 32", "Length in characters", "Duplicates"):
        assert part in output
    assert output.count("  positive  ") == output.count("  negative  ") == 2
    assert "100 % of the train documents are cut at 32 tokens" in output


def test_the_program_writes_json(tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program.main(["inspect", "--model", str(tiny_model_folder), "--json", *SMALL])
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert content["name"] == "jobs"
    assert content["train"]["all"]["pairs"] == 8
    assert content["tasks"]["dev"]["queries"] == 4
    assert content["lengths"]["test documents"]["max_length"] == 64
    assert len(content["examples"]) == 3
    assert any("are cut at 64 tokens" in sentence for sentence in content["findings"])


def beir_folder(folder: Path) -> Path:
    """A data set whose train and test share a query, with half an emoji."""
    (folder / "qrels").mkdir()
    texts = {"corpus": ["chef \ud83d", "doctor", "waiter"], "queries": ["cook", "nurse", "Cook"]}
    for name, some in texts.items():
        rows = [json.dumps({"_id": f"{name}{i}", "text": text}) + "\n" for i, text in enumerate(some)]
        (folder / f"{name}.jsonl").write_text("".join(rows))
    for i, split in enumerate(("train", "dev", "test")):
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\nqueries{i}\tcorpus{i}\t1\n")
    return folder


@pytest.mark.parametrize("mixed", [False, True])
def test_leaking_data_is_inspected_all_the_same(
    mixed: bool, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(beir_folder(tmp_path))
    source = ["--data", "mixed", "+data@data.sources.mine=beir", f"data.sources.mine.path={folder}"]
    program.main(["inspect", "--model", str(tiny_model_folder), *(source if mixed else ["--data", folder])])
    output = capsys.readouterr().out
    assert "  positive  chef ?" in output
    assert "  - splits 'train' and 'test' share 1 queries: 'queries2'" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "beir"], "error: expected a value for data.path, which has no default: add data.path=...$"),
        (["--data", "nowhere"], "error: expected data to be a file, .* got nowhere$"),
        (["--data", "mixed"], "error: expected at least one source to mix, got none"),
        (["data.train_pairs=0"], "error: expected train_pairs of at least 1, got 0"),
        (["--data", str(Path(__file__).parent)], "error: expected a file named train, dev or test and ending in"),
        (["data.pairs=1"], r"error: Could not override 'data\.pairs'"),
        (["--examples", "-1"], "error: expected --examples of at least 0, got -1"),
        (["encoder.max_length=65"], "error: expected max_length from 3 to 64 for this model, got 65"),
    ],
)
def test_mistakes_are_said_in_a_line(arguments: list[str], message: str, tiny_model_folder: Path) -> None:
    with pytest.raises(SystemExit, match=message) as stopped:
        program.main(["inspect", "--model", str(tiny_model_folder), *arguments])
    assert isinstance(stopped.value.code, str)  # which Python prints, to exit with 1


def test_help_answers_without_loading_torch() -> None:
    code = (
        "import sys; from experiments.data.__main__ import main\n"
        "try: main(['inspect', '--help'])\n"
        "finally: assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "--examples" in done.stdout
    assert "examples:" in done.stdout
