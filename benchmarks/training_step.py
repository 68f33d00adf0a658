"""Time one training step with and without length buckets and deduplication, at equal gradients.

    python -m benchmarks.training_step                         # data=jobs, one hard negative a query, batch 32
    python -m benchmarks.training_step --beir DIR --name NAME  # pairs of your own data
    python -m benchmarks.training_step --shared                # negatives that are other rows' positives: duplicates
    python -m benchmarks.training_step --representations       # pooled, tokens and lexical, with dropout

Every variant takes the same batches with dropout off, in turn, so that a noisy machine disturbs all alike. The
gradients are compared once before anything is timed. The result is kept in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

from experiments.cli import WAIT_POLICY

os.environ.setdefault(*WAIT_POLICY)

import torch
from torch import Tensor

from benchmarks.machine import machine
from contrastive.data import Batch, Collator, Record, beir
from contrastive.data.batching import EpochBatches
from contrastive.encoder import Encoder, embedded_minilm
from contrastive.losses import InfoNCELoss
from contrastive.masks import known_positive
from experiments.postings.generator import jobs
from experiments.results.files import write_json

VARIANTS = {
    "padded": {"bucketed": False, "deduplicate": False},
    "bucketed": {"bucketed": True, "deduplicate": False},
    "bucketed, deduplicated": {"bucketed": True, "deduplicate": True},
}


def main() -> None:
    """Compare, time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beir", type=Path, help="a folder in the BEIR layout, in place of data=jobs")
    parser.add_argument("--shared", action="store_true", help="each query's negative is the positive of the next row")
    parser.add_argument("--name", default="jobs", help="name of the data in the result")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs in a batch (%(default)s)")
    parser.add_argument("--max-length", type=int, default=256, help="tokens of a text (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed batches a variant (%(default)s)")
    parser.add_argument("--representations", action="store_true", help="compare these in place of the variants")
    options = parser.parse_args()

    records = beir(options.beir).train if options.beir else jobs(negatives=1).train
    batches = take(records, options.batch_size, options.rounds, shared=options.shared)
    if options.representations:
        compare_representations(batches, options)
        return
    encoder = Encoder.from_pretrained(embedded_minilm(), max_length=options.max_length)  # in eval mode: no dropout
    loss = InfoNCELoss(symmetric=True)
    reference = gradient(encoder, loss, batches[0], **VARIANTS["padded"])
    differences = {
        name: relative_difference(gradient(encoder, loss, batches[0], **variant), reference)
        for name, variant in VARIANTS.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    tokens: dict[str, list[int]] = {name: [] for name in VARIANTS}
    for batch in batches:
        for name, variant in VARIANTS.items():
            padded_before, start = encoder.tokens_seen.padded, time.perf_counter()
            step(encoder, loss, batch, **variant)
            seconds[name].append(time.perf_counter() - start)
            tokens[name].append(encoder.tokens_seen.padded - padded_before)
    speedups = partial(ratios, seconds["padded"])
    rows = {
        name: {
            "median_seconds": statistics.median(seconds[name]),
            "min_seconds": min(seconds[name]),
            "max_seconds": max(seconds[name]),
            "median_speedup_in_pairs": statistics.median(speedups(seconds[name])),
            "mean_computed_tokens": statistics.mean(tokens[name]),
            "relative_gradient_difference": differences[name],
        }
        for name in VARIANTS
    }
    documents = [len(batch.documents) for batch in batches]
    content = {
        "date": date.today().isoformat(),
        "data": options.name,
        "batch_size": options.batch_size,
        "mean_documents": statistics.mean(documents),
        "mean_distinct_documents": statistics.mean(len(set(batch.documents)) for batch in batches),
        "max_length": options.max_length,
        "rounds": options.rounds,
        **machine(),
        "variants": rows,
    }
    name = options.name + ("-shared" if options.shared else "")
    path = Path(__file__).parent / "results" / f"training_step-{name}.json"
    write_json(path, content)
    for name, row in rows.items():
        print(f"{name:24}" + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))


def compare_representations(batches: list[Batch], options: argparse.Namespace) -> None:
    """Time training steps of the three representations in turn, print and write."""
    encoders = {
        name: Encoder.from_pretrained(embedded_minilm(), max_length=options.max_length, representation=name, **more)
        for name, more in {"pooled": {}, "tokens": {"dimension": 128}, "lexical": {}}.items()
    }
    losses = {name: InfoNCELoss(symmetric=True, similarity=each.similarity) for name, each in encoders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for number, batch in enumerate([batches[0], *batches]):
        for name, encoder in encoders.items():
            began = time.process_time()  # which others that share the machine lengthen least
            train_step(encoder.train(), losses[name], batch)
            if number:  # the first is warm-up
                seconds[name].append(time.process_time() - began)
    rows = {
        name: {
            "median_seconds": statistics.median(taken),
            "min_seconds": min(taken),
            "max_seconds": max(taken),
            "median_over_pooled_in_pairs": statistics.median(ratios(taken, seconds["pooled"])),
        }
        for name, taken in seconds.items()
    }
    content = {
        "date": date.today().isoformat(),
        "data": options.name,
        "batch_size": options.batch_size,
        "max_length": options.max_length,
        "rounds": options.rounds,
        "note": "seconds of the processor, on a machine that others used at the same time",
        **machine(),
        "representations": rows,
    }
    write_json(Path(__file__).parent / "results/training_step-representations.json", content)
    for name, row in rows.items():
        print(f"{name:24}" + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))


def train_step(encoder: Encoder, loss: InfoNCELoss, batch: Batch) -> None:
    """Take a step as training does, both sides together and with dropout."""
    encoder.zero_grad(set_to_none=True)
    queries, keys = encoder.embed_sides(batch.queries, batch.documents)
    exclude = known_positive(batch.positive_ids, batch.key_ids)
    loss(queries, keys, exclude=exclude, owners=batch.owners).backward()


def take(records: tuple[Record, ...], batch_size: int, rounds: int, *, shared: bool) -> list[Batch]:
    """Return the first batches of an epoch."""
    collate = Collator(records)
    order = iter(EpochBatches(len(records), batch_size=batch_size, seed=0, drop_last=True))
    batches = [[records[row] for row in next(order)] for _ in range(rounds)]
    if shared:
        batches = [with_shared_negatives(batch) for batch in batches]
    return [collate(batch) for batch in batches]


def with_shared_negatives(batch: list[Record]) -> list[Record]:
    """Give each record the positive of the next as its negative, as a miner may that draws from the same documents."""
    following = batch[1:] + batch[:1]
    return [
        replace(record, negatives=(other.positive,), negative_ids=(other.positive_id,))
        for record, other in zip(batch, following, strict=True)
    ]


def step(encoder: Encoder, loss: InfoNCELoss, batch: Batch, *, bucketed: bool, deduplicate: bool) -> None:
    """Encode both sides, judge, and go back to the weights."""
    encoder.bucketed = bucketed
    encoder.zero_grad(set_to_none=True)
    queries = encoder(batch.queries, side="query", deduplicate=deduplicate)
    keys = encoder(batch.documents, side="document", deduplicate=deduplicate)
    exclude = known_positive(batch.positive_ids, batch.key_ids)
    loss(queries, keys, exclude=exclude, owners=batch.owners).backward()


def gradient(encoder: Encoder, loss: InfoNCELoss, batch: Batch, *, bucketed: bool, deduplicate: bool) -> Tensor:
    """Return the gradient of all weights as one vector."""
    step(encoder, loss, batch, bucketed=bucketed, deduplicate=deduplicate)
    return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])


def relative_difference(vector: Tensor, reference: Tensor) -> float:
    """Return |vector - reference| / |reference|."""
    return float((vector - reference).norm() / reference.norm())


def ratios(slow: list[float], fast: list[float]) -> list[float]:
    """Return how many times as fast each pair of neighbours in time was."""
    return [s / f for s, f in zip(slow, fast, strict=True)]


if __name__ == "__main__":
    main()
