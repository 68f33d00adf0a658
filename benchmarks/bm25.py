"""BM25 as people would tune it: what its words, its k1 and the spelling of queries are worth, on what is tuned on.

    python -m benchmarks.bm25                  # the dev split of data=jobs
    python -m benchmarks.bm25 --data DIR       # the train and dev splits of a BEIR folder; its test split is not read

Differences are paired, query by query, from *plain*: words of two characters or more, k1 1.5, b 0.75, queries as they
are. The seconds are those of the processor, for all words of 1,000 queries and a made-up vocabulary of 50,000 words.
The result is kept in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import random
import re
import string
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.machine import machine
from contrastive.data import RetrievalTask, beir
from contrastive.evaluation import bm25_rankings, evaluate_rankings
from contrastive.evaluation.bm25 import K1, B
from contrastive.evaluation.spelling import Spelling
from contrastive.evaluation.words import WORD, words
from contrastive.statistics import paired_difference
from experiments.postings.generator import jobs
from experiments.results.files import write_json

Words = Callable[[Iterable[str]], list[list[str]]]
JOINED = r"(?<![\w/])[a-z]{1,3}/[a-z]{1,3}\b(?!/)|\b[a-z]\w*\.(?:js|io)\b"
"""CI/CD, A/B; Node.js."""
SPLITS = ("train", "dev")
METRICS = ("ndcg@10", "recall@100")
PLAIN = "plain"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="a BEIR folder (data=jobs)")
    parser.add_argument("--output", type=Path, default=None, help="the result (benchmarks/results/bm25-NAME.json)")
    options = parser.parse_args()
    name = options.data.resolve().name if options.data else "jobs"
    content = {"date": date.today().isoformat(), **machine(), "chosen": {"k1": K1, "b": B}}
    content["versions"]["rapidfuzz"] = version("rapidfuzz")
    content["splits"] = {task.name: table(task) for task in tasks(options.data)}
    content["spelling"] = seconds_of_spelling()
    print(content["spelling"])
    write_json(options.output or Path(__file__).parent / "results" / f"bm25-{name}.json", content)


def tasks(folder: Path | None) -> list[RetrievalTask]:
    """Return the splits that settings may be chosen on."""
    found = [jobs().dev] if folder is None else [beir(folder, train="-", dev=name, test="-").dev for name in SPLITS]
    return [task for task in found if task is not None]


def table(task: RetrievalTask) -> dict[str, Any]:
    """Return and print the metrics of each variant on a task, and how far each is from plain BM25."""
    print(f"{task.name}: {len(task.queries):,} queries, {len(task.corpus):,} documents", flush=True)
    found: dict[str, Any] = {}
    plain: dict[str, list[float]] = {}
    for name, (counted, settings) in variants().items():
        with patch("contrastive.evaluation.bm25.words", counted):
            results = evaluate_rankings(bm25_rankings(task, 100, **settings), task, metrics=METRICS, resamples=1000)
        values = {metric: results.values(metric) for metric in METRICS}
        plain = plain or values
        from_plain = {metric: paired_difference(values[metric], plain[metric]) for metric in METRICS}
        changed = sum(a != b for a, b in zip(values["ndcg@10"], plain["ndcg@10"], strict=True))
        found[name] = {"means": results.means, "changed_queries": changed} | {
            "from_plain": {metric: asdict(difference) for metric, difference in from_plain.items()}
        }
        cells = (
            f"{results.means[metric]:.4f} {change.mean:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
            for metric, change in from_plain.items()
        )
        print(f"  {name:34}{'   '.join(cells)}   {changed:4} changed", flush=True)
    return {"queries": len(task.queries), "documents": len(task.corpus), "variants": found}


def variants() -> dict[str, tuple[Words, dict[str, Any]]]:
    """Return what is compared, by name: the words that are counted and the settings of BM25; plain first."""
    usual = {"k1": 1.5, "b": 0.75}
    letters = WORD.pattern
    of_words: dict[str, Words] = {
        PLAIN: counting(r"\w\w+"),
        "words: digits alone too": counting(r"\w+"),
        "words: letters alone too": counting(r"\w\w+|[^\W\d_]"),
        "words: also C++, .NET (chosen)": words,
        "words: also CI/CD, Node.js as one": counting(f"{JOINED}|{letters}"),
        "words: as one, beside its parts": beside_its_parts,
        "words: hyphens join": counting(rf"\w+(?:-\w+)+|{letters}"),
    }
    found: dict[str, tuple[Words, dict[str, Any]]] = {name: (counted, usual) for name, counted in of_words.items()}
    found["spelling"] = words, {**usual, "spelling": True}
    for k1 in (0.05, 0.2, 0.4, 0.6, 0.9, 1.2, 2.0):
        found[f"k1 {k1:g}"] = words, {"k1": k1}
    for b in (0.3, 0.5, 0.9):
        found[f"k1 {K1:g}, b {b:g}"] = words, {"b": b}
    return found | {"BM25": (words, {}), "BM25+spelling": (words, {"spelling": True})}


def counting(pattern: str) -> Words:
    """Return a function like `words` that counts what a pattern matches."""
    return partial(words, word=re.compile(pattern))


def beside_its_parts(texts: Iterable[str]) -> list[list[str]]:
    """Return words like `words`, and beside them CI/CD and its like as one."""
    texts = list(texts)
    joined = words(texts, re.compile(JOINED))
    return [found + more for found, more in zip(words(texts), joined, strict=True)]


def seconds_of_spelling(queries: int = 1000, words_each: int = 6, vocabulary: int = 50_000) -> dict[str, Any]:
    """Time putting right every word of made-up queries, each a word of a made-up vocabulary with a letter another."""
    generator = random.Random(0)
    known: dict[str, int] = {}
    while len(known) < vocabulary:
        known["".join(generator.choices(string.ascii_lowercase, k=generator.randint(4, 12)))] = generator.randint(1, 99)
    asked = []
    for word in generator.sample(sorted(known), queries * words_each):
        place = generator.randrange(1, len(word))
        asked.append(f"{word[:place]}{generator.choice(string.ascii_lowercase)}{word[place + 1 :]}")
    began = time.process_time()
    spelling = Spelling(known)
    right = [spelling.put_right(word) for word in asked]
    seconds = time.process_time() - began
    moved = sum(word != found for word, found in zip(asked, right, strict=True))
    return {"queries": queries, "words": len(asked), "moved": moved, "vocabulary": vocabulary, "seconds": seconds}


if __name__ == "__main__":
    main()
