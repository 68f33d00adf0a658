"""Finished runs, and the systems they are runs of: those that differ in their seed only.

A system is its resolved configuration without what cannot change the weights or their score: seed, folder, trackers,
what is printed. Data and the judged split are known apart from the rest, because systems that differ there are not
compared unless asked.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.results import files as results
from experiments.results.provenance import leaves

Settings = dict[str, Any]

NOT_THE_SYSTEM = {"seed", "folder", "logger", "before", "query", "resume"}
ONLY_SHOWN = {"enable_progress_bar", "enable_model_summary", "log_every_n_steps", "profiler", "progress", "interrupted"}
ONLY_SHOWN |= {"continuation"}


@dataclass(frozen=True, slots=True)
class Run:
    """What a finished run left behind.

    Attributes:
        folder: Where it is.
        seed: Of its training.
        settings: What makes its system, by dotted name.
        data: What makes its data and the split it was judged on, by dotted name.
        commit: State of the code, None if that is not known.
        scores: Of the trained encoder, or its hybrid, by query id.
    """

    folder: Path
    seed: int
    settings: Settings
    data: Settings
    commit: str | None
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class System:
    """Runs that differ in their seed only, and a name that tells them from the other systems."""

    name: str
    runs: Sequence[Run]


def read_run(folder: Path, metric: str, row: str = "after") -> Run:
    """Read a finished run.

    Args:
        folder: As `experiments.run` leaves it.
        metric: A column of its per-query results.
        row: What of it is compared, `after` or `hybrid`.

    Raises:
        FileNotFoundError: If the folder is not that of a run, or it did not judge that.
        ValueError: If the run is not finished, lacks the metric, or a file cannot be read.
    """
    config, report = results.read_run(folder, needed=("config.yaml", "metrics.json"))
    try:
        data, seed = dict(report["data"]), int(config["seed"])
        flat = _without_folder(dict(leaves(config)), str(config["folder"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"expected settings and data as experiments.run writes them in {folder}, got {error!r}"
        ) from error
    of_the_data = {key: value for key, value in flat.items() if key == "judge" or key.startswith("data.")}
    of_the_data |= {f"its {key}": value for key, value in data.items() if key != "queries"}
    settings = {key: value for key, value in flat.items() if _makes_a_system(key)}
    commit = (report.get("git") or {}).get("commit")
    return Run(folder, seed, settings, of_the_data, commit, read_scores(folder, row, metric))


def read_scores(folder: Path, system: str, metric: str) -> dict[str, float]:
    """Read a metric of every query as one of the systems in a run's folder (BM25, before, after, hybrid) scored it.

    Raises:
        FileNotFoundError: If the run did not judge that system.
        ValueError: If the metric is not there or a value is not a number.
    """
    path = folder / f"{system}.per_query.csv"
    if not path.is_file():
        raise FileNotFoundError(f"expected the per-query results of a run, found no {path.name} in {folder}")
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        metrics = [name for name in rows.fieldnames or () if name != "query_id"]
        if metric not in metrics:
            raise ValueError(f"expected the metric to be one of {', '.join(metrics)}, in {path}, got {metric!r}")
        scores = {row["query_id"]: _number(row[metric], path, rows.line_num) for row in rows}
    if not scores:
        raise ValueError(f"expected a query in {path}, got none")
    return scores


def read_texts(runs: Sequence[Run]) -> dict[str, str]:
    """Return the text of each query by id, for as many as the runs wrote down; older runs did not."""
    texts: dict[str, str] = {}
    for run in runs:
        path = run.folder / "queries.csv"
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                texts |= {row["query_id"]: row["query"] for row in csv.DictReader(file)}
    return texts


def group(runs: Sequence[Run]) -> list[System]:
    """Put runs that differ in their seed only together, in the order in which they come first.

    Args:
        runs: Each once.

    Raises:
        ValueError: If two runs of one system have the same seed, so that one of them says nothing new.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps(run.settings | run.data, sort_keys=True, default=str)
        members = groups.setdefault(key, [])
        twin = next((other for other in members if other.seed == run.seed), None)
        if twin is not None:
            raise ValueError(
                f"expected runs that differ, {twin.folder} and {run.folder} have the same settings and seed {run.seed}"
            )
        members.append(run)
    names = name_systems([runs[0].settings | runs[0].data for runs in groups.values()])
    if len(set(names)) < len(names):
        names = [f"{name} ({runs[0].folder.name})" for name, runs in zip(names, groups.values(), strict=True)]
    return [System(name, runs) for name, runs in zip(names, groups.values(), strict=True)]


def name_systems(systems: Sequence[Settings]) -> list[str]:
    """Name each system by the settings in which it differs from those it can be compared with setting by setting.

    >>> name_systems([{"loss._target_": "losses.A", "batch_size": 8}, {"loss._target_": "losses.B", "loss.margin": 1}])
    ['A, batch_size=8', 'B']
    """
    return [_name(own, systems) for own in systems]


def _name(own: Settings, systems: Sequence[Settings]) -> str:
    parts = []
    for key, value in own.items():
        names = key.split(".")
        classes = {".".join([*names[:depth], "_target_"]) for depth in range(1, len(names))} - {key}
        peers = [other for other in systems if all(other.get(name) == own.get(name) for name in classes)]
        if any(other.get(key, "nothing") != value for other in peers):
            is_class = names[-1] == "_target_"
            parts.append(str(value).rpartition(".")[2] if is_class else f"{key}={value}")
    return ", ".join(parts) or str(own.get("loss._target_", "system")).rpartition(".")[2]


def differences(first: Run, second: Run) -> list[str]:
    """Say in which settings the data and the split of two runs differ."""
    keys = dict.fromkeys([*first.data, *second.data])
    values = {key: (first.data.get(key, "nothing"), second.data.get(key, "nothing")) for key in keys}
    return [f"{key} ({left} and {right})" for key, (left, right) in values.items() if left != right]


def _makes_a_system(key: str) -> bool:
    names = key.split(".")
    shown = names[0] in ("trainer", "callbacks") and names[1:2] and names[1] in ONLY_SHOWN
    return not (names[0] in NOT_THE_SYSTEM or shown)


def _without_folder(settings: Settings, folder: str) -> Settings:
    return {
        key: value.removeprefix(folder) if isinstance(value, str) and key != "folder" else value
        for key, value in settings.items()
    }


def _number(text: str | None, path: Path, line: int) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"expected a number, got {text!r} in {path}, line {line}")
    return value
