"""Time and memory of mining hard negatives beside sentence-transformers' `mine_hard_negatives`, on the same embeddings.

    python -m benchmarks.mining                          # 2,425 and 100,000 documents, as many queries
    python -m benchmarks.mining --documents 2425         # one size; the other stays in the result as it was
    python -m benchmarks.mining --documents 100000 --queries 10000 --rounds 3
    python -m benchmarks.mining --device cuda --threads 16

Embeddings are unit vectors of width 384 around random centres, texts have 100 words; both libraries get the embeddings
from a stub for an encoder, and the texts and what they make of them are part of the work. Asked for are the 4 hardest
of the first 100 that score at most 95 % of the positive. sentence-transformers runs with its default block of 16,384
queries, with one of 1,024, and with FAISS if that is installed; on a GPU it still multiplies on the CPU, as embeddings
are NumPy arrays by then (6.2.0). Each contestant first runs once in a process of its own for its memory: the peak above
what inputs and imports take. Then all are timed in turn, round after round, so that a noisy machine disturbs all alike.
The result is kept in benchmarks/results/ and says how far the negatives agree.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as experiments.run does

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import machine
from contrastive.data import Record
from contrastive.negatives import Dense, Filters, Mined
from contrastive.training import ContrastiveData
from contrastive.training.callbacks import MineNegatives
from experiments.results.files import write_json

WIDTH, WORDS, COUNT, DEPTH, MARGIN = 384, 100, 4, 100, 0.05
SIZES = (2425, 100_000)
RESULTS = Path(__file__).parent / "results"


class Inputs:
    """Texts and their embeddings."""

    def __init__(self, documents: int, queries: int, device: str = "cpu") -> None:
        self.device = torch.device(device)
        random = np.random.default_rng(0)
        centres = random.standard_normal((max(1, documents // 50), WIDTH), dtype=np.float32)
        of = random.integers(len(centres), size=documents)
        # At a cosine of about 0.7 to its centre and 0.8 to its query a positive is often, and not always, the closest.
        near = centres[of] + random.standard_normal((documents, WIDTH), dtype=np.float32)
        asked = near[:queries] + 0.75 * random.standard_normal((queries, WIDTH), dtype=np.float32)
        words = np.array([f"word{number}" for number in range(5000)])
        drawn = words[random.integers(len(words), size=(documents, WORDS))]
        self.texts = [" ".join(row) for row in drawn]
        self.queries = [f"query {number}" for number in range(queries)]
        vectors = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (near, asked)]
        self._rows = dict(zip([*self.texts, *self.queries], np.concatenate(vectors), strict=True))

    def rows(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings of texts."""
        return np.stack([self._rows[text] for text in texts])


class Stub:
    """Stands in for an encoder of either library."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.device = inputs.device

    def encode(self, texts: Sequence[str], **_: Any) -> torch.Tensor:
        """Embed for us."""
        return torch.from_numpy(self.inputs.rows(texts)).to(self.device)

    def encode_query(self, texts: Sequence[str], **_: Any) -> NDArray[np.float32]:
        """Embed for sentence-transformers."""
        return self.inputs.rows(texts)

    encode_document = encode_query

    def similarity(self, left: Any, right: Any) -> torch.Tensor:
        """Score as sentence-transformers does with `similarity_fn_name="dot"`, its fastest."""
        from sentence_transformers.util import dot_score

        return dot_score(left, right)

    def similarity_pairwise(self, left: Any, right: Any) -> torch.Tensor:
        """Score pairs in the same way."""
        from sentence_transformers.util import pairwise_dot_score

        return pairwise_dot_score(left, right)

    def get_embedding_dimension(self) -> int:
        """Return the width, for FAISS."""
        return WIDTH


Found = list[set[str]]
"""Texts of the negatives of each query."""


def ours(inputs: Inputs) -> Found:
    """Mine with this library, from records to records."""
    filters = Filters(max_rank=DEPTH, relative_margin=MARGIN, near_duplicate=None)  # the other does not look for them
    return _ours(inputs, filters)


def ours_with_near_duplicates(inputs: Inputs) -> Found:
    """The same with the filter of near-duplicates, which is on unless told otherwise."""
    return _ours(inputs, Filters(max_rank=DEPTH, relative_margin=MARGIN))


def _ours(inputs: Inputs, filters: Filters) -> Found:
    records = [
        Record(query, text, query_id=f"q{number}", positive_id=f"d{number}")
        for number, (query, text) in enumerate(zip(inputs.queries, inputs.texts, strict=False))
    ]
    # Documents that answer no query come as the negatives of one.
    rest = inputs.texts[len(records) :]
    names = tuple(f"d{number}" for number in range(len(records), len(inputs.texts)))
    owner = Record("owner of the rest", "owner", tuple(rest), "owner", "owner", names)
    items = [*records, owner] if rest else records
    if rest:
        inputs._rows.setdefault(owner.query, inputs._rows[inputs.queries[0]])
        inputs._rows.setdefault(owner.positive, -inputs._rows[inputs.queries[0]])
    strategy = Mined(Dense(Stub(inputs)), count=COUNT, filters=filters)  # type: ignore[arg-type]
    negatives = MineNegatives(ContrastiveData(items, None), strategy)
    negatives.choose(None)
    return [set(record.negatives) for record in negatives.data.records[: len(records)]]


def theirs(inputs: Inputs, *, block: int = 16_384, faiss: bool = False) -> Found:
    """Mine with sentence-transformers."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    pairs = Dataset.from_dict({"query": inputs.queries, "positive": inputs.texts[: len(inputs.queries)]})
    mined = mine_hard_negatives(
        pairs,
        Stub(inputs),  # type: ignore[arg-type]
        corpus=inputs.texts,
        range_max=DEPTH,
        relative_margin=MARGIN,
        num_negatives=COUNT,
        faiss_batch_size=block,
        use_faiss=faiss,
        verbose=False,
    )
    found: dict[str, set[str]] = {query: set() for query in inputs.queries}
    for query, negative in zip(mined["query"], mined["negative"], strict=True):
        found[query].add(negative)
    return list(found.values())


CONTESTANTS: dict[str, Callable[[Inputs], Found]] = {
    "contrastive": ours,
    "contrastive, near-duplicates refused": ours_with_near_duplicates,
    "sentence-transformers": theirs,
    "sentence-transformers, blocks of 1,024": partial(theirs, block=1024),
}
if importlib.util.find_spec("faiss"):
    CONTESTANTS["sentence-transformers, FAISS"] = partial(theirs, faiss=True)


def main() -> None:
    """Measure, print and write."""
    options = parse()
    torch.set_num_threads(options.threads)
    if options.probe:
        print(json.dumps(probe(options)))
        return
    path = options.output / f"mining-{options.device}.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    cases = content.get("cases", {})
    for documents in options.documents:
        queries = min(options.queries or documents, documents)
        name = f"{queries:,} queries, {documents:,} documents"
        print(name)
        cases[name] = {
            "date": date.today().isoformat(),
            **machine(options.device),
            "contestants": measure(documents, queries, options),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"width": WIDTH, "words": WORDS, "count": COUNT, "depth": DEPTH, "cases": cases})
    print(f"written: {path}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=SIZES, metavar="N", help="sizes (%(default)s)")
    parser.add_argument("--queries", type=int, metavar="Q", help="queries (as many as documents)")
    parser.add_argument("--rounds", type=int, help="timed rounds (7, and 3 above 20,000 documents)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--probe", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(documents: int, queries: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return time, memory and agreement of all contestants."""
    memory = {name: probed(name, documents, queries, options) for name in CONTESTANTS}
    few, inputs = Inputs(256, 256, options.device), Inputs(documents, queries, options.device)
    for contestant in CONTESTANTS.values():  # imports and first use are not what is measured
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            contestant(few)
    reference = ours(inputs)
    rounds = options.rounds or (3 if documents > 20_000 else 7)
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    agreement = {}
    for _ in range(rounds):
        for name, contestant in CONTESTANTS.items():
            gc.collect()
            start = time.perf_counter()
            with contextlib.redirect_stderr(io.StringIO()):
                found = contestant(inputs)
            seconds[name].append(time.perf_counter() - start)
            agreement[name] = agreed(reference, found)
    rows = {
        name: {
            "median_seconds": statistics.median(seconds[name]),
            "min_seconds": min(seconds[name]),
            "max_seconds": max(seconds[name]),
            "rounds": rounds,
            **memory[name],
            "agrees_with_the_first": agreement[name],
        }
        for name in CONTESTANTS
    }
    for name, row in rows.items():
        print(f"{name:40}" + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    return rows


def agreed(reference: Found, found: Found) -> float:
    """Return the share of all negatives of either that both have."""
    pairs = list(zip(reference, found, strict=True))
    return sum(len(a & b) for a, b in pairs) / max(1, sum(len(a | b) for a, b in pairs))


def probed(name: str, documents: int, queries: int, options: argparse.Namespace) -> dict[str, float]:
    """Run a contestant in a process of its own and return what it said of its memory."""
    command = [sys.executable, "-m", "benchmarks.mining", "--probe", name, "--threads", str(options.threads)]
    command += ["--documents", str(documents), "--queries", str(queries), "--device", options.device]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    memory: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return memory


def probe(options: argparse.Namespace) -> dict[str, float]:
    """Return by how many mebibytes the peak memory grows while one contestant works; Linux only."""
    inputs = Inputs(options.documents[0], options.queries, options.device)
    for contestant in CONTESTANTS.values():  # as in `measure`
        contestant(Inputs(256, 256, options.device))
    gc.collect()
    before = kibibytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # starts the peak anew
    CONTESTANTS[options.probe](inputs)
    peak = {"peak_mebibytes": (kibibytes("VmHWM") - before) / 1024}
    if options.device == "cuda":
        peak["peak_gpu_mebibytes"] = torch.cuda.max_memory_allocated() / 2**20
    return peak


def kibibytes(field: str) -> int:
    """Read a size from the system's account of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
