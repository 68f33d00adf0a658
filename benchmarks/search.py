"""Search under load: questions a second and their milliseconds, of the built-in engine, LanceDB and what others use.

    python -m benchmarks.search --folder DIR [--sizes 2000 100000 1000000] [--seconds 10]

Documents are made up: unit vectors of width 384 in a space of 32 directions with some noise; those of BM25 have 40
words of a vocabulary of 30,000. One client, and 16 in threads of one process, ask for 10 documents as fast as they are
answered. A question that fails is counted. One system at a time. The result is kept in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import machine
from contrastive.evaluation.bm25 import BM25Index
from contrastive.search import ExactEngine
from contrastive.search.lance import LanceEngine
from contrastive.search.words import WordSearch
from contrastive.similarity import cosine
from experiments.results.files import write_json

WIDTH, K = 384, 10
Ask = Callable[[int], Any]


def made_up(count: int, seed: int) -> torch.Tensor:
    """Return unit vectors [count, 384]."""
    directions = torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.empty(count, WIDTH)
    for start in range(0, count, 100_000):
        part = vectors[start : start + 100_000]
        torch.mm(torch.randn(len(part), 32, generator=generator), directions, out=part)
        part += 0.5 * torch.randn(len(part), WIDTH, generator=generator)
        part /= torch.linalg.vector_norm(part, dim=1, keepdim=True)
    return vectors


def systems(documents: torch.Tensor, queries: torch.Tensor, folder: Path) -> Iterator[tuple[str, float, int, Ask]]:
    """Yield what is compared, one after the other: its name, seconds to build, bytes, and what asks it."""
    count, started = len(documents), time.perf_counter()
    ids, plain = [f"{number:07}" for number in range(count)], [{}] * count
    exact = ExactEngine(cosine)
    exact.add(ids, documents, plain)
    took = time.perf_counter() - started
    yield "built-in, exact", took, documents.nbytes, lambda i: exact.search(queries[i : i + 1], K)[0]
    started = time.perf_counter()
    lance = LanceEngine(str(folder), cosine)
    for start in range(0, count, 50_000):
        part = slice(start, start + 50_000)
        lance.add(ids[part], documents[part], plain[part])
    took = time.perf_counter() - started
    yield "LanceDB, exact", took, size(folder), lambda i: lance.search(queries[i : i + 1], K)[0]
    started = time.perf_counter()
    lance.link()
    took = time.perf_counter() - started
    yield "LanceDB, linked", took, size(folder), lambda i: lance.search(queries[i : i + 1], K)[0]
    lance.close()
    yield from others(documents, queries)


def others(documents: torch.Tensor, queries: torch.Tensor) -> Iterator[tuple[str, float, int, Ask]]:
    """Yield the same of other libraries, and of word matching."""
    import faiss
    from sentence_transformers.util import semantic_search

    started = time.perf_counter()
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(documents.numpy())
    took = time.perf_counter() - started
    yield "FAISS flat", took, documents.nbytes, lambda i: named(flat.search(queries[i : i + 1].numpy(), K))
    yield (
        "sentence-transformers",
        0.0,
        documents.nbytes,
        lambda i: [
            (f"{hit['corpus_id']:07}", hit["score"])
            for hit in semantic_search(queries[i : i + 1], documents, top_k=K)[0]
        ],
    )
    if len(documents) > 100_000:
        return
    random = np.random.default_rng(0)
    words = np.minimum(random.zipf(1.3, (len(documents), 40)), 30_000)
    started = time.perf_counter()
    index = BM25Index(" ".join(f"w{word}" for word in row) for row in words.tolist())
    search = WordSearch([f"{number:07}" for number in range(len(documents))], index)
    asked = [" ".join(f"w{word}" for word in row) for row in random.integers(20, 3000, (len(queries), 6)).tolist()]
    yield "BM25 (bm25s)", time.perf_counter() - started, 0, lambda i: search.search([asked[i]], K)[0]


def named(found: Any) -> list[tuple[str, float]]:
    """Return what FAISS found as the engines do."""
    return [(f"{row:07}", score) for score, row in zip(found[0][0].tolist(), found[1][0].tolist(), strict=True)]


def load(ask: Ask, queries: int, clients: int, seconds: float) -> dict[str, Any]:
    """Return how many questions some clients had answered, and how long each took."""
    took: list[float] = []
    failed: list[str] = []
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        asked = number
        while time.perf_counter() < end:
            started = time.perf_counter()
            try:
                ask(asked % queries)
                took.append(1000 * (time.perf_counter() - started))
            except Exception as error:  # whatever it is, it is a request that failed
                failed.append(f"{type(error).__name__}: {error}"[:200])
            asked += clients

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = time.perf_counter() - began
    return {
        "questions a second": round(len(took) / whole, 1),
        "p50 ms": round(float(np.median(took)), 2) if took else None,
        "p99 ms": round(float(np.quantile(took, 0.99)), 2) if took else None,
        "questions": len(took),
        "failed": len(failed),
        **({"first failure": failed[0]} if failed else {}),
    }


def resident() -> float:
    """Return the gigabytes that this process has in memory now."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / 1e9, 2)


def size(folder: Path) -> int:
    """Return the bytes under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where LanceDB writes; emptied")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 100_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "search-cpu.json")
    given = parser.parse_args()
    content: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), **machine()}
    content["machine"]["shared"] = "other programs ran beside it"
    content["versions"] |= {name: version(name) for name in ("lancedb", "faiss-cpu", "sentence-transformers")}
    content |= {"seconds asked": given.seconds, "documents": {}}
    queries = made_up(200, seed=1)
    for count in given.sizes:
        shutil.rmtree(given.folder, ignore_errors=True)
        documents, best, rows = made_up(count, seed=0), None, {}
        for name, took, stored, ask in systems(documents, queries, given.folder):
            found = [{id_ for id_, _ in ask(i)} for i in range(20)]
            best = best or found
            row: dict[str, Any] = {"seconds to build": round(took, 2), "bytes a document": round(stored / count)}
            if not name.startswith("BM25"):
                row["recall@10"] = round(sum(len(a & b) for a, b in zip(found, best, strict=True)) / 20 / K, 3)
            row |= {f"{clients} clients": load(ask, len(queries), clients, given.seconds) for clients in (1, 16)}
            rows[name] = row | {"memory GB": resident()}
            print(count, name, rows[name], flush=True)
            content["documents"][f"{count:,}"] = rows
            write_json(given.output, content)
    shutil.rmtree(given.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
