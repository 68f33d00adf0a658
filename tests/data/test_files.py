"""Data sets made of people's own files: columns, checks, what is held out, what is judged, and what stays on disk."""

from __future__ import annotations

import csv
import gc
import json
import logging
import os
import pickle
import random
import tempfile
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.utils.data import DataLoader

from contrastive.data import Batch, Collator, Record, TextData, files, normalise_text
from contrastive.data.columns import Columns, recognise
from contrastive.data.identities import word_order_key
from experiments.run.training_run import train_and_judge

ROOT = Path(__file__).parents[2]
Row = Mapping[str, object]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(rows: Sequence[Row], name: str = "pairs.jsonl") -> Path:
        path = tmp_path / name
        if path.suffix == ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return written


def numbered(count: int, *, start: int = 0) -> list[Row]:
    return [{"query": f"query {i}", "positive": f"answer {i}"} for i in range(start, start + count)]


def tasks(data: TextData) -> tuple[Any, Any]:
    assert data.dev is not None
    assert data.test is not None
    return data.dev, data.test


def only(write: Write, *rows: Row, **options: Any) -> list[Record]:
    """Read rows to train on alone."""
    return list(files(write(rows), held_out=0, **options).train)


# Columns


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["query", "positive"], ("query", "positive", ())),
        (["anchor", "positive", "negative"], ("anchor", "positive", ("negative",))),
        (["question", "answer", "id"], ("question", "answer", ())),
        (["Sentence1", "Sentence2", "score"], ("Sentence1", "Sentence2", (), "score")),
        (["text1", "text2", "label"], ("text1", "text2", (), "label")),
        (["query", "pos", "neg", "pos_scores", "neg_scores"], ("query", "pos", ("neg",))),
        (
            ["query", "passage", "negative_10", "negative_2", "negative"],
            ("query", "passage", ("negative", "negative_2", "negative_10")),
        ),
        (
            ["query", "job_description_pos", "job_description_neg"],
            ("query", "job_description_pos", ("job_description_neg",)),
        ),
        (["query-id", "query", "document", "document_id"], ("query", "document", (), False, "query-id", "document_id")),
        (
            ["qid", "query", "pos", "positive_id", "similarity"],
            ("query", "pos", (), "similarity", "qid", "positive_id"),
        ),
    ],
)
def test_usual_names_are_recognised(names: list[str], expected: tuple[Any, ...]) -> None:
    query, positive, negatives, score, query_id, positive_id = (*expected, False, False, False)[:6]
    found = recognise(names, Columns())
    assert found == Columns(query, positive, negatives, score, query_id, positive_id)


def test_named_columns_go_before_recognised_ones() -> None:
    names = ["query", "title", "positive", "negative", "hard", "score"]
    found = recognise(names, Columns(query="title", positive="query", negatives=["hard", "positive"], score=False))
    assert found == Columns("title", "query", ("hard", "positive"), False, False, False)
    assert recognise(["positive", "answer"], Columns(query="positive")).positive == "answer"
    assert recognise(names, Columns(negatives="hard")).negatives == ("hard",)
    assert recognise(names, Columns(negatives=[])).negatives == ()
    assert recognise(["query", "question", "answer"], Columns(query="question")).query == "question"


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (
            ["a", "b"],
            {},
            r"no column has a usual name for the query; .*columns\.query .*data=corpus\)\. There are 'a', 'b'",
        ),
        (["query", "b"], {}, r"no column has a usual name for the positive; name it in columns\.positive\. There are"),
        (["query", "anchor", "pos"], {}, r"the query could be 'query' or 'anchor'; say which in columns\.query"),
        (["query", "pos", "doc"], {}, r"the positive could be 'pos' or 'doc'; say which in columns\.positive"),
        (["query", "pos", "score", "label"], {}, r"the score could be 'score' or 'label'; say which in columns\.score"),
        (
            ["query", "pos"],
            {"query": "q"},
            r"expected a column 'q', as said in columns\.query, found none\. There are ",
        ),
        (["query", "pos"], {"negatives": ["pos", "neg"]}, r"expected a column 'neg', as said in columns\.negatives"),
        (["query", "pos"], {"answer": "pos"}, r"expected columns among query, positive, .* got 'answer'"),
        ([], {}, r"no column has a usual name for the query; .* There are none"),
    ],
)
def test_columns_that_cannot_be_told_are_refused(
    names: list[str], columns: Mapping[str, Any], message: str, write: Write
) -> None:
    with pytest.raises(ValueError, match=message):
        only(write, dict.fromkeys(names, "text"), columns=columns)


def test_the_line_of_a_row_with_other_columns_is_named(write: Write) -> None:
    first = {"query": "a", "positive": "b", "neg": "c"}
    with pytest.raises(ValueError, match=r"pairs\.jsonl, line 2: no column has a usual name for the positive"):
        only(write, first, {"query": "d"})
    with pytest.raises(ValueError, match=r"line 2: expected 'query', 'positive', as in the first row, got the columns"):
        only(write, first, {"question": "d", "positive": "e"})
    with pytest.raises(ValueError, match=r"line 2: expected 'query', 'positive', as in the first row, got .*label"):
        only(write, first, {"query": "d", "positive": "e", "label": 1})


def test_negatives_and_ids_may_come_and_go(write: Write) -> None:
    rows: list[Row] = [
        {"query": "a", "positive": "b", "neg": "c"},
        {"query": "d", "positive": "e"},
        {"query": "f", "positive": "g", "neg_1": "h", "neg_2": None, "neg_3": "i", "query_id": 7},
        {"query": "j", "positive": "k", "neg": ["l", None, "", " ", "m"], "query_id": None},
    ]
    records = only(write, *rows)
    assert [record.negatives for record in records] == [("c",), (), ("h", "i"), ("l", "m")]
    assert [len(record.negative_ids) for record in records] == [1, 0, 2, 2]
    assert records[2].query_id == "7"
    assert records[3].query_id.startswith("q")
    named = only(write, *rows[:2], columns={"negatives": ["neg"]})
    assert [record.negatives for record in named] == [("c",), ()]


def test_a_csv_file_reads_like_json_lines(write: Write) -> None:
    rows = [
        {"query": f"q{i}", "positive": f"p {i}, 🚑", "neg_1": "" if i % 2 else f"n{i}", "neg_2": "x"} for i in range(9)
    ]
    table, lines = (files(write(rows, name), held_out=0).train for name in ("a.csv", "a.jsonl"))
    assert list(table) == list(lines)


# Values


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": 7}, "expected a text in column 'query', got the int 7"),
        ({"query": None}, r"expected a text in column 'query', got nothing \(null\)"),
        ({"query": ["a"]}, r"expected a text in column 'query', got the list \['a'\]"),
        ({"query": " \n"}, "expected a text in column 'query', got an empty one"),
        ({"pos": ""}, "expected a text in column 'pos', got an empty one"),
        ({"pos": "\u3000"}, "expected a text in column 'pos', got an empty one"),
        ({"pos": []}, "expected a text in column 'pos', got an empty list"),
        ({"pos": ["a", ""]}, "expected a text in column 'pos', got an empty one"),
        ({"pos": ["a", None]}, r"expected a text in column 'pos', got nothing \(null\)"),
        ({"pos": 0.5}, "expected a text in column 'pos', got the float 0.5"),
        ({"pos": {"text": "a"}}, "expected a text in column 'pos', got the dict"),
        ({"neg": 7}, "expected a text in column 'neg', got the int 7"),
        ({"neg": ["a", 7]}, "expected a text in column 'neg', got the int 7"),
        ({"score": "high"}, r"expected a finite number in column 'score', got the str 'high' .*columns\.score=false"),
        ({"score": None}, r"expected a finite number in column 'score', got nothing \(null\)"),
        ({"score": float("nan")}, "expected a finite number in column 'score', got the float nan"),
        ({"score": float("inf")}, "expected a finite number in column 'score', got the float inf"),
        ({"score": True}, "expected a finite number in column 'score', got the bool True"),
        ({"query_id": 1.5}, "expected an id, a text or an integer, in column 'query_id', got the float 1.5"),
        ({"query_id": True}, "expected an id, a text or an integer, in column 'query_id', got the bool True"),
        ({"query_id": ["1", "2"]}, "expected 1 ids, one for each text, in column 'query_id', got 2"),
        ({"pos": ["a", "b"], "pos_id": "7"}, "expected 2 ids, one for each text, in column 'pos_id', got 1"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(row: Row, message: str, write: Write) -> None:
    good = {"query": "a", "pos": "b", "neg": "c", "score": 0.5, "query_id": "1", "pos_id": None}
    path = write([good, {**good, "query": "other", "query_id": 2}, {**good, **row}])
    with pytest.raises(ValueError, match=rf"pairs\.jsonl, line 3: {message}"):
        files(path, held_out=0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"query": "a", "pos": "x", "query_id": 1}, {"query": "b", "pos": "y", "query_id": "1"}],
            r"line 2: query id '1' stands for another text in .*, line 1 \(columns\.query_id=false ignores",
        ),
        (
            [
                {"query": "a", "pos": ["x", "z"], "pos_id": ["d1", "d2"]},
                {"query": "c", "pos": "w", "pos_id": None},
                {"query": "b", "pos": "y", "pos_id": "d2"},
            ],
            r"line 3: positive id 'd2' stands for another text in .*, line 1",
        ),
    ],
)
def test_an_id_stands_for_one_text(rows: list[Row], message: str, write: Write) -> None:
    path = write(rows)
    with pytest.raises(ValueError, match=message):
        files(path, held_out=0)
    assert len(files(path, held_out=0, columns={"query_id": False, "positive_id": False}).train) >= 2


def test_an_id_may_come_again_with_the_same_text(write: Write) -> None:
    rows = [{"query": "a", "pos": f"p{i}", "query_id": 1} for i in range(2)] + [
        {"query": "A ", "pos": "z", "query_id": 1}
    ]
    assert {record.query_id for record in only(write, *rows)} == {"1"}


def test_ids_that_are_made_follow_from_the_text(write: Write) -> None:
    first, second, other = only(
        write,
        {"query": "a", "pos": "Text", "neg": "x"},
        {"query": "A", "pos": " text", "neg": "Text"},
        {"query": "b", "pos": "x"},
    )
    assert first.query_id == second.query_id != other.query_id
    assert first.positive_id == second.positive_id == second.negative_ids[0]
    assert first.negative_ids[0] == other.positive_id
    assert first.query_id[0] == "q"
    assert len(first.positive_id) == 17


def test_several_positives_make_records_that_know_each_other(write: Write) -> None:
    rows = [
        {"query": "a", "pos": ["x", "y"], "pos_id": [1, 2], "neg": ["z", "w"]},
        {"query": "b", "pos": ["v"], "pos_id": [3], "neg": []},
    ]
    first, second, third = only(write, *rows)
    assert first == Record("a", "x", ("z", "w"), first.query_id, "1", first.negative_ids, {"1": 1, "2": 1})
    assert (second.positive, second.positive_id, second.grades) == ("y", "2", {"1": 1, "2": 1})
    assert second.negatives == ("z", "w")
    assert (third.query, third.positive, third.grades) == ("b", "v", {"3": 1})
    assert Collator([first, third])([first]).positive_ids.shape == (1, 2)


# Files and folders


def test_three_files_are_three_splits(write: Write) -> None:
    train, dev, test = (write(numbered(3, start=s), f"{s}.jsonl") for s in (0, 3, 6))
    data = files(train=train, dev=dev, test=test)
    assert data.name == "0"
    assert [record.query for record in data.train] == ["query 0", "query 1", "query 2"]
    assert sorted(tasks(data)[0].queries.values()) == ["query 3", "query 4", "query 5"]
    assert sorted(tasks(data)[1].queries.values()) == ["query 6", "query 7", "query 8"]
    assert [task.name for task in tasks(data)] == ["dev", "test"]
    without = files(train=train, test=test)
    assert (without.dev, len(without.train)) == (None, 3)
    judged = files(dev=dev)
    assert len(judged.train) == 0
    assert judged.test is None
    assert judged.dev is not None
    assert len(judged.dev.corpus) == 3


@pytest.mark.parametrize("dev", ["dev", "validation", "valid"])
def test_a_folder_is_three_files(dev: str, write: Write, tmp_path: Path) -> None:
    for start, name in enumerate(("train.csv", f"{dev}.jsonl", "test.csv")):
        write(numbered(2, start=2 * start), name)
    (tmp_path / "notes.txt").touch()
    data = files(tmp_path)
    assert data.name == tmp_path.name
    assert [record.query for record in data.train] == ["query 0", "query 1"]
    assert [sorted(task.queries.values()) for task in tasks(data)] == [["query 2", "query 3"], ["query 4", "query 5"]]


def test_a_folder_with_train_alone_is_split(write: Write, tmp_path: Path) -> None:
    write(numbered(10), "train.csv")
    assert len(files(tmp_path).train) == 8


def test_files_that_cannot_be_told_are_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected either path, or some of train, dev and test; got neither"):
        files()
    with pytest.raises(ValueError, match="expected either path, or some of train, dev and test; got both"):
        files("a.csv", train="b.csv")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        files(tmp_path / "nowhere.csv")
    write(numbered(2), "pairs.csv")
    with pytest.raises(FileNotFoundError, match=r"a file named train, dev or test and ending in .*, found pairs\.csv"):
        files(tmp_path)
    write(numbered(2), "dev.csv")
    write(numbered(2), "valid.jsonl")
    with pytest.raises(ValueError, match=r"expected one file for dev, got dev\.csv, valid\.jsonl"):
        files(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 0.5}, "expected held_out of at least 0 and below 0.5, got 0.5"),
        ({"held_out": -0.1}, "expected held_out of at least 0 and below 0.5, got -0.1"),
        ({"max_queries": 0}, "expected max_queries of at least 1, got 0"),
        ({"max_train_pairs": 0}, "expected max_train_pairs of at least 1, got 0"),
        ({"corpus_size": -1}, "expected corpus_size of at least 0, got -1"),
        ({"min_score": 0.5}, "pairs: expected a column of scores for min_score=0.5, got none"),
    ],
)
def test_choices_out_of_range_are_refused(options: dict[str, Any], message: str, write: Write) -> None:
    with pytest.raises(ValueError, match=message):
        files(write(numbered(5)), **options)


# What is held out


def tangled(count: int, seed: int = 0) -> list[Row]:
    """Rows that share queries, also in other words' order or case, and answers, in small groups."""
    draw = random.Random(seed)
    rows: list[Row] = []
    for i in range(count):
        for _ in range(draw.randint(1, 3)):
            query = draw.choice([f"python {i} sql", f"SQL, {i} Python", f"other {i}"])
            rows.append(
                {"query": query, "positive": draw.choice(["", " ", "THE "]) + f"the answer {i} {draw.randint(0, 1)}"}
            )
    return rows


def texts(data: TextData) -> list[tuple[set[str], set[str]]]:
    """Queries and answers of each split."""
    splits = [({record.query for record in data.train}, {record.positive for record in data.train})]
    for task in tasks(data):
        answers = {task.corpus[id_] for grades in task.qrels.values() for id_, grade in grades.items() if grade}
        splits.append((set(task.queries.values()), answers))
    return splits


@pytest.mark.parametrize("seed", range(3))
def test_nothing_leaks_between_splits(seed: int, write: Write) -> None:
    rows = tangled(60, seed)
    splits = texts(files(write(rows), held_out=0.2, seed=seed))
    for key, side in ((word_order_key, 0), (normalise_text, 1)):
        seen = [set(map(key, split[side])) for split in splits]
        assert all(seen)
        assert sum(map(len, seen)) == len(set.union(*seen))
    everything = {normalise_text(query) for queries, _ in splits for query in queries}
    assert everything == {normalise_text(str(row["query"])) for row in rows}


def test_rows_tied_by_an_answer_alone_stay_together(write: Write) -> None:
    rows = [{"query": f"query {i} {j}", "positive": f"answer {i}"} for i in range(20) for j in range(3)]
    data = files(write(rows))
    for task in tasks(data):
        assert len(task.queries) == 6
        assert sorted(query.split()[1] for query in task.queries.values())[::3] == sorted(
            {q.split()[1] for q in task.queries.values()}
        )
    assert len(data.train) == 48


def test_the_order_of_rows_does_not_matter_and_the_seed_does(write: Write) -> None:
    rows = [{**row, "neg": f"negative {i % 7}"} for i, row in enumerate(tangled(40))]
    mixed = random.Random(1).sample(rows, len(rows))
    first, again, other = (
        files(write(given), corpus_size=50, seed=seed, max_train_pairs=20)
        for given, seed in ((rows, 0), (mixed, 0), (rows, 1))
    )
    key = lambda record: (record.query, record.positive)  # noqa: E731
    assert sorted(first.train, key=key) == sorted(again.train, key=key)
    assert (first.dev, first.test) == (again.dev, again.test)
    assert list(tasks(first)[0].queries) == list(tasks(again)[0].queries)
    assert list(tasks(first)[0].corpus) == list(tasks(again)[0].corpus)
    assert tasks(first)[0].queries != tasks(other)[0].queries


def test_a_row_keeps_its_place_when_others_are_dropped_with_their_group(write: Write) -> None:
    rows = numbered(200)
    kept = rows[:190]
    before, after = (tasks(files(write(given), max_queries=10))[1].queries for given in (rows, kept))
    assert len(before.keys() & after.keys()) >= 5


@pytest.mark.parametrize(("held_out", "max_queries", "expected"), [(0.1, 1000, 10), (0.3, 1000, 30), (0.3, 12, 12)])
def test_a_share_of_the_queries_is_held_out(
    held_out: float, max_queries: int, expected: int, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        data = files(write(numbered(100)), held_out=held_out, max_queries=max_queries)
    assert [len(task.queries) for task in tasks(data)] == [expected, expected]
    assert len(data.train) == 100 - 2 * expected
    assert ("max_queries" in caplog.text) == (expected == 12)


def test_queries_are_counted_and_not_rows(write: Write) -> None:
    rows = [{"query": f"query {i}", "positive": f"answer {i} {j}"} for i in range(40) for j in range(3)]
    data = files(write(rows), max_queries=3)
    assert [len(task.queries) for task in tasks(data)] == [3, 3]
    assert {len(grades) for grades in tasks(data)[1].qrels.values()} == {3}


def test_what_is_not_relevant_does_not_tie(write: Write) -> None:
    common = [{"query": f"query {i}", "positive": "unrelated", "score": 0} for i in range(20)]
    own = [{"query": f"query {i}", "positive": f"answer {i}", "score": 1} for i in range(20)]
    data = files(write([*common, *own]), min_score=0.5)
    assert [len(data.train), *(len(task.queries) for task in tasks(data))] == [16, 2, 2]


def test_nothing_is_held_out_of_three_files_or_with_zero(write: Write) -> None:
    path = write(numbered(20))
    data = files(path, held_out=0)
    assert (len(data.train), data.dev, data.test) == (20, None, None)
    data = files(train=path, dev=write(numbered(5, start=50), "dev.jsonl"))
    assert (len(data.train), data.test) == (20, None)


def test_the_least_that_can_be_split(write: Write) -> None:
    data = files(write(numbered(3)))
    assert [len(data.train), *(len(task.queries) for task in tasks(data))] == [1, 1, 1]
    with pytest.raises(ValueError, match=r"hold out 1 of 2 queries .* they form 2 groups, the largest with 1 queries"):
        files(write(numbered(2)))


def test_what_hangs_together_cannot_be_split(write: Write) -> None:
    rows = [{"query": f"query {i}", "positive": "the same"} for i in range(20)]
    with pytest.raises(ValueError, match=r"they form 1 groups, the largest with 20 queries\. Give dev and test data"):
        files(write(rows))
    most = [*rows, *numbered(4, start=100)]
    data = files(write(most))
    assert [len(data.train), *(len(task.queries) for task in tasks(data))] == [20, 2, 2]


def test_too_many_queries_of_a_file_are_cut(write: Write) -> None:
    test = write([{**row, "neg": f"negative {i}"} for i, row in enumerate(numbered(50, start=50))], "test.jsonl")
    data = files(train=write(numbered(50)), test=test, max_queries=8, corpus_size=0)
    assert data.test is not None
    assert len(data.test.queries) == len(data.test.qrels) == 8
    assert len(data.test.corpus) == 16
    assert data.account is not None
    assert data.account.left_out == {"query not drawn to judge on (max_queries)": 42}
    assert data.account.rows_used == 58
    other = files(test=test, max_queries=8, seed=1).test
    assert other is not None
    assert other.queries != data.test.queries


# What is judged


def test_tasks_ask_for_the_positives_among_all_documents(write: Write) -> None:
    train = write([{"query": f"t{i}", "pos": f"p{i}", "neg": f"n{i}"} for i in range(50)], "train.jsonl")
    dev = write(
        [{"query": "a", "pos": ["x", "X "], "neg": ["y", "p1"], "query_id": "q1", "pos_id": ["x1", "x1"]}], "dev.jsonl"
    )
    test = write(
        [
            {"query": "b", "pos": "Y", "neg": None, "pos_id": "y1", "query_id": 5},
            {"query": "b", "pos": "w", "neg": "z"},
        ],
        "test.jsonl",
    )
    data = files(train=train, dev=dev, test=test, corpus_size=20)
    first, second = tasks(data)
    assert first.queries == {"q1": "a"}
    assert first.qrels == {"q1": {"x1": 1}}
    assert second.queries == {"5": "b"}
    assert set(second.qrels) == {"5"}
    assert sorted(second.corpus[id_] for id_ in second.qrels["5"]) == ["w", "y"]
    assert "y1" in second.qrels["5"]
    assert first.corpus == second.corpus
    assert len(first.corpus) == 20
    found = {normalise_text(text) for text in first.corpus.values()}
    assert len(found) == 20
    assert {"x", "y", "p1", "w", "z"} < found


def test_documents_of_train_fill_the_corpus(write: Write) -> None:
    rows = [{**row, "neg": f"negative {i}"} for i, row in enumerate(numbered(40))]
    sizes = {size: len(tasks(files(write(rows), corpus_size=size))[0].corpus) for size in (0, 20, 70, 1000)}
    assert sizes == {0: 16, 20: 20, 70: 70, 1000: 80}


def test_the_order_of_rows_does_not_matter_to_what_fills_the_corpus(write: Write) -> None:
    rows = [{"query": "query", "positive": "answer", "neg": f"negative {i}"} for i in range(30)]
    dev = write(numbered(1), "dev.jsonl")
    first, again = (files(train=write(given), dev=dev, corpus_size=10).dev for given in (rows, rows[::-1]))
    assert first is not None
    assert first == again


def test_splits_that_share_are_refused_or_reported(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    train = write(numbered(5), "train.jsonl")
    test = write([{"query": "QUERY,  0", "positive": "other"}, {"query": "new", "positive": "Answer  1"}], "test.jsonl")
    with pytest.raises(ValueError, match=r"'train' and 'test' share 1 queries: .*overlap='warn' lets this pass"):
        files(train=train, test=test)
    data = files(train=train, test=test, overlap="warn")
    assert len(data.train) == 5
    assert "'train' and 'test' share 1 top-graded documents" in caplog.text


# Scores


def scored(count: int) -> list[Row]:
    return [
        {"sentence1": f"left {i}", "sentence2": f"right {i} {j}", "score": j / 4}
        for i in range(count)
        for j in range(5)
    ]


def test_scores_are_kept_for_losses_that_want_them(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    data = files(write(scored(4), "sts.csv"))
    assert [record.score for record in data.train] == [0, 0.25, 0.5, 0.75, 1] * 4
    assert all(record.grades == {} for record in data.train)
    assert (data.dev, data.test) == (None, None)
    assert "min_score says which are relevant" in caplog.text
    batch = Collator(data.train)(data.train[:3])
    assert batch.targets is not None
    assert batch.targets.tolist() == [0, 0.25, 0.5]


def test_a_least_score_makes_plain_pairs(write: Write) -> None:
    data = files(write(scored(20)), min_score=0.75)
    assert len(data.train) == 2 * 16
    assert {record.positive[-1] for record in data.train} == {"3", "4"}
    assert all(record.score is None for record in data.train)
    for task in tasks(data):
        assert len(task.queries) == 2
        for grades in task.qrels.values():
            assert {task.corpus[id_][-1]: grade for id_, grade in grades.items()} == {
                "0": 0,
                "1": 0,
                "2": 0,
                "3": 1,
                "4": 1,
            }


def test_the_best_of_two_scores_of_a_pair_counts(write: Write) -> None:
    rows = [{"query": "a", "pos": "x", "score": score} for score in (0.9, 0.1)] + [
        {"query": "b", "pos": "y", "score": 0}
    ]
    dev = files(dev=write(rows), min_score=0.5).dev
    assert dev is not None
    assert list(dev.queries.values()) == ["a"]
    assert [list(grades.values()) for grades in dev.qrels.values()] == [[1]]


def test_a_split_without_a_relevant_pair_is_refused(write: Write) -> None:
    test = write([{"sentence1": "a", "sentence2": "b", "score": 0.5}], "test.jsonl")
    with pytest.raises(ValueError, match=r"expected a pair of test with a score of 0\.75 or more, got none"):
        files(train=write(scored(3)), test=test, min_score=0.75)


# Samples


def test_training_pairs_are_sampled_by_seed(write: Write) -> None:
    path = write(numbered(50))
    first, again, other = (list(files(path, held_out=0, max_train_pairs=10, seed=seed).train) for seed in (0, 0, 1))
    assert first == again != other
    assert len({record.query for record in first}) == 10
    assert [r.query for r in first] == sorted((r.query for r in first), key=lambda query: int(query.split()[1]))
    assert len(files(path, held_out=0, max_train_pairs=100).train) == 50


def test_pairs_of_one_query_are_sampled_too(write: Write) -> None:
    path = write([{"query": "query", "positive": f"answer {i}"} for i in range(30)])
    first, other = (files(path, held_out=0, max_train_pairs=10, seed=seed).train for seed in (0, 1))
    assert {record.positive for record in first} != {record.positive for record in other}


def test_positives_left_out_of_a_sample_stay_known(write: Write) -> None:
    rows = [{"query": f"q{i % 5}", "pos": [f"p{i}", f"r{i}"], "pos_id": [f"p{i}", f"r{i}"]} for i in range(20)]
    kept = files(write(rows), held_out=0, max_train_pairs=3).train
    known: defaultdict[str, set[str]] = defaultdict(set)
    for record in kept:
        known[record.query] |= set(record.grades)
    assert len(kept) == 3
    assert known == {query: {f"{kind}{i}" for kind in "pr" for i in range(int(query[1:]), 20, 5)} for query in known}


# What stays on disk


def test_records_are_a_sequence_read_when_asked_for(write: Write) -> None:
    records = files(write(numbered(10)), held_out=0).train
    assert len(records) == 10
    assert records[-1].query == "query 9"
    assert [record.query for record in records[2:8:3]] == ["query 2", "query 5"]
    assert records[3] == next(record for i, record in enumerate(records) if i == 3)
    with pytest.raises(IndexError):
        records[10]
    assert not list(records[5:5])


def test_records_can_be_sent_to_workers(write: Write) -> None:
    records = files(write(numbered(6)), held_out=0).train
    assert list(pickle.loads(pickle.dumps(records))) == list(records)
    collate = Collator(records)
    batches = list(DataLoader(records, batch_size=2, collate_fn=collate, num_workers=2))  # type: ignore[arg-type]
    assert all(isinstance(batch, Batch) for batch in batches)
    assert [query for batch in batches for query in batch.queries] == [f"query {i}" for i in range(6)]
    assert records[0].query == "query 0"


@pytest.mark.filterwarnings("ignore:.*multi-threaded")
def test_the_file_on_disk_goes_with_the_data(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(numbered(6))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    data = files(path)
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    copy = pickle.loads(pickle.dumps(data.train))
    del copy
    child = os.fork()
    if child == 0:
        del data
        os._exit(0)
    os.waitpid(child, 0)
    assert data.train[0].positive.startswith("answer")
    del data
    assert not list((tmp_path / "temporary").iterdir())


def test_a_refused_file_leaves_nothing_on_disk(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write([{"query": "a", "pos": "b"}, {"query": "a", "pos": 7}])
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(ValueError, match="line 2"):
        files(path)
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for i in range(300):
            file.write(
                json.dumps({"query": f"query {i}", "pos": f"{i}" + "x" * 50_000, "neg": f"n{i}" + "x" * 50_000}) + "\n"
            )
    tracemalloc.start()
    data = files(path, max_queries=1, corpus_size=10)
    collate = Collator(data.train)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(collate(data.train[:2])) == 2
    assert path.stat().st_size > 30e6
    assert peak < 4e6


# From the command line


def test_the_configuration_says_it_all(write: Write) -> None:
    path = write([{"q": f"query {i}", "pos": f"p{i}", "n1": f"n{i}", "n2": ""} for i in range(10)], "x.csv")
    overrides = ["data=files", f"data.path={path}", "data.columns.query=q", "data.columns.negatives=[n1,n2]"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        data = instantiate(compose("config", overrides=overrides).data)
    assert len(data.train) == 8
    assert data.train[0].negatives == (f"n{data.train[0].query.split()[1]}",)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
def test_a_run_on_a_file_of_ones_own(write: Write, tmp_path: Path, tiny_model_folder: Path) -> None:
    rows = [
        {"id": f"q {i}", "query": f"nurse {i}", "pos": f"hospital {i}", "pos_id": f"Job # {i}", "neg": f"kitchen {i}"}
        for i in range(20)
    ]
    path = write(rows, "jobs.csv")
    tiny = ["encoder=pretrained", f"encoder.name_or_path={tiny_model_folder}", "trainer.enable_progress_bar=false"]
    chosen = [
        "data=files",
        f"data.path={path}",
        "data.columns.query_id=id",
        "batch_size=8",
        "logger=none",
        f"folder={tmp_path}/run",
    ]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", overrides=[*tiny, *chosen])
    assert 0 <= train_and_judge(config) <= 1
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["status"] == "finished"
    assert report["data"]["train_pairs"] == 16
    assert (report["data"]["queries"], report["data"]["documents"]) == (2, 40)


# Labels, lists and cells that say nothing


@pytest.mark.parametrize(
    "name",
    ["is_duplicate", "Relevance", "rating", "match", "label", "similarity", "isMatch", "relevance score", "gold_label"],
)
def test_labels_are_never_taken_for_relevance(name: str, write: Write) -> None:
    rows = [{"query": f"q{i}", "document": f"d{i}", name: i % 2} for i in range(20)]
    path = write(rows, "pairs.csv")
    assert [record.score for record in files(path).train] == [0, 1] * 10
    assert len(files(path, min_score=1, held_out=0).train) == 10
    data = files(path, columns={"score": False}, held_out=0)
    assert data.account is not None
    assert data.account.unused_columns == (name,)
    assert data.account.remarks == ()


@pytest.mark.parametrize(
    ("values", "stands_out"),
    [
        ((0, 1), True),
        (("yes", "No"), True),
        ((0, 1, 2, 3), True),
        (("1.0", "0.0"), True),
        ((True, False), True),
        ((1, 1), False),
        (("red", "blue"), False),
        ((0, 20_000), False),
        (tuple(range(8)), False),
    ],
)
def test_a_column_that_looks_like_labels_stands_out(values: Sequence[object], stands_out: bool, write: Write) -> None:
    rows = [{"query": f"q{i}", "document": f"d{i}", "fits": values[i % len(values)]} for i in range(20)]
    account = files(write(rows), held_out=0).account
    assert account is not None
    assert account.unused_columns == ("fits",)
    said = [remark for remark in account.remarks if "looks like labels" in remark]
    assert len(said) == stands_out
    assert all("columns.score=fits" in remark and "columns.score=false" in remark for remark in said)


def test_lists_written_as_text_stand_out_and_are_read_where_that_is_said(write: Write) -> None:
    rows = [
        {"query": f"['SQL', 'R{i}']", "positive": f'["a {i}", "b [{i}]"]', "negatives": "['x', 'y']" if i else ""}
        for i in range(3)
    ]
    path = write(rows, "pairs.csv")
    plain = files(path, held_out=0)
    assert plain.train[0].query == "['SQL', 'R0']"
    assert plain.account is not None
    assert [remark.split(" (")[0] for remark in plain.account.remarks] == [
        "3 texts of column 'query' look like lists and are one text each",
        "3 texts of column 'positive' look like lists and are one text each",
        "2 texts of column 'negatives' look like lists and are one text each",
    ]
    read = files(path, held_out=0, columns={"lists": ["query", "Positive", "negatives"]})
    assert [(record.query, record.positive, record.negatives) for record in read.train[1:4]] == [
        ("SQL, R0", "b [0]", ()),
        ("SQL, R1", "a 1", ("x", "y")),
        ("SQL, R1", "b [1]", ("x", "y")),
    ]
    assert read.account is not None
    assert read.account.remarks == ()


@pytest.mark.parametrize("cell", ["['a' 'b']", "['a'\n 'b']", "plain", "[1, 2]", "{'a': 1}", "[" * 300])
def test_texts_that_are_no_lists_of_texts_are_refused(cell: str, write: Write) -> None:
    path = write([{"query": "q", "positive": cell}], "pairs.csv")
    with pytest.raises(
        ValueError, match=r"line 2: expected a (list such as \['a', 'b'\]|text) in column 'positive', got"
    ):
        files(path, held_out=0, columns={"lists": "positive"})


def test_cells_that_say_there_is_nothing_are_no_negatives(write: Write) -> None:
    rows = [
        {"query": "cook", "positive": "soup", "negative_1": "NaN", "negative_2": "bus", "negative_3": "none"},
        {"query": "nan", "positive": "N/A", "negative_1": "nancy", "negative_2": "null", "negative_3": "#N/A"},
    ]
    data = files(write(rows, "pairs.csv"), held_out=0)
    assert [record.negatives for record in data.train] == [("bus",), ("nancy",)]
    assert data.account is not None
    assert "1 cells of column 'query' say nan, null, none or n/a: they are used as texts" in data.account.remarks
    assert "2 cells of column 'negative_3' say nan, null, none or n/a: they are no negatives" in data.account.remarks


# Ids


def test_blanks_in_ids_become_underscores(write: Write) -> None:
    rows = [
        {
            "qid": f"Query {i}\x1b[1m",
            "query": f"cook {i}",
            "doc": [f"soup {i}", f"stew {i}"],
            "doc_id": [f"A  {i}", f"B\t{i} "],
        }
        for i in range(20)
    ]
    data = files(write(rows))
    ids = [id_ for record in data.train for id_ in (record.query_id, record.positive_id, *record.grades)]
    for task in tasks(data):
        ids += [*task.queries, *task.corpus, *task.qrels]
    assert {id_[:2] for id_ in ids} == {"Qu", "A_", "B_"}
    assert all(id_.split() == [id_] and id_.isprintable() for id_ in ids)


def test_ids_that_become_one_are_refused(write: Write) -> None:
    rows = [{"qid": "a b", "query": "cook", "answer": "soup"}, {"qid": "a_b", "query": "wait", "answer": "serve"}]
    with pytest.raises(ValueError, match=r"line 2: query id 'a_b' stands for another text in .*, line 1"):
        files(write(rows), held_out=0)


# The account


def test_every_row_is_accounted_for(write: Write) -> None:
    rows = [{"query": f"q{i // 2}", "pos": f"d{i}", "score": (i + i // 2) % 2, "note": "x"} for i in range(80)]
    rows += [{"query": f"low {i}", "pos": f"low {i}", "score": 0, "note": ""} for i in range(5)]
    data = files(write(rows, "pairs.csv"), min_score=1, held_out=0.1, max_train_pairs=10)
    account = data.account
    assert account is not None
    assert account.rows_read == 85
    assert account.columns == {"query": "query", "positive": "pos", "score": "score"}
    assert account.unused_columns == ("note",)
    judged = sum(len(grades) for task in tasks(data) for grades in task.qrels.values())
    assert account.rows_used == len(data.train) + judged == 10 + 16
    assert account.left_out == {
        "not trained on: scored below 1": 5 + 32,
        "not drawn to train on (max_train_pairs)": 32 - 10,
    }


def test_rows_to_judge_on_that_are_not_used_are_accounted_for(write: Write) -> None:
    test = write([{"query": f"t{i}", "pos": f"e{i}", "score": i % 2} for i in range(10)], "test.jsonl")
    train = write([{"query": "a", "pos": "b", "score": 1}])
    account = files(train=train, test=test, min_score=1, max_queries=2).account
    assert account is not None
    assert account.left_out == {
        "query not drawn to judge on (max_queries)": 3,
        "dev or test, all of the query scored below 1": 5,
    }
    account = files(train=train, test=test).account
    assert account is not None
    assert account.left_out == {"dev or test, which want min_score to be judged on": 10}


def test_other_files_of_a_folder_are_named(write: Write, tmp_path: Path) -> None:
    for name in ("train.csv", "train_2.csv", "old.jsonl"):
        write(numbered(10), name)
    (tmp_path / "notes.txt").touch()
    account = files(tmp_path).account
    assert account is not None
    assert account.remarks == ("files that are not used: old.jsonl, train_2.csv",)


def test_settings_of_files_are_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    lines = ["query|answer", *(f"Köchin {i}|<p>R&amp;D {i}</p>" for i in range(10))]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        settings = ["data.separator=pipe", "data.encoding=latin-1", "data.strip_html=true", "data.held_out=0"]
        config = compose("config", overrides=["data=files", f"data.path='{path}'", *settings])
    data = instantiate(config.data)
    assert (data.train[0].query, data.train[0].positive) == ("Köchin 0", "R&D 0")
    assert data.account.remarks == ("100 % of the rows have HTML in a positive, which was taken out",)
    data = files(path, separator="|", encoding="latin-1", held_out=0)
    assert data.train[0].positive == "<p>R&amp;D 0</p>"
    assert data.account is not None
    assert data.account.remarks[0].endswith("which stays (strip_html=true takes it out)")
