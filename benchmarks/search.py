"""Search under load: questions a second and their milliseconds, of the built-in engine, LanceDB and what others use.

    python -m benchmarks.search --folder DIR [--sizes 2000 100000 1000000] [--seconds 30] [--pylate PYTHON]

Documents are made up: unit vectors of width 384 in a space of 32 directions with some noise; those of BM25 have 40
words of a vocabulary of 30,000; token vectors are 50 a document and 8 a query, of width 128. One client, and 16 in
threads of one process, ask for 10 documents as fast as they are answered. A question that fails is counted.

Each system runs in a process of its own, one at a time; its memory is the peak of that process. A row is written as
soon as it is there, and one that is there, of as many seconds, is not measured again: an interrupted run goes on where
it was, and `--anew` begins anew. PyLate needs other versions than ours: it runs with the Python of an environment that
has it. The result is kept in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import machine
from contrastive.search.contracts import Engine
from contrastive.similarity import cosine
from experiments.results.files import write_json

WIDTH, TOKEN_WIDTH, TOKENS, K = 384, 128, 50, 10
CLIENTS = (1, 16)
Ask = Callable[[int], list[tuple[str, float]]]
Built = tuple[float, int, Ask]
"""Seconds to build, bytes, and what asks."""

MOST = {
    "built-in, exact": 1_000_000,
    "LanceDB, exact": 1_000_000,
    "LanceDB, linked": 100_000,  # 68 s for 100,000
    "FAISS flat": 1_000_000,
    "sentence-transformers": 1_000_000,
    "BM25 (bm25s)": 100_000,
    "built-in, tokens": 2_000,
    "PyLate, PLAID (tokens)": 2_000,
}
"""The systems, and how many documents they are tried with at most."""

MOST_COPIES = 100_000
"""Documents of which 16 clients of sentence-transformers have memory: each copies all, for their lengths."""

BUILDING = 40e-6
"""Seconds that it takes to make and build a document, about; of `LanceDB, linked` 800e-6."""


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


def made_up_tokens(count: int, each: int, seed: int) -> torch.Tensor:
    """Return unit vectors [count, each, 128], those of a text around one of its own."""
    middles = made_up(count, seed)[:, None, :TOKEN_WIDTH]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, each, TOKEN_WIDTH, generator=generator) / TOKEN_WIDTH**0.5
    return torch.nn.functional.normalize(middles + 0.7 * noise, dim=-1)


def names_of(count: int) -> list[str]:
    """Return the ids of the documents."""
    return [f"{number:07}" for number in range(count)]


def built_in(count: int, folder: Path) -> Built:  # noqa: ARG001
    """Build the built-in engine."""
    from contrastive.search import ExactEngine

    documents, queries = made_up(count, seed=0), made_up(200, seed=1)
    started = time.perf_counter()
    engine = ExactEngine(cosine)
    engine.add(names_of(count), documents, [{}] * count)
    return time.perf_counter() - started, documents.nbytes, asks(engine, queries)


def lance(count: int, folder: Path, link: bool = False) -> Built:
    """Build LanceDB."""
    from contrastive.search.engines.lance import LanceEngine

    documents, queries, ids = made_up(count, seed=0), made_up(200, seed=1), names_of(count)
    started = time.perf_counter()
    engine = LanceEngine(str(folder), cosine)
    for start in range(0, count, 50_000):
        part = slice(start, min(count, start + 50_000))
        engine.add(ids[part], documents[part], [{}] * len(ids[part]))
    if link:
        engine.link()
    return time.perf_counter() - started, size(folder), asks(engine, queries)


def asks(engine: Engine, queries: Any) -> Ask:
    """Return what asks an engine."""
    return lambda i: engine.search(queries[i : i + 1], K)[0]


def faiss_flat(count: int, folder: Path) -> Built:  # noqa: ARG001
    """Build FAISS's exact index."""
    import faiss

    faiss.omp_set_num_threads(1)  # it shares out questions, not documents: for one at a time more only wait
    documents, queries = made_up(count, seed=0), made_up(200, seed=1).numpy()
    started = time.perf_counter()
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(documents.numpy())
    took, stored = time.perf_counter() - started, documents.nbytes
    del documents  # it has its own
    return took, stored, lambda i: named(flat.search(queries[i : i + 1], K))


def sentence_transformers(count: int, folder: Path) -> Built:  # noqa: ARG001
    """Search with sentence-transformers, which builds nothing."""
    from sentence_transformers.util import semantic_search

    documents, queries = made_up(count, seed=0), made_up(200, seed=1)

    def ask(i: int) -> list[tuple[str, float]]:
        found = semantic_search(queries[i : i + 1], documents, top_k=K)[0]
        return [(f"{hit['corpus_id']:07}", hit["score"]) for hit in found]

    return 0.0, documents.nbytes, ask


def by_words(count: int, folder: Path) -> Built:
    """Build BM25."""
    from contrastive.evaluation.bm25 import BM25Index
    from contrastive.search.disk.words_file import write_words
    from contrastive.search.words import WordSearch

    random = np.random.default_rng(0)
    words = np.minimum(random.zipf(1.3, (count, 40)), 30_000)
    asked = [" ".join(f"w{word}" for word in row) for row in random.integers(20, 3000, (200, 6)).tolist()]
    started = time.perf_counter()
    index = BM25Index(" ".join(f"w{word}" for word in row) for row in words.tolist())
    search = WordSearch(names_of(count), index)
    took = time.perf_counter() - started
    write_words(folder, index)
    return took, size(folder), lambda i: search.search([asked[i]], K)[0]


def tokens(count: int, folder: Path) -> Built:  # noqa: ARG001
    """Build the built-in engine of token vectors."""
    from contrastive.search import ExactEngine
    from contrastive.similarity import TokenVectors, max_sim

    documents = TokenVectors.pack(made_up_tokens(count, TOKENS, seed=0)).to(torch.float16)
    queries = TokenVectors.pack(made_up_tokens(200, 8, seed=1))
    started = time.perf_counter()
    engine = ExactEngine(max_sim)
    engine.add(names_of(count), documents, [{}] * count)
    return time.perf_counter() - started, documents.vectors.nbytes, asks(engine, queries)


def pylate(count: int, folder: Path) -> Built:
    """Build PyLate's index."""
    from pylate import indexes

    documents = [each.numpy() for each in made_up_tokens(count, TOKENS, seed=0)]
    queries = made_up_tokens(200, 8, seed=1)
    started = time.perf_counter()
    index = indexes.PLAID(str(folder), "made-up", override=True, show_progress=False, device="cpu")
    index.add_documents(names_of(count), documents)
    took = time.perf_counter() - started
    found = lambda i: [(hit["id"], float(hit["score"])) for hit in index(queries[i : i + 1], k=K)[0]]  # noqa: E731
    return took, size(folder), found


BUILD: dict[str, Callable[[int, Path], Built]] = {
    "built-in, exact": built_in,
    "LanceDB, exact": lance,
    "LanceDB, linked": lambda count, folder: lance(count, folder, link=True),
    "FAISS flat": faiss_flat,
    "sentence-transformers": sentence_transformers,
    "BM25 (bm25s)": by_words,
    "built-in, tokens": tokens,
    "PyLate, PLAID (tokens)": pylate,
}


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


def size(folder: Path) -> int:
    """Return the bytes under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(name: str, count: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Return the row of a system, and what it finds for twenty queries."""
    took, stored, ask = BUILD[name](count, folder)
    found = [" ".join(id_ for id_, _ in ask(i)) for i in range(20)]
    row: dict[str, Any] = {"seconds to build": round(took, 2), "bytes a document": round(stored / count)}
    clients = CLIENTS[:1] if name == "sentence-transformers" and count > MOST_COPIES else CLIENTS
    row |= {f"{number} clients": load(ask, 200, number, seconds) for number in clients}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**row, "peak memory GB": round(peak / 1e9, 2), "found": found}


def in_a_process(name: str, count: int, seconds: float, folder: Path, python: str) -> dict[str, Any]:
    """Measure a system in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    result = folder.with_suffix(".json")
    command = ["-m", "benchmarks.search", "--folder", str(folder), "--sizes", str(count), "--seconds", str(seconds)]
    try:
        subprocess.run([python, *command, "--system", name, "--output", str(result)], check=True)
        row: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return row
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        result.unlink(missing_ok=True)


def recall(found: Sequence[str], exact: Sequence[str]) -> float:
    """Return the share of the ten closest that is found."""
    pairs = zip(found, exact, strict=True)
    return round(sum(len({*ours.split()} & {*best.split()}) for ours, best in pairs) / len(exact) / K, 3)


def arguments() -> argparse.Namespace:
    """Return what was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where engines write; emptied")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 100_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each number of clients")
    parser.add_argument("--pylate", help="Python of an environment with PyLate; it is left out without")
    parser.add_argument("--anew", action="store_true", help="measure again what is there")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "search-cpu.json")
    parser.add_argument("--system", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print and write."""
    given = arguments()
    if given.system:
        write_json(given.output, measure(given.system, given.sizes[0], given.seconds, given.folder))
        return
    there = json.loads(given.output.read_text()) if given.output.exists() and not given.anew else {}
    rows: dict[str, Any] = there.get("documents", {}) if there.get("seconds asked") == given.seconds else {}
    content: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), **machine()}
    content["versions"] |= {name: version(name) for name in ("lancedb", "faiss-cpu", "sentence-transformers")}
    content |= {"seconds asked": given.seconds, "documents": rows}
    names = [name for name in MOST if given.pylate or not name.startswith("PyLate")]
    todo = [(count, name) for count in given.sizes for name in names if count <= MOST[name]]
    todo = [(count, name) for count, name in todo if name not in rows.get(f"{count:,}", {})]
    building = sum(count * (800e-6 if name == "LanceDB, linked" else BUILDING) for count, name in todo)
    whole = len(todo) * (len(CLIENTS) * given.seconds + 8) + building
    print(f"{len(todo)} rows, about {whole / 60:.0f} minutes", flush=True)
    for count, name in todo:
        python = given.pylate if name.startswith("PyLate") else sys.executable
        try:
            row = in_a_process(name, count, given.seconds, given.folder / "engine", python)
        except subprocess.CalledProcessError as error:
            print(f"{count} {name}: not measured, its process ended with {error.returncode}", flush=True)
            continue
        of_size = rows.setdefault(f"{count:,}", {})
        exact = of_size.get("built-in, tokens" if "tokens" in name else "built-in, exact", row)
        if not name.startswith("BM25"):
            row["recall@10"] = recall(row["found"], exact["found"])
        of_size[name] = row
        print(count, name, {key: value for key, value in row.items() if key != "found"}, flush=True)
        write_json(given.output, content)


if __name__ == "__main__":
    main()
