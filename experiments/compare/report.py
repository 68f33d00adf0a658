"""The comparison of systems as a table in the terminal, as JSON, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.compare.comparison import Moved, Report, Row
from experiments.results.files import first_line

COLUMNS = ("system", "seeds", "mean", "difference", "p", "p, Holm", "effect size d")


def print_report(report: Report, console: Console) -> None:
    """Print the table, the queries that moved most, and what cannot be concluded."""
    table = Table(title=Text(_title(report)), title_justify="left")
    table.add_column("system", overflow="fold", min_width=12)
    for header in ("mean", "difference", "p\nHolm", "d"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in report.rows:
        name, seeds, mean, difference, p_value, holm, effect = _cells(row)
        named = f"{name}\n({seeds} seed{'' if seeds == '1' else 's'})" if row.seeds else f"{name}\n(not trained)"
        cells = (named, mean.replace(" [", "\n["), difference.replace(" [", "\n["), f"{p_value}\n{holm}", effect)
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print("d: mean difference in standard deviations over queries", markup=False, highlight=False)
    for system, moved in _by_system(report).items():
        console.print(f"\nQueries that moved most, {system}:", markup=False, highlight=False, soft_wrap=True)
        for query in moved:
            console.print(f"  {_line(query)}", markup=False, highlight=False, no_wrap=True, overflow="ellipsis")
    if report.caveats:
        console.print("\nWhat cannot be concluded:", markup=False, highlight=False)
        for caveat in report.caveats:
            console.print(f"  - {caveat}", markup=False, highlight=False, soft_wrap=True)


def as_json(report: Report) -> str:
    """Return everything as one JSON object, with null for a number that is infinite."""
    return json.dumps(_finite(asdict(report)), indent=2)


def as_markdown(report: Report) -> str:
    """Return everything as Markdown."""
    lines = [f"# {_title(report)}", "", *_markdown_table(COLUMNS, [_cells(row) for row in report.rows])]
    for system, moved in _by_system(report).items():
        cells = [[row.query_id, _text(row), *_scores(row)] for row in moved]
        lines += ["", f"Queries that moved most, {system}:", ""]
        lines += _markdown_table(("query", "text", "baseline", "score", "difference"), cells)
    if report.caveats:
        lines += ["", "What cannot be concluded:", "", *(f"- {caveat}" for caveat in report.caveats)]
    return "\n".join(lines) + "\n"


def as_csv(report: Report) -> str:
    """Return the table as CSV, all numbers in full."""
    rows = [_numbers(row, report) for row in report.rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[-1], lineterminator="\n")  # the last has all columns, the baseline has not
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


WRITERS = {".md": as_markdown, ".csv": as_csv}
"""How a report is written to a file, by the end of its name."""


def _title(report: Report) -> str:
    return (
        f"{report.metric} on {report.num_queries:,} queries, {100 * (1 - report.alpha):g} % intervals; "
        f"difference from {report.baseline}"
    )


def _cells(row: Row) -> list[str]:
    mean = f"{row.mean.mean:.3f} [{row.mean.low:.3f}, {row.mean.high:.3f}]"
    cells = [row.system, str(len(row.seeds)) if row.seeds else "-", mean]
    if row.against is None:
        return [*cells, "baseline", "", "", ""]
    found = row.against.comparison
    difference = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    p_values = (f"{value:.4f}" for value in (found.randomisation_p, row.against.holm_p))
    return [*cells, difference, *p_values, f"{found.effect_size:+.2f}"]


def _numbers(row: Row, report: Report) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "system": row.system,
        "seeds": " ".join(map(str, row.seeds)),
        "metric": report.metric,
        "queries": report.num_queries,
        "mean": row.mean.mean,
        "low": row.mean.low,
        "high": row.mean.high,
    }
    if row.against is None:
        return numbers
    found = row.against.comparison
    return numbers | {
        "baseline": report.baseline,
        "difference": found.mean,
        "difference_low": found.low,
        "difference_high": found.high,
        "randomisation_p": found.randomisation_p,
        "holm_p": row.against.holm_p,
        "benjamini_hochberg_p": row.against.screening_p,
        "t": found.t_test.statistic,
        "t_test_p": found.t_test.p_value,
        "effect_size_d": found.effect_size,
    }


def _by_system(report: Report) -> dict[str, list[Moved]]:
    found: dict[str, list[Moved]] = {}
    for row in report.moved:
        found.setdefault(row.system, []).append(row)
    return found


def _line(row: Moved) -> str:
    baseline, score, difference = _scores(row)
    return f"{difference} ({baseline} to {score})  {row.query_id}  {_text(row)}".rstrip()


def _text(row: Moved) -> str:
    return "" if row.text is None else first_line(row.text)


def _scores(row: Moved) -> tuple[str, str, str]:
    return f"{row.baseline:.3f}", f"{row.score:.3f}", f"{row.score - row.baseline:+.3f}"


def _markdown_table(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in rows)
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *escaped)]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
