"""Negatives that an encoder finds close to the query."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from contrastive.contracts import Side, TextEncoder
from contrastive.encoder.embedding_cache import EmbeddingCache, check_keyed, embedding_key, embeddings_of
from contrastive.negatives.bm25 import BM25
from contrastive.negatives.contracts import Candidates, Moment
from contrastive.negatives.pool import Pool
from contrastive.negatives.top import block_rows, top_k
from contrastive.similarity import (
    Embeddings,
    ProductSimilarity,
    TermWeights,
    TokenVectors,
    finite_texts,
    mean_vectors,
    of_tokens,
    score_text_pairs,
    score_texts,
    similarity_of,
    unit,
)

_log = logging.getLogger(__name__)


class Dense:
    """Ranks documents by the similarity of their embeddings with the query's, that of the encoder, exactly.

    Queries are taken a block at a time: memory beside the embeddings is 256 MiB of scores, or one row of them. Scores
    are computed in float32, on the device of the encoder, so that documents whose scores agree to about 1e-6 (a share
    of it, where scores are unbounded) may change places with the size of the block; evaluation, which may not depend on
    it, pays for float64. FAISS is not used: its exact index computes the same products, and the others miss some of the
    hardest documents.

    Of several vectors a text (`max_sim`), all documents are compared if that is at most `exact_products` products of
    two vectors. Of a larger pool each query is compared with candidates of a first stage alone: the best by BM25, and
    as many more by the cosine of the texts' mean vectors. Scores, those of positives too, are exact in either case.

    Args:
        encoder: What to embed with; None takes the `Moment`'s.
        exact_products: Products of vectors up to which `max_sim` compares everything with everything. The default is a
            minute or two of one processor core.
        candidates: Documents that each half of the first stage finds for a query, at least the depth asked for.

    Raises:
        ValueError: If `exact_products` is negative or `candidates` below 1.
    """

    name = "dense"

    def __init__(
        self, encoder: TextEncoder | None = None, *, exact_products: int = 2**33, candidates: int = 100
    ) -> None:
        if exact_products < 0 or candidates < 1:
            raise ValueError(
                f"expected exact_products of at least 0 and candidates of at least 1, got {exact_products} and "
                f"{candidates}"
            )
        self.encoder = encoder
        self.exact_products = exact_products
        self.candidates = candidates

    def describe(self, moment: Moment) -> Mapping[str, object]:
        """Return what decides the ranking: the weights and settings of the encoder, and its similarity."""
        encoder = self._encoder(moment)
        key = embedding_key(check_keyed(encoder), [], side="document")
        similarity = similarity_of(encoder)
        described = {"source": self.name, "encoder": key, "similarity": similarity.name}
        if of_tokens(similarity):
            described |= {"exact_products": str(self.exact_products), "candidates": str(self.candidates)}
        return described

    def __call__(self, pool: Pool, depth: int, moment: Moment) -> Iterator[Candidates]:
        """Yield the candidates; see `contracts.CandidateSource`.

        Raises:
            ValueError: If there is no encoder, or embeddings are to be kept of one that is no
                `embedding_cache.KeyedEncoder`.
        """
        encoder = self._encoder(moment)
        similarity = similarity_of(encoder)
        queries = _embed(encoder, pool.query_texts, "query", moment.cache)
        documents = _embed(encoder, pool.documents, "document", moment.cache)
        if isinstance(queries, TokenVectors) or isinstance(documents, TokenVectors):
            yield from self._by_max_sim(pool, similarity, queries, documents, depth)
            return
        room = 2**26 if similarity.lengths_matter else 2**28  # distances take a few such blocks on the way
        size = min(block_rows(len(documents), budget=room), len(queries))
        scores = torch.empty(size, len(documents), device=documents.device)  # once: fresh memory costs a third more
        for start in range(0, len(queries), max(1, size)):
            rows = slice(start, min(start + size, len(queries)))
            yield _ranked(pool, similarity, queries, documents, rows, depth, scores[: rows.stop - start])

    def _by_max_sim(
        self, pool: Pool, similarity: ProductSimilarity, queries: Embeddings, documents: Embeddings, depth: int
    ) -> Iterator[Candidates]:
        """Yield the candidates where a text has several vectors."""
        good, readable = finite_texts(queries), finite_texts(documents).to(queries.device)
        products = _vectors(queries) * _vectors(documents)
        first: Tensor | None = None
        if products > self.exact_products:
            first = _first_stage(pool, queries, documents, max(depth, self.candidates))
            _log.info(
                "%s of %s scores of max_sim, for candidates by BM25 and mean vectors: all are %s products of vectors",
                f"{int((first >= 0).sum()):,}",
                f"{len(queries) * len(documents):,}",
                f"{products:,}",
            )
        size = min(block_rows(len(documents)), len(queries))
        for start in range(0, len(queries), max(1, size)):
            rows = slice(start, min(start + size, len(queries)))
            if first is None:
                scores = score_texts(similarity, queries[rows], documents).contiguous()
            else:
                scores = _scores_of(similarity, queries, documents, rows, first[rows])
            scores[~good[rows]] = -torch.inf
            scores[:, ~readable] = -torch.inf
            best, places = top_k(scores, depth)
            if first is not None:
                places = places.masked_fill(best == -torch.inf, -1)
            positive_scores = _positive_scores(pool, similarity, queries, documents, rows)
            yield Candidates(rows, places.cpu().numpy(), best.cpu().numpy(), positive_scores.cpu().numpy())

    def _encoder(self, moment: Moment) -> TextEncoder:
        encoder = self.encoder if self.encoder is not None else moment.encoder
        if encoder is None:
            raise ValueError("expected an encoder to find negatives with, of the source or of the moment, got none")
        return encoder


@torch.no_grad()
def _embed(
    encoder: TextEncoder, texts: Sequence[str], side: Side, cache: EmbeddingCache | None
) -> Tensor | TokenVectors:
    """Return embeddings where the encoder is, prepared for its similarity and NaN where they are not finite.

    Token vectors are as they were made.
    """
    embeddings = embeddings_of(encoder, texts, side=side, cache=cache)
    bad = ~finite_texts(embeddings)
    if bad.any():
        _log.warning("%s of %s %s embeddings are not finite", f"{int(bad.sum()):,}", f"{len(texts):,}", side)
    if isinstance(embeddings, TokenVectors):
        return embeddings
    embeddings = (embeddings.dense() if isinstance(embeddings, TermWeights) else embeddings).float()
    return similarity_of(encoder).prepare(embeddings).masked_fill(bad[:, None], torch.nan)


def _ranked(
    pool: Pool,
    similarity: ProductSimilarity,
    queries: Tensor,
    documents: Tensor,
    rows: slice,
    depth: int,
    scores: Tensor,
) -> Candidates:
    """Rank the documents for some of the queries, with room for their scores."""
    pairs = pool.pairs_of(rows)
    asked, positives = (torch.from_numpy(places[pairs]) for places in (pool.query_of, pool.positive_of))
    positive_scores = similarity.scores_of_pairs(queries[asked], documents[positives])
    positive_scores[positives < 0] = torch.nan
    if similarity.lengths_matter:
        scores.copy_(similarity.scores(queries[rows], documents))
    else:
        torch.mm(queries[rows], documents.T, out=scores)
    scores[queries[rows, 0].isnan()] = -torch.inf
    scores[:, documents[:, 0].isnan()] = -torch.inf
    best, places = top_k(scores, depth)
    return Candidates(rows, places.cpu().numpy(), best.cpu().numpy(), positive_scores.cpu().numpy().astype(np.float32))


def _vectors(embeddings: Embeddings) -> int:
    return len(embeddings.vectors if isinstance(embeddings, TokenVectors) else embeddings)


def _positive_scores(
    pool: Pool, similarity: ProductSimilarity, queries: Embeddings, documents: Embeddings, rows: slice
) -> Tensor:
    """Score the positive of each pair of some queries, [P]; NaN where there is none."""
    pairs = pool.pairs_of(rows)
    asked, positives = (torch.from_numpy(places[pairs]) for places in (pool.query_of, pool.positive_of))
    has = positives >= 0
    scores = torch.full((len(asked),), torch.nan)
    scores[has] = score_text_pairs(similarity, queries, documents, asked[has], positives[has]).float().cpu()
    return scores


def _first_stage(pool: Pool, queries: Embeddings, documents: Embeddings, count: int) -> Tensor:
    """Return places of the documents that max_sim is to compare with each query, [Q, 2 * count]; -1 for none."""
    count = min(count, len(pool.documents))
    by_words = [torch.from_numpy(block.documents) for block in BM25()(pool, count, Moment())]
    asked, found = (unit(mean_vectors(side)).nan_to_num() for side in (queries, documents))
    size = block_rows(len(found))
    by_mean = [(rows @ found.T.to(rows.device)).topk(count, dim=1).indices.cpu() for rows in torch.split(asked, size)]
    return torch.cat([torch.cat(by_words), torch.cat(by_mean)], dim=1)


def _scores_of(
    similarity: ProductSimilarity, queries: Embeddings, documents: Embeddings, rows: slice, candidates: Tensor
) -> Tensor:
    """Score some queries against their candidates, [R, C]: [R, N], minus infinity elsewhere."""
    chosen = torch.zeros(len(candidates), len(documents) + 1, dtype=torch.bool)
    chosen.scatter_(1, candidates.where(candidates >= 0, len(documents)), True)
    asked, answered = chosen[:, :-1].nonzero().T
    scores = torch.full((len(candidates), len(documents)), -torch.inf, device=queries.device)
    found = score_text_pairs(similarity, queries, documents, rows.start + asked, answered)
    scores[asked.to(scores.device), answered.to(scores.device)] = found
    return scores
