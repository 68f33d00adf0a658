"""What batches cost that are larger than memory: time and peak memory of cached and plain steps, ours and theirs.

    python -m benchmarks.cached                       # all of it, some ten minutes of one core
    python -m benchmarks.cached --pairs 128           # time another batch
    python -m benchmarks.cached --memory              # the memory alone; the times of the result stay

Theirs is sentence-transformers' `CachedMultipleNegativesRankingLoss` beside its plain loss, with micro-batches of as
many tokens as ours. A step is both passes of a batch with dropout on, without the optimiser. Seconds are those of the
processor, of one thread, which others that share the machine lengthen least. The four take the same batches in turn;
the first round is not counted. Each peak of memory is that
of a process of its own, which takes one step of one batch size, above that of the loaded model (Linux alone); what is
freed goes back to the system at once there, or the peak would be that of what the C library keeps. The result is kept
in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.cli import WAIT_POLICY

os.environ.setdefault(*WAIT_POLICY)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from transformers import BertConfig, BertModel, BertTokenizerFast

from benchmarks.machine import machine
from contrastive.encoder import Encoder, embedded_minilm
from contrastive.losses import MultipleNegativesRankingLoss
from experiments.postings.generator import jobs
from experiments.results.files import write_json

RESULT = Path(__file__).parent / "results/cached-cpu.json"
BUDGET = 512
TOKENS = 32
"""Of a text, at most: batches are large, not texts."""
SIZES = {"tiny": (32, 2048, 8192), "minilm": (32, 128, 512)}
SYSTEMS = ("ours plain", "ours cached", "theirs plain", "theirs cached")
LARGEST = {"tiny, plain": 2048, "minilm, plain": 128, "tiny, cached": 8192, "minilm, cached": 512}
"""Pairs of a batch up to which a model is tried."""

Step = Callable[[list[str], list[str]], None]


def main() -> None:
    """Measure, print and write; or take the steps of one process and print its peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64, help="pairs of the timed batches (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="timed steps of each (%(default)s)")
    parser.add_argument("--memory", action="store_true", help="measure the memory alone")
    parser.add_argument("--probe", nargs=3, metavar=("SYSTEM", "MODEL", "PAIRS"), help="print the peak of a process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.probe:
            system, model, pairs = options.probe
            print(peak(make(system, model, Path(folder)), int(pairs)))
            return
        content = json.loads(RESULT.read_text()) if options.memory else times(Path(folder), options)
    content["peak_mib"] = {}
    for model, sizes in SIZES.items():
        for system in sorted(SYSTEMS, key=lambda name: not name.endswith("cached")):
            peaks = {n: probe(system, model, n) for n in sizes if n <= LARGEST[f"{model}, {system.split()[1]}"]}
            content["peak_mib"].setdefault(model, {})[system] = peaks
            print(model, system, peaks, flush=True)
            write_json(RESULT, content)


def times(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time all systems, print and write; return the result so far."""
    seconds = timed({name: make(name, "minilm", folder) for name in SYSTEMS}, options.pairs, options.rounds)
    content = {
        "date": date.today().isoformat(),
        **machine(),
        "sentence_transformers": version("sentence-transformers"),
        "note": "seconds of the processor, one thread, on a machine that others used at the same time",
        "tokens_per_micro_batch": BUDGET,
        "tokens_per_text": TOKENS,
        "time": {"model": "minilm", "pairs": options.pairs, **summary(seconds)},
    }
    print(content["time"], flush=True)
    write_json(RESULT, content)
    return content


def make(system: str, model: str, folder: Path) -> Step:
    """Make what takes a step of a system with a model."""
    path = embedded_minilm() if model == "minilm" else tiny(folder)
    whose, how = system.split()
    torch.manual_seed(0)
    return ours(path, cached=how == "cached") if whose == "ours" else theirs(path, cached=how == "cached")


def ours(path: Path, *, cached: bool) -> Step:
    """Return a step of `Encoder` and our loss."""
    encoder = Encoder.from_pretrained(path, max_length=TOKENS, tokens_per_batch=BUDGET).train()
    loss = MultipleNegativesRankingLoss(scale=20)

    def step(queries: list[str], documents: list[str]) -> None:
        encoder.zero_grad()
        loss(*encoder.embed_sides(queries, documents, cached=cached)).backward()

    return step


def theirs(path: Path, *, cached: bool) -> Step:
    """Return a step of sentence-transformers."""
    model = SentenceTransformer(str(path), device="cpu")
    model.max_seq_length = TOKENS
    model.train()
    loss = (
        losses.CachedMultipleNegativesRankingLoss(model, scale=20, mini_batch_num_tokens=BUDGET)
        if cached
        else losses.MultipleNegativesRankingLoss(model, scale=20)
    )

    def step(queries: list[str], documents: list[str]) -> None:
        model.zero_grad()
        sides = [
            {name: value for name, value in model.preprocess(texts).items() if torch.is_tensor(value)}
            for texts in (queries, documents)
        ]
        loss(sides, torch.tensor([])).backward()

    return step


def tiny(folder: Path) -> Path:
    """Write a random BERT of two layers of width 64 with MiniLM's tokenizer."""
    tokenizer = BertTokenizerFast.from_pretrained(embedded_minilm())
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    return folder / "tiny"


def batch(pairs: int, number: int = 0) -> tuple[list[str], list[str]]:
    """Return the queries and documents of a batch; those of one are all different, of shuffled words if need be."""
    records = jobs().train
    rows = [(number * pairs + i) % len(records) for i in range(pairs)]
    queries = [f"{i} {records[row].query}" for i, row in enumerate(rows)]
    return queries, [f"{i} {records[row].positive[:400]}" for i, row in enumerate(rows)]


def timed(steps: dict[str, Step], pairs: int, rounds: int) -> dict[str, list[float]]:
    """Take steps in turn, and return the seconds of each but those of the first round."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        texts = batch(pairs, number)
        for name, step in steps.items():
            began = time.process_time()
            step(*texts)
            seconds[name].append(time.process_time() - began)
        print({name: round(taken[-1], 2) for name, taken in seconds.items()}, flush=True)
    return {name: taken[1:] for name, taken in seconds.items()}


def summary(seconds: dict[str, list[float]]) -> dict[str, object]:
    """Return medians, and what cached steps take over plain ones of the same batch."""
    return {
        "median_seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
        "cached_over_plain": {
            whose: {
                "median": statistics.median(ratios(seconds, whose)),
                "min": min(ratios(seconds, whose)),
                "max": max(ratios(seconds, whose)),
            }
            for whose in ("ours", "theirs")
        },
    }


def ratios(seconds: dict[str, list[float]], whose: str) -> list[float]:
    """Return what each cached step took over the plain one beside it."""
    return [c / p for c, p in zip(seconds[f"{whose} cached"], seconds[f"{whose} plain"], strict=True)]


def peak(step: Step, pairs: int) -> float:
    """Return the peak memory of this process above what it had before a step, MiB."""
    texts = batch(pairs)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak that loading had
    step(*texts)
    return round(resident("VmHWM") - before, 1)


def resident(which: str) -> float:
    """Return the memory of this process, or its peak, MiB; `ru_maxrss` begins with that of the parent."""
    found = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def probe(system: str, model: str, pairs: int) -> float:
    """Measure the peak in a process of its own."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "benchmarks.cached", "--probe", system, model, str(pairs)]
    return float(
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()[-1]
    )


if __name__ == "__main__":
    main()
