"""The seams of the library: what each kind of part takes and gives.

Parts are plain callables on tensors and strings; nothing needs to inherit from anything here. A loss never sees a
model, tokenizer, logger or process group.

Shape letters, here and everywhere in the library:

    Q  queries          K  keys (candidate documents), K >= Q       D  width of an embedding
    B  pairs of texts   N  negatives of one query                   P  (query, positive) index pairs

One call serves every source of negatives: key `i` is the positive of query `i` for `i < Q`, and the keys beyond `Q`
are further negatives, all first negatives and then all second ones, so that
`torch.cat([positives, negatives_1, negatives_2])` is right. `owners` says whose each key is: the index of its query, or
-1 for a key that all share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

from contrastive.masks import Mask
from contrastive.token_vectors import TokenVectors

Side = Literal["query", "document"]
Reduction = Literal["mean", "sum", "none"]
MaskLike = Mask | Tensor
"""A `Mask`, or a bool tensor [Q, K]; True selects the pair."""


class Similarity(Protocol):
    """Scores of every query against every key; higher is closer."""

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Map queries [Q, D] and keys [K, D] to scores [Q, K]."""
        ...


class Health(Protocol):
    """Takes what a loss tells about a batch: detached values under a name, all of them or those selected."""

    def record(self, name: str, values: Tensor | float, selected: Tensor | None = None) -> None: ...


class RankingLoss(Protocol):
    """Pulls each query towards its positives and away from the other keys.

    `positives` (a mask, or index pairs [P, 2]) replaces the default that key `i` is the one positive of query `i`.
    `exclude` leaves negatives out and never removes a positive. `weights` [Q] weighs the queries. `health` is filled
    with detached tensors. The result is a scalar, or [Q] with `reduction="none"`.
    """

    def __call__(
        self,
        queries: Tensor,
        keys: Tensor,
        *,
        positives: MaskLike | None = None,
        exclude: MaskLike | None = None,
        owners: Tensor | None = None,
        weights: Tensor | None = None,
        health: Health | None = None,
    ) -> Tensor: ...


class PairLoss(Protocol):
    """Judges pairs of texts, left [B, D] and right [B, D], against targets [B]."""

    def __call__(self, left: Tensor, right: Tensor, targets: Tensor) -> Tensor: ...


class DistillationLoss(Protocol):
    """A ranking loss that is also told how a teacher scores each query and key, [Q, K]."""

    def __call__(
        self,
        queries: Tensor,
        keys: Tensor,
        *,
        teacher_scores: Tensor,
        positives: MaskLike | None = None,
        exclude: MaskLike | None = None,
        owners: Tensor | None = None,
        weights: Tensor | None = None,
        health: Health | None = None,
    ) -> Tensor: ...


class Memory(Protocol):
    """Appends the keys of earlier batches; their owner is -1."""

    def extend(self, keys: Tensor, key_ids: Tensor, owners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map keys [K, D], key_ids [K], owners [K] to the same with the queue appended."""
        ...


class TextEncoder(Protocol):
    """Embeds texts, [B, D], in their order; `side` chooses the prompt.

    One whose embeddings are not to be compared by cosine has a `similarity`, "dot" or "euclidean"; whoever compares
    them asks `contrastive.similarity.similarity_of`.
    """

    def __call__(self, texts: Sequence[str], *, side: Side) -> Tensor:
        """Embed with gradients, for a training step."""
        ...

    def encode(
        self, texts: Sequence[str], *, side: Side, show_progress: bool, as_numpy: Literal[False]
    ) -> Tensor | TokenVectors:
        """Embed any number of texts without gradients and in eval mode; of several vectors a text, packed."""
        ...
