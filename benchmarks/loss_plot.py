"""What `benchmarks.losses` found, as a picture: time and memory against size, all logarithmic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.loss_peers import CACHED, CLIP, DENSE, FLOORS, OURS, PLAIN, RANKING, TILED

STYLES: dict[str, dict[str, Any]] = {
    FLOORS[1]: {"color": "0.6", "linestyle": ":", "marker": ""},
    PLAIN: {"color": "black", "marker": "o"},
    OURS: {"color": "tab:red", "linewidth": 3, "marker": "o"},
    DENSE: {"color": "tab:red", "linestyle": "--", "marker": "s"},
    TILED: {"color": "tab:red", "linestyle": ":", "marker": "^"},
    "ours, symmetric": {"color": "tab:orange", "linewidth": 2, "marker": "o"},
    CLIP: {"color": "tab:olive", "linestyle": "--", "marker": "D"},
    RANKING: {"color": "tab:blue", "marker": "s"},
    CACHED: {"color": "tab:blue", "linestyle": "--", "marker": "^"},
    "sentence-transformers GIST": {"color": "tab:cyan", "marker": "v"},
    "metric-learning SupCon": {"color": "tab:green", "marker": "s"},
    "metric-learning NT-Xent": {"color": "tab:green", "linestyle": "--", "marker": "v"},
    "Inf-CL": {"color": "tab:purple", "marker": "P"},
}
"""Contestants that are drawn; the masked and guided variants of ours are in the table."""

LEAST_MEMORY = 1.0
"""MiB: a measurement is not finer."""


def draw(cases: Mapping[str, Any], path: Path, *, width: int = 384, precision: str = "float32") -> None:
    """Draw time, time over that of three products, and memory, a column for each number of hard negatives."""
    chosen = [case for case in cases.values() if case["width"] == width and case["precision"] == precision]
    if not chosen:
        return
    counts = sorted({case["negatives"] for case in chosen})
    sizes = sorted({case["queries"] for case in chosen})
    figure = Figure(figsize=(2 + 4.2 * len(counts), 12), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(counts), sharex=True, sharey="row", squeeze=False)
    for column, negatives in zip(axes.T, counts, strict=True):
        group = sorted((case for case in chosen if case["negatives"] == negatives), key=lambda case: case["queries"])
        for name, style in STYLES.items():
            points = [
                (case, case["contestants"][name]) for case in group if "seconds" in case["contestants"].get(name, {})
            ]
            if points:
                draw_contestant(column, points, label=name, **style)
        for axis in column:
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        column[0].set_title(f"{negatives} hard negatives a query" if negatives else "in-batch negatives alone")
        column[1].axhline(1.25, color="0.4", linewidth=0.8)
        column[1].set_ylim(0.9, 6)
        column[1].set_yticks([1, 1.25, 1.5, 2, 3, 4, 6], ["1", "1.25", "1.5", "2", "3", "4", "6"])
        column[2].axhline(8 * 1024, color="0.4", linewidth=0.8)
        column[2].set_xlabel("queries")
    axes[0, 0].set_ylabel("forward + backward, seconds (bars: quartiles)")
    axes[1, 0].set_ylabel("time / time of three products (line: 1.25)")
    axes[2, 0].set_ylabel("peak beyond inputs and gradients, MiB (line: 8 GiB)")
    handles = {handle.get_label(): handle for axis in axes.flat for handle in axis.get_legend_handles_labels()[0]}
    columns = 2 if len(counts) == 1 else 4
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(f"D = {width}, {precision}; a line ends where 8 GiB or 20 times plain's time is passed")
    figure.savefig(path, dpi=110)


def draw_contestant(column: Any, points: list[tuple[Mapping[str, Any], Mapping[str, Any]]], **style: Any) -> None:
    """Draw one contestant into the three axes of a column."""
    sizes = [case["queries"] for case, _ in points]
    times = [entry["seconds"] for _, entry in points]
    medians = [time["median"] for time in times]
    below = [time["median"] - time["quartile_1"] for time in times]
    above = [time["quartile_3"] - time["median"] for time in times]
    column[0].errorbar(sizes, medians, yerr=[below, above], capsize=2, **style)
    floors = [floor(case) for case, _ in points]
    column[1].plot(sizes, [median / least for median, least in zip(medians, floors, strict=True)], **style)
    memory = [entry["memory_mib"] for _, entry in points]
    if None not in memory:  # where the system does not tell
        column[2].plot(sizes, [max(size, LEAST_MEMORY) for size in memory], **style)


def floor(case: Mapping[str, Any]) -> float:
    """Return the seconds of three products of a case, done the faster way."""
    entries = (case["contestants"].get(name, {}) for name in FLOORS)
    return min((float(entry["seconds"]["median"]) for entry in entries if "seconds" in entry), default=math.nan)
