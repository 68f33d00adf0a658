"""Negatives that an encoder finds close to the query."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from contrastive.contracts import Side, TextEncoder
from contrastive.encoder.embedding_cache import EmbeddingCache, check_keyed, embedding_key, embeddings_of
from contrastive.negatives.contracts import Candidates, Moment
from contrastive.negatives.pool import Pool
from contrastive.negatives.top import block_rows, top_k
from contrastive.similarity import ProductSimilarity, similarity_of

_log = logging.getLogger(__name__)


class Dense:
    """Ranks documents by the similarity of their embeddings with the query's, that of the encoder, exactly.

    Queries are taken a block at a time: memory beside the embeddings is 256 MiB of scores, or one row of them. Scores
    are computed in float32, on the device of the encoder, so that documents whose scores agree to about 1e-6 (a share
    of it, where scores are unbounded) may change places with the size of the block; evaluation, which may not depend on
    it, pays for float64. FAISS is not used: its exact index computes the same products, and the others miss some of the
    hardest documents.

    Args:
        encoder: What to embed with; None takes the `Moment`'s.
    """

    name = "dense"

    def __init__(self, encoder: TextEncoder | None = None) -> None:
        self.encoder = encoder

    def describe(self, moment: Moment) -> Mapping[str, object]:
        """Return what decides the ranking: the weights and settings of the encoder, and its similarity."""
        encoder = self._encoder(moment)
        key = embedding_key(check_keyed(encoder), [], side="document")
        return {"source": self.name, "encoder": key, "similarity": similarity_of(encoder).name}

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
        room = 2**26 if similarity.lengths_matter else 2**28  # distances take a few such blocks on the way
        size = min(block_rows(len(documents), budget=room), len(queries))
        scores = torch.empty(size, len(documents), device=documents.device)  # once: fresh memory costs a third more
        for start in range(0, len(queries), max(1, size)):
            rows = slice(start, min(start + size, len(queries)))
            yield _ranked(pool, similarity, queries, documents, rows, depth, scores[: rows.stop - start])

    def _encoder(self, moment: Moment) -> TextEncoder:
        encoder = self.encoder if self.encoder is not None else moment.encoder
        if encoder is None:
            raise ValueError("expected an encoder to find negatives with, of the source or of the moment, got none")
        return encoder


@torch.no_grad()
def _embed(encoder: TextEncoder, texts: Sequence[str], side: Side, cache: EmbeddingCache | None) -> Tensor:
    """Return embeddings prepared for the encoder's similarity, where the encoder is; NaN those that are not finite."""
    embeddings = embeddings_of(encoder, texts, side=side, cache=cache).float()
    bad = ~embeddings.isfinite().all(dim=1)
    if bad.any():
        _log.warning("%s of %s %s embeddings are not finite", f"{int(bad.sum()):,}", f"{len(texts):,}", side)
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
