"""Several data sets as one: what is read from where, and the batches made of it."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from contrastive.data import Account, Collator, Record, RetrievalTask, TextData, mixed
from contrastive.training import ContrastiveData
from experiments.run.parts import _datamodule

ROOT = Path(__file__).parents[2]


def records(prefix: str, count: int) -> tuple[Record, ...]:
    """Pairs whose ids are the same in every data set."""
    return tuple(
        Record(
            query=f"{prefix} query {i}",
            positive=f"{prefix} answer {i}",
            negatives=(f"{prefix} other {i}",),
            query_id=f"q{i}",
            positive_id=f"d{i}",
            negative_ids=(f"n{i}",),
            grades={f"d{i}": 2, f"n{i}": 0},
        )
        for i in range(count)
    )


def task(name: str) -> RetrievalTask:
    query, document = f"q-{name}", f"d-{name}"
    return RetrievalTask(name, {query: f"asked {name}"}, {document: f"found {name}"}, {query: {document: 1}})


JOBS = TextData("one", records("jobs", 4), task("jobs-dev"), task("jobs-test"))
MINE = TextData("two", records("mine", 12), None, task("mine-test"))
PLAIN = TextData("three", (Record("plain query", "plain answer"),))


class Counted(Sequence[Record]):
    """Records that count how often they are read."""

    def __init__(self, items: Sequence[Record]) -> None:
        self.items = items
        self.reads: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        assert isinstance(index, int)
        assert 0 <= index < len(self.items)
        self.reads[index] += 1
        return self.items[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.items)


def test_records_name_their_source_and_their_ids_are_of_it() -> None:
    data = mixed({"jobs": JOBS, "mine": MINE, "plain": PLAIN})
    assert data.name == "jobs+mine+plain"
    assert [record.source for record in data.train] == ["jobs"] * 4 + ["mine"] * 12 + ["plain"]
    assert data.train[5] == replace(
        MINE.train[1],
        query_id="mine/q1",
        positive_id="mine/d1",
        negative_ids=("mine/n1",),
        grades={"mine/d1": 2, "mine/n1": 0},
        source="mine",
    )
    assert data.train[16] == replace(PLAIN.train[0], source="plain")


def test_rows_are_found_from_both_ends_in_slices_and_in_turn() -> None:
    train = mixed({"jobs": JOBS, "mine": MINE, "plain": PLAIN}).train
    listed = list(train)
    assert len(train) == len(listed) == 17
    assert [train[i] for i in range(17)] == [train[i - 17] for i in range(17)] == listed
    assert train[2:6] == listed[2:6]
    assert train[::-5] == listed[::-5]
    for row in (17, -18):
        with pytest.raises(IndexError):
            train[row]


def test_records_are_read_from_their_source_when_asked_for() -> None:
    lazy = Counted(MINE.train)
    train = mixed({"jobs": JOBS, "mine": replace(MINE, train=lazy)}).train
    assert not lazy.reads
    assert train[-1].query == "mine query 11"
    assert train[3].query == "jobs query 3"
    assert lazy.reads == {11: 1}


def test_a_mixture_can_be_sent_to_another_process() -> None:
    train = mixed({"jobs": JOBS, "mine": MINE}).train
    assert list(pickle.loads(pickle.dumps(train))) == list(train)


def test_equal_ids_are_apart_and_equal_texts_are_one() -> None:
    shared = replace(MINE.train[0], positive="JOBS answer  0")
    train = mixed({"jobs": JOBS, "mine": replace(MINE, train=(shared, *MINE.train[1:]))}).train
    batch = Collator(train)(train)
    assert batch.key_ids[0] == batch.key_ids[4]
    assert len(set(batch.key_ids.tolist())) == 2 * 16 - 1
    assert len(set(batch.query_ids.tolist())) == 16


@pytest.mark.parametrize(
    ("judged", "dev", "test"),
    [(None, "jobs-dev", "jobs-test"), ("jobs", "jobs-dev", "jobs-test"), ("mine", None, "mine-test")],
)
def test_one_source_is_judged_with_its_own_ids(judged: str | None, dev: str | None, test: str) -> None:
    data = mixed({"plain": PLAIN, "jobs": JOBS, "mine": MINE}, judged=judged)
    assert (data.dev.name if data.dev else None, data.test.name if data.test else None) == (dev, test)
    assert data.test is not None
    assert list(data.test.queries) == [f"q-{test}"]


def test_the_first_source_with_any_task_is_judged() -> None:
    data = mixed({"plain": PLAIN, "jobs": replace(JOBS, test=None), "mine": MINE})
    assert data.dev is JOBS.dev
    assert data.test is None


def test_a_mixture_may_have_nothing_to_judge_on() -> None:
    data = mixed({"plain": PLAIN})
    assert data.dev is data.test is None


def test_the_judged_source_may_have_nothing_to_train_on() -> None:
    data = mixed({"bench": replace(JOBS, train=()), "mine": MINE}, judged="bench")
    assert {record.source for record in data.train} == {"mine"}
    assert data.dev is JOBS.dev


NO_TRAIN = TextData("x", (), None, task("x"))


@pytest.mark.parametrize(
    ("sources", "judged", "message"),
    [
        ({}, None, "expected at least one source to mix, got none"),
        ({"a": MINE, "b": JOBS}, "c", "judged to be one of the sources 'a', 'b', got 'c'"),
        ({"a/b": MINE}, None, "have no slash, got 'a/b'"),
        ({"": MINE}, None, "not empty and have no slash, got ''"),
        ({"a": MINE, "b": NO_TRAIN}, None, "expected training records in source 'b', it has none"),
        ({"a": MINE, "b": NO_TRAIN}, "a", "expected training records in source 'b', it has none"),
        ({"b": NO_TRAIN}, "b", "expected training records in source 'b', it has none"),
        ({"a": MINE, "b": PLAIN}, "b", "the judged source 'b' to have a dev or test task, it has none"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(sources: dict[str, TextData], judged: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixed(sources, judged=judged)


def test_a_source_that_trains_on_the_judged_ones_test_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    leaking = TextData("x", (Record("asked jobs-test", "else"),))
    message = "splits 'train' and 'test' share 1 queries"
    with pytest.raises(ValueError, match=message):
        mixed({"jobs": JOBS, "leaking": leaking})
    mixed({"jobs": JOBS, "leaking": leaking}, overlap="warn")
    assert message in caplog.text


def test_batches_follow_the_mixture() -> None:
    train = mixed({"jobs": JOBS, "mine": MINE}).train
    names = [record.source for record in train]
    data = ContrastiveData(train, None, batch_size=4, source_temperature=float("inf"), one_source=True)
    batches = list(data.batches)
    assert Counter(names[row] for batch in batches for row in batch) == {"jobs": 8, "mine": 8}
    assert all(len({names[row] for row in batch}) == 1 for batch in batches)
    queries = [query for rows in data.train_dataloader() for query in data.batch(rows).queries]
    assert Counter(query.split()[0] for query in queries) == {"jobs": 8, "mine": 8}
    assert Counter(row for batch in ContrastiveData(train, None).batches for row in batch) == Counter(range(16))


@pytest.mark.parametrize("options", [{"source_temperature": 2.0}, {"one_source": True}])
def test_mixed_batches_need_records_that_name_their_source(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"records that name their source, .* got 12 of 12 without"):
        ContrastiveData(MINE.train, None, **options)  # type: ignore[arg-type]


def test_the_command_line_names_the_sources() -> None:
    sizes = ("train_pairs=3", "dev_queries=2", "test_queries=2")
    small = [f"data.sources.{name}.{size}" for name in "ab" for size in sizes]
    overrides = ["data=mixed", "+data@data.sources.a=jobs", "+data@data.sources.b=jobs", "data.sources.b.seed=1"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", overrides=[*overrides, *small, "data.judged=b", "batches.source_temperature=inf"])
        default = compose("config")
    data = instantiate(config.data)
    assert [record.source for record in data.train] == ["a"] * 3 + ["b"] * 3
    assert data.test.name == "jobs-test"
    assert _datamodule(config, data).batches.temperature == float("inf")
    assert _datamodule(default, data).batches.temperature == 1


def test_the_command_line_without_sources_says_so() -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", overrides=["data=mixed"])
    with pytest.raises(Exception, match="at least one source to mix, got none"):
        instantiate(config.data)


def test_accounts_are_added_up() -> None:
    first = Account(10, {"blank": 2}, {"query": "q"}, ("note",), ("odd",))
    second = Account(5, {"blank": 1}, {"query": "anchor"})
    data = mixed({"a": replace(JOBS, account=first), "b": replace(MINE, account=second), "c": PLAIN}, judged="a")
    account = data.account
    assert account is not None
    assert (account.rows_read, account.rows_used) == (15, 12)
    assert account.left_out == {"a: blank": 2, "b: blank": 1}
    assert account.columns == {"a: query": "q", "b: query": "anchor"}
    assert account.unused_columns == ("a: note",)
    assert account.remarks == (
        "a: odd",
        "b: queries that are not used, since another source is judged: 1 of mine-test",
    )
    assert mixed({"plain": PLAIN}).account is None
