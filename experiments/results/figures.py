"""What a run shows at its end: results with intervals, training curves, similarities before and after."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contrastive.data import RetrievalTask
from contrastive.data.whole_files import whole_file
from contrastive.evaluation import Results
from experiments.results.files import HEADLINE, Outcome, example_rows, final_numbers, per_query_rows, write_similarities
from experiments.results.judgement import Judgement

BESIDE = {"dev/ndcg@10": {"BM25": "dev/bm25_ndcg@10", "untuned": "dev/untuned_ndcg@10"}}
"""Constants that are drawn as lines across a curve, by their names in the legend."""
CURVES = ("train/loss", "train/gradient_norm", "train/learning_rate", "dev/ndcg@10")
KINDS = {"relevant": "relevant", "random": "random, not relevant", "bm25_hard": "BM25's best not relevant"}
"""The kinds of pairs of `judging.similarities` and their names in the legend."""
SCORES = {
    "cosine": "cosine",
    "dot": "dot product",
    "euclidean": "minus the distance",
    "max_sim": "mean of the largest cosines",
    "max_dot": "weighted mean of the largest cosines",
}
"""What the similarities are called."""


def illustrate(
    folder: Path, task: RetrievalTask, judged: Mapping[str, Judgement], report: Mapping[str, Any], history: Path
) -> Outcome:
    """Draw the figures into the folder of a run and return, with tables and raw numbers, what a tracker is to show.

    Args:
        folder: Of the run.
        task: What was judged on.
        judged: Judgement by system.
        report: Of the run, as in `metrics.json`.
        history: CSV file of what was logged by step; it need not exist.
    """
    systems = {name: judgement.results for name, judgement in judged.items()}
    rankings = {name: judgement.rankings for name, judgement in judged.items()}
    similarities = {name: judgement.similarities for name, judgement in judged.items() if judgement.similarities}
    # One encoder before and after its training: it has one similarity.
    similarity = next((judgement.similarity for judgement in judged.values() if judgement.similarities), "cosine")
    write_similarities(folder / "similarities.csv", similarities, similarity)
    return Outcome(
        final_numbers(report),
        tables={
            "examples": (["query", *judged], example_rows(task, rankings)),
            "per_query": (["query_id", "query", *judged], per_query_rows(task, systems)),
        },
        figures=draw(folder, systems, similarities, history, similarity),
        histograms={
            f"similarity/{system}/{kind}": values
            for system, kinds in similarities.items()
            for kind, values in kinds.items()
            if values
        },
    )


def draw(
    folder: Path,
    systems: Mapping[str, Results],
    similarities: Mapping[str, Mapping[str, Sequence[float]]],
    history: Path,
    similarity: str = "cosine",
) -> dict[str, Path]:
    """Write the figures that there is something to show in as PNG files of a run's folder.

    Args:
        folder: Of the run.
        systems: Results by system.
        similarities: Scores of pairs by system and kind.
        history: CSV file of what was logged by step; it need not exist.
        similarity: What the scores are: cosine, dot or euclidean.

    Returns:
        The files by name: `results`, `training`, `similarities`.
    """
    figures = {
        "results": results_figure(systems),
        "training": training_figure(_read(history)),
        "similarities": similarity_figure(similarities, similarity),
    }
    written = {}
    for name, figure in figures.items():
        if figure is not None:
            written[name] = folder / f"{name}.png"
            with whole_file(written[name]) as temporary:
                figure.savefig(temporary, dpi=150, format="png")
    return written


def results_figure(systems: Mapping[str, Results]) -> Figure:
    """Draw the headline metrics of every system as bars with their intervals."""
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
    return figure


def training_figure(rows: Sequence[Mapping[str, str]]) -> Figure | None:
    """Draw loss, gradient norm, learning rate and dev metric over the steps; None if none of them was logged."""
    shown = [name for name in CURVES if any(row.get(name) for row in rows)]
    if not shown:
        return None
    figure = Figure(figsize=(3.2 * len(shown), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else None)
        _lines_beside(axes, rows, BESIDE.get(name, {}))
        axes.set_title(name)
        axes.set_xlabel("step")
    return figure


def _lines_beside(axes: Axes, rows: Sequence[Mapping[str, str]], lines: Mapping[str, str]) -> None:
    """Draw a horizontal line for each constant that was logged."""
    styles = ("--", ":", "-.")
    for place, (label, name) in enumerate(lines.items()):
        values = [float(row[name]) for row in rows if row.get(name)]
        if values:
            style, colour = styles[place % len(styles)], f"C{place + 1}"
            axes.axhline(values[0], linestyle=style, color=colour, label=f"{label} {values[0]:.3f}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def similarity_figure(
    similarities: Mapping[str, Mapping[str, Sequence[float]]], similarity: str = "cosine"
) -> Figure | None:
    """Draw a panel a system with the distribution of the scores of each kind of pair; None if there are none.

    What training should do is move the relevant pairs away from the others, hard ones included.
    """
    shown = {system: kinds for system, kinds in similarities.items() if any(kinds.values())}
    if not shown:
        return None
    found = [value for kinds in shown.values() for values in kinds.values() for value in values]
    # Rounding takes a cosine beyond 1; the others end where they end.
    highest = 1.0 if similarity == "cosine" else max(found)
    edges = np.linspace(min(min(found), highest - 0.1 * max(1, abs(highest))), highest, 41)
    figure = Figure(figsize=(4.5 * len(shown), 3.2), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (system, kinds) in zip(panels, shown.items(), strict=True):
        for kind, label in KINDS.items():
            values = np.minimum(kinds.get(kind, ()), highest)
            axes.hist(values, edges, weights=np.full(len(values), 1 / max(1, len(values))), alpha=0.5, label=label)
        axes.set_title(system)
        axes.set_xlabel(f"{SCORES[similarity]} of query and document")
    panels[0].set_ylabel("share of pairs")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(KINDS))
    return figure


def _read(history: Path) -> list[dict[str, str]]:
    if not history.exists():
        return []
    with history.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
