"""What negatives are chosen for and from: pairs of a query and a positive, and documents.

Notable decisions:

- Documents stand in the order of their ids, so that a place also breaks ties, and nothing depends on the order of data.
- Whether two texts are one is decided as in `Collator`: by id or by normalised text, directly or through others. The
  known positives of a query are its own, all that any record grades above 0 for it, and those of all records that ask
  the same.
- A record is a pair. Each distinct query text is ranked once, however many positives it has; a margin is measured from
  the positive of the pair, as in NV-Retriever (Moreira et al. 2024, https://arxiv.org/abs/2407.15831, section 3).
- Texts without an id get one that follows from the text.

Shape letters: P pairs, Q distinct queries, N documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from contrastive.data.identities import Digests, Identities, Items, digest, text_digest
from contrastive.data.pairs import made_id
from contrastive.data.records import Record

Places = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pair:
    """A query, one of its positives (an empty id and text if there is none), and what else is known of it.

    Attributes:
        query_id: Id of the query.
        query: Its text.
        positive_id: Id of the positive.
        positive: Its text; None for a positive without text.
        known: Ids of all documents known to be relevant to the query.
        given: Ids of negatives that the pair has already.
    """

    query_id: str
    query: str
    positive_id: str = ""
    positive: str | None = None
    known: tuple[str, ...] = ()
    given: tuple[str, ...] = ()


class Pool:
    """Documents to choose negatives from, and the pairs that need some.

    Args:
        documents: Text of each document by id. Positives that are missing are put in.
        pairs: The pairs; ids may be missing, texts may be empty.

    Attributes:
        document_ids: Ids of the documents, [N], ascending.
        documents: Their texts, [N].
        query_texts: Each distinct query text once, [Q].
        pairs: The pairs, [P].
        query_of: Place of each pair's query in `query_texts`, [P].
        positive_of: Place of each pair's positive in `documents`, [P]; -1 if it has none.
        empty: Which documents have no text, [N].
        most_known: How many documents are known to be relevant to the query that has most.

    Raises:
        ValueError: If there is no document.

    Example:
        >>> pool = Pool({"b": "a chef", "a": "a nurse"}, [Pair("q", "hospital", "a", "a nurse")])
        >>> pool.document_ids, pool.positive_of.tolist()
        (('a', 'b'), [0])
    """

    def __init__(self, documents: Mapping[str, str], pairs: Iterable[Pair]) -> None:
        self.pairs = tuple(pairs)
        texts = {pair.positive_id: pair.positive for pair in self.pairs if pair.positive is not None}
        texts = dict(sorted({**texts, **documents}.items()))
        if not texts:
            raise ValueError("expected at least one document to choose negatives from, got none")
        self.document_ids = tuple(texts)
        self.documents = tuple(texts.values())
        self.place = {document_id: place for place, document_id in enumerate(self.document_ids)}
        self.empty: Flags = np.array([not text.strip() for text in self.documents], bool)
        rows: dict[str, int] = {}
        self.query_of: Places = np.array([rows.setdefault(pair.query, len(rows)) for pair in self.pairs], np.int64)
        self.query_texts = tuple(rows)
        self.positive_of: Places = np.array([self.place.get(pair.positive_id, -1) for pair in self.pairs], np.int64)
        self._in_query_order: Places = np.argsort(self.query_of, kind="stable")
        self._sorted_queries = self.query_of[self._in_query_order]
        self._identify()

    def __len__(self) -> int:
        """Return how many pairs there are."""
        return len(self.pairs)

    @classmethod
    def of_records(
        cls, records: Iterable[Record], *, corpus: Mapping[str, str] | None = None, only_own: bool = False
    ) -> Pool:
        """Make a pool of training records.

        Args:
            records: Each is a pair.
            corpus: Documents by id; None for the positives and negatives of the records.
            only_own: Take a record's positive as the only document known to be relevant, whatever its grades: to see
                how many false negatives a strategy would choose without them.

        Raises:
            ValueError: If a record does not have an id for each of its negatives, or for none.
        """
        documents, pairs = dict(corpus or {}), []
        for record in records:
            positive_id = record.positive_id or made_id("d", text_digest(record.positive))
            named = zip(record.negative_names(), record.negatives, strict=True)
            given = tuple(id_ or made_id("d", text_digest(text)) for id_, text in named)
            if corpus is None:
                documents.setdefault(positive_id, record.positive)
                for id_, text in zip(given, record.negatives, strict=True):
                    documents.setdefault(id_, text)
            graded = () if only_own else (id_ for id_, grade in record.grades.items() if grade > 0)
            query_id = record.query_id or made_id("q", text_digest(record.query))
            pairs.append(Pair(query_id, record.query, positive_id, record.positive, tuple(graded), given))
        return cls(documents, pairs)

    @cached_property
    def document_digests(self) -> Digests:
        """64 bits that stand for each document's id, [N]."""
        return np.array([digest(id_, b"id") for id_ in self.document_ids], np.uint64)

    def pairs_of(self, rows: slice) -> Places:
        """Return which pairs ask the queries in `rows`, in the order of the queries."""
        start, stop = np.searchsorted(self._sorted_queries, [rows.start, rows.stop])
        return self._in_query_order[start:stop]

    def known_places(self, pair: int) -> Places:
        """Return the places of the documents in the pool that are known to be relevant to the query of a pair."""
        base = self.asked[pair] * self._identities
        first, last = np.searchsorted(self._known, [base, base + self._identities])
        starts, ends = (
            np.searchsorted(self._sorted_identities, self._known[first:last] - base, side=side)
            for side in ("left", "right")
        )
        spans = [self._by_identity[start:end] for start, end in zip(starts, ends, strict=True)]
        return np.concatenate(spans) if spans else np.empty(0, np.int64)

    def are_known(self, pairs: Places, documents: Places) -> Flags:
        """Tell for pairs [P] and documents [P, C] whether these are known to be relevant."""
        return self._among(self._known, self.asked[pairs], documents)

    def are_given(self, pairs: Places, documents: Places) -> Flags:
        """Tell for pairs [P] and documents [P, C] whether these are negatives that the pair has already."""
        return self._among(self._given, pairs, documents)

    def are_the_query(self, pairs: Places, documents: Places) -> Flags:
        """Tell for pairs [P] and documents [P, C] whether these have the text of the query, normalised."""
        return self._among(self._self, pairs, documents)

    def parts(self) -> Iterator[str]:
        """Yield everything that a choice of negatives may depend on, for `data.store.key_of`."""
        yield str(len(self.documents))
        for document in zip(self.document_ids, self.documents, strict=True):
            yield from document
        for pair in self.pairs:
            yield repr((pair.query_id, pair.query, pair.positive_id, pair.positive, pair.known, pair.given))

    def _identify(self) -> None:
        """Give numbers to what is one document or one query, and note which pairs of numbers mean what."""
        documents, queries = Items(), Items()
        for document_id, text in zip(self.document_ids, self.documents, strict=True):
            documents.add(document_id, text)
        asked = [queries.add(pair.query_id, pair.query) for pair in self.pairs]
        known, given = [], []
        for number, pair in enumerate(self.pairs):
            own = (pair.positive_id,) if pair.positive_id else ()
            known += [(number, documents.add(id_, None)) for id_ in dict.fromkeys((*own, *pair.known))]
            given += [(number, documents.add(id_, None)) for id_ in pair.given]
        found = Identities(documents)
        self.identity: Places = found.of_items[: len(self.documents)]
        self.asked: Places = Identities(queries).of_items[asked] if asked else np.empty(0, np.int64)
        self._by_identity: Places = np.argsort(self.identity, kind="stable")
        self._sorted_identities = self.identity[self._by_identity]
        self._identities = len(found)
        self._known = self._keys([(self.asked[number], found.of_items[place]) for number, place in known])
        self.most_known = int(np.bincount(self._known // self._identities).max()) if len(self._known) else 0
        self._given = self._keys([(number, found.of_items[place]) for number, place in given])
        self._self = self._keys(list(self._queries_among_documents(documents.digests()[1][: len(self.documents)])))

    def _queries_among_documents(self, texts: Digests) -> Iterator[tuple[int, int]]:
        """Yield the place of a pair and the number of a document that is its query; given the documents' digests."""
        by_text = dict(zip(texts.tolist(), self.identity.tolist(), strict=True))
        asked = np.array([text_digest(text) for text in self.query_texts], np.uint64)
        for number, query in enumerate(self.query_of.tolist()):
            same = by_text.get(int(asked[query]))
            if same is not None:
                yield number, same

    def _keys(self, numbers: Sequence[tuple[int, int]]) -> Places:
        pairs = np.array(numbers, np.int64).reshape(-1, 2)
        return np.unique(pairs[:, 0] * self._identities + pairs[:, 1])

    def _among(self, keys: Places, owners: Places, documents: Places) -> Flags:
        if not len(keys):
            return np.zeros(documents.shape, bool)
        wanted = owners[:, None] * self._identities + self.identity[documents]
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        among: Flags = keys[places] == wanted
        return among


def seed_of(seed: int, refresh: int, pair: Pair) -> int:
    """Return 64 bits for what is drawn by chance for a pair, whatever its place among others."""
    return digest(f"{seed} {refresh} {pair.query_id} {pair.positive_id}", b"negatives")
