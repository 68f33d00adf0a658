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

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from contrastive.health import Health
from contrastive.masks import Mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from contrastive.embedding_cache import EmbeddingCache
    from contrastive.negatives.pool import Pool

Side = Literal["query", "document"]
Reduction = Literal["mean", "sum", "none"]
MaskLike = Mask | Tensor
"""A `Mask`, or a bool tensor [Q, K]; True selects the pair."""


class Similarity(Protocol):
    """Scores of every query against every key; higher is closer."""

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Map queries [Q, D] and keys [K, D] to scores [Q, K]."""
        ...


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

    def encode(self, texts: Sequence[str], *, side: Side, show_progress: bool, as_numpy: Literal[False]) -> Tensor:
        """Embed any number of texts without gradients and in eval mode."""
        ...


@dataclass(frozen=True, slots=True)
class Moment:
    """What choosing negatives may depend on beside the texts: where training stands.

    Attributes:
        encoder: Embeds for a strategy that has no encoder of its own: the untuned encoder, or the one in training.
        refresh: How often negatives were chosen before in this run; what is drawn by chance is drawn anew.
        progress: Share of the training that is over, 0 to 1.
        cache: Where embeddings are kept between runs, of encoders that say what theirs depend on (see
            `embedding_cache.KeyedEncoder`); None embeds anew each time, as is right for an encoder in training.
    """

    encoder: TextEncoder | None = None
    refresh: int = 0
    progress: float = 0.0
    cache: EmbeddingCache | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The best documents of a block of R neighbouring queries of a pool, best first.

    Attributes:
        rows: Which queries of the pool.
        documents: Places in the pool, int64 [R, C]; -1 where a query has fewer. Place in the row is the rank.
        scores: Their scores, float32 [R, C], higher is closer.
        positive_scores: Score of the positive of each pair `pool.pairs_of(rows)`, float32 [P], NaN for one without a
            positive. None from a source whose scores mean nothing: margins and score limits do not apply to it.
    """

    rows: slice
    documents: NDArray[np.int64]
    scores: NDArray[np.float32]
    positive_scores: NDArray[np.float32] | None


class CandidateSource(Protocol):
    """Ranks the documents of a pool for all its queries, a block of queries at a time, in their order."""

    @property
    def name(self) -> str: ...

    def __call__(self, pool: Pool, depth: int, moment: Moment) -> Iterator[Candidates]:
        """Yield the best `depth` documents of each query, fewer if there are fewer."""
        ...

    def describe(self, moment: Moment) -> Mapping[str, object]:
        """Return, as plain values, its name as `source` and all else that decides the ranking of given texts."""
        ...


@dataclass(frozen=True, slots=True)
class ChosenNegatives:
    """Negatives of one pair of query and positive, how each was chosen, and why others were not.

    Attributes:
        ids: Document ids, hardest first.
        scores: Score of each under the source it came from, higher is closer.
        ranks: Rank of each in that source's ranking of the corpus, 0 is the top; known positives are counted.
        refused: How many candidates each filter turned down; each candidate is counted by the first that did.
        sources: Name of the source each came from.
        positive_score: Score of the pair's positive under the first source; NaN if there is none.
    """

    ids: tuple[str, ...]
    scores: tuple[float, ...]
    ranks: tuple[int, ...]
    refused: Mapping[str, int]
    sources: tuple[str, ...] = ()
    positive_score: float = math.nan


class NegativeStrategy(Protocol):
    """Chooses the negatives of all pairs of a pool at once: one ranking of many queries costs far less than many."""

    def __call__(self, pool: Pool, moment: Moment = ...) -> Sequence[ChosenNegatives]:
        """Return the negatives of each pair, in the order of the pairs."""
        ...


class Metric(Protocol):
    """One number a query from the gains of its ranking, first to last, and the gains of all its relevant documents."""

    def __call__(self, ranked_gains: Sequence[float], relevant_gains: Sequence[float]) -> float: ...
