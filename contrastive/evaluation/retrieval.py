"""Exact retrieval: every query against the whole corpus, a block at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contrastive.contracts import Side, Similarity, TextEncoder
from contrastive.data import RetrievalTask, normalise_text
from contrastive.encoder.embedding_cache import EmbeddingCache, embeddings_of
from contrastive.evaluation.rankings import Rankings
from contrastive.evaluation.ties import TieBreaker
from contrastive.similarity import Embeddings, ProductSimilarity, cosine, score_texts, similarity_of, size_of


@dataclass(frozen=True, slots=True, eq=False)
class TaskEmbeddings:
    """Embeddings of a task's queries and of its corpus, a vector a text or several, with the ids of their rows.

    `similarity` is how they are to be compared, that of the encoder they are from.
    """

    query_ids: tuple[str, ...]
    queries: Embeddings
    document_ids: tuple[str, ...]
    documents: Embeddings
    similarity: ProductSimilarity = cosine


def embed(
    encoder: TextEncoder, task: RetrievalTask, *, show_progress: bool = False, cache: EmbeddingCache | None = None
) -> TaskEmbeddings:
    """Embed the queries and the corpus of a task once, for everything that is to be measured on them.

    Args:
        encoder: What to embed with.
        task: Its queries and corpus.
        show_progress: Show a progress bar.
        cache: Has the embeddings if the same encoder, unchanged, made them before; see `EmbeddingCache`.

    Raises:
        ValueError: If there is a cache, and the encoder does not say what its embeddings depend on.
    """

    def encode(texts: Mapping[str, str], side: Side) -> Embeddings:
        return embeddings_of(encoder, list(texts.values()), side=side, cache=cache, show_progress=show_progress)

    return TaskEmbeddings(
        tuple(task.queries),
        encode(task.queries, "query"),
        tuple(task.corpus),
        encode(task.corpus, "document"),
        similarity_of(encoder),
    )


def rank(
    encoder: TextEncoder,
    task: RetrievalTask,
    *,
    similarity: Similarity | None = None,
    depth: int = 1000,
    show_progress: bool = False,
) -> Rankings:
    """Rank the corpus of a task for each of its queries; `embed` and `rank_embedded` in one, for one use."""
    embeddings = embed(encoder, task, show_progress=show_progress)
    return rank_embedded(embeddings, task, similarity=similarity, depth=depth)


def rank_embedded(
    embeddings: TaskEmbeddings, task: RetrievalTask, *, similarity: Similarity | None = None, depth: int = 1000
) -> Rankings:
    """Rank the embedded corpus of a task for each of its queries, leaving out the query itself (see `self_answers`).

    The similarity is that of the embeddings, unless another is given.
    """
    return retrieve(
        embeddings.queries,
        embeddings.documents,
        embeddings.query_ids,
        embeddings.document_ids,
        depth=depth,
        similarity=embeddings.similarity if similarity is None else similarity,
        exclude=self_answers(task),
    )


@torch.no_grad()
def retrieve(
    queries: Embeddings,
    documents: Embeddings,
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    *,
    depth: int,
    similarity: Similarity = cosine,
    block_size: int = 2048,
    exclude: Mapping[str, Collection[str]] | None = None,
) -> Rankings:
    """Return the documents closest to each query, ties broken by document id (see `ties`).

    Scores are computed in float64: in float32 a sum depends in its last bits on the shape of the block, and now and
    then that moves a score across a boundary of rounding. Those of token vectors are float32 even so, for the time it
    takes (see `similarity.packed`). What counts as a tie, 1e-6 of a cosine, is as small beside the scores of other
    similarities: 1e-6 times their `ProductSimilarity.size`. Memory beside the embeddings is that of one block of scores
    and of the result.

    Args:
        queries: Embeddings of Q queries.
        documents: Embeddings of N documents.
        query_ids: Id of each query, [Q].
        document_ids: Id of each document, [N], all different.
        depth: Documents to return for each query; fewer if the corpus is smaller.
        similarity: Maps queries and documents to scores [Q, N], higher is closer: that of the encoder, see
            `similarity_of`.
        block_size: At most this many queries and this many documents are compared at once.
        exclude: Ids of documents that a query, by its id, is not to be given.

    Raises:
        ValueError: If ids and embeddings differ in number, an id occurs twice, or a score is not finite.
    """
    for what, ids, embeddings in (("queries", query_ids, queries), ("documents", document_ids, documents)):
        is_matrix = not isinstance(embeddings, Tensor) or embeddings.ndim == 2
        if not is_matrix or len(ids) != len(embeddings):
            got = list(embeddings.shape) if isinstance(embeddings, Tensor) else f"those of {len(embeddings)} texts"
            raise ValueError(f"expected {what} [{len(ids)}, D], one a given id, got {got}")
    if len(set(query_ids)) != len(query_ids):
        raise ValueError("expected query ids that differ")
    if depth < 1 or block_size < 1:
        raise ValueError(f"expected depth and block_size of at least 1, got {depth} and {block_size}")
    ties = TieBreaker(document_ids)
    refused = _pairs(exclude or {}, query_ids, document_ids)
    size = size_of(similarity, queries, documents)
    found: dict[str, tuple[list[str], list[float]]] = {}
    for top in range(0, len(queries), block_size):
        rows = slice(top, min(top + block_size, len(queries)))
        best = torch.empty(rows.stop - top, 0, dtype=torch.long, device=queries.device)
        for left in range(0, len(documents), block_size):
            columns = slice(left, min(left + block_size, len(documents)))
            packed = ties.pack(score_texts(similarity, queries[rows], documents[columns]) / size, columns)
            _refuse(packed, refused, rows, columns)
            candidates = torch.cat([best, packed], dim=1)
            best = candidates.topk(min(depth, candidates.shape[1])).values
        found |= zip(query_ids[rows], map(ties.unpack, best), strict=True)
    scores = {id_: [size * score for score in scores] for id_, (_, scores) in found.items()}
    return Rankings({id_: ids for id_, (ids, _) in found.items()}, scores)


def self_answers(task: RetrievalTask) -> dict[str, set[str]]:
    """Return, for queries that are themselves in the corpus, which documents they are.

    A document is the query if their normalised texts are equal, or if their ids are and its text is equal but for a
    title, its first line. An equal id alone says nothing: queries and documents may each be numbered from 1. A document
    that is judged relevant to the query is an answer even so, as of two questions that are the same; one that is judged
    irrelevant is not ranked, since every system would put it first.
    """
    by_text: dict[str, set[str]] = {normalise_text(query): set() for query in task.queries.values()}
    for document_id, document in task.corpus.items():
        if (text := normalise_text(document)) in by_text:
            by_text[text].add(document_id)
    answers = {}
    for query_id, query in task.queries.items():
        text = normalise_text(query)
        same = by_text[text]
        if normalise_text(task.corpus.get(query_id, "").partition("\n")[2]) == text:
            same = same | ({query_id} & task.corpus.keys())
        grades = task.qrels.get(query_id, {})
        if same := {document_id for document_id in same if grades.get(document_id, 0) <= 0}:
            answers[query_id] = same
    return answers


def _pairs(exclude: Mapping[str, Collection[str]], query_ids: Sequence[str], document_ids: Sequence[str]) -> Tensor:
    """Return the (query row, document column) of each pair to leave out, [2, P]."""
    if not exclude:
        return torch.empty(2, 0, dtype=torch.long)
    column = {document_id: index for index, document_id in enumerate(document_ids)}
    pairs = [
        (row, column[document_id])
        for row, query_id in enumerate(query_ids)
        for document_id in exclude.get(query_id, ())
        if document_id in column
    ]
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T


def _refuse(packed: Tensor, pairs: Tensor, rows: slice, columns: slice) -> None:
    """Take the pairs [2, P] that fall into this block out of the running."""
    row, column = pairs
    inside = (row >= rows.start) & (row < rows.stop) & (column >= columns.start) & (column < columns.stop)
    packed[row[inside] - rows.start, column[inside] - columns.start] = TieBreaker.nothing
