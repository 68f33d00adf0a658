"""From folders of runs to what can be said of their systems, and what cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contrastive.statistics import Adjusted, Interval, against_baseline, hierarchical_bootstrap
from experiments.compare.systems import Run, System, differences, group, read_run, read_scores, read_texts

MOST_NAMED = 5

UNTRAINED = ("before", "BM25", "BM25+spelling")
"""Baselines that a run judges beside the encoder it trains; they have no seed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One system of the table.

    Attributes:
        system: Its name.
        seeds: Those of its runs; none for a baseline that was not trained.
        mean: With its interval.
        against: How it differs from the baseline; None for the baseline.
    """

    system: str
    seeds: Sequence[int]
    mean: Interval
    against: Adjusted | None


@dataclass(frozen=True, slots=True)
class Moved:
    """A query far from the baseline, both averaged over seeds; its text is None if no run wrote it down."""

    system: str
    query_id: str
    text: str | None
    baseline: float
    score: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is shown.

    Attributes:
        metric: What is compared, from 0 to 1, higher is better.
        alpha: Level of the tests; intervals are at 1 - alpha.
        baseline: Name of the system that the others are compared with.
        num_queries: Queries compared.
        rows: The baseline first.
        moved: Of each other system the queries that gained most, then those that lost most.
        caveats: What cannot be concluded.
    """

    metric: str
    alpha: float
    baseline: str
    num_queries: int
    rows: Sequence[Row]
    moved: Sequence[Moved]
    caveats: Sequence[str]


def comparison(
    folders: Sequence[Path],
    baseline: str | None = None,
    *,
    metric: str = "ndcg@10",
    row: str = "after",
    alpha: float = 0.05,
    num_moved: int = 3,
    common: bool = False,
    different_data: bool = False,
) -> Report:
    """Compare the systems that the runs are of.

    Args:
        folders: Of finished runs.
        baseline: Name of a system, folder of a run, or one of `UNTRAINED`; the system of the first run if None.
        metric: A column of the per-query results.
        row: What of each run is compared, `after` or `hybrid`.
        alpha: Level of the tests; intervals are at 1 - alpha.
        num_moved: How many queries to name that gained most, and that lost most.
        common: Whether to compare the common queries where runs were judged on different ones.
        different_data: Whether to compare runs on different data or splits.

    Raises:
        FileNotFoundError: If a folder is not that of a run, or the baseline was not judged.
        ValueError: If runs cannot be compared; it says why.
    """
    is_folder = baseline is not None and baseline not in UNTRAINED and Path(baseline).is_dir()
    wanted = [*folders, Path(baseline)] if is_folder and baseline is not None else folders
    runs = [read_run(folder, metric, row) for folder in dict.fromkeys(folder.resolve() for folder in wanted)]
    data = _different_data(runs, allowed=different_data)
    systems = group(runs)
    scores = {system.name: [run.scores for run in system.runs] for system in systems}
    if baseline in UNTRAINED:
        name = baseline
        scores[name] = [_untrained(runs, name, metric)]
    else:
        name = _baseline(systems, baseline)
    if len(scores) < 2:
        raise ValueError(
            f"expected two systems to compare, got runs of {name} alone; --baseline before compares with it"
        )
    queries, left_out = _queries([row for rows in scores.values() for row in rows], common=common)
    matrices = {system: [[row[query] for query in queries] for row in rows] for system, rows in scores.items()}
    found = against_baseline(matrices, name, confidence=1 - alpha)
    seeds = {system.name: [run.seed for run in system.runs] for system in systems}
    rows = [
        Row(system, seeds.get(system, []), hierarchical_bootstrap(matrices[system], confidence=1 - alpha), against)
        for system, against in {name: None, **found}.items()
    ]
    means = {system: dict(zip(queries, _average(matrix), strict=True)) for system, matrix in matrices.items()}
    texts = read_texts(runs)
    moved = [row for system in found for row in _moved(system, means[system], means[name], texts, num_moved)]
    caveats = [*data, *left_out, *_caveats(rows, runs, alpha)]
    return Report(metric, alpha, name, len(queries), rows, moved, caveats)


def _baseline(systems: Sequence[System], baseline: str | None) -> str:
    """Return the name of the system that the baseline stands for."""
    names = [system.name for system in systems]
    if baseline is None:
        return names[0]
    if baseline in names:
        return baseline
    folder = Path(baseline).resolve()
    for system in systems:
        if any(run.folder == folder for run in system.runs):
            return system.name
    known = "; ".join([*names, *UNTRAINED])
    raise ValueError(f"expected the baseline to be the folder of a run or one of: {known}; got {baseline!r}")


def _untrained(runs: Sequence[Run], name: str, metric: str) -> Mapping[str, float]:
    """Return the scores of a baseline that was not trained, which all runs must agree on."""
    scores: dict[str, float] = {}
    for run in runs:
        found = read_scores(run.folder, name, metric)
        apart = sum(abs(value - scores.get(query, value)) > 1e-6 for query, value in found.items())
        if apart:
            raise ValueError(
                f"expected {name} to be the same in all runs, "
                f"{run.folder} differs from the runs before it in {apart} of {len(found)} queries"
            )
        scores |= found
    return scores


def _different_data(runs: Sequence[Run], *, allowed: bool) -> list[str]:
    """Refuse runs on different data or splits, or say in what they differ."""
    found: dict[str, Run] = {}
    for run in runs[1:]:
        for difference in differences(runs[0], run):
            found.setdefault(difference, run)
    if not found:
        return []
    where = ", ".join(found)
    if not allowed:
        other = next(iter(found.values())).folder
        raise ValueError(
            f"expected runs on the same data and split, {runs[0].folder} and {other} differ in {where}; "
            "--different-data compares them all the same"
        )
    return [f"The data differ in {where}: a difference may come from the data and not from the training."]


def _queries(scores: Sequence[Mapping[str, float]], *, common: bool) -> tuple[list[str], list[str]]:
    """Return the queries that all have, in the order of the first, and what must be said of those left out."""
    everything = dict.fromkeys(query for row in scores for query in row)
    shared = [query for query in scores[0] if all(query in row for row in scores)]
    missing = [query for query in everything if query not in set(shared)]
    if missing and not common:
        raise ValueError(
            f"expected runs judged on the same queries, {len(missing)} of {len(everything)} are not in all of them, "
            f"such as {missing[0]!r}; --common compares the other {len(shared)}"
        )
    if len(shared) < 2:
        raise ValueError(f"expected at least 2 queries in all runs, got {len(shared)}")
    if not missing:
        return shared, []
    said = (
        f"Compared on the {len(shared)} queries that all runs have, of {len(everything)}: nothing is said of the rest."
    )
    return shared, [said]


def _average(matrix: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(matrix) for column in zip(*matrix, strict=True)]


def _moved(
    system: str, scores: Mapping[str, float], baseline: Mapping[str, float], texts: Mapping[str, str], count: int
) -> list[Moved]:
    """Return the queries that gained most and those that lost most, the furthest first."""
    by_gain = sorted(scores, key=lambda query: scores[query] - baseline[query])  # stable: ties in the order of the task
    gained = [query for query in reversed(by_gain) if scores[query] > baseline[query]][:count]
    lost = [query for query in by_gain if scores[query] < baseline[query]][:count]
    return [Moved(system, query, texts.get(query), baseline[query], scores[query]) for query in [*gained, *lost]]


def _caveats(rows: Sequence[Row], runs: Sequence[Run], alpha: float) -> list[str]:
    alone = [row.system for row in rows if len(row.seeds) == 1]
    said = []
    if alone:
        said.append(
            f"One seed only of {_named(alone, len(rows))}: the spread over training is unknown, "
            "and what is said holds for this trained model and not for its settings."
        )
    undecided = [row.system for row in rows if row.against is not None and row.against.holm_p > alpha]
    if undecided:
        said.append(
            f"Not shown to differ from {rows[0].system} at {alpha:g}: {_named(undecided, len(rows) - 1)}. "
            "That does not show that they are equal; the intervals say how far apart they may be."
        )
    commits = {run.commit for run in runs}
    if len(commits) > 1:
        said.append(
            f"The runs come from {len(commits)} states of the code, which may differ in more than the settings."
        )
    return said


def _named(systems: Sequence[str], of: int) -> str:
    """List some systems, or say how many they are where a list would hide the rest."""
    return "; ".join(systems) if len(systems) <= MOST_NAMED else f"{len(systems)} of {of} systems"
