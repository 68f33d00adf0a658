"""What one wants to know of text data before training on it: sizes, lengths, duplicates, leaks, how lexical it is.

Everything is computed from a `TextData`, as plain values for a table or a JSON file. Training records are read in turn,
and then a sample of them, so that data larger than the memory can be inspected too.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from contrastive.contracts import Side
from contrastive.data import Account, Identities, Record, RetrievalTask, TextData, normalise_text
from contrastive.data.readers import leaks
from experiments.data.pair_statistics import (
    Distribution,
    Duplicates,
    PairCounts,
    distribution,
    pair_counts,
    pair_duplicates,
    pair_table,
)
from experiments.results.files import first_line

SAMPLE = 20_000
"""Lengths and word overlaps are measured on at most so many texts or pairs."""

CountTokens = Callable[[Sequence[str], Side], Sequence[int]]
"""Counts the tokens of each text as an encoder will, prompt and special ones included."""

_TEXTS_PER_COUNT = 500
_WORD = re.compile(r"\w[\w+#]*")
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How much there is to judge on.

    Attributes:
        queries: Queries.
        documents: Documents of the corpus.
        judged: Pairs that have a grade.
        relevant_a_query: Documents graded above 0 for each query.
        unanswered: Queries without such a document.
        grades: How often each grade occurs.
    """

    queries: int
    documents: int
    judged: int
    relevant_a_query: Distribution
    unanswered: int
    grades: dict[int, int]


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long texts of one kind are, in a sample of them.

    Attributes:
        measured: How many were measured.
        characters: Their characters.
        tokens: Their tokens.
        max_length: Tokens the encoder takes.
        cut: How many have more.
    """

    measured: int
    characters: Distribution
    tokens: Distribution
    max_length: int
    cut: int


@dataclass(frozen=True, slots=True)
class Example:
    """The beginning of a query, of a document that answers it and, if there is one, of its first hard negative."""

    query: str
    positive: str
    negative: str | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that was found out.

    Attributes:
        name: Name of the data.
        train: Sizes of "all" training records and, if there are several sources, of each; empty without records.
        tasks: Sizes of the tasks by split.
        lengths: Lengths by kind of text.
        duplicates: Duplicates by split.
        leaks: What splits share, a sentence each.
        word_overlap: By split, the mean share of a query's words that stand in its best answers.
        examples: Some training pairs, or pairs of a task where there are none.
        account: What was read, left out and not used, if the data were read.
    """

    name: str
    train: dict[str, PairCounts]
    tasks: dict[str, TaskCounts]
    lengths: dict[str, Lengths]
    duplicates: dict[str, Duplicates]
    leaks: list[str]
    word_overlap: dict[str, float]
    examples: list[Example]
    account: Account | None = None


def inspect(
    data: TextData,
    count_tokens: CountTokens,
    max_lengths: Mapping[Side, int],
    *,
    num_examples: int = 3,
    show_progress: bool = False,
) -> Inspection:
    """Find out everything about a data set.

    Args:
        data: The data set.
        count_tokens: Counts tokens as the encoder to be trained will.
        max_lengths: Tokens it takes of a text of each side.
        num_examples: How many examples to show.
        show_progress: Whether long steps show a progress bar.
    """
    tasks = {name: task for name, task in (("dev", data.dev), ("test", data.test)) if task is not None}
    table = pair_table(data.train, show_progress=show_progress) if data.train else None
    duplicates = {} if table is None else {"train": pair_duplicates(table)}
    duplicates |= {name: task_duplicates(task, show_progress=show_progress) for name, task in tasks.items()}
    sample = [data.train[row] for row in _sampled(range(len(data.train)))]
    pairs = {"train": [(record.query, record.positive) for record in sample]}
    pairs |= {name: best_pairs(task) for name, task in tasks.items()}
    lengths = {}
    for kind, side, texts in kinds_of_text(sample, tasks):
        desc = f"measuring {kind}" if show_progress else None
        lengths[kind] = measure(texts, lambda some, side=side: count_tokens(some, side), max_lengths[side], desc=desc)
    return Inspection(
        name=data.name,
        train={} if table is None else pair_counts(table),
        tasks={name: count_task(task) for name, task in tasks.items()},
        lengths=lengths,
        duplicates=duplicates,
        leaks=[sentence for sentence, _ in leaks(data, near=True)],
        word_overlap={name: word_overlap(some) for name, some in pairs.items() if some},
        examples=examples(sample or [Record(*pair) for name in tasks for pair in pairs[name]], num_examples),
        account=data.account,
    )


def count_task(task: RetrievalTask) -> TaskCounts:
    """Return the sizes of a task."""
    grades = Counter(grade for judged in task.qrels.values() for grade in judged.values())
    relevant = [sum(grade > 0 for grade in task.qrels.get(query, {}).values()) for query in task.queries]
    return TaskCounts(
        queries=len(task.queries),
        documents=len(task.corpus),
        judged=grades.total(),
        relevant_a_query=distribution(relevant),
        unanswered=relevant.count(0),
        grades=dict(sorted(grades.items())),
    )


def task_duplicates(task: RetrievalTask, *, show_progress: bool = False) -> Duplicates:
    """Return how many queries and documents have the text of another."""
    repeated = []
    for texts in (task.queries, task.corpus):
        bar = tqdm(texts.items(), f"comparing {task.name}", delay=1, leave=False, disable=not show_progress)
        repeated.append(len(texts) - len(Identities(bar)))
    return Duplicates(*repeated)


def best_pairs(task: RetrievalTask) -> list[tuple[str, str]]:
    """Return the texts of a sample of the queries with each document of their highest grade, if that is above 0."""
    pairs = [
        (query, document)
        for query, grades in task.qrels.items()
        for best in [max(grades.values(), default=0)]
        for document, grade in grades.items()
        if grade == best > 0
    ]
    return [(task.queries[query], task.corpus[document]) for query, document in _sampled(pairs)]


def kinds_of_text(
    sample: Sequence[Record], tasks: Mapping[str, RetrievalTask]
) -> Iterator[tuple[str, Side, Sequence[str]]]:
    """Yield a name, the side and a sample of each kind of text; a corpus that both tasks use comes once."""
    if sample:
        yield "train queries", "query", [record.query for record in sample]
        yield "train documents", "document", _sampled([text for r in sample for text in (r.positive, *r.negatives)])
    for name, task in tasks.items():
        yield f"{name} queries", "query", [task.queries[id_] for id_ in _sampled(list(task.queries))]
    corpora = {name: task.corpus for name, task in tasks.items()}
    if len(corpora) == 2 and corpora["dev"] == corpora["test"]:
        corpora = {"dev and test": corpora["test"]}
    for name, corpus in corpora.items():
        yield f"{name} documents", "document", [corpus[id_] for id_ in _sampled(list(corpus))]


def measure(
    texts: Sequence[str],
    count_tokens: Callable[[Sequence[str]], Sequence[int]],
    max_length: int,
    *,
    desc: str | None = None,
) -> Lengths:
    """Measure texts, one or more; `desc` names the progress bar, without it there is none."""
    tokens: list[int] = []
    with tqdm(total=len(texts), desc=desc, unit=" texts", delay=1, leave=False, disable=desc is None) as bar:
        for start in range(0, len(texts), _TEXTS_PER_COUNT):
            some = texts[start : start + _TEXTS_PER_COUNT]
            tokens += count_tokens(some)
            bar.update(len(some))
    cut = sum(count > max_length for count in tokens)
    return Lengths(len(texts), distribution([len(text) for text in texts]), distribution(tokens), max_length, cut)


def word_overlap(pairs: Iterable[tuple[str, str]]) -> float:
    """Return the mean share of a query's different words that stand in the document, over pairs of the two.

    Example:
        >>> word_overlap([("C++ developer", "Developer, Python"), ("chef", "A chef.")])
        0.75
    """
    shares = []
    for query, document in pairs:
        words = set(_WORD.findall(normalise_text(query)))
        shares.append(len(words.intersection(_WORD.findall(normalise_text(document)))) / max(1, len(words)))
    return float(np.mean(shares))


def examples(records: Sequence[Record], count: int) -> list[Example]:
    """Return the beginnings of a few records, evenly spread."""
    chosen = [records[place * len(records) // count] for place in range(count)] if len(records) > count else records
    return [
        Example(
            first_line(record.query),
            first_line(record.positive),
            first_line(record.negatives[0]) if record.negatives else None,
        )
        for record in chosen
    ]


def _sampled(items: Sequence[_Item]) -> Sequence[_Item]:
    """Return at most `SAMPLE` of the items, always the same and in their order."""
    if len(items) <= SAMPLE:
        return items
    return [items[place] for place in sorted(random.Random(0).sample(range(len(items)), SAMPLE))]
