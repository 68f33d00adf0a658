"""Readers of text data, and the check that its splits do not answer one another."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from contrastive.data.documents import StripHTML, read_documents
from contrastive.data.identities import digest, query_key, word_order_key
from contrastive.data.near_duplicates import near_duplicate_groups
from contrastive.data.qrels import Qrels, read_qrels
from contrastive.data.records import Account, Record, RetrievalTask, TextData
from contrastive.data.shown import listed
from contrastive.masks import normalise_text

_log = logging.getLogger(__name__)

_ALSO_DEV = ("validation", "valid", "val")
_COMPARED = 5000
_REORDERED = "queries but for the order of their words"


def beir(
    path: str | Path,
    *,
    train: str = "train",
    dev: str = "dev",
    test: str = "test",
    title_separator: str = "\n",
    max_train_pairs: int | None = None,
    seed: int = 0,
    overlap: Literal["error", "warn"] = "error",
    strip_html: StripHTML = False,
) -> TextData:
    """Read a folder in the BEIR layout: `corpus.jsonl`, `queries.jsonl` and graded `qrels/<split>.tsv`.

    The train records are all pairs of a query and a document of that query's highest grade. A split without a qrels
    file is empty or `None`. The splits share the corpus, and nothing else (see `check_disjoint`).

    Args:
        path: The folder.
        train: Name of the qrels file to train on, without `.tsv`.
        dev: Name of the qrels file to tune on; with `"dev"` also validation, valid or val if there is no such file.
        test: Name of the qrels file to be scored once.
        title_separator: What stands between the title and the text of a document that has both.
        max_train_pairs: Train on this many pairs, drawn by `seed`; `None` takes all.
        seed: Seed of that draw.
        overlap: Whether splits that share a query or a best answer are refused or only reported.
        strip_html: Whether to take HTML out of the documents; see `documents`.

    Raises:
        FileNotFoundError: If the folder, its corpus, its queries or all the qrels files are missing.
        ValueError: If a file is malformed or empty, an id occurs twice or is unknown, or the splits overlap.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"expected a folder with corpus.jsonl, queries.jsonl and qrels/, got {folder}")
    files = {split: folder / "qrels" / f"{split}.tsv" for split in (train, dev, test)}
    if dev == "dev" and not files[dev].is_file():
        others = (folder / "qrels" / f"{name}.tsv" for name in _ALSO_DEV)
        files[dev] = next((file for file in others if file.is_file()), files[dev])
    if not any(file.is_file() for file in files.values()):
        raise FileNotFoundError(f"expected at least one of {', '.join(map(str, files.values()))}, found none")
    read = partial(read_documents, complete=True, title_separator=title_separator)
    documents = read(folder / "corpus.jsonl", strip_html=strip_html)
    corpus, queries = documents.texts, read(folder / "queries.jsonl", strip_html=False, what="query").texts
    qrels = {split: read_qrels(file, queries, corpus) for split, file in files.items() if file.is_file()}

    tasks = {
        split: RetrievalTask(split, {query_id: queries[query_id] for query_id in judged}, corpus, judged)
        for split, (judged, _) in qrels.items()
    }
    best = records = _best_pairs(tasks[train]) if train in tasks else ()
    if max_train_pairs is not None and max_train_pairs < len(records):
        kept = sorted(random.Random(seed).sample(range(len(records)), max_train_pairs))
        records = tuple(records[i] for i in kept)
    account = Account(
        sum(_judged(tasks, split) for split in tasks) + sum(repeated for _, repeated in qrels.values()),
        _left_out(qrels.values(), _judged(tasks, train), len(best), len(records)),
        documents.account.columns,
        documents.account.unused_columns,
        (*documents.account.remarks, *_not_used(folder, files.values(), queries, corpus, tasks)),
    )
    data = TextData(folder.name, records, tasks.get(dev), tasks.get(test), account)
    check_disjoint(data, overlap=overlap)
    return data


def _judged(tasks: Mapping[str, RetrievalTask], split: str) -> int:
    return sum(map(len, tasks[split].qrels.values())) if split in tasks else 0


def _left_out(qrels: Iterable[Qrels], judged: int, best: int, drawn: int) -> dict[str, int]:
    """Count the judgements that are not used, of which so many are to train on, are the best, and are drawn."""
    counts = {
        "repeat another": sum(repeated for _, repeated in qrels),
        "not trained on: below the best grade of the query, or 0": judged - best,
        "not drawn to train on (max_train_pairs)": best - drawn,
    }
    return {reason: count for reason, count in counts.items() if count}


def _not_used(
    folder: Path,
    used: Collection[Path],
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    tasks: Mapping[str, RetrievalTask],
) -> Iterator[str]:
    """Yield what a person should know of the queries, the documents, and the other files of judgements."""
    others = sorted(file.name for file in (folder / "qrels").iterdir() if file not in used)
    if others:
        yield f"files of qrels that are not used: {listed(others)}"
    unasked = len(queries) - len(set().union(*(task.queries for task in tasks.values())))
    if unasked:
        yield f"{unasked:,} of {len(queries):,} queries have no judgement here and are not used"
    for what, texts in (("queries", queries), ("documents", corpus)):
        if blank := sum(not text.strip() for text in texts.values()):
            yield f"{blank:,} {what} have no text"


def check_disjoint(data: TextData, *, overlap: Literal["error", "warn"] = "error", near: bool = False) -> None:
    """Make sure that no split answers another: they may share a corpus, but no query and no best answer.

    Queries are the same if their ids are, or their normalised texts up to the commas, semicolons, slashes and bars
    between words. Best answers, the documents of a query's highest grade, are the same if their ids or their normalised
    texts are. Queries of the same words in another order may say the same ("SQL, Python") or not ("from A to B"): they
    are reported, with the texts, and never refused. The size of a shared corpus is logged.

    Args:
        data: The data set.
        overlap: With `"warn"` an overlap is logged and not refused.
        near: Whether to report best answers that are nearly the same too (see `near_duplicate_groups`), never refused,
            among 5,000 of each split: it takes a few seconds.

    Raises:
        ValueError: If two splits overlap; it names the first few items they share.
    """
    if overlap not in ("error", "warn"):
        raise ValueError(f"expected overlap to be error or warn, got {overlap!r}")
    if data.dev is not None and data.test is not None:
        shared = len(data.dev.corpus.keys() & data.test.corpus.keys())
        _log.info("%s: splits 'dev' and 'test' share a corpus of %d documents", data.name, shared)
    for sentence, answers in leaks(data, near=near):
        if answers and overlap == "error":
            raise ValueError(f"{data.name}: {sentence} (overlap='warn' lets this pass)")
        _log.warning("%s: %s", data.name, sentence)


def leaks(data: TextData, *, near: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield a sentence for all that two splits share, and whether one answers the other; see `check_disjoint`."""
    pairs = {split: _best_pairs(task) for split, task in (("dev", data.dev), ("test", data.test)) if task is not None}
    for (what, left, right), names in _common("train", data.train, pairs).items():
        if names:
            some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            yield f"splits {left!r} and {right!r} share {len(names)} {what}: {some}", what != _REORDERED
    if near:
        yield from ((sentence, False) for sentence in _nearly_the_same({"train": data.train, **pairs}))


def _nearly_the_same(splits: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """Say which best answers of two splits are nearly the same and not the same, in a sample that is always one."""
    samples = {split: records[:: -(-len(records) // _COMPARED) or 1] for split, records in splits.items()}
    texts = [(split, record.positive) for split, records in samples.items() for record in records]
    found: dict[str, list[tuple[int, str]]] = {split: [] for split in splits}
    for group, (split, text) in zip(near_duplicate_groups([text for _, text in texts]), texts, strict=True):
        found[split].append((group, text))
    for left, right in itertools.combinations(splits, 2):
        others = dict(found[right])
        alike = [(text, others[group]) for group, text in found[left] if group in others]
        alike = [pair for pair in alike if normalise_text(pair[0]) != normalise_text(pair[1])]
        if alike:
            looked_at = f"{len(alike)} of {len(found[left])} best answers of {left!r} that were looked at"
            example = " and ".join(repr(text[:80]) for text in alike[0])
            yield f"{looked_at} are nearly the same as one of {right!r}: {example}"


def _common(
    first: str, records: Sequence[Record], others: Mapping[str, Sequence[Record]]
) -> dict[tuple[str, str, str], set[str]]:
    """Return for each kind of text and two splits the names of what they share; only `others` are held in memory."""
    known: dict[str, dict[tuple[str, str | int], str]] = {}
    for split, pairs in others.items():
        known[split] = {}
        for record in pairs:
            for key, name in _keys(record):
                known[split].setdefault(key, name)
    splits = [(first, records), *others.items()]
    common: dict[tuple[str, str, str], set[str]] = {
        (what, left, right): set()
        for what in ("queries", "top-graded documents", _REORDERED)
        for (left, _), (right, _) in itertools.combinations(splits, 2)
    }
    for place, (left, pairs) in enumerate(splits[:-1]):
        for record in tqdm(pairs, desc="Comparing splits", unit=" records", delay=5, leave=False, disable=None):
            for key, name in _keys(record):
                for right, _ in splits[place + 1 :]:
                    other = known[right].get(key)
                    if other is None:
                        continue
                    if key[0] != _REORDERED:
                        common[key[0], left, right].add(other)
                    elif query_key(name) != query_key(other):
                        common[key[0], left, right].add(f"{name[:80]!r} and {other[:80]!r}")
    return common


def _keys(record: Record) -> Iterator[tuple[tuple[str, str | int], str]]:
    """Yield by what a query and its answer are known, ids and digests of texts, and a name for messages.

    For the words of the query in whatever order that is the query itself.
    """
    for what, item_id, text, text_key in (
        ("queries", record.query_id, record.query, query_key(record.query)),
        ("top-graded documents", record.positive_id, record.positive, normalise_text(record.positive)),
    ):
        name = f"{item_id!r} ({text[:40]!r})" if item_id else repr(text[:60])
        yield (what, digest(text_key)), name
        if item_id:
            yield (what, item_id), name
    yield (_REORDERED, digest(word_order_key(record.query))), record.query


def _best_pairs(task: RetrievalTask) -> tuple[Record, ...]:
    """Return a record for each query of a task and each document of its highest grade, if that is above 0."""
    return tuple(
        Record(task.queries[query_id], task.corpus[i], query_id=query_id, positive_id=i, grades=grades)
        for query_id, grades in task.qrels.items()
        for best in [max(grades.values())]
        for i, grade in grades.items()
        if grade == best > 0
    )
