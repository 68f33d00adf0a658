"""Ranking metrics of each query and their means, computed by trec_eval through `ir-measures`."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive.data import RetrievalTask
from contrastive.data.whole_files import whole_file
from contrastive.evaluation.rankings import Rankings
from contrastive.statistics import Interval, bootstrap_interval

METRICS = ("ndcg@10", "mrr@10", "recall@10", "recall@100", "map", "precision@10")
"""What is computed unless told otherwise."""

_MEASURES = {"ndcg": "nDCG", "mrr": "RR", "recall": "R", "map": "AP", "precision": "P"}


@dataclass(frozen=True, slots=True)
class Results:
    """Metrics of a system on a task, from 0 to 1, higher is better.

    Attributes:
        per_query: Value of each metric by query id; only queries that have a relevant document.
        intervals: Mean of each metric over those queries with its 95 % bootstrap interval.
        num_unjudged: Queries left out because no document is relevant to them.
    """

    per_query: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Interval]
    num_unjudged: int

    @property
    def means(self) -> dict[str, float]:
        """The mean of each metric."""
        return {metric: interval.mean for metric, interval in self.intervals.items()}

    def values(self, metric: str) -> list[float]:
        """Return a metric of every query, in the order of `per_query`, for instance for a paired test."""
        return [row[metric] for row in self.per_query.values()]

    def write_csv(self, path: str | Path) -> None:
        """Write a row a query: its id and its metrics."""
        with whole_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["query_id", *self.intervals])
            writer.writerows([query_id, *row.values()] for query_id, row in self.per_query.items())


def evaluate_rankings(
    rankings: Rankings, task: RetrievalTask, *, metrics: Sequence[str] = METRICS, resamples: int = 10_000
) -> Results:
    """Compute ranking metrics of each query of a task, and their means.

    A document is relevant if its grade is above 0. The gain of nDCG is the grade itself, as in trec_eval. Its ideal
    ranking and the denominators of recall and MAP count all relevant documents, whatever the ranking holds. A query
    that has no ranking scores 0.

    Args:
        rankings: Documents of each query, best first; their order counts and not their scores.
        task: The queries and what is relevant to them.
        metrics: `ndcg`, `mrr`, `recall`, `map` or `precision`; recall and precision need a cutoff (`@10`).
        resamples: Of the bootstrap intervals.

    Raises:
        ValueError: If a metric is unknown, a judged or ranked document is not in the corpus or ranked twice, or no
            query has a relevant document.
    """
    import ir_measures

    measures = {_measure(metric): metric for metric in metrics}
    relevant = _relevant(task)
    for query_id in relevant:
        _check_ranking(query_id, rankings.documents.get(query_id, ()), task.corpus)
    # trec_eval reads scores in single precision and reverses ids on ties: the place is a score that survives both.
    run = {
        query_id: {document_id: float(-place) for place, document_id in enumerate(rankings.documents.get(query_id, ()))}
        for query_id in relevant
    }
    per_query = {query_id: dict.fromkeys(metrics, 0.0) for query_id in relevant}
    for value in ir_measures.iter_calc(list(measures), relevant, run):
        per_query[value.query_id][measures[value.measure]] = float(value.value)
    values = {metric: [row[metric] for row in per_query.values()] for metric in metrics}
    intervals = {metric: _within(bootstrap_interval(of, resamples=resamples)) for metric, of in values.items()}
    return Results(per_query, intervals, len(task.queries) - len(relevant))


def _within(interval: Interval) -> Interval:
    """Cut an interval to the range of all metrics, which its widening for few queries can leave."""
    return Interval(interval.mean, max(interval.low, 0.0), min(interval.high, 1.0))


def _measure(metric: str) -> Any:
    """Return the measure of `ir-measures` that a metric's name stands for."""
    import ir_measures

    match = re.fullmatch(r"([a-z]+)(?:@([1-9]\d*))?", metric)
    name = _MEASURES.get(match[1]) if match else None
    if match is None or name is None or (match[2] is None and name in ("R", "P")):
        raise ValueError(f"expected one of {', '.join(_MEASURES)}, as in {', '.join(METRICS)}, got {metric!r}")
    measure = getattr(ir_measures, name)
    return measure @ int(match[2]) if match[2] else measure


def _relevant(task: RetrievalTask) -> dict[str, dict[str, int]]:
    """Return the grades of the queries that have a relevant document, checked."""
    relevant = {}
    for query_id, grades in task.qrels.items():
        if query_id not in task.queries:
            raise ValueError(f"{task.name}: expected judgements of the task's own queries, got {query_id!r}")
        for document_id in grades:
            if document_id not in task.corpus:
                raise ValueError(
                    f"{task.name}: document {document_id!r}, judged for {query_id!r}, is not in the corpus"
                )
        if max(grades.values(), default=0) > 0:
            relevant[query_id] = dict(grades)
    if not relevant:
        raise ValueError(f"{task.name}: expected a query with a relevant document, got none among {len(task.queries)}")
    return relevant


def _check_ranking(query_id: str, documents: Sequence[str], corpus: Mapping[str, str]) -> None:
    if len(set(documents)) != len(documents):
        raise ValueError(f"query {query_id!r}: expected each document once, got one twice")
    unknown = next((document_id for document_id in documents if document_id not in corpus), None)
    if unknown is not None:
        raise ValueError(f"query {query_id!r}: document {unknown!r} of the ranking is not in the corpus")
