"""Documents as rows of a table of LanceDB, and back: ids, prepared vectors, and columns for filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from contrastive.search.contracts import Metadata
from contrastive.search.engines.lance_columns import columns_of
from contrastive.similarity import ProductSimilarity, TokenVectors

Dense = torch.Tensor | TokenVectors
"""Embeddings but for weights of terms."""


def rows_of(
    similarity: ProductSimilarity, column: str, ids: Sequence[str], embeddings: Dense, metadata: Sequence[Metadata]
) -> Any:
    """Return documents as a table of Arrow, their embeddings in a column of this name."""
    import pyarrow as arrow

    tokens = embeddings.vectors if isinstance(embeddings, TokenVectors) else embeddings
    prepared = similarity.prepare(tokens).float()
    if isinstance(embeddings, TokenVectors):  # a text of none has one of zeros, whose score is 0 as well
        lengths = embeddings.lengths.clamp_min(1)
        starts = pad(lengths.cumsum(0), (1, 0))
        whole = prepared.new_zeros(int(lengths.sum()), prepared.shape[1])
        shifts = (starts[:-1] - embeddings.offsets[:-1]).repeat_interleave(embeddings.lengths)
        whole[torch.arange(len(prepared)) + shifts] = prepared
        vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(whole.numpy().ravel()), whole.shape[1])
        of_texts = arrow.ListArray.from_arrays(arrow.array(starts.int().numpy()), vectors)
    else:
        of_texts = arrow.FixedSizeListArray.from_arrays(arrow.array(prepared.numpy().ravel()), prepared.shape[1])
    columns: dict[str, Any] = {"id": arrow.array(list(ids), arrow.string()), column: of_texts}
    for name, values in columns_of(metadata).items():
        columns[name] = arrow.array(values, arrow.string() if name.startswith("text_") else arrow.float64())
    return arrow.table(columns)


def embeddings_in(rows: Any, column: str, *, several: bool) -> Dense:
    """Return the embeddings of rows that were found, a vector each or several."""
    found = rows[column].combine_chunks()
    if not several:
        return torch.tensor(found.flatten().to_numpy()).reshape(len(rows), -1)
    lengths = torch.tensor(found.value_lengths().to_numpy())
    flat = torch.tensor(found.flatten().flatten().to_numpy())
    return TokenVectors.of_lengths(flat.reshape(int(lengths.sum()), -1), lengths.long())


def nothing(count: int, field: Any) -> Any:
    """Return a column of a table's field that says nothing of any row."""
    import pyarrow

    return pyarrow.nulls(count, field.type)
