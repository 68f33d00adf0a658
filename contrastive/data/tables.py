"""From tables of pairs to a data set: what is held out, what is judged against what, what is trained on."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from contrastive.data.columns import Columns
from contrastive.data.identities import Numbers
from contrastive.data.pairs import DEV, SPLITS, TEST, TRAIN, Pairs, Table, read_pairs
from contrastive.data.readers import check_disjoint
from contrastive.data.records import Account, TextData
from contrastive.data.retrieval_tasks import judged_rows, retrieval_tasks
from contrastive.data.rows_on_disk import RecordsOnDisk
from contrastive.data.splitting import Rows, hold_out, sampled

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choices:
    """What to make of tables; `files` says what each means."""

    columns: Mapping[str, Any] | None
    min_score: float | None
    held_out: float
    max_queries: int
    max_train_pairs: int | None
    corpus_size: int
    seed: int
    overlap: Literal["error", "warn"]
    strip_html: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 0.5:
            raise ValueError(f"expected held_out of at least 0 and below 0.5, got {self.held_out}")
        for name, least in (("max_queries", 1), ("max_train_pairs", 1), ("corpus_size", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"expected {name} of at least {least}, got {value}")


def text_data(name: str, tables: Mapping[str, Table], choices: Choices, *, remarks: Sequence[str] = ()) -> TextData:
    """Make a data set of one table a split; without one for dev or test, queries are held out of train.

    Args:
        name: Name of the data set.
        tables: The table of each split.
        choices: What to make of them.
        remarks: What the reader has to say beside what is noticed here.

    Raises:
        ValueError: If a row is malformed, no pair of a split scores enough, nothing can be held out, or splits overlap.
    """
    pairs = read_pairs(tables, Columns.of(choices.columns), strip_html=choices.strip_html)
    relevant = _relevant(name, pairs, choices.min_score)
    if relevant is None:
        _log.warning("%s: all scored pairs are for training; min_score says which are relevant, to judge on", name)
        everything = np.ones(len(pairs.splits), bool)
        train = _records(pairs, everything, choices, scored=True)
        return TextData(name, train, account=_account(pairs, everything, train, choices, remarks, scored=True))
    if choices.held_out and tables.keys() == {"train"}:
        splits = hold_out(pairs, relevant, share=choices.held_out, max_queries=choices.max_queries, seed=choices.seed)
        pairs = replace(pairs, splits=splits)
    tasks = retrieval_tasks(
        pairs, relevant, max_queries=choices.max_queries, corpus_size=choices.corpus_size, seed=choices.seed
    )
    train = _records(pairs, relevant, choices)
    account = _account(pairs, relevant, train, choices, remarks)
    data = TextData(name, train, tasks.get(DEV), tasks.get(TEST), account)
    check_disjoint(data, overlap=choices.overlap)
    sizes = [f"{task.name} {len(task.queries)} queries among {len(task.corpus)} documents" for task in tasks.values()]
    _log.info("%s: %d training pairs; %s", name, len(data.train), ", ".join(sizes) or "nothing to judge on")
    return data


def _relevant(name: str, pairs: Pairs, min_score: float | None) -> Rows | None:
    """Return which rows' positives are relevant; None if that is not said."""
    if min_score is None:
        return np.ones(len(pairs.splits), bool) if pairs.scores is None else None
    if pairs.scores is None:
        raise ValueError(f"{name}: expected a column of scores for min_score={min_score}, got none")
    relevant = pairs.scores >= min_score
    for split in np.unique(pairs.splits):
        if not relevant[pairs.splits == split].any():
            raise ValueError(
                f"{name}: expected a pair of {SPLITS[split]} with a score of {min_score} or more, got none"
            )
    return relevant


def _records(pairs: Pairs, relevant: Rows, choices: Choices, *, scored: bool = False) -> RecordsOnDisk:
    """Return a training record for each relevant pair of train, or for a sample of them."""
    chosen = np.flatnonzero((relevant & (pairs.splits == TRAIN))[pairs.numbers])
    kept, further = chosen, {}
    if choices.max_train_pairs is not None and choices.max_train_pairs < len(chosen):
        kept = sampled(pairs, chosen, choices.max_train_pairs, choices.seed)
        further = {} if scored else _positives_left_out(pairs, chosen, kept)
    return RecordsOnDisk(pairs.rows, pairs.numbers[kept], pairs.places[kept], further=further, scored=scored)


def _account(
    pairs: Pairs,
    relevant: Rows,
    train: RecordsOnDisk,
    choices: Choices,
    remarks: Sequence[str],
    *,
    scored: bool = False,
) -> Account:
    """Say what became of every row: each is trained on, judged on, or left out for one reason."""
    training = pairs.splits == TRAIN
    used = np.zeros(len(training), bool)
    used[train.row_numbers] = True
    asked = np.zeros(len(training), bool)  # rows of queries that a task may have
    for split in () if scored else (DEV, TEST):
        used[judged_rows(pairs, relevant, split, choices.max_queries, choices.seed)] = True
        inside = pairs.splits == split
        asked |= inside & np.isin(pairs.queries, pairs.queries[inside & relevant])
    least = f"scored below {choices.min_score}"
    reasons = {
        f"not trained on: {least}": training & ~relevant,
        "not drawn to train on (max_train_pairs)": training & relevant,
        "query not drawn to judge on (max_queries)": asked,
        "dev or test, which want min_score to be judged on" if scored else f"dev or test, all of the query {least}": (
            ~training & ~asked
        ),
    }
    counts = {reason: int((of_reason & ~used).sum()) for reason, of_reason in reasons.items()}
    return Account(
        rows_read=pairs.notes.rows,
        left_out={reason: count for reason, count in counts.items() if count},
        columns=pairs.notes.columns,
        unused_columns=pairs.notes.unused_columns,
        remarks=(*pairs.notes.remarks(), *remarks),
    )


def _positives_left_out(pairs: Pairs, chosen: Numbers, kept: Numbers) -> dict[int, list[str]]:
    """Return by row, for queries that are kept, the ids of positives that are not: they are no negatives either."""
    queries = pairs.queries[pairs.numbers]
    left_out = np.setdiff1d(chosen, kept)
    left_out = left_out[np.isin(queries[left_out], queries[kept])]
    by_query: defaultdict[int, list[str]] = defaultdict(list)
    for pair, row in zip(left_out, pairs.rows.read(pairs.numbers[left_out]), strict=True):
        by_query[int(queries[pair])].append(row.positive_ids[pairs.places[pair]])
    return {int(pairs.numbers[pair]): by_query[int(queries[pair])] for pair in kept if int(queries[pair]) in by_query}
