"""The retrieval tasks of tables of pairs: queries held out, and the documents to find theirs among."""

from __future__ import annotations

import numpy as np

from contrastive.data.identities import Numbers, text_digest
from contrastive.data.pairs import DEV, SPLITS, TEST, TRAIN, Pairs, made_id
from contrastive.data.records import RetrievalTask
from contrastive.data.splitting import Rows, shuffled


def retrieval_tasks(
    pairs: Pairs, relevant: Rows, *, max_queries: int, corpus_size: int, seed: int
) -> dict[int, RetrievalTask]:
    """Make the tasks of dev and test, if there are rows of them.

    Positives have grade 1, or 0 where they are not relevant; negatives of a row are documents like any other. Both
    tasks share the corpus: all documents of the queries that are judged, and documents of train to fill it up.

    Args:
        pairs: The rows.
        relevant: Which rows' positives are relevant, [R].
        max_queries: At most so many queries a task, drawn by the seed.
        corpus_size: Documents of train are added while there are fewer than this in all.
        seed: Seed of the draw of queries.
    """
    corpus = _Texts("d")
    judged: dict[int, tuple[_Texts, _Grades]] = {}
    for split in (DEV, TEST):
        numbers = judged_rows(pairs, relevant, split, max_queries, seed)
        if len(numbers):
            judged[split] = _judgements(pairs, relevant, numbers, corpus)
    if not judged:
        return {}
    _fill(corpus, pairs, corpus_size)
    documents = corpus.by_id()
    return {
        split: RetrievalTask(
            SPLITS[split],
            queries.by_id(),
            documents,
            {queries.ids[q]: {corpus.ids[d]: grade for d, grade in of_query.items()} for q, of_query in grades.items()},
        )
        for split, (queries, grades) in judged.items()
    }


def judged_rows(pairs: Pairs, relevant: Rows, split: int, max_queries: int, seed: int) -> Numbers:
    """Return the rows of a split's queries that have something relevant, or of so many of them, ordered by content."""
    inside = pairs.splits == split
    queries = np.unique(pairs.queries[inside & relevant])
    if len(queries) > max_queries:
        queries = queries[np.argsort(shuffled(queries, seed))[:max_queries]]
    numbers = np.flatnonzero(inside & np.isin(pairs.queries, queries))
    return numbers[np.argsort(pairs.contents[numbers], kind="stable")]


def _judgements(pairs: Pairs, relevant: Rows, numbers: Numbers, corpus: _Texts) -> tuple[_Texts, _Grades]:
    """Return the queries of some rows and their grades, and put the rows' documents into the corpus."""
    queries, grades = _Texts("q"), _Grades()
    for number, row in zip(numbers, pairs.rows.read(numbers), strict=True):
        of_query = grades.setdefault(queries.add(row.query, row.query_id), {})
        for text, id_ in zip(row.positives, row.positive_ids, strict=True):
            document = corpus.add(text, id_)
            of_query[document] = max(of_query.get(document, 0), int(relevant[number]))
        for text, id_ in zip(row.negatives, row.negative_ids, strict=True):
            corpus.add(text, id_)
    return queries, grades


def _fill(corpus: _Texts, pairs: Pairs, size: int) -> None:
    """Add documents of train, drawn by content, while there are fewer than `size` in all."""
    training = np.flatnonzero(pairs.splits == TRAIN)
    for row in pairs.rows.read(training[np.argsort(pairs.contents[training], kind="stable")]):
        ids = (*row.positive_ids, *row.negative_ids)
        for text, id_ in zip((*row.positives, *row.negatives), ids, strict=True):
            if len(corpus) >= size:
                return
            corpus.add(text, id_)


_Grades = dict[int, dict[int, int]]
"""Grade by digest of the query and of the document."""


class _Texts:
    """Distinct texts by digest, each with an id; of several ids one from the data, the least."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._texts: dict[int, str] = {}
        self.ids: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str, id_: str) -> int:
        """Take in a text, and return its digest."""
        key = text_digest(text)
        made = made_id(self._kind, key)
        self._texts.setdefault(key, text)
        self.ids[key] = min(self.ids.get(key, id_), id_, key=lambda known: (known == made, known))
        return key

    def by_id(self) -> dict[str, str]:
        """Return the texts by their ids."""
        return {self.ids[key]: text for key, text in self._texts.items()}
