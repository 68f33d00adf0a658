"""What a run leaves behind: metrics, per-query results, rankings, tables and plots, in files that open anywhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from contrastive.data import RetrievalTask
from contrastive.evaluation import Rankings, Results

HEADLINE = ("ndcg@10", "mrr@10", "recall@10", "recall@100")
"""The metrics of the final table; the files hold all of them."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write to a temporary name and rename, so that a reader never sees half a file."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def write_system(folder: Path, name: str, rankings: Rankings, results: Results) -> None:
    """Write the ranking of one system as a TREC run file and its per-query results as CSV."""
    rankings.write_trec(folder / f"{name}.trec", tag=name)
    results.write_csv(folder / f"{name}.per_query.csv")


def print_table(title: str, systems: Mapping[str, Results], console: Console) -> None:
    """Print a row a system: each headline metric with its 95 % interval over queries."""
    table = Table(title=title, title_justify="left")
    table.add_column("system")
    for metric in HEADLINE:
        table.add_column(metric, justify="right", no_wrap=True)
    for name, results in systems.items():
        cells = (results.intervals[metric] for metric in HEADLINE)
        table.add_row(name, *(f"{cell.mean:.3f}\n[{cell.low:.3f}, {cell.high:.3f}]" for cell in cells))
    console.print(table)


def first_line(document: str, width: int = 90) -> str:
    """Return the start of a document on one line: its title and as much of its text as fits."""
    line = " · ".join(part.strip() for part in document.splitlines() if part.strip())
    return line if len(line) <= width else line[: width - 1] + "…"


def print_top(query: str, tops: Mapping[str, Sequence[tuple[float, str]]], console: Console) -> None:
    """Print the best documents for one query under each system, as (score, document)."""
    console.print(f"\nBest postings for: {query}", markup=False, highlight=False, soft_wrap=True)
    for name, hits in tops.items():
        console.print(f"  {name}", markup=False, highlight=False)
        for position, (score, document) in enumerate(hits, start=1):
            line = f"    {position}. {score:.3f}  {first_line(document)}"
            console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ellipsis")


def plot_results(path: Path, systems: Mapping[str, Results]) -> None:
    """Plot the headline metrics of every system with their intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(systems)
    for index, (name, results) in enumerate(systems.items()):
        cells = [results.intervals[metric] for metric in HEADLINE]
        means = [cell.mean for cell in cells]
        errors = [[cell.mean - cell.low for cell in cells], [cell.high - cell.mean for cell in cells]]
        places = [position + (index - (len(systems) - 1) / 2) * width for position in range(len(HEADLINE))]
        axes.bar(places, means, width, yerr=errors, capsize=3, label=name)
    axes.set_xticks(range(len(HEADLINE)), HEADLINE)
    axes.set_ylim(0, 1)
    axes.set_ylabel("mean over queries, 95 % interval")
    axes.legend()
    figure.savefig(path, dpi=150)


def plot_training(path: Path, history: Path) -> bool:
    """Plot loss, learning rate and dev metric over the steps of a CSV history; False if there is none."""
    from matplotlib.figure import Figure

    if not history.exists():
        return False
    with history.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("train/loss", "train/gradient_norm", "train/learning_rate", "dev/ndcg@10")
    shown = [name for name in names if any(row.get(name) for row in rows)]
    if not shown:
        return False
    figure = Figure(figsize=(3.2 * len(shown), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else None)
        axes.set_title(name)
        axes.set_xlabel("step")
    figure.savefig(path, dpi=150)
    return True


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
