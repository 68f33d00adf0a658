"""What came out of a sweep: a table with the best first, what failed and how to run it again, and files of both.

Seeds are averaged: jobs that differ in nothing but the seed are one row. The rows are in the order of the metric that
chose the weights, which comes from the dev split, and not of those on the split that is reported.
"""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from contrastive.data.whole_files import whole_file
from experiments.results.files import HEADLINE, write_json
from experiments.sweeps.expansion import STORE, Expansion
from experiments.sweeps.jobs import Job, monitored, read_report, state

_SEED = re.compile(r"(^|,)seed=\d+(?=,|$)")


@dataclass(frozen=True, slots=True)
class Row:
    """Finished jobs that differ in the seed alone.

    Attributes:
        name: What tells them from other rows.
        seeds: Theirs.
        monitored: Mean of the metric that chose the weights.
        metrics: Mean of each headline metric on the split that was judged.
        folders: Of the jobs.
    """

    name: str
    seeds: list[int]
    monitored: float
    metrics: dict[str, float]
    folders: list[str]


def rows(jobs: Sequence[Job]) -> list[Row]:
    """Return the rows of the finished jobs, the best first."""
    groups: dict[str, list[tuple[Job, dict[str, Any]]]] = {}
    for job in jobs:
        report = read_report(job.folder)
        if report.get("status") == "finished":
            name = _SEED.sub("", job.label).lstrip(",") or "all seeds"
            groups.setdefault(name, []).append((job, report))
    found = [_row(name, members) for name, members in groups.items()]
    return sorted(found, key=lambda row: row.monitored, reverse=True)


def _row(name: str, members: Sequence[tuple[Job, Mapping[str, Any]]]) -> Row:
    metrics = [report["systems"]["after"]["metrics"] for _, report in members]
    return Row(
        name,
        [job.config.seed for job, _ in members],
        fmean(monitored(dict(report))[1] for _, report in members),
        {name: fmean(each[name]["mean"] for each in metrics) for name in HEADLINE},
        [str(job.folder) for job, _ in members],
    )


def rerun_command(expansion: Expansion, job: Job) -> str:
    """Return the command that runs one job again, in its place in the store."""
    store = [text for text in expansion.arguments if text.startswith(f"{STORE}=")]
    return shlex.join(["python", "-m", "experiments.run", "-m", *job.overrides, *store])


def write(expansion: Expansion, failures: Mapping[str, str], interrupted: bool) -> Path:
    """Write `sweep.json`, `sweep.csv` and `runs.txt`; return their folder."""
    folder = expansion.root / "sweeps" / expansion.name
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [_record(expansion, job, failures) for job in expansion.jobs]
    content = {
        "name": expansion.name,
        "arguments": list(expansion.arguments),
        "interrupted": interrupted,
        "collapsed": list(expansion.collapsed),
        "rows": [asdict(row) for row in rows(expansion.jobs)],
        "jobs": jobs,
    }
    write_json(folder / "sweep.json", content)
    with whole_file(folder / "sweep.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["job", "seed", "state", "monitored", *HEADLINE, "folder"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**job, **job["metrics"]} for job in jobs)
    finished = [job["folder"] for job in jobs if job["state"] == "finished"]
    with whole_file(folder / "runs.txt") as temporary:
        temporary.write_text("".join(f"{_shown(Path(path))}\n" for path in finished), encoding="utf-8")
    return folder


def _record(expansion: Expansion, job: Job, failures: Mapping[str, str]) -> dict[str, Any]:
    """Return what is written of one job."""
    report = read_report(job.folder)
    finished = report.get("status") == "finished"
    metrics = report["systems"]["after"]["metrics"] if finished else {}
    return {
        "job": job.label,
        "seed": job.config.seed,
        "state": state(job.folder),
        "monitored": monitored(report)[1] if finished else None,
        "metrics": {name: metrics[name]["mean"] for name in HEADLINE if finished},
        "error": failures.get(job.id),
        "folder": str(job.folder),
        "command": rerun_command(expansion, job),
    }


def show(expansion: Expansion, failures: Mapping[str, str], folder: Path, console: Console) -> None:
    """Print the results, what was not run twice, what failed, and what to do next."""
    found = rows(expansion.jobs)
    if found:
        console.print(_results(found, expansion))
    for line in expansion.collapsed:
        _say(console, line)
    failed = [job for job in expansion.jobs if job.id in failures]
    if failed:
        console.print(_failures(failed, failures))
        _say(console, "Run them again, one at a time, or by the same sweep, which skips what is finished:")
        for job in failed:
            _say(console, f"  {rerun_command(expansion, job)}\n    its log: {_shown(job.folder / 'output.log')}")
    _say(console, f"\nAll of it is in {_shown(folder)}: sweep.json, sweep.csv")
    if len(found) > 1:
        runs = shlex.quote(str(_shown(folder / "runs.txt")))
        _say(console, f"Is it luck? python -m experiments.compare $(cat {runs})")


def _results(found: Sequence[Row], expansion: Expansion) -> Table:
    names = {monitored(read_report(Path(path)))[0] for row in found for path in row.folders}
    table = Table(
        title=Text(f"{expansion.name}: mean over seeds, the best first"), title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("job", overflow="fold")
    table.add_column("seeds", justify="right")
    for name in (names.pop() if len(names) == 1 else "monitored", *HEADLINE):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found:
        values = (row.monitored, *row.metrics.values())
        table.add_row(_breakable(row.name), str(len(row.seeds)), *(f"{value:.3f}" for value in values))
    return table


def _failures(failed: Sequence[Job], failures: Mapping[str, str]) -> Table:
    table = Table(title=f"{len(failed)} failed", title_justify="left", box=SIMPLE_HEAD)
    for name in ("job", "why"):
        table.add_column(name, overflow="fold")
    for job in failed:
        table.add_row(_breakable(job.label), Text("\n".join(failures[job.id].splitlines()[-5:])))
    return table


def _breakable(label: str) -> Text:
    """Return a label that is broken between its settings where it is too long for its column."""
    return Text(re.sub(r",(?=[+~]*[\w.@/]+=)", ", ", label))


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
