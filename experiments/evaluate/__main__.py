"""Judge a model without training: `python -m experiments.evaluate --model outputs/... --data jobs`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from experiments.composing import MISTAKES, compose, said
from experiments.interruptions import exit_status, interruptible

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by torch on import; work on shared cores gets much faster

USAGE = """\
examples:
  python -m experiments.evaluate --model minilm
  python -m experiments.evaluate --model outputs/2026-11-23/10-00-00-infonce --data jobs --split dev
  python -m experiments.evaluate --model sentence-transformers/all-mpnet-base-v2 --data DIR
  python -m experiments.evaluate --model minilm --data jobs data.seed=1 encoder.max_length=128
"""


def main(arguments: list[str] | None = None) -> float:
    """Judge one model; print the table, write the results; return its nDCG@10."""
    options = parser().parse_args(arguments)
    console = logging.StreamHandler()
    console.setLevel(logging.INFO)  # bm25s sets its own logger to DEBUG, which only a handler can stop
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[console])
    try:
        with interruptible():
            return evaluate(options)
    except MISTAKES as error:
        sys.exit(f"error: {said(error)}")
    except KeyboardInterrupt as error:
        logging.getLogger(__name__).warning("interrupted")
        sys.exit(exit_status(error))


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    described = argparse.ArgumentParser(
        prog="python -m experiments.evaluate",
        description="Judge an encoder, beside BM25, by ranking a whole corpus.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    described.add_argument("--model", required=True, help="folder of a run, folder of a model, hub name, or minilm")
    described.add_argument(
        "--data",
        default="jobs",
        help="a file of pairs, a folder of them (train.*, ...) or in the BEIR layout, or a choice of configs/data",
    )
    described.add_argument("--split", default="test", choices=["dev", "test"], help="split to judge on (%(default)s)")
    described.add_argument("--query", default=None, help="also print the best documents for this query")
    described.add_argument("--output", type=Path, default=None, help="folder for the results (outputs/evaluations/...)")
    described.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ... (cuda if there is one, else cpu)")
    described.add_argument("overrides", nargs="*", metavar="name=value", help="values for the data and the encoder")
    return described


def evaluate(options: argparse.Namespace) -> float:
    """Build model and task, judge, write and print."""
    import torch
    from hydra.utils import instantiate
    from rich.console import Console

    from experiments.evaluate.judging import judge_bm25, judge_encoder
    from experiments.results import files as results

    config = compose(model=options.model, data=options.data, overrides=options.overrides)
    query = config.query if options.query is None else options.query
    data = instantiate(config.data)
    task = data.dev if options.split == "dev" else data.test
    if task is None:
        raise ValueError(f"expected data {data.name!r} to have a {options.split} split, it has none")
    encoder = instantiate(config.encoder).to(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    folder = options.output or Path("outputs") / "evaluations" / f"{Path(options.model).name}-{data.name}-{task.name}"
    folder.mkdir(parents=True, exist_ok=True)
    judged = {"BM25": judge_bm25(task, query)}
    judged["encoder"] = judge_encoder(encoder, task, judged["BM25"].rankings, query)
    for name, judgement in judged.items():
        results.write_system(folder, name, judgement.rankings, judgement.results)
    systems = {name: judgement.summary() for name, judgement in judged.items()}
    results.write_json(folder / "metrics.json", {"model": options.model, "task": task.name, "systems": systems})
    console = Console()
    title = (
        f"{options.model} on {data.name}, {task.name}: {len(task.queries):,} queries, {len(task.corpus):,} documents"
    )
    results.print_table(title, {name: judgement.results for name, judgement in judged.items()}, console)
    grades = {name: judgement.top_grades for name, judgement in judged.items()}
    results.print_top(query, {name: judgement.top for name, judgement in judged.items()}, console, grades)
    console.print(f"\nEverything is in {folder}", soft_wrap=True, markup=False, highlight=False)
    return judged["encoder"].results.means["ndcg@10"]


if __name__ == "__main__":
    main()
