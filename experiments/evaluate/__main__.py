"""Judge a model without training: `python -m experiments.evaluate --model outputs/... --data jobs`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from experiments import cli
from experiments.composing import compose

USAGE = """\
examples:
  python -m experiments.evaluate --model minilm
  python -m experiments.evaluate --model outputs/2026-11-23/10-00-00-infonce --data jobs --split dev
  python -m experiments.evaluate --model sentence-transformers/all-mpnet-base-v2 --data DIR
  python -m experiments.evaluate --model minilm --data jobs data.seed=1 encoder.max_length=128
"""


log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> float | None:
    """Judge one model; print the table, write the results; return its nDCG@10."""
    return cli.start(evaluate, parser().parse_args(arguments), heard=("contrastive", "experiments"))


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    described = cli.parser("evaluate", "Judge an encoder, beside BM25, by ranking a whole corpus.", USAGE)
    cli.add_model(described, required=True)
    cli.add_data(described)
    described.add_argument("--split", default="test", choices=["dev", "test"], help="split to judge on (%(default)s)")
    described.add_argument("--query", default=None, help="also print the best documents for this query")
    described.add_argument("--output", type=Path, default=None, help="folder for the results (outputs/evaluations/...)")
    cli.add_cache(described)
    cli.add_device(described)
    described.add_argument("overrides", nargs="*", metavar="name=value", help=cli.OVERRIDES)
    return described


def evaluate(options: argparse.Namespace) -> float:
    """Build model and task, judge, write and print."""
    from hydra.utils import instantiate
    from rich.console import Console

    from experiments.evaluate.baselines import WORD_MATCHING
    from experiments.evaluate.hybrids import WORDS, hybrid_of, judge_hybrid
    from experiments.evaluate.judging import judge_bm25, judge_encoder
    from experiments.results import files as results

    config = compose(model=options.model, data=options.data, overrides=options.overrides)
    query = config.query if options.query is None else options.query
    data = instantiate(config.data)
    task = data.dev if options.split == "dev" else data.test
    if task is None:
        raise ValueError(f"expected data {data.name!r} to have a {options.split} split, it has none")
    encoder = cli.on_device(instantiate(config.encoder), options.device)
    encoder.weigh_queries(list(task.corpus.values()))  # where it is to, and was not by its training
    hybrid = hybrid_of(options.model)
    folder = options.output or Path("outputs") / "evaluations" / f"{Path(options.model).name}-{data.name}-{task.name}"
    folder.mkdir(parents=True, exist_ok=True)
    judged = {name: judge_bm25(task, query, spelling=spelling) for name, spelling in WORD_MATCHING.items()}
    cache = cli.embedding_cache(options)
    judged["encoder"] = judge_encoder(encoder, task, judged["BM25"].rankings, query, cache=cache)
    if hybrid is None:
        log.info("No row of a hybrid: there is no hybrid.json with the model. A run fits one on its dev split")
    else:
        judged["hybrid"] = judge_hybrid(hybrid, judged[WORDS], judged["encoder"], task, query)
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
    if hybrid is not None:
        console.print(f"hybrid: {hybrid}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"\nEverything is in {folder}", soft_wrap=True, markup=False, highlight=False)
    return judged["encoder"].results.means["ndcg@10"]


if __name__ == "__main__":
    main()
