"""What a run leaves behind and shows: metrics, per-query results, rankings, in files that open anywhere, and tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from contrastive.data.json_files import read_object
from contrastive.data.shown import clean
from contrastive.data.whole_files import whole_file
from experiments.results.received import read_config

if TYPE_CHECKING:  # a sweep reads results without loading torch
    from contrastive.data import RetrievalTask
    from contrastive.evaluation import Rankings, Results

HEADLINE = ("ndcg@10", "mrr@10", "recall@10", "recall@100")
"""The metrics of the final table; the files hold all of them."""

FILES = {
    "model": "the encoder, for sentence-transformers, transformers and contrastive, with its model card",
    "metrics.json": "means, intervals, gains, timings, versions",
    "*.per_query.csv": "every metric of every query, a file a system",
    "*.trec": "rankings as TREC run files",
    "queries.csv": "text of each query, for experiments.compare",
    "similarities.csv": "similarity of relevant pairs and of negatives, before and after",
    "history/metrics.csv": "loss, gradient norm, learning rate, speed, dev metrics by step",
    "*.png": "plots of the results, the similarities and the training",
    "checkpoints": "the best checkpoint of Lightning",
    "wandb": "the Weights & Biases run",
    "config.yaml": "the configuration, resolved",
    "run.log": "the log, with times",
    "output.log": "what a job of a sweep printed",
}
"""What there may be in the folder of a run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tracker is given at the end of a run.

    Attributes:
        numbers: Final numbers by name, for the summary.
        tables: Columns and rows by name.
        figures: PNG files by name.
        histograms: Raw values by name.
    """

    numbers: Mapping[str, float]
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)
    histograms: Mapping[str, Sequence[float]] = field(default_factory=dict)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of which a reader never sees half."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_run(run: Path, *, needed: Sequence[str] = ("config.yaml", "metrics.json", "model")) -> tuple[Any, Any]:
    """Return configuration and metrics of a finished run.

    Raises:
        FileNotFoundError: If something that is needed is not in the folder.
        ValueError: If the run is not finished, or a file is not as a run writes it.
    """
    for name in needed:
        if not (run / name).exists():
            raise FileNotFoundError(f"expected the folder of a run, found no {name} in {run}")
    try:
        config, report = read_config(run / "config.yaml"), read_object(run / "metrics.json")
    except ValueError as error:
        raise ValueError(
            f"expected config.yaml and metrics.json as experiments.run writes them in {run}: {error}"
        ) from error
    status = report.get("status")
    if status != "finished":
        raise ValueError(f"expected a finished run, the status of {run} is {status!r}")
    return config, report


def write_system(folder: Path, name: str, rankings: Rankings, results: Results) -> None:
    """Write the ranking of one system as a TREC run file and its per-query results as CSV."""
    rankings.write_trec(folder / f"{name}.trec", tag=name)
    results.write_csv(folder / f"{name}.per_query.csv")


def write_queries(path: Path, task: RetrievalTask) -> None:
    """Write a row a query: its id and its text."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query_id", "query"])
        writer.writerows(task.queries.items())


def write_similarities(
    path: Path, similarities: Mapping[str, Mapping[str, Sequence[float]]], similarity: str = "cosine"
) -> None:
    """Write a row a pair: the system, the kind of pair, and the score of its query and document, a `similarity`."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["system", "pair", similarity])
        for system, kinds in similarities.items():
            writer.writerows([system, kind, f"{value:.6f}"] for kind, values in kinds.items() for value in values)


def print_table(title: str, systems: Mapping[str, Results], console: Console) -> None:
    """Print a row a system: each headline metric with its 95 % interval over queries."""
    table = Table(title=Text(clean(title)), title_justify="left")
    table.add_column("system")
    for metric in HEADLINE:
        table.add_column(metric, justify="right", no_wrap=True)
    for name, results in systems.items():
        cells = (results.intervals[metric] for metric in HEADLINE)
        # Rows have two lines: a name of two parts takes both, since 80 columns leave it eight characters.
        table.add_row(
            name.replace("+", " +\n"), *(f"{cell.mean:.3f}\n[{cell.low:.3f}, {cell.high:.3f}]" for cell in cells)
        )
    console.print(table)


def first_line(document: str, width: int = 90) -> str:
    """Return the start of a document on one line: its title and as much of its text as fits."""
    line = " · ".join(part.strip() for part in clean(document).splitlines() if part.strip())
    return line if len(line) <= width else line[: width - 1] + "…"


def print_top(
    query: str,
    tops: Mapping[str, Sequence[tuple[float, str]]],
    console: Console,
    grades: Mapping[str, Sequence[int] | None] | None = None,
) -> None:
    """Print the best documents for one query under each system, as (score, document), and which are relevant if known.

    Args:
        query: The query.
        tops: By system.
        console: Where to print.
        grades: By system the grade of each document, 0 for not relevant; None where nothing is known.
    """
    console.print(f"\nBest postings for: {clean(query)}", markup=False, highlight=False, soft_wrap=True)
    for name, hits in tops.items():
        console.print(f"  {name}", markup=False, highlight=False)
        marks = [f"{_relevance(grade):<14}" for grade in (grades or {}).get(name) or []] or [""] * len(hits)
        for position, ((score, document), mark) in enumerate(zip(hits, marks, strict=True), start=1):
            line = f"    {position}. {score:.3f}  {mark}{first_line(document)}"
            console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ellipsis")


def _relevance(grade: int) -> str:
    return f"relevant ({grade})" if grade > 0 else "not relevant"


def print_gain(change: Mapping[str, float], console: Console) -> None:
    """Print the paired difference in nDCG@10."""
    line = (
        f"after - before, nDCG@10: {change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}], "
        f"p = {change['p_value']:.4f} (paired randomisation test)"
    )
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_files(folder: Path, console: Console) -> None:
    """Print where everything is and what each file of the run is for."""
    console.print(f"\nEverything is in {clean(str(folder))}", soft_wrap=True, markup=False, highlight=False)
    for name, what in FILES.items():
        if any(folder.glob(name)):
            console.print(f"  {name:22}{what}", markup=False, highlight=False, soft_wrap=True)


def example_rows(
    task: RetrievalTask, systems: Mapping[str, Rankings], num_queries: int = 20, depth: int = 3
) -> list[list[str]]:
    """Return rows (query, then the top documents of each system) for the first queries of a task."""
    rows = []
    for query_id in list(task.queries)[:num_queries]:
        tops = [
            "\n".join(first_line(task.corpus[id_]) for id_, _ in ranking.top(query_id, depth))
            for ranking in systems.values()
        ]
        rows.append([task.queries[query_id], *tops])
    return rows


def per_query_rows(
    task: RetrievalTask, systems: Mapping[str, Results], metric: str = "ndcg@10", limit: int = 1000
) -> list[list[str | float]]:
    """Return rows (query id, query, then the metric under each system) for the first judged queries of a task."""
    judged = list(next(iter(systems.values())).per_query)[:limit]
    return [
        [query_id, task.queries[query_id], *(results.per_query[query_id][metric] for results in systems.values())]
        for query_id in judged
    ]


def final_numbers(report: Mapping[str, Any]) -> dict[str, float]:
    """Flatten the report of a run for a tracker's summary.

    Names are `<system>/<metric>`, `gain/<metric>` with `_low`, `_high` and `_p_value`, `seconds/<stage>`,
    `best/<metric>` for what chose the weights, `hybrid/weight/<system>`, and `hybrid/dev_gain_mean`, `_low`, `_high`.
    """
    numbers: dict[str, float] = {}
    for system, judged in report["systems"].items():
        means = {metric: cell["mean"] for metric, cell in judged["metrics"].items()}
        numbers |= {f"{system}/{name}": value for name, value in {**means, **judged["embedding_health"]}.items()}
    for metric, change in report.get("gain", {}).items():
        numbers[f"gain/{metric}"] = change["mean"]
        numbers |= {f"gain/{metric}_{name}": change[name] for name in ("low", "high", "p_value")}
    if "hybrid" in report:
        fitted = report["hybrid"]
        numbers |= {f"hybrid/weight/{name}": weight for name, weight in fitted["weights"].items()}
        numbers |= {f"hybrid/dev_gain_{name}": fitted["gain"][name] for name in ("mean", "low", "high")}
    numbers |= {f"seconds/{stage}": seconds for stage, seconds in report.get("seconds", {}).items()}
    if report.get("monitored"):
        numbers[f"best/{report['monitored']['metric']}"] = report["monitored"]["value"]
    return numbers
