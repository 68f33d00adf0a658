"""Embeddings of the training texts by a guide, a model that is not trained, made once and looked up by id.

Shape letters: Q queries, K keys, G width of the guide's embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from contrastive.contracts import Side
from contrastive.data import Batch, Collator, Record
from contrastive.encoder.embedding_cache import EmbeddingCache, KeyedEncoder, embeddings_of
from contrastive.similarity import TermWeights, TokenVectors


@dataclass(frozen=True, slots=True, eq=False)
class GuideEmbeddings:
    """Embeddings by the integer ids of a collator, for losses such as GIST; a row of NaN where there is no text.

    Attributes:
        queries: Embedding of each query, [ids, G]; or those of its tokens, none where there is no text.
        documents: Embedding of each document, the same.
    """

    queries: Tensor | TokenVectors
    documents: Tensor | TokenVectors

    @classmethod
    def of(
        cls,
        guide: KeyedEncoder,
        records: Sequence[Record],
        collate: Collator,
        cache: EmbeddingCache | None = None,
        *,
        show_progress: bool = False,
    ) -> GuideEmbeddings:
        """Embed all queries, positives and negatives of records, or read what was embedded before.

        Args:
            guide: What to embed with.
            records: Records whose texts batches are made of.
            collate: Makes the batches; fixes the ids.
            cache: Keeps the embeddings from run to run.
            show_progress: Show a progress bar.
        """

        def table(texts: Mapping[int, str], side: Side) -> Tensor | TokenVectors:
            found = embeddings_of(guide, list(texts.values()), side=side, cache=cache, show_progress=show_progress)
            embeddings = (found.dense() if isinstance(found, TermWeights) else found).to(torch.device("cpu"))
            number = max(texts, default=-1) + 1
            places = torch.tensor(list(texts), dtype=torch.long)
            if isinstance(embeddings, TokenVectors):
                return _of_tokens(embeddings, places, number)
            rows = torch.full((number, guide.dimension), float("nan"))
            rows[places] = embeddings
            return rows

        queries, documents = collate.texts(records)
        return cls(table(queries, "query"), table(documents, "document"))

    def added_to(self, batch: Batch) -> Batch:
        """Return a batch with the embeddings of its Q queries and K documents.

        Raises:
            ValueError: If the guide has not embedded one of them.
        """
        assert batch.key_ids is not None
        return replace(
            batch,
            guide_queries=_rows(self.queries, batch.query_ids, "query"),
            guide_keys=_rows(self.documents, batch.key_ids, "document"),
        )


def _of_tokens(texts: TokenVectors, places: Tensor, number: int) -> TokenVectors:
    """Put the vectors of texts at their places among so many; the others are of no tokens."""
    nothing = TokenVectors.of_lengths(texts.vectors[:0], torch.zeros(1, dtype=torch.long), texts.codec)
    order = torch.full((number,), len(texts))
    order[places] = torch.arange(len(texts))
    return TokenVectors.join([texts, nothing])[order]


def _rows(table: Tensor | TokenVectors, ids: Tensor, kind: str) -> Tensor:
    """Look up the rows of ids, [B, G] or [B, T, G]; these are on the CPU, where looking costs nothing."""
    unknown = ids >= len(table)
    found = table[ids.masked_fill(unknown, -1)]
    rows = found.padded() if isinstance(found, TokenVectors) else found
    unknown |= found.lengths == 0 if isinstance(found, TokenVectors) else rows.isnan().any(1)
    if unknown.any():
        raise ValueError(
            f"expected texts that the guide has embedded, those of the training records; got {int(unknown.sum())} "
            f"{kind} ids of a batch without: {ids[unknown][:3].tolist()}"
        )
    return rows
