"""Time `max_sim` with its gradient beside other libraries' and measure the memory of a large loss of tokens.

    OMP_NUM_THREADS=2 python -m benchmarks.max_sim --out benchmarks/results/max_sim-cpu.json [--pylate FOLDER]

Ours makes the vectors length 1 as well; the others get them so. PyLate and this project want different versions of
sentence-transformers: `pip install --no-deps --target FOLDER pylate==1.6.0`, and its module of scores alone is loaded.
Memory is what a process of its own has at its highest (maximum resident set size) beyond what it has with the inputs
made and every part of torch called once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.machine import machine
from contrastive.losses import InfoNCELoss
from contrastive.similarity import max_sim

Scores = Callable[[Tensor, Tensor], Tensor]
WIDTHS = (384, 128)


def inputs(texts: int, query_tokens: int, document_tokens: int, width: int) -> tuple[Tensor, Tensor]:
    """Make up queries and documents of so many tokens each, of length 1."""
    generator = torch.Generator().manual_seed(0)
    sides = (torch.randn(texts, tokens, width, generator=generator) for tokens in (query_tokens, document_tokens))
    queries, documents = (normalize(side, dim=-1) for side in sides)
    return queries.requires_grad_(), documents.requires_grad_()


def peers(pylate: str | None) -> dict[str, Scores]:
    """Return the scores of the libraries that are there."""
    found: dict[str, Scores] = {"contrastive": max_sim}
    try:
        from sentence_transformers.util.similarity import maxsim

        found[f"sentence-transformers {version('sentence-transformers')}"] = maxsim
    except (ImportError, PackageNotFoundError):
        pass
    if pylate is not None:
        folder = Path(pylate)
        for name in ("pylate", "pylate.scores", "pylate.utils"):  # their __init__ load far more
            package = types.ModuleType(name)
            package.__path__ = [str(folder.joinpath(*name.split(".")))]
            sys.modules[name] = package
        (information,) = folder.glob("pylate-*.dist-info")
        scores = importlib.import_module("pylate.scores.colbert").colbert_scores
        found[f"pylate {information.name.split('-')[1].removesuffix('.dist')}"] = scores
    return found


def seconds(compare: Scores, queries: Tensor, documents: Tensor, slopes: Tensor) -> float:
    """Time scores and their gradient once."""
    queries.grad = documents.grad = None
    started = time.perf_counter()
    (compare(queries, documents) * slopes).sum().backward()
    return time.perf_counter() - started


def timed(compared: dict[str, Scores], rounds: int) -> Iterator[dict[str, object]]:
    """Yield a row a width: every library's time in interleaved rounds, and how many times ours is as fast."""
    for width in WIDTHS:
        queries, documents = inputs(32, 16, 512, width)
        slopes = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
        found: dict[str, list[float]] = {name: [] for name in compared}
        for number in range(rounds + 1):
            for name, compare in compared.items():
                took = seconds(compare, queries, documents, slopes)
                if number:  # the first is a warm-up
                    found[name].append(took)
        ours = found["contrastive"]
        yield {
            "width": width,
            "milliseconds": {name: spread([1000 * each for each in took]) for name, took in found.items()},
            "times as fast": {
                name: spread([theirs / own for own, theirs in zip(ours, took, strict=True)])
                for name, took in found.items()
                if took is not ours
            },
        }


def spread(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles."""
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": round(median, 3), "lower quartile": round(low, 3), "upper quartile": round(high, 3)}


def resident() -> int:
    """Return the bytes that this process has in memory now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def memory(width: int) -> dict[str, float]:
    """Judge 1,024 queries of 16 tokens and as many documents of 256 both ways; return what it took."""
    loss = InfoNCELoss(similarity="max_sim", symmetric=True)
    loss(*inputs(4, 16, 256, width)).backward()
    queries, documents = inputs(1024, 16, 256, width)
    before, started = resident(), time.perf_counter()
    loss(queries, documents).backward()
    took, highest = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"width": width, "GiB": round((highest - before) / 2**30, 3), "seconds": round(took, 1)}


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pylate", help="a folder with PyLate in it")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory", type=int, metavar="WIDTH", help="measure the memory of one width in this process")
    parser.add_argument("--no-memory", action="store_true", help="times alone")
    given = parser.parse_args()
    if given.memory is not None:
        print(json.dumps(memory(given.memory)))
        return
    result = {"date": datetime.now(UTC).date().isoformat(), **machine()}
    result["32 x 32 x (16 x 512) with gradient"] = list(timed(peers(given.pylate), given.rounds))
    if not given.no_memory:
        calls = ([sys.executable, "-m", "benchmarks.max_sim", "--memory", str(width)] for width in WIDTHS)
        result["1,024 x 1,024 x (16 x 256) in a symmetric InfoNCE"] = [
            json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout) for call in calls
        ]
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
