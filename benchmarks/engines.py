"""Engines of search compared on what a search of jobs asks of them; see docs/engines.md for what came of it.

    python -m benchmarks.engines --folder DIR                      # all, each in a process of its own
    python -m benchmarks.engines --folder DIR --only LanceDB --postings 10000

It needs NumPy and the engines, not torch: an environment of its own keeps them from anything else. The postings are
made up: vectors of width 384 in a space of 32 directions with some noise, 120 words of a vocabulary of 30,000 as often
as words are, 60 weights, one of 20 places. Of each engine: seconds to build, bytes on the disk, milliseconds of a
question of one client, the share of the ten best vectors that it found, and what is there after a kill -9 while it
wrote. The result is kept in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine_peers import ENGINES, Postings, Sparse

WIDTH, TOKEN_WIDTH, TOKENS, QUERY_TOKENS = 384, 128, 100, 16
VOCABULARY, K = 30_000, 10


def made_up(postings: int, *, tokens: bool = False, seed: int = 0) -> Iterator[tuple[int, Any, Any, Any, Any]]:
    """Yield blocks of 1,000 postings: first number, vectors, sparse vectors, texts and token vectors or None."""
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((32, WIDTH))
    for start in range(0, postings, 1000):
        count = min(1000, postings - start)
        vectors = random.standard_normal((count, 32)) @ directions + 0.5 * random.standard_normal((count, WIDTH))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        words = np.minimum(random.zipf(1.3, (count, 120)), VOCABULARY) - 1
        texts = [" ".join(f"w{word}" for word in row) for row in words]
        entries = np.sort(random.integers(0, VOCABULARY, (count, 60)), axis=1)
        sparse = [(sorted(set(row.tolist())), [1.0 + n % 7 for n in range(len(set(row.tolist())))]) for row in entries]
        matrices = None
        if tokens:
            drawn = random.standard_normal((count, TOKENS, TOKEN_WIDTH)).astype(np.float32)
            matrices = list(drawn / np.linalg.norm(drawn, axis=-1, keepdims=True))
        yield start, vectors.astype(np.float32), sparse, texts, matrices


def questions(count: int) -> list[tuple[Any, str, Sparse]]:
    """Return queries: a vector, six words, and the same words as a sparse vector."""
    random = np.random.default_rng(7)
    directions = np.random.default_rng(99).standard_normal((32, WIDTH))
    vectors = random.standard_normal((count, 32)) @ directions
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for vector in vectors.astype(np.float32):
        words = sorted({int(word) for word in random.integers(20, 3000, 6)})
        found.append((vector, " ".join(f"w{word}" for word in words), (words, [1.0] * len(words))))
    return found


def timed(ask: Callable[[int], list[int]], count: int, limit: float = 20.0) -> dict[str, Any]:
    """Return the milliseconds of questions, after one that is not counted; fewer of them after `limit` seconds."""
    try:
        ask(0)
    except Exception as error:  # whatever an engine says is the result
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    took, began = [], time.perf_counter()
    for place in range(count):
        started = time.perf_counter()
        ask(place)
        took.append(1000 * (time.perf_counter() - started))
        if time.perf_counter() - began > limit:
            break
    return {"p50 ms": round(np.median(took), 2), "p99 ms": round(np.quantile(took, 0.99), 2), "questions": len(took)}


def recall(found: list[list[int]], best: Any) -> float:
    """Return the share of the best that was found."""
    return round(
        float(np.mean([len(set(ours) & set(row)) / K for ours, row in zip(found, best.tolist(), strict=True)])), 4
    )


def measure(name: str, folder: Path, postings: int, asked: int) -> dict[str, Any]:
    """Build and ask an engine of one vector a text."""
    engine = ENGINES[name](folder / "vectors", WIDTH)
    vectors = np.concatenate([block[1] for block in made_up(postings)])
    took = fill(engine, postings)
    result: dict[str, Any] = {"postings": postings, **took, "bytes a posting": round(size(folder) / postings)}
    queries = questions(asked)
    best = np.argsort(-np.stack([query[0] for query in queries]) @ vectors.T, axis=1)[:, :K]
    for exact in (False, True):
        row = timed(lambda i, exact=exact: engine.dense(queries[i][0], K, exact=exact), asked)
        if "error" not in row:
            row["recall@10"] = recall([engine.dense(query[0], K, exact=exact) for query in queries[:50]], best[:50])
        result["vectors, exact" if exact else "vectors, by its index"] = row
    is_exact = "error" in result["vectors, by its index"]
    result["vectors, one place of 20"] = timed(
        lambda i: engine.dense(queries[i][0], K, f"place {i % 20}", exact=is_exact), asked
    )
    result["BM25"] = timed(lambda i: engine.words(queries[i][1], queries[i][2], K), asked)
    result["sparse vectors"] = timed(lambda i: engine.sparse(queries[i][2], K), asked)
    result["hybrid"] = timed(lambda i: engine.hybrid(*queries[i], K), asked)
    result["memory GB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)
    return result


def fill(engine: Any, postings: int, *, tokens: bool = False) -> dict[str, float]:
    """Add made-up postings and build the indexes; return the seconds of each, without making them up."""
    adding = 0.0
    waiting: list[Any] = []
    for block in made_up(postings, tokens=tokens):
        waiting.append(block)
        if sum(len(each[3]) for each in waiting) >= engine.batch or block[0] + len(block[3]) == postings:
            whole = joined(waiting)
            started = time.perf_counter()
            engine.add(whole)
            adding += time.perf_counter() - started
            waiting = []
    started = time.perf_counter()
    engine.finish()
    return {"seconds to add": round(adding, 1), "seconds to index": round(time.perf_counter() - started, 1)}


def joined(blocks: list[Any]) -> Postings:
    """Return blocks as one."""
    matrices = [matrix for block in blocks if block[4] is not None for matrix in block[4]] or None
    sparse, texts = ([each for block in blocks for each in block[part]] for part in (2, 3))
    return Postings(blocks[0][0], np.concatenate([block[1] for block in blocks]), sparse, texts, matrices)


def measure_tokens(name: str, folder: Path, postings: int = 2000, asked: int = 50) -> dict[str, Any]:
    """Build and ask an engine of a vector a token."""
    try:
        engine = ENGINES[name](folder / "tokens", WIDTH, TOKEN_WIDTH)
        took = fill(engine, postings, tokens=True)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    random = np.random.default_rng(11)
    drawn = random.standard_normal((asked, QUERY_TOKENS, TOKEN_WIDTH)).astype(np.float32)
    queries = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
    documents = np.concatenate([np.stack(block[4]) for block in made_up(postings, tokens=True)])
    scores = [(documents @ query.T).max(axis=1).sum(axis=1) for query in queries]
    best = np.argsort(-np.stack(scores), axis=1)[:, :K]
    result = {"postings": postings, **took, "bytes a posting": round(size(folder / "tokens") / postings)}
    result |= timed(lambda i: engine.tokens(queries[i], K), asked)
    if "error" not in result:
        result["recall@10"] = recall([engine.tokens(query, K) for query in queries[:20]], best[:20])
    return result


def write_until_killed(name: str, folder: Path) -> None:
    """Add batches of 100 without end, saying after each what is there."""
    engine = ENGINES[name](folder, WIDTH)
    done = 0
    for block in made_up(10**9):
        for start in range(0, 1000, 100):
            part = slice(start, start + 100)
            engine.add(Postings(done, block[1][part], block[2][part], block[3][part]))
            done += 100
            print(done, flush=True)


def crash(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Kill a process that writes; return what it said was written, what is there, and whether it can be asked."""
    shutil.rmtree(folder, ignore_errors=True)
    writer = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.engines", "--write", name, "--folder", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert writer.stdout is not None
    said = int(writer.stdout.readline() or 0)
    time.sleep(seconds)
    os.killpg(writer.pid, signal.SIGKILL)
    said = max([said, *(int(line) for line in writer.stdout.read().split())])
    writer.wait()
    call = [sys.executable, "-m", "benchmarks.engines", "--check", name, "--folder", str(folder)]
    run = subprocess.run(call, capture_output=True, text=True)
    found = {"error": run.stderr[-300:]} if run.returncode else json.loads(run.stdout.splitlines()[-1])
    return {"written": said, **found}


def check(name: str, folder: Path) -> dict[str, Any]:
    """Open what a killed process left; return what is there, and whether it can be asked and added to."""
    started = time.perf_counter()
    engine = ENGINES[name](folder, WIDTH)
    found = engine.count()
    result: dict[str, Any] = {"found": found, "seconds to open": round(time.perf_counter() - started, 2)}
    result["answers"] = len(engine.dense(questions(1)[0][0], K, exact=name == "Qdrant local mode")) == K
    start, vectors, sparse, texts, _ = next(made_up(100))
    engine.add(Postings(10**6 + start, vectors, sparse, texts))
    result["takes more"] = engine.count() == found + 100
    return result


def installed(packages: tuple[str, ...]) -> dict[str, Any]:
    """Return versions, and the megabytes of the packages and of all that they need, but for NumPy."""
    wanted, seen = [*packages], set()
    while wanted:
        name = wanted.pop()
        if (key := re.sub(r"[-_.]+", "-", name).lower()) in seen or key == "numpy":
            continue
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for line in importlib.metadata.requires(name) or []:
                if "extra ==" not in line:
                    wanted.append(re.split(r"[\s;<>=!~\[(]", line)[0])
            seen.add(key)
    sizes = {name: megabytes(name) for name in sorted(seen)}
    return {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "megabytes": round(sum(sizes.values())),
        "of them": {name: each for name, each in sizes.items() if each >= 1},
    }


def megabytes(package: str) -> float:
    """Return the size of a package's files."""
    files = importlib.metadata.files(package) or []
    return round(sum(path.stat().st_size for file in files if (path := Path(file.locate())).is_file()) / 1e6, 1)


def size(folder: Path) -> int:
    """Return the bytes under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def of_one(name: str, folder: Path, postings: int) -> dict[str, Any]:
    """Return all of one engine, in this process; the opening in another, which has read nothing before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    result: dict[str, Any] = {
        "install": installed(ENGINES[name].packages),
        "one vector": measure(name, folder, postings, 200),
    }
    result["token vectors"] = measure_tokens(name, folder)
    return result


def opened(name: str, folder: Path) -> dict[str, Any]:
    """Return the seconds from nothing to the first answer, and the memory that it took."""
    started = time.perf_counter()
    engine = ENGINES[name](folder / "vectors", WIDTH)
    engine.dense(questions(1)[0][0], K, exact=name == "Qdrant local mode")
    took = round(time.perf_counter() - started, 2)
    return {
        "seconds to first answer": took,
        "memory GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the engines write; emptied")
    parser.add_argument("--postings", type=int, default=100_000)
    parser.add_argument(
        "--only", choices=ENGINES, action="append", help="this engine, others as they are in the result"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "engines-cpu.json")
    for part in ("write", "check", "measure", "open"):
        parser.add_argument(f"--{part}", choices=ENGINES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_until_killed(given.write, given.folder)
    elif given.check:
        print(json.dumps(check(given.check, given.folder)))
    elif given.measure:
        print(json.dumps(of_one(given.measure, given.folder, given.postings)))
    elif given.open:
        print(json.dumps(opened(given.open, given.folder)))
    else:
        compare(given)


def compare(given: argparse.Namespace) -> None:
    """Measure each engine in a process of its own, and write after each."""
    content: dict[str, Any] = json.loads(given.output.read_text()) if given.output.exists() and given.only else {}
    content |= {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, shared: other programs ran beside it",
        "python": platform.python_version(),
    }
    for name in given.only or ENGINES:
        folder = given.folder / name.replace(" ", "-")
        print(name, flush=True)
        row: dict[str, Any] = {}
        for part in ("measure", "open"):
            call = [sys.executable, "-m", "benchmarks.engines", f"--{part}", name, "--folder", str(folder)]
            run = subprocess.run([*call, "--postings", str(given.postings)], capture_output=True, text=True)
            if run.returncode:
                row[part] = {"error": run.stderr[-500:]}
            else:
                found = json.loads(run.stdout.splitlines()[-1])
                row |= found if part == "measure" else {"opened anew": found}
        if name != "FAISS":
            row["killed while writing"] = [crash(name, folder / "killed", seconds) for seconds in (0.5, 1.5, 3.0)]
        shutil.rmtree(folder, ignore_errors=True)
        content.setdefault("engines", {})[name] = row
        print(json.dumps(row, indent=1), flush=True)
        given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
