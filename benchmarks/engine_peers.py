"""The engines that `benchmarks.engines` compares: the least code that gives each the same postings and questions.

Each is a class with the same methods, and imports its library itself, so that a process has one of them alone. A
method that the library has nothing for raises `NotImplementedError` with what it said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Sparse = tuple[list[int], list[float]]


class Postings:
    """Some postings as an engine gets them: numbers, vectors, sparse vectors, words, a place; perhaps token vectors."""

    def __init__(self, start: int, vectors: Any, sparse: list[Sparse], texts: list[str], tokens: Any = None) -> None:
        self.numbers = list(range(start, start + len(texts)))
        self.vectors, self.sparse, self.texts, self.tokens = vectors, sparse, texts, tokens
        self.places = [f"place {number % 20}" for number in self.numbers]


class Lance:
    """LanceDB: columns on a disk or an object store, an index of clusters and small worlds, BM25, no sparse vectors."""

    packages = ("lancedb",)
    batch = 10_000

    def __init__(self, folder: Path, width: int, token_width: int | None = None) -> None:
        import lancedb
        import pyarrow

        self.arrow, self.width, self.token_width = pyarrow, width, token_width
        self.database = lancedb.connect(folder)
        self.table: Any = self.database.open_table("postings") if "postings" in self._names() else None

    def _names(self) -> Sequence[str]:
        return self.database.list_tables().tables

    def add(self, postings: Postings) -> None:
        """Add postings."""
        arrow = self.arrow
        columns = {
            "number": postings.numbers,
            "text": postings.texts,
            "place": postings.places,
            "vector": arrow.FixedSizeListArray.from_arrays(arrow.array(postings.vectors.ravel()), self.width),
        }
        if postings.tokens is not None:
            flat = arrow.array(np.concatenate(postings.tokens).ravel())
            starts = np.cumsum([0, *map(len, postings.tokens)], dtype=np.int32)
            vectors = arrow.FixedSizeListArray.from_arrays(flat, self.token_width)
            columns["tokens"] = arrow.ListArray.from_arrays(arrow.array(starts), vectors)
        content = arrow.table(columns)
        if self.table is None:
            self.table = self.database.create_table("postings", content)
        else:
            self.table.add(content)

    def finish(self) -> None:
        """Build what makes it fast: small worlds within clusters, BM25, an index of places."""
        from lancedb.index import FTS, Bitmap, HnswSq

        if self.token_width is None:
            self.table.create_index("vector", config=HnswSq(distance_type="cosine"))
        self.table.create_index("text", config=FTS(stem=False, remove_stop_words=False, max_token_length=None))
        self.table.create_index("place", config=Bitmap())

    def count(self) -> int:
        """Return how many postings there are."""
        return 0 if self.table is None else self.table.count_rows()

    def dense(self, query: Any, k: int, place: str | None = None, *, exact: bool = False) -> list[int]:
        """Return the closest by one vector a text."""
        found = self.table.search(query, vector_column_name="vector").distance_type("cosine")
        if exact:
            found = found.bypass_vector_index()
        return self._numbers(found, k, place)

    def tokens(self, query: Any, k: int) -> list[int]:
        """Return the closest by the sum of the largest cosines."""
        return self._numbers(self.table.search(query, vector_column_name="tokens").distance_type("cosine"), k, None)

    def words(self, text: str, _sparse: Sparse, k: int, place: str | None = None) -> list[int]:
        """Return the best by BM25."""
        return self._numbers(self.table.search(text, query_type="fts", fts_columns="text"), k, place)

    def sparse(self, query: Sparse, k: int) -> list[int]:
        """Refuse: there is no column of sparse vectors."""
        raise NotImplementedError("no sparse vectors")

    def hybrid(self, query: Any, text: str, _sparse: Sparse, k: int) -> list[int]:
        """Return the best of both by reciprocal ranks."""
        found = self.table.search(query_type="hybrid", vector_column_name="vector", fts_columns="text")
        return [row["number"] for row in found.vector(query).text(text).limit(k).to_list()]

    @staticmethod
    def _numbers(found: Any, k: int, place: str | None) -> list[int]:
        if place is not None:
            found = found.where(f"place = '{place}'")
        return found.limit(k).select(["number"]).to_arrow()["number"].to_pylist()


class Milvus:
    """Milvus Lite, in a process of this one's, by the client that speaks to a Milvus cluster."""

    packages = ("pymilvus", "milvus-lite")
    batch = 1000

    def __init__(self, folder: Path, width: int, token_width: int | None = None) -> None:
        from pymilvus import DataType, Function, FunctionType, MilvusClient

        folder.mkdir(parents=True, exist_ok=True)
        self.client, self.token_width = MilvusClient(str(folder / "milvus.db")), token_width
        if self.client.has_collection("postings"):
            self.client.load_collection("postings")
            return
        schema = MilvusClient.create_schema(auto_id=False)
        schema.add_field("number", DataType.INT64, is_primary=True)
        schema.add_field("text", DataType.VARCHAR, max_length=65535, enable_analyzer=True)
        schema.add_field("place", DataType.VARCHAR, max_length=100)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
        schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_field("weights", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            Function("bm25", FunctionType.BM25, input_field_names=["text"], output_field_names=["words"])
        )
        if token_width is not None:  # what a cluster has from 2.6.4 on
            parts = MilvusClient.create_struct_field_schema()
            parts.add_field("vector", DataType.FLOAT_VECTOR, dim=token_width)
            schema.add_field(
                "tokens", DataType.ARRAY, element_type=DataType.STRUCT, struct_schema=parts, max_capacity=512
            )
        self.client.create_collection("postings", schema=schema)
        self._index()

    def _index(self) -> None:
        indexes = self.client.prepare_index_params()
        indexes.add_index("vector", index_type="HNSW", metric_type="COSINE", params={"M": 16, "efConstruction": 200})
        indexes.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
        indexes.add_index("weights", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        indexes.add_index("place", index_type="INVERTED")
        if self.token_width is not None:
            indexes.add_index("tokens[vector]", index_type="HNSW", metric_type="MAX_SIM_COSINE")
        self.client.create_index("postings", indexes)
        self.client.load_collection("postings")

    def add(self, postings: Postings) -> None:
        """Add postings."""
        rows = zip(postings.numbers, postings.texts, postings.places, postings.vectors, postings.sparse, strict=True)
        self.client.insert(
            "postings",
            [
                {
                    "number": number,
                    "text": text,
                    "place": place,
                    "vector": vector,
                    "weights": dict(zip(*sparse, strict=True)),
                }
                for number, text, place, vector, sparse in rows
            ],
        )

    def finish(self) -> None:
        """Write what is in memory, which builds the indexes."""
        self.client.flush("postings")

    def count(self) -> int:
        """Return how many postings there are."""
        return int(self.client.query("postings", output_fields=["count(*)"])[0]["count(*)"])

    def dense(self, query: Any, k: int, place: str | None = None, *, exact: bool = False) -> list[int]:
        """Return the closest by one vector a text."""
        if exact:
            raise NotImplementedError("exact and approximate are two indexes, not two questions")
        return self._search("vector", query, k, place)

    def tokens(self, query: Any, k: int) -> list[int]:
        """Refuse: see `__init__`."""
        raise NotImplementedError

    def words(self, text: str, _sparse: Sparse, k: int, place: str | None = None) -> list[int]:
        """Return the best by BM25."""
        return self._search("words", text, k, place)

    def sparse(self, query: Sparse, k: int) -> list[int]:
        """Return the best by sparse vectors."""
        return self._search("weights", dict(zip(*query, strict=True)), k, None)

    def hybrid(self, query: Any, text: str, _sparse: Sparse, k: int) -> list[int]:
        """Return the best of both by reciprocal ranks."""
        from pymilvus import AnnSearchRequest, RRFRanker

        parts = [AnnSearchRequest([query], "vector", {}, limit=100), AnnSearchRequest([text], "words", {}, limit=100)]
        found = self.client.hybrid_search("postings", parts, RRFRanker(), limit=k)
        return [hit["number"] for hit in found[0]]

    def _search(self, field: str, query: Any, k: int, place: str | None) -> list[int]:
        where = "" if place is None else f"place == '{place}'"
        found = self.client.search("postings", data=[query], anns_field=field, limit=k, filter=where)
        return [hit["number"] for hit in found[0]]


class Qdrant:
    """Qdrant's client in its local mode: NumPy and SQLite behind the calls that a Qdrant cluster answers."""

    packages = ("qdrant-client",)
    batch = 1000

    def __init__(self, folder: Path, width: int, token_width: int | None = None) -> None:
        from qdrant_client import QdrantClient, models

        self.models, self.client = models, QdrantClient(path=str(folder))
        if self.client.collection_exists("postings"):
            return
        vectors = {"vector": models.VectorParams(size=width, distance=models.Distance.COSINE)}
        if token_width is not None:
            compared = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
            vectors["tokens"] = models.VectorParams(
                size=token_width, distance=models.Distance.COSINE, multivector_config=compared
            )
        sparse = {
            "words": models.SparseVectorParams(modifier=models.Modifier.IDF),
            "weights": models.SparseVectorParams(),
        }
        self.client.create_collection("postings", vectors_config=vectors, sparse_vectors_config=sparse)

    def add(self, postings: Postings) -> None:
        """Add postings; what a word weighs in BM25 but for how rare it is, is the caller's to say."""
        models, points = self.models, []
        for row, number in enumerate(postings.numbers):
            vector = {
                "vector": postings.vectors[row].tolist(),
                "words": models.SparseVector(**counted(postings.texts[row])),
                "weights": models.SparseVector(indices=postings.sparse[row][0], values=postings.sparse[row][1]),
            }
            if postings.tokens is not None:
                vector["tokens"] = postings.tokens[row].tolist()
            points.append(models.PointStruct(id=number, vector=vector, payload={"place": postings.places[row]}))
        self.client.upsert("postings", points, wait=True)

    def finish(self) -> None:
        """Do nothing: the local mode has no index."""

    def count(self) -> int:
        """Return how many postings there are."""
        return self.client.count("postings").count

    def dense(self, query: Any, k: int, place: str | None = None, *, exact: bool = False) -> list[int]:
        """Return the closest by one vector a text."""
        if not exact:
            raise NotImplementedError("the local mode is exact")
        return self._search(query.tolist(), "vector", k, place)

    def tokens(self, query: Any, k: int) -> list[int]:
        """Return the closest by the sum of the largest cosines."""
        return self._search(query.tolist(), "tokens", k, None)

    def words(self, _text: str, sparse: Sparse, k: int, place: str | None = None) -> list[int]:
        """Return the best by BM25, of sparse vectors."""
        return self._search(self.models.SparseVector(indices=sparse[0], values=sparse[1]), "words", k, place)

    def sparse(self, query: Sparse, k: int) -> list[int]:
        """Return the best by sparse vectors."""
        return self._search(self.models.SparseVector(indices=query[0], values=query[1]), "weights", k, None)

    def hybrid(self, query: Any, _text: str, sparse: Sparse, k: int) -> list[int]:
        """Return the best of both by reciprocal ranks."""
        models = self.models
        words = models.SparseVector(indices=sparse[0], values=sparse[1])
        parts = [
            models.Prefetch(query=query.tolist(), using="vector", limit=100),
            models.Prefetch(query=words, using="words", limit=100),
        ]
        fused = models.FusionQuery(fusion=models.Fusion.RRF)
        return [hit.id for hit in self.client.query_points("postings", prefetch=parts, query=fused, limit=k).points]

    def _search(self, query: Any, using: str, k: int, place: str | None) -> list[int]:
        models, where = self.models, None
        if place is not None:
            where = models.Filter(must=[models.FieldCondition(key="place", match=models.MatchValue(value=place))])
        found = self.client.query_points(
            "postings", query=query, using=using, limit=k, query_filter=where, with_payload=False
        )
        return [hit.id for hit in found.points]


class QdrantEdge:
    """Qdrant's shard as a library in Rust: the data of a cluster, calls of its own."""

    packages = ("qdrant-edge-py",)
    batch = 1000

    def __init__(self, folder: Path, width: int, token_width: int | None = None) -> None:
        import qdrant_edge as edge

        self.edge = edge
        if (folder / "edge_config.json").exists() or (folder.exists() and any(folder.iterdir())):
            self.shard = edge.EdgeShard.load(str(folder))
            return
        folder.mkdir(parents=True, exist_ok=True)
        vectors = {"vector": edge.EdgeVectorParams(width, edge.Distance.Cosine)}
        if token_width is not None:
            compared = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
            unlinked = edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=0)  # links of 2,000 take minutes
            vectors["tokens"] = edge.EdgeVectorParams(
                token_width, edge.Distance.Cosine, multivector_config=compared, hnsw_config=unlinked
            )
        sparse = {
            "words": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf),
            "weights": edge.EdgeSparseVectorParams(),
        }
        self.shard = edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse))
        place = edge.UpdateOperation.create_field_index("place", edge.PayloadSchemaType.Keyword)
        self.shard.update(place)

    def add(self, postings: Postings) -> None:
        """Add postings."""
        edge, points = self.edge, []
        for row, number in enumerate(postings.numbers):
            vector = {
                "vector": postings.vectors[row].tolist(),
                "words": edge.SparseVector(**counted(postings.texts[row])),
                "weights": edge.SparseVector(*postings.sparse[row]),
            }
            if postings.tokens is not None:
                vector["tokens"] = postings.tokens[row].tolist()
            points.append(edge.Point(number, vector, {"place": postings.places[row]}))
        self.shard.update(edge.UpdateOperation.upsert_points(points))

    def finish(self) -> None:
        """Build the small worlds."""
        self.shard.optimize()
        self.shard.flush()

    def count(self) -> int:
        """Return how many postings there are."""
        return self.shard.count(self.edge.CountRequest(exact=True))

    def dense(self, query: Any, k: int, place: str | None = None, *, exact: bool = False) -> list[int]:
        """Return the closest by one vector a text."""
        return self._search(query.tolist(), "vector", k, place, exact=exact)

    def tokens(self, query: Any, k: int) -> list[int]:
        """Return the closest by the sum of the largest cosines."""
        return self._search(query.tolist(), "tokens", k, exact=True)

    def words(self, _text: str, sparse: Sparse, k: int, place: str | None = None) -> list[int]:
        """Return the best by BM25, of sparse vectors."""
        return self._search(self.edge.SparseVector(*sparse), "words", k, place)

    def sparse(self, query: Sparse, k: int) -> list[int]:
        """Return the best by sparse vectors."""
        return self._search(self.edge.SparseVector(*query), "weights", k)

    def hybrid(self, query: Any, _text: str, sparse: Sparse, k: int) -> list[int]:
        """Return the best of both by reciprocal ranks."""
        edge = self.edge
        parts = [
            edge.Prefetch(100, edge.Query.Nearest(query.tolist(), "vector")),
            edge.Prefetch(100, edge.Query.Nearest(edge.SparseVector(*sparse), "words")),
        ]
        return [hit.id for hit in self.shard.query(edge.QueryRequest(k, prefetches=parts, query=edge.Fusion.Rrf(60)))]

    def _search(self, query: Any, using: str, k: int, place: str | None = None, *, exact: bool = False) -> list[int]:
        edge, where = self.edge, None
        if place is not None:
            where = edge.Filter(must=[edge.FieldCondition("place", match=edge.MatchValue(place))])
        asked = edge.Query.Nearest(query, using)
        request = edge.QueryRequest(k, query=asked, filter=where, params=edge.SearchParams(exact=exact))
        return [hit.id for hit in self.shard.query(request)]


class Faiss:
    """FAISS, a library of vectors and nothing else: what the others are to be measured by."""

    packages = ("faiss-cpu",)
    batch = 10_000

    def __init__(self, folder: Path, width: int, token_width: int | None = None) -> None:
        import faiss

        if token_width is not None:
            raise NotImplementedError("vectors alone")
        self.faiss, self.path = faiss, folder / "index"
        folder.mkdir(parents=True, exist_ok=True)
        self.index = faiss.IndexHNSWFlat(width, 16, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction, self.index.hnsw.efSearch = 100, 64
        self.flat = faiss.IndexFlatIP(width)
        if self.path.exists():
            self.index = faiss.read_index(str(self.path))

    def add(self, postings: Postings) -> None:
        """Add postings."""
        self.index.add(postings.vectors)
        self.flat.add(postings.vectors)

    def finish(self) -> None:
        """Write the index."""
        self.faiss.write_index(self.index, str(self.path))

    def count(self) -> int:
        """Return how many postings there are."""
        return int(self.index.ntotal)

    def dense(self, query: Any, k: int, place: str | None = None, *, exact: bool = False) -> list[int]:
        """Return the closest by one vector a text."""
        if place is not None:
            raise NotImplementedError("filters by number alone")
        return (self.flat if exact else self.index).search(query[None], k)[1][0].tolist()

    def tokens(self, *_: Any) -> list[int]:
        """Refuse: vectors alone."""
        raise NotImplementedError("vectors alone")

    words = sparse = hybrid = tokens


def counted(text: str) -> dict[str, Any]:
    """Return the sparse vector whose product with a query's words, weighted by how rare they are, is BM25."""
    words = text.split()
    counts: dict[int, int] = {}
    for word in words:
        number = int(word[1:])
        counts[number] = counts.get(number, 0) + 1
    norm = 0.4 * (1 - 0.75 + 0.75 * len(words) / 120)
    return {"indices": list(counts), "values": [count * 1.4 / (count + norm) for count in counts.values()]}


ENGINES: dict[str, Callable[..., Any]] = {
    "LanceDB": Lance,
    "Milvus Lite": Milvus,
    "Qdrant local mode": Qdrant,
    "Qdrant Edge": QdrantEdge,
    "FAISS": Faiss,
}
