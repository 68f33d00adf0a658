from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from contrastive.data import (
    Batch,
    Collator,
    Identities,
    Record,
    RetrievalTask,
    TextData,
    beir,
    check_disjoint,
    normalise_text,
)
from contrastive.masks import known_positive

CORPUS = [
    {"_id": "d1", "title": "Chef", "text": "cooks"},
    {"_id": "d2", "title": "", "text": "drives"},
    {"_id": "d3", "title": "Nurse", "text": "heals"},
    {"_id": "d4", "title": None, "text": "sings"},
]
QUERIES = [{"_id": f"q{i}", "text": text} for i, text in enumerate(["cook", "car", "care", "song"], 1)]
HEADER = "query-id\tcorpus-id\tscore\n"
QRELS = {
    "train": "q1\td1\t2\nq1\td2\t1\nq1\td3\t0\nq4\td2\t1\n",
    "dev": "q2\td4\t1\nq2\td1\t0\n",
    "test": "q3\td3\t2\n",
}
Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def write(
        corpus: list[Mapping[str, object]] | str = CORPUS,  # type: ignore[assignment]
        queries: list[Mapping[str, object]] | str = QUERIES,  # type: ignore[assignment]
        **qrels: str,
    ) -> Path:
        for name, rows in (("corpus", corpus), ("queries", queries)):
            lines = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / f"{name}.jsonl").write_text(lines)
        (tmp_path / "qrels").mkdir()
        for name, rows in (qrels or {split: HEADER + lines for split, lines in QRELS.items()}).items():
            (tmp_path / "qrels" / f"{name}.tsv").write_text(rows)
        return tmp_path

    return write


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise_text(normalise_text(text)) == normalise_text(text)


def test_normalising_removes_case_width_and_layout() -> None:
    assert normalise_text("\ufb01ne\u3000STRASSE\n") == normalise_text("Fine stra\u00dfe") == "fine strasse"
    assert normalise_text("c++") != normalise_text("c#")


def test_beir_reads_texts_grades_and_splits(folder: Folder) -> None:
    data = beir(folder(), title_separator=": ")
    assert [(r.query_id, r.positive_id) for r in data.train] == [("q1", "d1"), ("q4", "d2")]
    assert data.train[0].positive == "Chef: cooks"
    assert data.train[0].grades == {"d1": 2, "d2": 1, "d3": 0}
    assert data.train[1].positive == "drives"
    assert data.dev is not None
    assert data.test is not None
    assert data.dev.queries == {"q2": "car"}
    assert data.test.qrels == {"q3": {"d3": 2}}
    assert data.test.corpus == {"d1": "Chef: cooks", "d2": "drives", "d3": "Nurse: heals", "d4": "sings"}


def test_beir_leaves_missing_splits_out(folder: Folder) -> None:
    data = beir(folder(test=HEADER + QRELS["test"]))
    assert data.train == ()
    assert data.dev is None
    assert data.test is not None


def test_beir_takes_other_file_names(folder: Folder) -> None:
    data = beir(folder(validation=HEADER + QRELS["dev"]), dev="validation")
    assert data.dev is not None


def test_beir_trains_on_every_best_answer_and_on_no_irrelevant_one(folder: Folder) -> None:
    data = beir(folder(train=HEADER + "q1\td1\t1\nq1\td2\t1\nq2\td3\t0\n"))
    assert [(r.query_id, r.positive_id) for r in data.train] == [("q1", "d1"), ("q1", "d2")]


def test_beir_samples_training_pairs_by_seed(folder: Folder) -> None:
    corpus = [{"_id": f"d{i}", "text": f"text {i}"} for i in range(30)]
    path = folder(corpus=corpus, train=HEADER + "".join(f"q1\td{i}\t1\n" for i in range(30)))
    first, again, other = (beir(path, max_train_pairs=10, seed=seed).train for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == len({record.positive_id for record in first}) == 10
    assert len(beir(path, max_train_pairs=100).train) == 30


def test_beir_reports_the_shared_corpus(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        beir(folder())
    assert "share a corpus of 4 documents" in caplog.text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"corpus": '{"_id": "d1", "text": "a"}\n{"_id": \n'}, r"corpus\.jsonl, line 2: malformed JSON"),
        ({"corpus": '["d1"]\n'}, r"corpus\.jsonl, line 1: expected an object"),
        ({"queries": '{"text": "a"}\n'}, r"queries\.jsonl, line 1: expected an id in the column '_id', got nothing"),
        ({"queries": '{"_id": "q1", "text": null}\n'}, r"queries\.jsonl, line 1: expected a text, got nothing"),
        ({"corpus": [*CORPUS, CORPUS[1]]}, r"corpus\.jsonl, line 5: a second document with the id 'd2'"),
        ({"corpus": ""}, r"corpus\.jsonl is empty"),
        ({"queries": "\n"}, r"queries\.jsonl is empty"),
        ({"train": HEADER}, r"train\.tsv is empty"),
        ({"train": ""}, r"train\.tsv is empty"),
        ({"train": QRELS["train"]}, r"train\.tsv, line 1: expected a header"),
        ({"train": HEADER + "q1\td1\n"}, r"train\.tsv, line 2: expected 3 columns .* got 2"),
        ({"train": HEADER + "q1\t0\td1\t1\n"}, r"train\.tsv, line 2: expected 3 columns .* got 4"),
        ({"dev": HEADER + "q1\td1\t0.5\n"}, r"dev\.tsv, line 2: expected an integer grade, got '0\.5'"),
        ({"dev": HEADER + "q9\td1\t1\n"}, r"dev\.tsv, line 2: query 'q9' is not in queries"),
        ({"dev": HEADER + "q1\td9\t1\n"}, r"dev\.tsv, line 2: document 'd9' is not in corpus"),
        ({"dev": HEADER + "q1\td1\t1\nq1\td1\t2\n"}, r"dev\.tsv, line 3: a second grade for query 'q1'"),
        ({"train": HEADER + "q1\td1\t1\n", "dev": HEADER + "q1\td2\t1\n"}, "'train' and 'dev' share 1 queries: 'q1'"),
        ({"dev": HEADER + "q1\td1\t1\n", "test": HEADER + "q2\td1\t1\n"}, "'dev' and 'test' share 1 top-.*: 'd1'"),
    ],
)
def test_beir_refuses(folder: Folder, files: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        beir(folder(**files))


def test_beir_names_missing_files(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a folder .* got .*nowhere"):
        beir(tmp_path / "nowhere")
    path = folder()
    (path / "queries.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"queries\.jsonl"):
        beir(path)
    for file in (path / "qrels").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"at least one of .*train\.tsv"):
        beir(path)


def test_overlap_can_be_let_through_with_a_warning(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    beir(folder(train=HEADER + "q1\td1\t1\n", test=HEADER + "q2\td1\t1\n"), overlap="warn")
    assert "share 1 top-graded documents: 'd1'" in caplog.text


def test_overlap_is_refused_or_reported_and_nothing_else(folder: Folder) -> None:
    with pytest.raises(ValueError, match="expected overlap to be error or warn, got 'ignore'"):
        beir(folder(), overlap="ignore")  # type: ignore[arg-type]


def test_what_splits_share_is_named_by_id_and_text() -> None:
    train = tuple(Record(f"query {i}", f"answer {i}") for i in range(9))
    queries = {f"q{i}": f"Query  {i}" for i in range(5)}
    test = RetrievalTask("test", queries, {"d": "x"}, {query_id: {"d": 1} for query_id in queries})
    with pytest.raises(ValueError, match=r"share 5 queries: 'q0' \('Query  0'\), 'q1' .*, 'q2' \('Query  2'\), \.\.\."):
        check_disjoint(TextData("bad", train, None, test))
    with pytest.raises(ValueError, match="share 1 queries: 'same'"):
        check_disjoint(
            TextData(
                "bad",
                (Record("a", "b", query_id="same"),),
                None,
                replace(test, queries={"same": "c"}, qrels={"same": {"d": 1}}),
            )
        )


def _split(name: str, query: str, document: str) -> RetrievalTask:
    return RetrievalTask(name, {f"{name}-q": query}, {f"{name}-d": document}, {f"{name}-q": {f"{name}-d": 1}})


def test_disjoint_splits_may_share_lower_grades() -> None:
    dev, test = _split("dev", "a", "x"), _split("test", "b", "y")
    corpus = {**dev.corpus, **test.corpus}
    shared = RetrievalTask("dev", dev.queries, corpus, {"dev-q": {"dev-d": 2, "test-d": 1}})
    check_disjoint(TextData("good", (Record("c", "z"),), shared, test))
    best = replace(shared, qrels={"dev-q": {"dev-d": 2, "test-d": 2}})
    with pytest.raises(ValueError, match="'dev' and 'test' share 1 top-graded documents: 'test-d'"):
        check_disjoint(TextData("bad", (Record("c", "z"),), best, test))


@pytest.mark.parametrize("query", ["python sql", "PYTHON,  SQL", "python / sql;"])
def test_queries_that_say_the_same_are_shared(query: str) -> None:
    with pytest.raises(ValueError, match="'train' and 'test' share 1 queries: 'test-q'"):
        check_disjoint(TextData("bad", (Record("Python, SQL", "z"),), None, _split("test", query, "y")))


def test_the_same_words_in_another_order_are_reported_and_no_reason_to_refuse(caplog: pytest.LogCaptureFixture) -> None:
    train = (Record("ferry from Oslo to Kiel", "z"), Record("ferry to Oslo from Oslo to Kiel", "u"))
    with caplog.at_level(logging.WARNING):
        check_disjoint(TextData("routes", train, None, _split("test", "ferry from Kiel to Oslo", "y")))
    assert caplog.messages == [
        "routes: splits 'train' and 'test' share 1 queries but for the order of their words: "
        "'ferry from Oslo to Kiel' and 'ferry from Kiel to Oslo'"
    ]


def test_a_query_of_nothing_but_separators_is_itself_alone() -> None:
    check_disjoint(TextData("marks", (Record("/", "z"),), None, _split("test", "|", "y")))
    with pytest.raises(ValueError, match="'train' and 'test' share 1 queries: 'test-q'"):
        check_disjoint(TextData("marks", (Record("|", "z"),), None, _split("test", "|", "y")))


def test_answers_that_are_nearly_the_same_are_reported_where_asked(caplog: pytest.LogCaptureFixture) -> None:
    text = "we are looking for a baker who likes to rise early and to bake bread with us in the north of Graz"
    train = (Record("a", text + " now"), Record("b", "a chef"), Record("c", text.upper() + " soon"))
    data = TextData("bakers", train, None, _split("test", "d", text))
    check_disjoint(data)
    assert not caplog.messages
    check_disjoint(data, near=True)
    (told,) = caplog.messages
    assert told.startswith(
        "bakers: 2 of 3 best answers of 'train' that were looked at are nearly the same as one of 'test"
    )
    same = TextData("bakers", (Record("a", text + " "),), None, _split("test", "d", text))
    check_disjoint(same, overlap="warn", near=True)
    assert len(caplog.messages) == 2  # the same text is told of once, as shared


def test_answers_with_the_same_text_are_shared() -> None:
    with pytest.raises(ValueError, match="'train' and 'dev' share 1 top-graded documents: 'dev-d'"):
        check_disjoint(TextData("bad", (Record("a", "The  Text"),), _split("dev", "b", "the text")))


def test_ids_are_shared_through_names_and_texts() -> None:
    items = [("a", "one"), ("b", "two"), ("c", "ONE"), ("c", "three"), ("d", None), ("d", "four"), ("", "two ")]
    ids = Identities(items)
    assert [ids.of(text) for text in ("one", "three", "two", "four")] == [0, 0, 1, 2]
    assert [ids.of_name(name) for name in "abcd"] == [0, 1, 0, 2]
    with pytest.raises(ValueError, match="expected a text that the ids were made from, got 'five'"):
        ids.of("five")


@given(st.lists(st.tuples(st.sampled_from(["", *"abcd"]), st.sampled_from([None, *"uvwxyz", "U ", "V"]))))
def test_ids_are_those_of_merging_one_pair_after_another(items: list[tuple[str, str | None]]) -> None:
    groups: list[set[tuple[str, str]]] = []
    for name, text in items:
        own = ({("name", name)} if name else set()) | ({("text", text.lower().strip())} if text else set())
        tied = [group for group in groups if group & own]
        if own and not tied:
            groups.append(own)
        for group in tied:
            tied[0].update(group, own)
        groups = [group for group in groups if group not in tied[1:]]
    numbers = {key: number for number, group in enumerate(groups) for key in group}
    ids = Identities(items)
    assert len(ids) == len(groups)
    for (name, text), number in zip(items, ids.of_items.tolist(), strict=True):
        assert not name or ids.of_name(name) == numbers["name", name] == number
        assert text is None or ids.of(text) == numbers["text", text.lower().strip()] == number
        assert (number == -1) == (not name and text is None)


def test_ids_of_a_long_chain_are_one() -> None:
    links = [(f"n{i}", f"t{i + step}") for i in range(500) for step in (0, 1)]
    ids = Identities([*links[::-1], ("", "other")])
    assert {ids.of_name(f"n{i}") for i in range(500)} == {0}
    assert ids.of("other") == 1


def test_ids_of_what_was_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="expected an id that was among the items, got 'a'"):
        Identities([("b", "a")]).of_name("a")
    with pytest.raises(ValueError, match="expected a text that the ids were made from, got 'b'"):
        Identities([("b", "a")]).of("b")
    with pytest.raises(ValueError, match="expected a text that the ids were made from"):
        Identities([]).of("a")


RECORDS = (
    Record("cook", "chef", ("bus", "CHEF ", "nurse"), "q1", "d1", ("d2", "d9", "d3"), {"d1": 2, "d4": 1, "d2": 0}),
    Record("car", "bus", (), "q2", "d2", (), {"d2": 1}),
    Record("Cook", "waiter", ("bus",), "q3", "d4", ("d2",), {"d4": 1}),
)


def test_collation_lays_out_documents_owners_and_ids() -> None:
    batch = Collator(RECORDS)(RECORDS)
    assert len(batch) == 3
    assert batch.queries == ["cook", "car", "Cook"]
    assert batch.documents == ["chef", "bus", "waiter", "bus", "bus", "nurse"]
    assert batch.owners.tolist() == [0, 1, 2, 0, 2, 0]
    assert batch.query_ids.tolist() == [0, 1, 0]
    assert batch.key_ids[1] == batch.key_ids[3] == batch.key_ids[4]
    assert len(set(batch.key_ids.tolist())) == 4
    assert batch.grades is not None
    assert batch.grades.tolist() == [2, 1, 1]
    assert batch.targets is batch.teacher_scores is None


def test_known_positives_come_from_grades_and_from_the_same_question() -> None:
    batch = Collator(RECORDS)(RECORDS)
    chef, bus, waiter = batch.key_ids[:3].tolist()
    assert batch.positive_ids.tolist() == [sorted([chef, waiter]), [bus, -1], sorted([chef, waiter])]
    known = known_positive(batch.positive_ids, batch.key_ids)(torch.arange(3), torch.arange(6))
    answers = {("cook", "chef"), ("cook", "waiter"), ("car", "bus")}
    assert known.tolist() == [[(q.lower(), d) in answers for d in batch.documents] for q in batch.queries]


def test_queries_may_share_answers_in_any_order() -> None:
    records = [Record("b", "x"), Record("a", "y"), Record("a", "x"), Record("c", "x"), Record("a", "y")]
    batch = Collator(records)(records)
    assert batch.positive_ids.tolist() == [[0, -1], [0, 1], [0, 1], [0, -1], [0, 1]]


def test_every_positive_of_a_query_counts_in_a_batch_without_it() -> None:
    collate = Collator(RECORDS)
    assert collate(RECORDS[:1]).positive_ids.shape == (1, 2)
    assert collate(RECORDS[1:2]).positive_ids.shape == (1, 1)


def test_a_known_positive_is_dropped_before_negatives_are_counted() -> None:
    batch = Collator(RECORDS, num_negatives=2)(RECORDS[:1])
    assert batch.documents == ["chef", "bus", "nurse"]
    assert Collator(RECORDS, num_negatives=0)(RECORDS).documents == ["chef", "bus", "waiter"]


def test_scores_follow_the_negatives_that_are_kept() -> None:
    records = (
        Record("a", "x", ("X", "y", "z"), score=0.5, teacher_scores=(1.0, 2.0, 3.0, 4.0)),
        Record("b", "w", ("y",), score=0.25, teacher_scores=(5.0, 6.0)),
    )
    batch = Collator(records)(records)
    assert batch.targets is not None
    assert batch.targets.tolist() == [0.5, 0.25]
    assert batch.teacher_scores is not None
    expected = torch.tensor([[1.0, 3.0, 4.0], [5.0, 6.0, float("nan")]])
    torch.testing.assert_close(batch.teacher_scores, expected, equal_nan=True)
    assert batch.grades is None


def test_ids_do_not_depend_on_what_is_mined_from_the_corpus() -> None:
    corpus = {f"d{i}": f"text {i}" for i in range(5)}
    plain = [Record("a", "text 3", query_id="q", positive_id="d3")]
    mined = [Record("a", "text 3", ("text 1",), query_id="q", positive_id="d3", negative_ids=("d1",))]
    before, after = Collator(plain, corpus=corpus)(mined), Collator(mined, corpus=corpus)(mined)
    assert before.key_ids.tolist() == after.key_ids.tolist() == [3, 1]


def test_collation_in_workers_equals_that_in_the_process() -> None:
    collate = Collator(RECORDS)
    torch.testing.assert_close(pickle.loads(pickle.dumps(collate))(RECORDS).positive_ids, collate(RECORDS).positive_ids)
    (batch,) = DataLoader(RECORDS, batch_size=3, collate_fn=collate, num_workers=1)  # type: ignore[arg-type]
    assert isinstance(batch, Batch)
    assert batch.key_ids.tolist() == collate(RECORDS).key_ids.tolist()


def test_a_batch_moves_with_all_its_tensors() -> None:
    batch = Collator(RECORDS)(RECORDS).to("meta")
    assert {batch.query_ids.device.type, batch.positive_ids.device.type, batch.owners.device.type} == {"meta"}
    assert batch.queries == ["cook", "car", "Cook"]
    assert batch.targets is None


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [Record("a", "x", score=1.0), Record("b", "y")],
            "expected score in all records or in none, got 1 of 2 without",
        ),
        (
            [Record("a", "x", teacher_scores=(1.0,)), Record("b", "y"), Record("c", "z")],
            "expected teacher_scores in all records or in none, got 2 of 3 without",
        ),
        ([Record("a", "x", ("y", "z"), negative_ids=("1",))], "expected an id for each of 2 negatives, got 1"),
        ([Record("a", "x", ("y",), teacher_scores=(1.0,))], "expected 2 teacher scores, .* got 1"),
    ],
)
def test_collator_refuses(records: list[Record], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Collator(records)


def test_collator_refuses_what_it_cannot_know() -> None:
    with pytest.raises(ValueError, match="num_negatives of at least 0, got -1"):
        Collator(RECORDS, num_negatives=-1)
    with pytest.raises(ValueError, match="a text that the ids were made from, got 'new'"):
        Collator(RECORDS)([Record("cook", "new")])


# The BEIR layout as people write it


@pytest.mark.parametrize(
    "qrels",
    [
        "corpus-id\tquery-id\tscore\nd2\tq3\t2\n",
        "Score\tquery_id\tdocid\n2\tq3\td2\n",
        "query-id\titer\tcorpus-id\trelevance\nq3\t0\td2\t2\n",
        "q3\t0\td2\t2\n",
        "q3 Q0 d2 2\n",
        "\ufeffquery-id\tcorpus-id\tscore\r\nq3\td2\t2.0\r\n\r\n",
        "q\td\tg\nq3\td2\t2",
    ],
)
def test_qrels_are_read_by_their_header(qrels: str, folder: Folder) -> None:
    test = beir(folder(test=qrels)).test
    assert test is not None
    assert test.qrels == {"q3": {"d2": 2}}


def test_qrels_by_their_header_where_both_orders_would_do(folder: Folder) -> None:
    both: list[Mapping[str, object]] = [{"_id": f"{i}", "text": f"text {i}"} for i in range(4)]
    data = beir(folder(corpus=both, queries=both, test="corpus-id\tquery-id\tscore\n0\t3\t1\n"))
    assert data.test is not None
    assert data.test.qrels == {"3": {"0": 1}}


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("query-id\tsomething\tscore\nq1\td1\t1\n", r"test\.tsv, line 1: .* one corpus-id .*, got query-id, some"),
        ("query-id\tqid\tscore\nq1\td1\t1\n", r"test\.tsv, line 1: .* with one query-id among"),
        ("q1\tx\td1\t1\n", r"test\.tsv, line 1: expected a header line with query-id, corpus-id, score"),
    ],
)
def test_headers_that_cannot_be_told_are_refused(qrels: str, message: str, folder: Folder) -> None:
    with pytest.raises(ValueError, match=message):
        beir(folder(test=qrels))


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_other_names_of_dev_are_known(name: str, folder: Folder) -> None:
    data = beir(folder(**{name: HEADER + QRELS["dev"], "extra": "x"}))
    assert data.dev is not None
    assert data.dev.name == "dev"
    assert data.account is not None
    assert "files of qrels that are not used: extra.tsv" in data.account.remarks


def test_texts_may_be_marked_named_and_numbered_otherwise(folder: Folder) -> None:
    path = folder(corpus=[{"id": 7, "Title": "Chef", "body": "cooks", "metadata": {}}], test=HEADER + "q 1\t7\t1\n")
    (path / "queries.jsonl").write_text('\ufeff{"_id": "q 1", "text": "cook"}\n\n')
    data = beir(path)
    assert data.test is not None
    assert (data.test.corpus, data.test.queries) == ({"7": "Chef\ncooks"}, {"q_1": "cook"})
    assert data.test.qrels == {"q_1": {"7": 1}}
    assert data.account is not None
    assert data.account.columns == {"id": "id", "title": "Title", "text": "body"}
    (path / "corpus.jsonl").write_text('{"_id": "a", "title": 5, "text": "x"}\n')
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 1: expected a text in column 'title', got the int 5"):
        beir(path)


def test_judgements_are_accounted_for(folder: Folder) -> None:
    train = HEADER + "q1\td1\t2\nq1\td2\t1\nq1\td3\t0\nq1\td1\t2\n"
    queries: list[Mapping[str, object]] = [*QUERIES, {"_id": "q5", "text": " "}]
    data = beir(folder(queries=queries, train=train, test=HEADER + QRELS["test"]), max_train_pairs=1)
    account = data.account
    assert account is not None
    assert (account.rows_read, account.rows_used) == (5, 2)
    assert account.left_out == {"repeat another": 1, "not trained on: below the best grade of the query, or 0": 2}
    assert account.remarks == ("3 of 5 queries have no judgement here and are not used", "1 queries have no text")


def test_html_of_documents_goes_where_that_is_said(folder: Folder) -> None:
    path = folder(corpus=[{"_id": "d3", "title": "", "text": "<p>heals</p>"}], test=HEADER + QRELS["test"])
    for strip_html, text in ((False, "<p>heals</p>"), (True, "heals"), ("auto", "heals")):
        test = beir(path, strip_html=strip_html).test  # type: ignore[arg-type]
        assert test is not None
        assert test.corpus == {"d3": text}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_batch_that_happens_to_have_no_negatives_still_has_room_for_their_scores(number: int) -> None:
    """Of [Q, 1] a loss would say that the data have none, and [Q, Q] it would take for scores of all documents."""
    bare = [Record(f"q{i}", f"d{i}", teacher_scores=(float(i),)) for i in range(3)]
    records = [*bare, Record("a", "x", ("y",), teacher_scores=(1.0, 2.0))]
    taught = Collator(records)(records[:number]).teacher_scores
    assert taught is not None
    assert taught.shape == (number, 3 if number == 2 else 2)
    assert taught[:, 0].tolist() == [0.0, 1.0, 2.0][:number]
    assert taught[:, 1:].isnan().all()
    for collate in (Collator(bare), Collator(records, num_negatives=0)):
        alone = collate(bare).teacher_scores
        assert alone is not None
        assert alone.shape == (3, 1)
