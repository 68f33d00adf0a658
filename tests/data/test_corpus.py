import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from contrastive.data import Collator, TextData, check_disjoint
from contrastive.data.corpus import corpus
from contrastive.data.queries.pseudo_queries import PseudoQueries

JOBS = {"Nurse": "triage", "Chef": "soup", "Driver": "lorry", "Teacher": "school", "Analyst": "dashboards"}


def text(i: int) -> str:
    """Thirty words of its own around the words of its job."""
    job, skill = list(JOBS.items())[i % 5]
    own = " ".join(f"own{i}x{k}" for k in range(30))
    return f"{job}\nThe {job.lower()} of team {i} knows {skill}, Excel, teamwork {i}. {own}."


def write(folder: Path, count: int = 60, *, twins: int = 0) -> Path:
    rows = [{"_id": f"d{i}", "title": "", "text": text(i)} for i in range(count)]
    rows += [{"_id": f"t{i}", "title": "", "text": text(i) + " Apply now."} for i in range(twins)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Writer:
    """Writes for the n-th document it is asked for."""

    settings: ClassVar = {"model": "stub"}

    def __init__(self, write_for: Callable[[int], list[str]]) -> None:
        self.write_for = write_for
        self.asked: list[str] = []

    def __call__(self, documents: list[str]) -> list[list[str]]:
        start = len(self.asked)
        self.asked.extend(documents)
        return [self.write_for(start + place) for place in range(len(documents))]


def answers(data: TextData) -> set[str]:
    """The best answers of the tasks."""
    tasks = [task for task in (data.dev, data.test) if task is not None]
    return {id_ for task in tasks for grades in task.qrels.values() for id_, grade in grades.items() if grade == 2}


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A BEIR folder whose train queries must not be read."""
    folder = tmp_path / "judged"
    write(folder, twins=3)
    asked = {"q1": ("nurse triage", "d0"), "q2": ("chef, soup", "d1"), "q3": ("never read", "d7")}
    rows = [{"_id": id_, "text": query} for id_, (query, _) in asked.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels").mkdir()
    for split, (id_, document) in {"dev": ("q1", "d0"), "test": ("q2", "d1"), "train": ("q3", "d7")}.items():
        (folder / "qrels" / f"{split}.tsv").write_text(f"q\td\tg\n{id_}\t{document}\t2\n{id_}\td50\t1\n")
    return folder


def test_every_document_that_is_not_held_out_gets_queries(tmp_path: Path) -> None:
    data = corpus(write(tmp_path), queries_per_document=2)
    assert data.name == "corpus"
    trained = [record.positive_id for record in data.train]
    assert len(trained) > 60
    assert len({record.query_id for record in data.train}) == len(trained)
    assert 8 <= len(answers(data)) <= 12
    assert answers(data).isdisjoint(trained)
    assert len(answers(data)) + len(set(trained)) > 52  # some ask what a task asks, and are left out
    assert len(data.dev.corpus) == len(data.test.corpus) == 60
    check_disjoint(data)


def test_near_duplicates_are_never_negatives_and_held_out_together(tmp_path: Path) -> None:
    data = corpus(write(tmp_path, twins=60), held_out=0.2)
    twin = {f"d{i}": f"t{i}" for i in range(60)} | {f"t{i}": f"d{i}" for i in range(60)}
    for record in data.train:
        assert record.grades[record.positive_id] == 2
        assert record.grades[twin[record.positive_id]] == 1
    trained = {record.positive_id for record in data.train}
    assert trained.isdisjoint(answers(data) | {twin[id_] for id_ in answers(data)})
    batch = Collator(data.train)(data.train)
    known = {(int(d), int(p)) for d, row in zip(batch.key_ids, batch.positive_ids, strict=True) for p in row}
    assert all(len([1 for d, _ in known if d == document]) >= 2 for document in batch.key_ids.tolist())


def test_what_a_query_names_is_a_known_positive(tmp_path: Path) -> None:
    rules = PseudoQueries(mixture={"title": 1.0}, typos=0.0, years=0.0)
    data = corpus(write(tmp_path), queries=rules, held_out=0)
    assert len(data.train) == 60
    for record in data.train:
        same = {f"d{i}" for i in range(60) if i % 5 == int(record.positive_id[1:]) % 5}
        assert set(record.grades) == same


def test_judged_queries_are_the_tasks_and_their_answers_are_not_trained_on(judged: Path) -> None:
    data = corpus(judged)
    assert list(data.dev.queries.values()) == ["nurse triage"]
    assert list(data.test.queries.values()) == ["chef, soup"]
    assert (data.dev.name, data.test.name) == ("dev", "test")
    trained = {record.positive_id for record in data.train}
    assert trained.isdisjoint({"d0", "d1", "t0", "t1"})
    assert {"d2", "t2", "d7", "d50"} <= trained
    assert not any("never" in record.query for record in data.train)
    check_disjoint(data)


def test_a_query_that_is_judged_is_not_trained_on(judged: Path) -> None:
    nurses = Writer(lambda _: ["Nurse; triage", "nurse who knows"])
    data = corpus(judged, writer=nurses, writer_cache=judged / "written.jsonl", queries_per_document=2)
    assert {record.query for record in data.train} == {"nurse who knows"}


def test_a_writer_takes_the_place_of_the_rules(tmp_path: Path) -> None:
    writer = Writer(lambda number: [f"written {number}", "second", "third"] if number else [])
    settings = {"writer": writer, "writer_cache": tmp_path / "written.jsonl", "queries_per_document": 2}
    data = corpus(write(tmp_path), **settings)
    asked = list(writer.asked)
    assert len(asked) == 60 - len(answers(data))
    assert [record.query for record in data.train[:4]] == ["written 1", "second", "written 2", "second"]
    assert data.train[0].positive == asked[1]
    assert not any("written" in query for query in data.dev.queries.values())
    assert corpus(write(tmp_path), **settings) == data
    assert writer.asked == asked


def test_tasks_are_made_with_nothing_masked_and_the_same_for_other_rules(tmp_path: Path) -> None:
    path = write(tmp_path)
    first = corpus(path, queries=PseudoQueries(masked=1.0))
    second = corpus(path, queries=PseudoQueries(masked=0.0))
    assert first.dev == second.dev
    assert (first.dev.name, first.test.name) == ("dev-pseudo-queries", "test-pseudo-queries")
    assert first.train != second.train
    assert all(first.dev.corpus[f"d{i}"].startswith(text(i)[:4]) for i in range(60))


def test_the_seeds_decide(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert corpus(path, seed=1) == corpus(path, seed=1)
    assert corpus(path, seed=1).dev != corpus(path, seed=2).dev


def test_other_documents_leave_what_is_held_out_where_it_is(tmp_path: Path) -> None:
    few, many = corpus(write(tmp_path / "few")), corpus(write(tmp_path / "many", 62))
    held = [answers(data) for data in (few, many)]
    assert len(held[0]) >= 8
    assert len(held[0] - held[1]) <= 2


def reposted(folder: Path, copies: int) -> Path:
    """Thirty documents of which each is posted again, once as it was and further times nearly so."""
    rows = [
        {"_id": f"{'abc'[copy]}{i}", "title": "", "text": text(i) + " Apply now." * (copy > 1)}
        for i in range(30)
        for copy in range(copies)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "reposted.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("seed", range(3))
def test_what_is_posted_again_is_in_one_split(seed: int, tmp_path: Path) -> None:
    data = corpus(reposted(tmp_path, 3), held_out=0.2, seed=seed)
    held = [{id_[1:] for id_ in answers(replace(data, **{other: None}))} for other in ("test", "dev")]
    trained = {record.positive_id[1:] for record in data.train}
    assert all(3 <= len(ids) <= 6 for ids in held)  # one query for three documents, but for what dev asks already
    assert held[0].isdisjoint(held[1])
    assert trained.isdisjoint(held[0] | held[1])
    assert [len(task.queries) for task in (data.dev, data.test)] == [len(ids) for ids in held]
    assert data.account is not None
    told = "90 documents are nearly the same as another; none of them is in another split than its like"
    assert data.account.remarks[-1] == told


def test_a_group_is_held_out_by_the_first_of_its_documents(tmp_path: Path) -> None:
    once, twice = corpus(reposted(tmp_path / "1", 1)), corpus(reposted(tmp_path / "2", 2))
    held = [{id_[1:] for id_ in answers(data)} for data in (once, twice)]
    assert len(held[0] & held[1]) >= 2  # the new ones have hashes of their own


def test_no_document_is_masked_into_an_answer_of_a_task(tmp_path: Path) -> None:
    path = tmp_path / "titles.jsonl"
    titles = [f"{level}{job}" for job in ("Nurse", "Chef", "Driver", "Clerk") for level in ("", "Senior ", "Junior ")]
    path.write_text("".join(json.dumps({"_id": f"d{i}", "text": title}) + "\n" for i, title in enumerate(titles)))
    for seed in range(5):
        data = corpus(path, queries=PseudoQueries(masked=1.0), held_out=0.2, seed=seed, queries_per_document=3)
        check_disjoint(data)
        assert all(re.search(r"\w", record.positive) for record in data.train)


def test_sizes_can_be_bounded(tmp_path: Path) -> None:
    data = corpus(write(tmp_path), max_train_pairs=10, max_queries=3, held_out=0.2)
    assert (len(data.train), len(data.dev.queries), len(data.test.queries)) == (10, 3, 3)
    none = corpus(write(tmp_path), held_out=0)
    assert none.dev is None
    assert none.test is None


def test_a_handful_of_documents_is_enough(tmp_path: Path) -> None:
    assert len(corpus(write(tmp_path, 3), held_out=0).train) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries_per_document": 0}, "queries_per_document of at least 1, got 0"),
        ({"held_out": 0.5}, "held_out from 0 to below 0.5, got 0.5"),
        ({"near_duplicate": 0}, "threshold above 0"),
        ({"writer": Writer(lambda _: [])}, "got 60 that gave none"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        corpus(write(tmp_path), writer_cache=tmp_path / "written.jsonl", **settings)


def test_documents_are_read_alike_for_training_and_for_judging(judged: Path) -> None:
    rows = [json.loads(line) for line in (judged / "corpus.jsonl").read_text().splitlines()]
    rows = [{**row, "text": "<p>" + row["text"].replace("\n", "<br>") + "</p>"} for row in rows]
    (judged / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = corpus(judged)
    assert data.dev.corpus["d0"] == text(0)
    assert not any("<p>" in record.positive for record in data.train)
    assert data.account.rows_read == 63
    assert data.account.left_out == {}
    assert data.account.remarks[0] == "63 of 63 documents have HTML, which was taken out"
    assert "documents have no training query" in data.account.remarks[1]
    assert "<p>" in corpus(judged, strip_html=False).dev.corpus["d0"]
