"""Two encoders, one for queries and one for documents, used and trained as one; and loading either kind.

Both towers embed into one space, so they must agree on the width and the similarity. Started from one checkpoint they
are independent copies, and nothing ties them together but the loss.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.contracts import Side
from contrastive.encoder.compression import Compression
from contrastive.encoder.encoder import Encoder
from contrastive.encoder.locating import TWO_TOWERS, local_folder
from contrastive.encoder.micro_batches import TokenCount
from contrastive.similarity import SimilarityName


class TwoTowers(nn.Module):
    """Embeds queries with one encoder and documents with another, [B, D]; otherwise used like `Encoder`.

    Args:
        query: Encoder of the queries.
        document: Encoder of the documents.

    Raises:
        ValueError: If their embeddings differ in width, or in how they are to be compared.

    Example:
        >>> from contrastive.encoder import embedded_minilm
        >>> towers = load_encoder(embedded_minilm(), two_towers=True, max_length=64)
        >>> towers.encode(["pastry chef"], side="document").shape
        (1, 384)
    """

    def __init__(self, query: Encoder, document: Encoder) -> None:
        super().__init__()
        if query.dimension != document.dimension:
            raise ValueError(
                "expected both towers to give embeddings of one width, "
                f"got {query.dimension} for queries and {document.dimension} for documents"
            )
        if query.similarity != document.similarity:
            raise ValueError(
                "expected both towers to compare embeddings alike, "
                f"got {query.similarity} of the query tower and {document.similarity} of the document tower"
            )
        self.query = query
        self.document = document

    @property
    def dimension(self) -> int:
        """Width D of an embedding."""
        return self.query.dimension

    @property
    def similarity(self) -> SimilarityName:
        """How embeddings of the two are compared."""
        return self.query.similarity

    @property
    def compression(self) -> Compression | None:
        """How a corpus is kept."""
        return self.document.compression

    @property
    def normalize(self) -> bool:
        """Whether the embeddings of both get length 1."""
        return self.query.normalize and self.document.normalize

    @property
    def lexical(self) -> bool:
        """Whether embeddings of either weigh the terms of the vocabulary."""
        return self.query.lexical or self.document.lexical

    @property
    def settings(self) -> dict[str, object]:
        """What, beside the weights, decides embeddings and their scores, as plain values under `<side>.<name>`."""
        return {
            f"{side}.{name}": value
            for side, tower in (("query", self.query), ("document", self.document))
            for name, value in tower.settings.items()
        }

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.query.device

    @property
    def tokens_seen(self) -> TokenCount:
        """Tokens that went through both towers."""
        query, document = self.query.tokens_seen, self.document.tokens_seen
        return TokenCount(query.real + document.real, query.padded + document.padded)

    def tower(self, side: Side) -> Encoder:
        """Return the encoder of a side."""
        return self.query if side == "query" else self.document  # which refuses any other side

    def forward(self, texts: Sequence[str], *, side: Side = "query", deduplicate: bool = True) -> Tensor:
        """Embed texts with the tower of `side`, [B, D], in their order and with gradients; see `Encoder.forward`.

        Raises:
            ValueError: If `side` is unknown.
        """
        embeddings: Tensor = self.tower(side)(texts, side=side, deduplicate=deduplicate)
        return embeddings

    def embed_sides(
        self, queries: Sequence[str], documents: Sequence[str], *, deduplicate: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Embed both sides of a batch, each with its tower, [Q, D] and [K, D], with gradients."""
        query = self.query(queries, side="query", deduplicate=deduplicate)
        return query, self.document(documents, side="document", deduplicate=deduplicate)

    def weigh_queries(self, documents: Sequence[str]) -> None:
        """Let the tower of the queries weigh their tokens; see `Encoder.weigh_queries`."""
        self.query.weigh_queries(documents)

    def encode(self, texts: Sequence[str], *, side: Side = "query", **options: Any) -> Any:
        """Embed texts with the tower of `side`, [B, D], without gradients; `options` as for `Encoder.encode`.

        Raises:
            ValueError: If `side` is unknown.
        """
        return self.tower(side).encode(texts, side=side, **options)

    def save_pretrained(self, path: str | Path) -> None:
        """Write a folder for `load_encoder`: `query/` and `document/`, each the folder of an `Encoder`."""
        folder = Path(path)
        self.query.save_pretrained(folder / "query")
        self.document.save_pretrained(folder / "document")
        towers = {"query": "query", "document": "document"}
        (folder / TWO_TOWERS).write_text(json.dumps(towers, indent=2) + "\n", encoding="utf-8")


def load_encoder(name_or_path: str | Path, *, two_towers: bool = False, **settings: Any) -> Encoder | TwoTowers:
    """Load one encoder, or two: where the folder holds two, or where `two_towers` asks for two copies of the one.

    Args:
        name_or_path: A local folder, or a name on the hub ("org/name"), which is downloaded.
        two_towers: Give queries and documents weights of their own.
        settings: As for `Encoder.from_pretrained`; for both towers if there are two.

    Raises:
        FileNotFoundError: If there is no such folder or hub model, or it lacks a file.
        ValueError: If the folder holds something else, or a setting cannot be.

    Example:
        >>> from contrastive.encoder import embedded_minilm
        >>> load_encoder(embedded_minilm(), pooling="cls").settings["pooling"]
        'cls'
    """
    folder, sides = local_folder(name_or_path), ("query", "document")
    if (folder / TWO_TOWERS).is_file():
        query, document = (Encoder.from_pretrained(folder / side, **settings) for side in sides)
    elif two_towers:
        query, document = (Encoder.from_pretrained(name_or_path, **settings) for _ in sides)
    else:
        return Encoder.from_pretrained(name_or_path, **settings)
    return TwoTowers(query, document).eval()
