"""A data set made from documents alone: pseudo-queries to train on, and tasks to judge on."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from contrastive.data.documents import Asked, Documents, StripHTML, read_documents
from contrastive.data.identities import components, query_key
from contrastive.data.near_duplicates import near_duplicates
from contrastive.data.queries.keywords import Keywords, extract_keywords
from contrastive.data.queries.pseudo_queries import PseudoQueries, PseudoQuery
from contrastive.data.queries.query_writers import QueryWriter, write_queries
from contrastive.data.readers import beir, check_disjoint
from contrastive.data.records import Account, Record, RetrievalTask, TextData
from contrastive.masks import normalise_text

PSEUDO_QUERIES = "-pseudo-queries"
"""How the name of a task ends whose queries were made here, lest its numbers pass for those of real ones."""

_log = logging.getLogger(__name__)


def corpus(
    path: str | Path,
    *,
    columns: Asked | None = None,
    queries: PseudoQueries | None = None,
    writer: QueryWriter | None = None,
    writer_cache: str | Path = "written_queries.jsonl",
    queries_per_document: int = 1,
    near_duplicate: float = 0.8,
    held_out: float = 0.1,
    max_queries: int = 500,
    max_train_pairs: int | None = None,
    seed: int = 0,
    separator: str | None = None,
    encoding: str | None = None,
    strip_html: StripHTML = "auto",
) -> TextData:
    """Make training pairs from documents that nobody has written queries for.

    Near-duplicates of a document, and the other documents that have all that a query says, are known positives of the
    query: they are never its negatives. With a folder in the BEIR layout that has judgements, its dev and test queries
    are the tasks, the documents that answer them best are not trained on, nor what is nearly the same, and its train
    queries are not read. Otherwise the tasks are pseudo-queries, nothing masked, one of each group of near-duplicates
    that is held out, and no group is in two of train, dev and test: good for telling two settings apart, too kind as a
    measure of real queries. Their names say so.

    Args:
        path: A folder in the BEIR layout, or a file of documents; see `documents`.
        columns: Names of the columns of a file; see `documents`.
        queries: The rules that make queries; None for `PseudoQueries` as it comes.
        writer: A language model that writes the training queries in place of the rules; see `query_writers`.
        writer_cache: File that keeps what the writer wrote, so that a run that was stopped continues.
        queries_per_document: At most so many training queries a document.
        near_duplicate: Least Jaccard similarity of near-duplicates; see `near_duplicates`.
        held_out: Share of the documents to hold out for dev, and as many for test; only without judgements.
        max_queries: At most so many queries in dev, and in test; only without judgements.
        max_train_pairs: Train on so many pairs, drawn by `seed`; None takes all.
        seed: Seed of what is held out and of that draw.
        separator: What stands between the columns of a CSV or TSV file; see `rows`.
        encoding: Encoding of a file; see `rows`.
        strip_html: Whether to take HTML out of the documents; see `documents`.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the documents cannot be read, an argument is out of range, or no query can be made.
    """
    if queries_per_document < 1:
        raise ValueError(f"expected queries_per_document of at least 1, got {queries_per_document}")
    if not 0 <= held_out < 0.5:
        raise ValueError(f"expected held_out from 0 to below 0.5, got {held_out}")
    rules = queries or PseudoQueries()
    read = read_documents(path, columns=columns, separator=separator, encoding=encoding, strip_html=strip_html)
    source = _source(read, near_duplicate)
    if (Path(path) / "qrels").is_dir():
        given = beir(path, strip_html=strip_html)
        dev, test = given.dev, given.test
    else:
        dev, test = _tasks(source, replace(rules, masked=0.0), held_out, max_queries, seed)
    tasks = [task for task in (dev, test) if task is not None]
    allowed = _not_answers(source, tasks)
    _log.info("Making queries from %d of %d documents", len(allowed), len(source.texts))
    if writer is None:
        made = {id_: rules.make(id_, source.texts[id_], source.keywords, queries_per_document) for id_ in allowed}
    else:
        made = _written(writer, writer_cache, source, allowed, queries_per_document)
    asked = {query_key(query) for task in tasks for query in task.queries.values()}
    answers = {normalise_text(source.texts[id_]) for id_ in _best_answers(tasks)}
    records = [record for record in _records(source, made, asked) if normalise_text(record.positive) not in answers]
    if not records:
        raise ValueError(f"expected documents in {path} to make queries from, got {len(source.texts)} that gave none")
    told = _account(read.account, source, records)
    if max_train_pairs is not None and max_train_pairs < len(records):
        chosen = random.Random(seed).sample(range(len(records)), max_train_pairs)
        records = [records[i] for i in sorted(chosen)]
    data = TextData(Path(path).stem, tuple(records), dev, test, told)
    check_disjoint(data)
    return data


@dataclass(frozen=True, slots=True)
class _Source:
    """The documents, what they can be found by, and which are nearly the same.

    Attributes:
        texts: Text of each document by id.
        keywords: Keywords of all of them.
        alike: Near-duplicates of each document.
        groups: Number of the group of each document: those that near-duplicates tie together have one.
    """

    texts: Mapping[str, str]
    keywords: Keywords
    alike: Mapping[str, frozenset[str]]
    groups: Mapping[str, int]

    def grades(self, id_: str, query: PseudoQuery) -> dict[str, int]:
        """Grade the query's own document 2, and what is as good an answer 1."""
        others = query.also.union(*(self.alike[i] for i in (id_, *query.also))) - {id_}
        return {id_: 2, **dict.fromkeys(sorted(others), 1)}


def _source(read: Documents, near_duplicate: float) -> _Source:
    texts = read.texts
    ids = list(texts)
    found = near_duplicates(list(texts.values()), near_duplicate)
    alike = {id_: frozenset(ids[place] for place in places) for id_, places in zip(ids, found, strict=True)}
    edges = np.array([(place, other) for place, others in enumerate(found) for other in others], int).reshape(-1, 2)
    groups = dict(zip(ids, components(len(ids), *edges.T).tolist(), strict=True))
    # What is worth a threshold in a large corpus would leave nothing of a small one.
    return _Source(texts, extract_keywords(texts, min_documents=min(3, 1 + len(texts) // 50)), alike, groups)


def _best_answers(tasks: Iterable[RetrievalTask]) -> set[str]:
    return {document_id for task in tasks for _, document_id in task.best_pairs()}


def _not_answers(source: _Source, tasks: Iterable[RetrievalTask]) -> list[str]:
    """Return the documents that are of no group with a best answer of the tasks."""
    taken = {source.groups[id_] for id_ in _best_answers(tasks)}
    return [id_ for id_ in source.texts if source.groups[id_] not in taken]


def _account(read: Account, source: _Source, records: Sequence[Record]) -> Account:
    """Add to what was read how many documents have no training query, and how many are nearly the same as another."""
    without = len(source.texts) - len({record.positive_id for record in records})
    alike = sum(1 for others in source.alike.values() if others)
    remarks = {
        f"{without:,} of {len(source.texts):,} documents have no training query: held out, or nothing to ask": without,
        f"{alike:,} documents are nearly the same as another; none of them is in another split than its like": alike,
    }
    return replace(read, remarks=(*read.remarks, *(remark for remark, count in remarks.items() if count)))


def _written(
    writer: QueryWriter, cache: str | Path, source: _Source, ids: Sequence[str], queries_per_document: int
) -> dict[str, list[PseudoQuery]]:
    texts = [source.texts[id_] for id_ in ids]
    written = write_queries(writer, texts, cache, show_progress=True)
    return {
        id_: [PseudoQuery(query, text, "written") for query in queries[:queries_per_document]]
        for id_, text, queries in zip(ids, texts, written, strict=True)
    }


def _records(source: _Source, made: Mapping[str, Sequence[PseudoQuery]], exclude: set[str]) -> list[Record]:
    """Make a record of every query but those that a task asks."""
    return [
        Record(
            query.text,
            query.document,
            query_id=f"{id_}/{number}",
            positive_id=id_,
            grades=source.grades(id_, query),
        )
        for id_, queries in made.items()
        for number, query in enumerate(queries)
        if query_key(query.text) not in exclude
    ]


def _tasks(
    source: _Source, rules: PseudoQueries, share: float, max_queries: int, seed: int
) -> tuple[RetrievalTask | None, RetrievalTask | None]:
    """Make tasks of one query a group of near-duplicates, that of the first of its documents that gives one."""
    made: dict[str, list[Record]] = {}
    asked: set[str] = set()
    for split, groups in zip(("dev", "test"), _held_out(source, share, seed), strict=True):
        queries: dict[str, list[PseudoQuery]] = {}
        for ids in groups:
            written = ((id_, rules.make(id_, source.texts[id_], source.keywords, 1)) for id_ in ids)
            queries.update([next(((id_, query) for id_, query in written if query), (ids[0], []))])
        made[split] = _records(source, queries, exclude=asked)[:max_queries]
        asked |= {query_key(record.query) for record in made[split]}
    return _task("dev", made["dev"], source), _task("test", made["test"], source)


def _held_out(source: _Source, share: float, seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """Return the groups of documents to hold out for dev and for test, as many documents each as fit into its share.

    Groups come in the order of the least hash of their ids, so that other documents may come and go; so do the
    documents of a group.
    """
    groups: dict[int, list[str]] = {}
    for id_ in sorted(source.texts, key=lambda id_: blake2b(f"{seed}/{id_}".encode(), digest_size=8).digest()):
        groups.setdefault(source.groups[id_], []).append(id_)
    taken: tuple[list[list[str]], list[list[str]]] = ([], [])
    room = [round(share * len(source.texts))] * 2
    for ids in groups.values():
        split = next((split for split in (0, 1) if len(ids) <= room[split]), None)
        if split is not None:
            taken[split].append(ids)
            room[split] -= len(ids)
    return taken


def _task(split: str, records: Sequence[Record], source: _Source) -> RetrievalTask | None:
    queries = {f"{split}/{record.query_id}": record.query for record in records}
    qrels = {f"{split}/{record.query_id}": record.grades for record in records}
    return RetrievalTask(split + PSEUDO_QUERIES, queries, source.texts, qrels) if records else None
