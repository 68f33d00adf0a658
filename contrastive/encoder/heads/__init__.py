"""What makes the embedding of a text from the vectors of its tokens: one head a file, and the choice among them.

A new representation is a new file with a `Head`, and its name in `HEADS`; see docs/new_representation.md.

Shape letters: B texts, T tokens of the longest, W width of a token's vector, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from contrastive.encoder.heads.lexical import LexicalHead
from contrastive.encoder.heads.pooled import PooledHead
from contrastive.encoder.heads.tokens import TokensHead
from contrastive.encoder.in_order import Pieces
from contrastive.similarity import SimilarityName, TokenVectors

__all__ = ["HEADS", "Head", "LexicalHead", "PooledHead", "TokensHead"]


class Head(Protocol):
    """A module from token vectors to embeddings; made as `head(W, **options)`, its options being what it is saved by.

    Attributes:
        model_type: Kind of sentence-transformers model whose folders it reads and writes.
        dimension: Width D of an embedding.
        normalize: Whether embeddings have length 1.
        similarity: How embeddings are compared.
        similarity_in_folder: The word for it in a folder of sentence-transformers.
        sides_differ: Whether a query is embedded otherwise than a document.
        windows: Whether a document longer than the maximum length is read whole, in windows, and not cut.
        query_parts: Whether each part of a query, between commas, is embedded too.
        transformer: Dotted type of sentence-transformers' module for the transformer before it.
        lexical: Whether an embedding weighs the terms of the vocabulary: the checkpoint is opened with its
            masked-language head, if it has one, and training keeps embeddings sparse.
        reads_queries: Whether queries go through the model.
    """

    model_type: ClassVar[str]
    lexical: ClassVar[bool]
    windows: bool
    similarity: SimilarityName

    @property
    def query_parts(self) -> bool: ...  # noqa: D102

    @property
    def dimension(self) -> int: ...  # noqa: D102
    @property
    def normalize(self) -> bool: ...  # noqa: D102
    @property
    def similarity_in_folder(self) -> str: ...  # noqa: D102
    @property
    def sides_differ(self) -> bool: ...  # noqa: D102
    @property
    def reads_queries(self) -> bool: ...  # noqa: D102
    @property
    def transformer(self) -> str: ...  # noqa: D102

    def __init__(self, width: int, **options: Any) -> None: ...

    @property
    def settings(self) -> dict[str, Any]:
        """All its options, as plain values."""
        ...

    def attach(self, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take what it needs of the model that it is the head of, before anything is embedded."""
        ...

    def fill_up(self, inputs: Mapping[str, Tensor], is_query: Tensor) -> Mapping[str, Tensor]:
        """Return what the backbone is given for a batch: its inputs, [B, T] each, with what the head adds to texts."""
        ...

    @property
    def is_weighed(self) -> bool:
        """Whether there is nothing, or nothing more, to `weigh`."""
        ...

    def weigh(self, documents: Iterable[Tensor], number: int) -> None:
        """Take from the token ids of a number of documents what tokens weigh, if it does."""
        ...

    def __call__(self, hidden: Tensor, inputs: Mapping[str, Tensor], is_query: Tensor) -> Tensor:
        """Embed one padded batch of windows, in float32 or better: [B, D], or [B, T, D] with zeros for absent tokens.

        Args:
            hidden: Token vectors, [B, T, W]; without the rows of queries where it does not read those.
            inputs: What the backbone was given, `attention_mask` [B, T] among it, 1 for a real token.
            is_query: Which of them are queries, bool [B].
        """
        ...

    def in_order(self, pieces: Pieces, rows: Tensor) -> Tensor | TokenVectors:
        """Give each text its embedding.

        Args:
            pieces: Of each batch which windows it has, and their embeddings; see `in_order`.
            rows: Number of the distinct text that each text is, [B].
        """
        ...

    def save(self, folder: Path) -> list[str]:
        """Write the files of module i = 1, 2, ... after the transformer to `folder/i_Name`; return the dotted types."""
        ...

    @classmethod
    def options(cls, folder: Path, modules: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """Read its options from a folder with these modules; None if they are another head's.

        Raises:
            ValueError: If they are its own, and one would change embeddings and is not implemented.
        """
        ...

    def load(self, folder: Path, modules: Sequence[Mapping[str, Any]]) -> None:
        """Read its weights, if it has any, from a folder with these modules."""
        ...


HEADS: Mapping[str, type[Head]] = {"tokens": TokensHead, "lexical": LexicalHead, "pooled": PooledHead}
"""Heads by representation. Each in turn is asked to read a folder: `pooled`, which refuses what it cannot, is last."""


def make_head(width: int, representation: str, said: Mapping[str, Any], **given: Any) -> Head:
    """Make the head of a representation.

    Args:
        width: Width W of a token's vector.
        representation: Name in `HEADS`.
        said: Options that the model's folder says, for the same representation.
        given: Further ones, which go before those; None takes what is said, else the head's own default.

    Raises:
        ValueError: If there is no such representation, or an option cannot be.
    """
    if representation not in HEADS:
        raise ValueError(f"expected representation to be one of {', '.join(HEADS)}, got {representation!r}")
    options = {name: value for name, value in (*said.items(), *given.items()) if value is not None}
    return HEADS[representation](width, **options)
