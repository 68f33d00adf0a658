"""From tables of pairs to a data set: what is held out, what is judged against what, what is trained on."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from contrastive.data.columns import Columns
from contrastive.data.identities import Numbers
from contrastive.data.pairs import DEV, SPLITS, TEST, TRAIN, Pairs, Table, read_pairs
from contrastive.data.readers import check_disjoint
from contrastive.data.records import TextData
from contrastive.data.retrieval_tasks import retrieval_tasks
from contrastive.data.splitting import Rows, hold_out, sampled
from contrastive.data.stored import StoredRecords

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

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 0.5:
            raise ValueError(f"expected held_out of at least 0 and below 0.5, got {self.held_out}")
        for name, least in (("max_queries", 1), ("max_train_pairs", 1), ("corpus_size", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"expected {name} of at least {least}, got {value}")


def text_data(name: str, tables: Mapping[str, Table], choices: Choices) -> TextData:
    """Make a data set of one table a split; without one for dev or test, queries are held out of train.

    Raises:
        ValueError: If a row is malformed, no pair of a split scores enough, nothing can be held out, or splits overlap.
    """
    pairs = read_pairs(tables, Columns.of(choices.columns))
    relevant = _relevant(name, pairs, choices.min_score)
    if relevant is None:
        _log.warning("%s: all scored pairs are for training; min_score says which are relevant, to judge on", name)
        everything = np.ones(len(pairs.splits), bool)
        return TextData(name, _records(pairs, everything, choices, scored=True))
    if choices.held_out and tables.keys() == {"train"}:
        splits = hold_out(pairs, relevant, share=choices.held_out, max_queries=choices.max_queries, seed=choices.seed)
        pairs = replace(pairs, splits=splits)
    tasks = retrieval_tasks(
        pairs, relevant, max_queries=choices.max_queries, corpus_size=choices.corpus_size, seed=choices.seed
    )
    data = TextData(name, _records(pairs, relevant, choices), tasks.get(DEV), tasks.get(TEST))
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


def _records(pairs: Pairs, relevant: Rows, choices: Choices, *, scored: bool = False) -> StoredRecords:
    """Return a training record for each relevant pair of train, or for a sample of them."""
    chosen = np.flatnonzero((relevant & (pairs.splits == TRAIN))[pairs.numbers])
    kept, further = chosen, {}
    if choices.max_train_pairs is not None and choices.max_train_pairs < len(chosen):
        kept = sampled(pairs, chosen, choices.max_train_pairs, choices.seed)
        further = {} if scored else _positives_left_out(pairs, chosen, kept)
    return StoredRecords(pairs.rows, pairs.numbers[kept], pairs.places[kept], further=further, scored=scored)


def _positives_left_out(pairs: Pairs, chosen: Numbers, kept: Numbers) -> dict[int, list[str]]:
    """Return by row, for queries that are kept, the ids of positives that are not: they are no negatives either."""
    queries = pairs.queries[pairs.numbers]
    left_out = np.setdiff1d(chosen, kept)
    left_out = left_out[np.isin(queries[left_out], queries[kept])]
    by_query: defaultdict[int, list[str]] = defaultdict(list)
    for pair, row in zip(left_out, pairs.rows.read(pairs.numbers[left_out]), strict=True):
        by_query[int(queries[pair])].append(row.positive_ids[pairs.places[pair]])
    return {int(pairs.numbers[pair]): by_query[int(queries[pair])] for pair in kept if int(queries[pair]) in by_query}
