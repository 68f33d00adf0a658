"""What an index of real postings takes, and that it ranks as evaluation does, for any number of models.

    python -m benchmarks.index --data DIR --folder DIR tokens=outputs/... one_vector=outputs/... untuned=minilm

Each model embeds the corpus once, into a cache under --folder. Its index is built there and opened, and every query of
the split is asked alone, of the encoder and, if the model has a hybrid, of that. The ranking of the index is judged
beside that of `contrastive.evaluation`. The result is kept in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from experiments.cli import WAIT_POLICY

os.environ.setdefault(*WAIT_POLICY)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from benchmarks.machine import machine
from contrastive.data import RetrievalTask, beir
from contrastive.encoder import Encoder
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.evaluation import Rankings, embed, evaluate_rankings, rank_embedded
from contrastive.search import Posting, SearchIndex, build_index, open_index
from contrastive.search.contracts import System
from experiments.composing import compose
from experiments.evaluate.hybrids import hybrid_of
from experiments.results.files import write_json

DEPTH = 100
METRICS = ("ndcg@10", "recall@100")


def main() -> None:
    """Build, ask, judge, print and write, model after model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL", help="a name, and a run's folder or a model's")
    parser.add_argument("--data", type=Path, required=True, help="a folder in the BEIR layout")
    parser.add_argument("--split", choices=["dev", "test"], default="dev", help="whose queries (%(default)s)")
    parser.add_argument("--folder", type=Path, required=True, help="where indexes and embeddings are kept")
    options = parser.parse_args()
    data = beir(options.data)
    task = data.test if options.split == "test" else data.dev
    assert task is not None
    content = {"date": date.today().isoformat(), **machine(), "data": data.name, "split": options.split}
    content |= {"queries": len(task.queries), "postings": len(task.corpus), "models": {}}
    result = Path(__file__).parent / f"results/index-{data.name}-{options.split}.json"
    for given in options.models:
        name, _, model = given.partition("=")
        content["models"][name] = measured(model, task, options.folder / name)
        print(name, content["models"][name], flush=True)
        write_json(result, content)


def measured(model: str, task: RetrievalTask, folder: Path) -> dict[str, Any]:
    """Return what the index of a model takes, and the means of its ranking beside those of evaluation."""
    from hydra.utils import instantiate

    encoder: Encoder = instantiate(compose(model=model).encoder)
    cache = EmbeddingCache(folder / "cache")
    evaluated = evaluate_rankings(rank_embedded(embed(encoder, task, cache=cache), task), task).means
    postings = [Posting(id_, text) for id_, text in task.corpus.items()]
    build_index(folder / "index", encoder, postings, cache=cache)
    size = sum(file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file())
    began = time.perf_counter()
    hybrid = hybrid_of(model)
    index = open_index(folder / "index", encoder, weights=None if hybrid is None else hybrid.weights)
    opened = time.perf_counter() - began
    systems: Sequence[System] = ("encoder",) if hybrid is None else ("encoder", "hybrid")
    asked = {system: ask(index, task, system) for system in systems}
    return {
        "representation": encoder.representation,
        "similarity": encoder.similarity,
        "kilobytes_a_posting": round(size / len(postings) / 1000, 2),
        "seconds_to_open": round(opened, 3),
        "evaluation": {metric: evaluated[metric] for metric in METRICS},
        "weights": None if hybrid is None else hybrid.weights,
        "index": asked,
        "encoder_equals_evaluation": all(asked["encoder"][metric] == evaluated[metric] for metric in METRICS),
    }


def ask(index: SearchIndex, task: RetrievalTask, system: System) -> dict[str, float]:
    """Ask every query alone; return the means of the ranking, and percentiles of the time, embedding included."""
    documents: dict[str, list[str]] = {}
    scores: dict[str, list[float]] = {}
    seconds = []
    index.search(["warm"], DEPTH, passages=False, system=system)
    for id_, query in task.queries.items():
        began = time.perf_counter()
        (hits,) = index.search([query], DEPTH, passages=False, system=system)
        seconds.append(time.perf_counter() - began)
        documents[id_], scores[id_] = [hit.id for hit in hits], [hit.score for hit in hits]
    means = evaluate_rankings(Rankings(documents, scores), task).means
    return {
        **{metric: means[metric] for metric in METRICS},
        "p50_ms": round(1000 * statistics.median(seconds), 1),
        "p99_ms": round(1000 * float(np.percentile(seconds, 99)), 1),
    }


if __name__ == "__main__":
    main()
