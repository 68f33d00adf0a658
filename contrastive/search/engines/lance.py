"""LanceDB as an engine: a folder here, an object store that many machines read, or a cluster elsewhere, by one URL.

Notable decisions:

- LanceDB finds candidates; their scores are made here, by the similarity, of the vectors that it returns. So scores and
  ties are those of the exact engine, and what a quantised index puts in the wrong order is put right.
- Vectors are stored as the similarity prepares them and compared by their product: a cosine with a vector of zeros is
  then 0, and not undefined. Distances are Euclidean.
- More candidates are asked for than wanted, and again more while the last of them are ties of the last that is wanted.
- Without `link` a search looks at every document; with it, at those that the index leads to.
- Every change is a version of the table that is there whole or not at all. Readers see the last, or the one they name,
  which stays for a week.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal

import torch

from contrastive.evaluation.ties import TieBreaker, in_steps
from contrastive.search.contracts import Filter, Metadata
from contrastive.search.engines.lance_columns import NOTHING, among, condition
from contrastive.search.engines.lance_rows import Dense, embeddings_in, nothing, rows_of
from contrastive.search.engines.lance_table import connected, created, opened
from contrastive.similarity import Embeddings, ProductSimilarity, TokenVectors, score_texts
from contrastive.similarity.naming import of_tokens

_WIDEST = 8192
"""Width above which a vector is one of a vocabulary, of which LanceDB would keep every zero."""

_MORE = 16
"""Candidates beyond those wanted, at least."""

_FEWEST = 256
"""Documents that can be linked."""

_PATIENCE = timedelta(days=1)
"""For a cluster that links."""


class LanceEngine:
    """Keeps embeddings in a table of LanceDB.

    Args:
        url: A folder; an object store, s3://bucket/path, gs:// or az://, whose keys are in the environment; or a
            cluster, db://name, whose key is in LANCEDB_API_KEY: db://name?host_override=https://host:port is one's own.
        similarity: How embeddings are compared, see `similarity_of`.
        table: Its name.
        version: Version of the table to read, see `version`; None for the last one, whatever it is.
        anew: Begin with no document, whatever the table holds; who reads a version of it still does.

    Raises:
        ModuleNotFoundError: If LanceDB is not installed.
        ValueError: If the table is damaged, holds no embeddings of this kind, or has no such version.
    """

    def __init__(
        self,
        url: str,
        similarity: ProductSimilarity,
        *,
        table: str = "postings",
        version: int | None = None,
        anew: bool = False,
    ) -> None:
        self.similarity = similarity
        self._name, self._url = table, url
        self._database = connected(url)
        self._table: Any = None if anew else opened(self._database, url, table, version)
        if self._table is not None and self._column not in self._table.schema.names:
            names = self._table.schema.names
            raise ValueError(f"expected a table of embeddings for {similarity!r} at {url}, got columns {names}")

    @property
    def _column(self) -> str:
        return "tokens" if of_tokens(self.similarity) else "vector"

    def add(self, ids: Sequence[str], embeddings: Embeddings, metadata: Sequence[Metadata]) -> None:
        """Add documents, one a row of each argument; an id that is there is replaced.

        Raises:
            ValueError: If ids, embeddings and metadata differ in number, an id occurs twice, or embeddings are not of
                the width that the table has, or of a vocabulary.
        """
        if not len(ids) == len(embeddings) == len(metadata):
            got = f"{len(embeddings)} and {len(metadata)} of {len(ids)}"
            raise ValueError(f"expected an embedding and metadata of each id, got {got}")
        TieBreaker(ids)
        if not len(ids):
            return
        asked = _on_cpu(embeddings)
        self._check_width(asked)
        rows = rows_of(self.similarity, self._column, ids, asked, metadata)
        if self._table is None:
            self._table = created(self._database, self._url, self._name, rows)
            return
        known = set(self._table.schema.names)
        new = {name: _NULL[name.partition("_")[0]] for name in rows.schema.names if name not in known}
        if new:
            self._table.add_columns(new)
        for field in self._table.schema:
            if field.name not in rows.schema.names:
                rows = rows.append_column(field, nothing(len(rows), field))
        rows = rows.select(self._table.schema.names).cast(self._table.schema)
        self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def remove(self, ids: Collection[str]) -> None:
        """Remove documents.

        Raises:
            KeyError: If one is not there; then none is removed.
        """
        if not ids:
            return
        of_them = among(ids)
        there: set[str] = set()
        if self._table is not None:
            there = set(self._table.search().where(of_them).select(["id"]).limit(len(ids)).to_arrow()["id"].to_pylist())
        if missing := set(ids) - there:
            raise KeyError(f"expected ids of the index to remove, got {min(missing)!r}")
        self._table.delete(of_them)

    def embeddings_of(self, ids: Sequence[str]) -> Dense:
        """Return the embeddings of documents that are there, as they are compared, in the order of their ids."""
        found = self._table.search().where(among(ids)).select(["id", self._column]).limit(len(ids)).to_arrow()
        rows = {id_: row for row, id_ in enumerate(found["id"].to_pylist())}
        embeddings = embeddings_in(found, self._column, several=of_tokens(self.similarity))
        return embeddings[torch.tensor([rows[id_] for id_ in ids])]

    def count(self) -> int:
        """Return how many documents there are."""
        return 0 if self._table is None else int(self._table.count_rows())

    @property
    def version(self) -> int:
        """Number of the version of the table that is read; 0 if there is no table."""
        return 0 if self._table is None else int(self._table.version)

    def restore(self) -> None:
        """Make the version that is read the last one, to change it: what was written after it does not count."""
        version = self.version
        self._table.checkout_latest()
        if self.version != version:
            self._table.restore(version)

    def close(self) -> None:
        """Let go of the table."""
        self._table = self._database = None

    def link(self) -> None:
        """Build the index that makes a search fast and approximate: of some 100,000 documents and more.

        Raises:
            ValueError: If there are fewer than 256 documents, which are too few to learn from.
        """
        if self.count() < _FEWEST:
            raise ValueError(f"expected at least {_FEWEST} documents to link, got {self.count()}")
        from lancedb.index import HnswSq, IvfPq

        config = IvfPq(distance_type="cosine") if of_tokens(self.similarity) else HnswSq(distance_type=self._metric())
        self._table.create_index(self._column, config=config, wait_timeout=_PATIENCE)
        self.__dict__.pop("linked", None)

    @cached_property
    def linked(self) -> bool:
        """Whether there is such an index."""
        return self._table is not None and bool(self._table.list_indices())

    def recall(self, queries: Embeddings, k: int = 10) -> float:
        """Return the share of the k closest documents that the index finds."""
        asked, found, there = _on_cpu(queries), 0, 0
        for row in range(len(asked)):
            query = asked[row : row + 1]
            closest = {id_ for id_, _ in self._closest(query, k, None, exact=True)}
            found += len(closest & {id_ for id_, _ in self._closest(query, k, None)})
            there += len(closest)
        return found / there if there else 1.0

    def tidy(self, *, alone: bool = False) -> None:
        """Join small files, take what is new into the index, and delete versions that are older than a week.

        Args:
            alone: Delete all versions but the last, which nobody else may be reading.
        """
        if not self._url.startswith("db://"):  # a cluster does so itself
            if alone:
                time.sleep(0.01)  # versions younger than the shortest time that can be asked for would stay
            self._table.optimize(cleanup_older_than=timedelta(milliseconds=1) if alone else None)

    def search(self, queries: Embeddings, k: int, filters: Sequence[Filter] = ()) -> list[list[tuple[str, float]]]:
        """Return ids and scores of the k closest documents to each query that pass all filters, best first.

        A query of no vectors finds nothing.

        Raises:
            ValueError: If `k` is below 1, a score is not finite, or queries are not of the width that the table has.
        """
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}")
        where = None if self._table is None else condition(filters, self._table.schema.names)
        if self._table is None or where == NOTHING:
            return [[] for _ in range(len(queries))]
        asked = _on_cpu(queries)
        self._check_width(asked)
        return [self._closest(asked[row : row + 1], k, where) for row in range(len(asked))]

    def _closest(self, query: Dense, k: int, where: str | None, *, exact: bool = False) -> list[tuple[str, float]]:
        """Return ids and scores of the documents closest to a query, [1]; `exact` passes the index by."""
        vectors = query.vectors if isinstance(query, TokenVectors) else query
        if not len(vectors):
            return []
        asked = self.similarity.prepare(vectors).numpy()
        wanted = 2 * k + _MORE
        while True:
            found = self._table.search(
                asked if of_tokens(self.similarity) else asked[0], vector_column_name=self._column
            )
            cosines = self.linked and not exact and of_tokens(self.similarity)  # all that several vectors are linked by
            found = found.distance_type("cosine" if cosines else self._metric())
            found = found.limit(wanted).select(["id", self._column, "_distance"])
            found = found.bypass_vector_index() if exact else found
            rows = (found if where is None else found.where(where)).to_arrow()
            if not len(rows):
                return []
            ids = rows["id"].to_pylist()
            documents = embeddings_in(rows, self._column, several=of_tokens(self.similarity))
            scores = score_texts(self.similarity, query, documents)[0]
            steps = in_steps(scores).sort(descending=True).values
            if len(ids) < wanted or steps[k - 1] > steps[-1]:
                return self._best(ids, scores, k, query, documents)
            wanted *= 2

    def _best(
        self, ids: Sequence[str], scores: torch.Tensor, k: int, query: Dense, documents: Dense
    ) -> list[tuple[str, float]]:
        """Return the best of the candidates, ties in the order of ids, as `retrieve` does."""
        size = 1.0
        if isinstance(query, torch.Tensor) and isinstance(documents, torch.Tensor):
            size = self.similarity.size(query, documents)
        ties = TieBreaker(ids)
        best, shares = ties.unpack(ties.pack(scores / size).topk(min(k, len(ids))).values)
        return [(id_, size * share) for id_, share in zip(best, shares, strict=True)]

    def _metric(self) -> Literal["l2", "dot"]:
        return "l2" if self.similarity.lengths_matter else "dot"

    def _check_width(self, embeddings: Dense) -> None:
        """Raise ValueError if embeddings are not those of the table, or of a vocabulary."""
        if isinstance(embeddings, TokenVectors) and not of_tokens(self.similarity):
            raise ValueError(f"expected a vector a text for {self.similarity!r}, got vectors of tokens")
        width = (embeddings.vectors if isinstance(embeddings, TokenVectors) else embeddings).shape[1]
        if width > _WIDEST:
            raise ValueError(
                f"expected vectors of at most {_WIDEST} numbers, got {width}: LanceDB has no sparse vectors, "
                "the engine exact takes them"
            )
        if self._table is not None:
            kind = self._table.schema.field(self._column).type
            known = (kind.value_type if of_tokens(self.similarity) else kind).list_size
            if width != known:
                raise ValueError(f"expected embeddings of width {known}, as the table at {self._url} has, got {width}")


_NULL: Mapping[str, str] = {"text": "CAST(NULL AS string)", "number": "CAST(NULL AS double)"}


def _on_cpu(embeddings: Embeddings) -> Dense:
    """Return embeddings on the CPU.

    Raises:
        ValueError: If they are weights of the terms of a vocabulary.
    """
    if not isinstance(embeddings, torch.Tensor | TokenVectors):
        raise ValueError(
            "expected vectors, got weights of terms: LanceDB has no sparse vectors, the engine exact takes them"
        )
    if isinstance(embeddings, TokenVectors):  # LanceDB has no word for a codec
        embeddings = embeddings.restored()
    return embeddings.to(torch.device("cpu"))
