"""Sizes and duplicates of training pairs, from one pass over them that keeps numbers and no text."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from contrastive.data import Identities, Record
from contrastive.data.identities import Items

Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Where the values of something lie; all but the mean are values that occur."""

    mean: float
    minimum: int
    median: int
    p90: int
    p99: int
    maximum: int


@dataclass(frozen=True, slots=True)
class PairCounts:
    """How much there is to train on.

    Attributes:
        pairs: Training records.
        queries: Different queries, by id and normalised text.
        documents: Different documents, negatives included.
        pairs_a_query: Records of each query.
        negatives_a_pair: Hard negatives of each record.
        scored: Records that have a score.
    """

    pairs: int
    queries: int
    documents: int
    pairs_a_query: Distribution
    negatives_a_pair: Distribution
    scored: int


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What occurs more than once in a split; what a task cannot have is `None`.

    Attributes:
        queries: Queries with the text of another query under another id.
        documents: Documents with the text of another document under another id.
        pairs: Training records with the query and the positive of an earlier one.
        several_positives: Training queries with more than one positive.
        several_queries: Documents that are the positive of more than one training query.
        false_negatives: Hard negatives that are a known positive of their query.
    """

    queries: int
    documents: int
    pairs: int | None = None
    several_positives: int | None = None
    several_queries: int | None = None
    false_negatives: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PairTable:
    """Training records as numbers: a row is a record, an item one of its documents, its positive first.

    Attributes:
        sources: Names of the data sets, in the order of their first record.
        source: Index of the data set of each row.
        query: Number of the query of each row; equal queries have the same.
        scored: Whether each row has a score.
        row: The row of each item.
        document: Number of the document of each item; equal documents have the same.
        negative: Whether each item is a hard negative.
        graded: Whether each item is a hard negative that its own record grades as relevant.
        renamed_queries: Ids of queries in excess of different queries.
        renamed_documents: Ids of documents in excess of different documents.
    """

    sources: tuple[str, ...]
    source: Numbers
    query: Numbers
    scored: Flags
    row: Numbers
    document: Numbers
    negative: Flags
    graded: Flags
    renamed_queries: int
    renamed_documents: int


def distribution(values: ArrayLike) -> Distribution:
    """Describe one number or more.

    Example:
        >>> distribution([1, 2, 2, 9])
        Distribution(mean=3.5, minimum=1, median=2, p90=9, p99=9, maximum=9)
    """
    places = np.percentile(values, [0, 50, 90, 99, 100], method="inverted_cdf")
    return Distribution(float(np.mean(values)), *map(int, places))


def pair_table(records: Sequence[Record], *, show_progress: bool = False) -> PairTable:
    """Read the records, one or more, into numbers."""
    queries, documents = Items(), Items()
    names: dict[str, int] = {}
    source, row = array("q"), array("q")
    scored, negative, graded = array("b"), array("b"), array("b")
    bar = tqdm(records, desc="reading pairs", unit=" pairs", delay=1, leave=False, disable=not show_progress)
    for number, record in enumerate(bar):
        ids = record.negative_names()
        queries.add(record.query_id, record.query)
        documents.add(record.positive_id, record.positive)
        for id_, text in zip(ids, record.negatives, strict=True):
            documents.add(id_, text)
        source.append(names.setdefault(record.source, len(names)))
        scored.append(record.score is not None)
        row.extend([number] * (1 + len(ids)))
        negative.extend([False] + [True] * len(ids))
        graded.extend([False] + [record.grades.get(id_, 0) > 0 for id_ in ids])
    different_queries, different_documents = Identities(queries), Identities(documents)
    return PairTable(
        sources=tuple(names),
        source=np.array(source),
        query=different_queries.of_items,
        scored=np.array(scored, dtype=bool),
        row=np.array(row),
        document=different_documents.of_items,
        negative=np.array(negative, dtype=bool),
        graded=np.array(graded, dtype=bool),
        renamed_queries=renamed(queries, different_queries),
        renamed_documents=renamed(documents, different_documents),
    )


def renamed(items: Items, identities: Identities) -> int:
    """Count the ids that stand for something that has another id too, all but one each."""
    names, _ = items.digests()
    named = names != 0
    return len(np.unique(names[named])) - len(np.unique(identities.of_items[named]))


def pair_counts(table: PairTable) -> dict[str, PairCounts]:
    """Return the sizes of "all" records and, if there are several sources, of each."""
    chosen = {"all": np.ones(len(table.query), dtype=bool)}
    if len(table.sources) > 1:
        chosen |= {name: table.source == index for index, name in enumerate(table.sources)}
    negatives = np.bincount(table.row, weights=table.negative).astype(int)
    return {
        name: PairCounts(
            pairs=int(rows.sum()),
            queries=len(np.unique(table.query[rows])),
            documents=len(np.unique(table.document[rows[table.row]])),
            pairs_a_query=distribution(np.unique(table.query[rows], return_counts=True)[1]),
            negatives_a_pair=distribution(negatives[rows]),
            scored=int(table.scored[rows].sum()),
        )
        for name, rows in chosen.items()
    }


def pair_duplicates(table: PairTable) -> Duplicates:
    """Return what occurs more than once."""
    # One number for a query and a document of its.
    kinds = int(table.document.max()) + 1
    both = table.query[table.row] * kinds + table.document
    known = np.unique(both[~table.negative])
    return Duplicates(
        queries=table.renamed_queries,
        documents=table.renamed_documents,
        pairs=len(table.query) - len(known),
        several_positives=_repeated(known // kinds),
        several_queries=_repeated(known % kinds),
        false_negatives=int((table.negative & (table.graded | np.isin(both, known))).sum()),
    )


def _repeated(numbers: Numbers) -> int:
    """Count the numbers that occur more than once."""
    return int((np.unique(numbers, return_counts=True)[1] > 1).sum())
