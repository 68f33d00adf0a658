"""Compare runs: `python -m experiments.compare RUN_A RUN_B`, which system is better, by how much, and is it luck.

Runs that differ in their seed only are one system. The first is the baseline unless told otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from contrastive.data.whole_files import whole_file
from experiments import cli

if TYPE_CHECKING:
    from experiments.compare.comparison import Report

USAGE = """\
examples:
  python -m experiments.compare multirun/2026-11-26/10-00-00/*
  python -m experiments.compare outputs/A outputs/B --baseline before --metric recall@100
  python -m experiments.compare outputs/A outputs/B --baseline outputs/B --output comparison.md

Intervals and p-values are over queries and, where a system has several seeds, over trainings. An adjusted p-value
(Holm) is for claims: the chance that any difference at or below alpha is luck is at most alpha.
"""


def main(arguments: list[str] | None = None) -> None:
    """Compare, and show how the systems differ."""
    cli.start(lambda options: show(compare(options), options), parser().parse_args(arguments))


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    described = cli.parser("compare", "Compare finished runs query by query.", USAGE)
    add = described.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    add("--baseline", help="folder of a run, name of a system, before, BM25 or BM25+spelling (the first run)")
    add("--row", choices=["after", "hybrid"], default="after", help="what of each run is compared (%(default)s)")
    add("--metric", default="ndcg@10", help="a column of the per-query results (%(default)s)")
    add("--alpha", type=float, default=0.05, help="level of tests; intervals are at 1 - alpha (%(default)s)")
    add("--moved", type=int, default=3, metavar="N", help="queries to show that gained and lost most (%(default)s)")
    add("--common", action="store_true", help="where runs were judged on different queries, compare those in all")
    add("--different-data", action="store_true", help="compare runs on different data or splits all the same")
    add("--json", action="store_true", help="print everything as one JSON object instead")
    add("--output", type=Path, metavar="FILE", help="also write everything to FILE.md, or the table to FILE.csv")
    return described


def compare(options: argparse.Namespace) -> Report:
    """Read the runs and compare them."""
    from experiments.compare.comparison import comparison
    from experiments.compare.report import WRITERS

    if not 0 < options.alpha < 1:
        raise ValueError(f"expected --alpha between 0 and 1, got {options.alpha}")
    if options.moved < 0:
        raise ValueError(f"expected --moved of at least 0, got {options.moved}")
    if options.output is not None and options.output.suffix not in WRITERS:
        raise ValueError(f"expected --output to end in {' or '.join(WRITERS)}, got {options.output}")
    return comparison(
        options.runs,
        options.baseline,
        metric=options.metric,
        alpha=options.alpha,
        num_moved=options.moved,
        common=options.common,
        different_data=options.different_data,
    )


def show(report: Report, options: argparse.Namespace) -> None:
    """Print the comparison and write it where asked."""
    from rich.console import Console

    from experiments.compare.report import WRITERS, as_json, print_report

    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(options.output) as temporary:
            temporary.write_text(WRITERS[options.output.suffix](report), encoding="utf-8")
    if options.json:
        print(as_json(report))
    else:
        print_report(report, Console())


if __name__ == "__main__":
    main()
