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


@dataclass(frozen=True, slots=True, eq=False)
class GuideEmbeddings:
    """Embeddings by the integer ids of a collator, for losses such as GIST; a row of NaN where there is no text.

    Attributes:
        queries: Embedding of each query, [ids, G].
        documents: Embedding of each document, [ids, G].
    """

    queries: Tensor
    documents: Tensor

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

        def table(texts: Mapping[int, str], side: Side) -> Tensor:
            embeddings = embeddings_of(guide, list(texts.values()), side=side, cache=cache, show_progress=show_progress)
            assert isinstance(embeddings, Tensor)
            rows = torch.full((max(texts, default=-1) + 1, guide.dimension), float("nan"))
            rows[torch.tensor(list(texts), dtype=torch.long)] = embeddings.cpu()
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


def _rows(table: Tensor, ids: Tensor, kind: str) -> Tensor:
    """Look up the rows of ids, [B, G]; these are on the CPU, where looking costs nothing."""
    unknown = ids >= len(table)
    rows = table[ids.masked_fill(unknown, -1)]
    unknown |= rows.isnan().any(1)
    if unknown.any():
        raise ValueError(
            f"expected texts that the guide has embedded, those of the training records; got {int(unknown.sum())} "
            f"{kind} ids of a batch without: {ids[unknown][:3].tolist()}"
        )
    return rows
