"""Training and encoding beside sentence-transformers: speed, tokens, memory, and the quality at the end.

    python -m benchmarks.training speed                         # data=jobs, batch 32: fp32 and bf16, then encoding
    python -m benchmarks.training speed --beir DIR --name NAME  # pairs of your own data
    python -m benchmarks.training speed --device cuda --batch-size 256 --name jobs-256 --steps 11
    python -m benchmarks.training quality                       # an epoch by each with 3 seeds, judged on the dev split

Steps of both are taken in turn, in rounds of other batches, so that a noisy machine disturbs both alike; the first step
of a round is warm-up. Gradients are compared before anything is timed, with dropout off; training is timed with dropout
on, as it is used. Peak memory is that of a process of its own for each, on a GPU what tensors take there. Results are
kept in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.cli import WAIT_POLICY

os.environ.setdefault(*WAIT_POLICY)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from benchmarks.machine import machine
from benchmarks.training_systems import Ours, Steps, Theirs
from contrastive.data import Record, RetrievalTask, beir
from contrastive.encoder import Encoder
from contrastive.evaluation import evaluate_rankings, rank
from contrastive.statistics import compare
from experiments.postings.generator import jobs
from experiments.results.files import write_json

RESULTS = Path(__file__).parent / "results"
SYSTEMS: dict[str, Callable[[str], Ours | Theirs]] = {"ours": Ours, "sentence-transformers": Theirs}
PRECISIONS = ("fp32", "bf16")


def main() -> None:
    """Measure what is asked for, print it and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "quality", "probe"])
    parser.add_argument("--beir", type=Path, help="a folder in the BEIR layout, in place of data=jobs")
    parser.add_argument("--name", default="jobs", help="name of the data in the result")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs in a batch (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each system and precision (%(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="steps of a round, the first not timed (%(default)s)")
    parser.add_argument("--texts", type=int, default=512, help="documents to encode (%(default)s)")
    parser.add_argument("--pairs", type=int, help="training pairs of the quality run; all if not given")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the quality run (%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("outputs/training"), help="where quality runs are kept")
    parser.add_argument("--system", choices=list(SYSTEMS), help="of a probe, which prints its peak memory")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of a probe")
    options = parser.parse_args()
    data = beir(options.beir) if options.beir else jobs()
    if options.what == "probe":
        SYSTEMS[options.system](options.device).train(
            data.train, options.batch_size, 2, bf16=options.precision == "bf16"
        )
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(torch.cuda.max_memory_allocated() / 2**20 if options.device == "cuda" else host)
        return
    head = {
        "date": date.today().isoformat(),
        "data": options.name,
        "batch_size": options.batch_size,
        **machine(options.device),
        "sentence_transformers": version("sentence-transformers"),
    }
    assert data.dev is not None
    if options.what == "speed":
        found = speed(data.train, list(data.dev.corpus.values())[: options.texts], options)
    else:
        found = quality(data.train[: options.pairs], data.dev, options)
    device = "" if options.device == "cpu" else f"-{options.device}"
    write_json(RESULTS / f"training-{options.what}-{options.name}{device}.json", {**head, **found})
    print(json.dumps(found, indent=2))


def speed(records: Sequence[Record], texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Time steps of both in turn, in each precision, and encoding."""
    systems = {name: make(options.device) for name, make in SYSTEMS.items()}
    some = records[: options.batch_size]
    gradients = [system.gradient([r.query for r in some], [r.positive for r in some]) for system in systems.values()]
    found: dict[str, Any] = {
        "gradient_difference": float((gradients[0] - gradients[1]).norm() / gradients[1].norm()),
        "peak_mib": {name: {p: _peak(name, p, options) for p in PRECISIONS} for name in systems},
        "encoding": encoding(systems, texts, options.rounds + 2),
        "training": {},
    }
    for precision in PRECISIONS:
        rounds: dict[str, list[Steps]] = {name: [] for name in systems}
        for seed in range(options.rounds):
            for name, system in systems.items():
                steps = system.train(records, options.batch_size, options.steps, bf16=precision == "bf16", seed=seed)
                rounds[name].append(steps)
                print(precision, name, [round(s, 2) for s in steps.seconds], steps.padded, steps.real, flush=True)
        found["training"][precision] = _summary(rounds, options.batch_size)
    fp32, bf16 = (found["training"][precision]["ours"]["pairs_per_second"] for precision in PRECISIONS)
    found["ours_bf16_over_fp32"] = bf16 / fp32
    return found


def encoding(systems: dict[str, Ours | Theirs], texts: list[str], rounds: int) -> dict[str, Any]:
    """Time the encoding of documents by both in turn."""
    embedded = [system.encode(texts) for system in systems.values()]
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, system in systems.items():
            start = time.perf_counter()
            system.encode(texts)
            seconds[name].append(time.perf_counter() - start)
    ours, theirs = seconds.values()
    return {
        "texts": len(texts),
        "largest_difference": float(np.abs(embedded[0] - embedded[1]).max()),
        "seconds": {name: _spread(values) for name, values in seconds.items()},
        "speedup": _spread([slow / fast for fast, slow in zip(ours, theirs, strict=True)]),
    }


def quality(records: Sequence[Record], dev: RetrievalTask, options: argparse.Namespace) -> dict[str, Any]:
    """Train an epoch by each with several seeds and compare how they rank the dev task; models are kept."""
    per_query: dict[str, list[list[float]]] = {}
    for name, make in SYSTEMS.items():
        for precision in PRECISIONS if name == "ours" else PRECISIONS[:1]:
            for seed in range(options.seeds):
                folder = options.runs / f"{options.name}-{name}-{precision}-{seed}"
                if not folder.exists():
                    system = make(options.device)
                    steps = -(-len(records) // options.batch_size)
                    system.train(records, options.batch_size, steps, bf16=precision == "bf16", seed=seed)
                    system.save(folder)
                results = evaluate_rankings(rank(Encoder.from_pretrained(folder, max_length=256), dev), dev)
                scores = [cell["ndcg@10"] for cell in results.per_query.values()]
                per_query.setdefault(f"{name}, {precision}", []).append(scores)
                print(name, precision, seed, round(float(np.mean(scores)), 4), flush=True)
    theirs = per_query["sentence-transformers, fp32"]
    differences = {name: compare(scores, theirs) for name, scores in per_query.items() if name.startswith("ours")}
    return {
        "metric": "ndcg@10",
        "queries": len(theirs[0]),
        "means": {name: [float(np.mean(seed)) for seed in scores] for name, scores in per_query.items()},
        "minus_sentence_transformers": {
            name: {"mean": d.mean, "low": d.low, "high": d.high, "p": d.randomisation_p}
            for name, d in differences.items()
        },
    }


def _summary(rounds: dict[str, list[Steps]], batch_size: int) -> dict[str, Any]:
    """Put speeds, tokens and the speed-up, step by step of the same batch, together."""
    seconds = {name: [s for steps in done for s in steps.seconds] for name, done in rounds.items()}
    steps = {name: sum(len(one.seconds) + 1 for one in done) for name, done in rounds.items()}
    table: dict[str, Any] = {
        name: {
            "seconds": _spread(seconds[name]),
            "pairs_per_second": batch_size / statistics.median(seconds[name]),
            "real_tokens_per_second": sum(one.real for one in done) / steps[name] / statistics.median(seconds[name]),
            "padded_tokens_per_step": sum(one.padded for one in done) / steps[name],
            "real_tokens_per_step": sum(one.real for one in done) / steps[name],
        }
        for name, done in rounds.items()
    }
    ours, theirs = SYSTEMS
    table["speedup"] = _spread([slow / fast for fast, slow in zip(seconds[ours], seconds[theirs], strict=True)])
    table["token_ratio"] = table[theirs]["padded_tokens_per_step"] / table[ours]["padded_tokens_per_step"]
    return table


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _peak(system: str, precision: str, options: argparse.Namespace) -> float:
    """Return the peak memory of a process that trains two steps, MiB."""
    command = [sys.executable, "-m", "benchmarks.training", "probe", "--system", system, "--precision", precision]
    command += ["--device", options.device, "--batch-size", str(options.batch_size)]
    command += [*(["--beir", str(options.beir)] if options.beir else [])]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
