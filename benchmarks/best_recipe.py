"""Judge runs of the best recipe, several seeds of it, beside word matching and the untuned encoder.

    python -m experiments.run experiment=best data=beir data.path=DIR judge=dev seed=0    # and 1, and 2
    python -m benchmarks.best_recipe RUN RUN RUN --data DIR --split test

Per seed: the encoder as it is asked, the encoder asked with unknown words put right, and the hybrid, fitted on dev. The
untuned encoder reads as the trained ones do. Seeds are averaged a query first; differences are paired over the queries.
The result is kept in benchmarks/results/; the test split is to be scored once.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmarks.machine import machine
from benchmarks.main_path import PerQuery, cell, intervals, mean_of, show
from contrastive.data import TextData, beir
from contrastive.encoder import load_encoder
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.evaluation import Results, embed, evaluate_rankings, fit_hybrid, rank_embedded
from contrastive.evaluation.hybrid_file import ENCODER, WORDS
from contrastive.statistics import paired_difference
from experiments.evaluate.baselines import WORD_MATCHING
from experiments.evaluate.hybrids import judge_hybrid
from experiments.evaluate.judging import judge_bm25, judge_encoder, put_right
from experiments.results.files import HEADLINE, write_json


def main() -> None:
    """Judge, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs, a seed each")
    parser.add_argument("--data", type=Path, required=True, help="folder in the BEIR layout")
    parser.add_argument("--split", choices=["dev", "test"], default="dev", help="what is judged (%(default)s)")
    parser.add_argument("--cache", type=Path, help="folder of embeddings that the runs have used")
    parser.add_argument("--name", default="best_recipe", help="beginning of the result's name (%(default)s)")
    options = parser.parse_args()
    data, cache = beir(options.data), EmbeddingCache(options.cache) if options.cache else None
    systems, hybrids = judged(options.runs, data, options.split, cache)
    paths = ("data.path=", "cache=", "folder=")
    commands = {name_of(run): [word for word in command_of(run) if not word.startswith(paths)] for run in options.runs}
    content = {
        "date": date.today().isoformat(),
        **machine(),
        "split": options.split,
        "commands": commands,
        "hybrids": hybrids,
        "systems": {name: intervals(rows) for name, rows in systems.items()},
        "differences": differences(systems),
    }
    write_json(Path(__file__).parent / "results" / f"{options.name}-{options.split}.json", content)
    show(content)
    print("\n".join(f"{run}: {hybrid['said']}" for run, hybrid in hybrids.items()))


def judged(
    runs: list[Path], data: TextData, split: str, cache: EmbeddingCache | None
) -> tuple[dict[str, PerQuery], dict[str, Any]]:
    """Return the metrics of every query by system, with the means over the seeds, and what each hybrid is."""
    task = data.dev if split == "dev" else data.test
    if data.dev is None or task is None:
        raise ValueError(f"expected {data.name} to have the splits dev and {split}")
    query = str(yaml.safe_load((runs[0] / "config.yaml").read_text())["query"])
    words = {name: judge_bm25(task, query, spelling=spelling) for name, spelling in WORD_MATCHING.items()}
    on_dev = {name: judge_bm25(data.dev, query, spelling=spelling) for name, spelling in WORD_MATCHING.items()}
    systems = {name: per_query(judgement.results) for name, judgement in words.items()}
    untuned = instantiate(OmegaConf.load(runs[0] / "config.yaml").encoder)
    untuned.weigh_queries(list(task.corpus.values()))
    systems["untuned"] = per_query(judge_encoder(untuned, task, words["BM25"].rankings, query, cache=cache).results)
    by_seed: dict[str, list[PerQuery]] = {"encoder": [], "encoder, words put right": [], "hybrid": []}
    hybrids = {}
    for run in runs:
        encoder = load_encoder(run / "model")
        embeddings = embed(encoder, data.dev, cache=cache)
        of_encoder = put_right(encoder, embeddings, data.dev, rank_embedded(embeddings, data.dev))
        hybrid = fit_hybrid({WORDS: on_dev[WORDS].rankings, ENCODER: of_encoder}, data.dev)
        hybrids[name_of(run)] = {**asdict(hybrid), "said": str(hybrid)}
        judgement = judge_encoder(encoder, task, words["BM25"].rankings, query, cache=cache)
        assert judgement.put_right is not None
        mixed = judge_hybrid(hybrid, words[WORDS], judgement, task, query)
        right = evaluate_rankings(judgement.put_right[0], task)
        for rows, results in zip(by_seed.values(), (judgement.results, right, mixed.results), strict=True):
            rows.append(per_query(results))
    for name, rows in by_seed.items():
        systems |= {f"{name}, {name_of(run)}": of_run for run, of_run in zip(runs, rows, strict=True)}
        systems[f"{name}, mean of {len(rows)}"] = mean_of(rows)
    return systems, hybrids


def name_of(run: Path) -> str:
    """Return a run's seed."""
    return f"seed {yaml.safe_load((run / 'config.yaml').read_text())['seed']}"


def command_of(run: Path) -> list[str]:
    """Return the words of a run's command."""
    command: list[str] = json.loads((run / "metrics.json").read_text()).get("command") or []
    return command


def per_query(results: Results) -> PerQuery:
    """Return the headline metrics of every query."""
    return {query: {metric: values[metric] for metric in HEADLINE} for query, values in results.per_query.items()}


def differences(systems: dict[str, PerQuery]) -> dict[str, Any]:
    """Return the paired differences of the means over the seeds from word matching and from the untuned encoder."""
    means = [name for name in systems if ", mean of" in name]
    return {
        f"{name} - {other}": {
            metric: cell(
                paired_difference(*([systems[one][query][metric] for query in systems[other]] for one in (name, other)))
            )
            for metric in HEADLINE
        }
        for name in means
        for other in (*WORD_MATCHING, "untuned")
    }


if __name__ == "__main__":
    main()
