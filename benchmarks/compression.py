"""What it costs to keep a corpus of token vectors small: quality, bytes a document, seconds a query.

    python -m experiments.run experiment=best data=beir data.path=DIR judge=dev
    python -m benchmarks.compression RUN/model --data DIR

Judged on the dev split alone. Documents are compressed as an encoder with that `compression` has them, but for the
sample that a codec is fitted to, which is spread over the whole corpus and not over its first part. Differences are
paired over the queries, from token vectors in half precision. Seconds are of scoring the whole corpus exactly for one
query, without encoding it: the median of several queries, each asked of all rows by turns. The result is kept in
benchmarks/results/, after each row; `--seconds` takes the time alone again, and keeps the rest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.main_path import PerQuery, cell
from contrastive.data import RetrievalTask, beir
from contrastive.data.json_files import read_object
from contrastive.encoder import EmbeddingCache, load_encoder
from contrastive.encoder.compression import Compression, compress, pool
from contrastive.evaluation import TaskEmbeddings, embed, evaluate_rankings, rank_embedded
from contrastive.similarity import TokenVectors, score_texts
from contrastive.statistics import bootstrap_interval, paired_difference
from experiments.results.files import write_json

METRICS = ("ndcg@10", "recall@100")
PLAIN = "float16"
WORDS = {
    1: ("8bit", "2bit", "1bit", "pca384", "pca384-1bit", "pca128", "pca128-8bit", "pca128-2bit", "pca128-1bit"),
    2: ("pool2", "pool2-8bit", "pool2-pca384-1bit", "pool2-pca128-2bit", "pool2-pca128-1bit"),
    4: ("pool4", "pool4-8bit", "pool4-pca384-1bit", "pool4-pca128-2bit", "pool4-pca128-1bit"),
}
"""Compressions by pooling, which takes longest and is done once."""

TIMED = 7
"""Queries that are timed."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of an encoder of token vectors")
    parser.add_argument("--data", type=Path, required=True, help="folder in the BEIR layout")
    parser.add_argument("--cache", type=Path, help="folder of embeddings that its run has used")
    parser.add_argument("--name", help="end of the result's name (that of the data)")
    parser.add_argument("--seconds", action="store_true", help="time the rows of a result that is there")
    options = parser.parse_args()
    encoder = load_encoder(options.model, compression="none")
    task = beir(options.data).dev
    if task is None:
        raise ValueError(f"expected {options.data} to have a dev split")
    embeddings = embed(encoder, task, cache=EmbeddingCache(options.cache) if options.cache else None)
    if not isinstance(embeddings.documents, TokenVectors):
        raise ValueError("expected an encoder of several vectors a text")
    content = {"date": date.today().isoformat(), **machine(), "split": "dev", "documents": len(task.corpus)}
    content["settings"] = {name: str(value) for name, value in encoder.settings.items()}
    path = Path(__file__).parent / "results" / f"compression-{options.name or options.data.resolve().name}.json"
    kept = {PLAIN: embeddings.documents}
    if options.seconds:
        content = read_object(path)
        kept |= {words: documents for words, documents in compressed(embeddings.documents) if words in content["rows"]}
    else:
        kept |= measure(embeddings, task, content, path)
    for words, seconds in seconds_a_query(embeddings, kept).items():
        content["rows"][words]["seconds_a_query"] = seconds
    write_json(path, content)


def compressed(documents: TokenVectors) -> Iterator[tuple[str, TokenVectors]]:
    """Yield each compression and what it makes of documents."""
    for factor, all_words in WORDS.items():
        pooled = pool(documents, factor)
        for words in all_words:
            yield words, compress(pooled, replace(Compression.of(words), pooling=1))


def measure(
    embeddings: TaskEmbeddings, task: RetrievalTask, content: dict[str, Any], path: Path
) -> dict[str, TokenVectors]:
    """Compress and judge by turns, write the result after each row, and return what was kept."""
    assert isinstance(embeddings.documents, TokenVectors)
    plain = per_query(embeddings, task)
    content["rows"] = {PLAIN: row(embeddings, plain, plain)}
    kept = {}
    for words, documents in compressed(embeddings.documents):
        kept[words] = documents
        of_words = replace(embeddings, documents=documents)
        content["rows"][words] = row(of_words, per_query(of_words, task), plain)
        print(words, content["rows"][words], flush=True)
        write_json(path, content)
    return kept


def row(embeddings: TaskEmbeddings, found: PerQuery, plain: PerQuery) -> dict[str, Any]:
    """Return means with their intervals, differences from half precision, and bytes."""
    assert isinstance(embeddings.documents, TokenVectors)
    means, differences = {}, {}
    for metric in METRICS:
        first, second = ([rows[query][metric] for query in plain] for rows in (found, plain))
        means[metric] = cell(bootstrap_interval(first))
        differences[metric] = cell(paired_difference(first, second))
    return {
        **means,
        "difference": differences,
        "bytes_a_document": embeddings.documents.vectors.nbytes / len(embeddings.documents),
    }


def per_query(embeddings: TaskEmbeddings, task: RetrievalTask) -> PerQuery:
    """Return the metrics of every query."""
    results = evaluate_rankings(rank_embedded(embeddings, task), task)
    return {query: {metric: values[metric] for metric in METRICS} for query, values in results.per_query.items()}


def seconds_a_query(embeddings: TaskEmbeddings, kept: Mapping[str, TokenVectors]) -> dict[str, float]:
    """Return what it takes to score each corpus for one query, the median of several."""
    seconds: dict[str, list[float]] = {words: [] for words in kept}
    for place in range(min(TIMED, len(embeddings.queries))):
        for words, documents in kept.items():
            started = time.perf_counter()
            score_texts(embeddings.similarity, embeddings.queries[place : place + 1], documents)
            seconds[words].append(time.perf_counter() - started)
    return {words: statistics.median(found) for words, found in seconds.items()}


if __name__ == "__main__":
    main()
