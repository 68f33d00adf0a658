"""A batch after encoding: embeddings, and what is known of the texts; what a loss is called with.

Shape letters: Q queries, K >= Q keys, D width, P (query, positive) index pairs, M known positives, N negatives a query.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from contrastive.losses.core.signature import parameters_of
from contrastive.masks import known_positive

NAN = float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedBatch:
    """Embeddings of a batch with what is known of them, each a tensor of one row per query, key or pair.

    Attributes:
        queries: Embeddings, [Q, D]; the left side of a pair loss.
        keys: Embeddings, [K, D]: the positives in the order of the queries, then further negatives; or a right side.
        owners: Index of the query that each key belongs to, [K], -1 for one that all share.
        key_ids: Id of each key's text, [K], -1 if it has none.
        positive_ids: Ids of what is never a negative of each query, its known positives and its own text, [Q, M],
            padded with -1.
        positives: Index pairs (query, key), [P, 2], if key `i` is not the one positive of query `i`.
        weights: Weight of each query, [Q].
        grades: Grade of each query's positive, [Q].
        targets: Target of each pair, [Q].
        teacher_scores: What a teacher gave each query's positive and then its negatives, [Q, 1 + N], padded with NaN.
        guide_queries: Embeddings of the queries by a guide model, [Q, G].
        guide_keys: Embeddings of the keys by a guide model, [K, G].
        own_ids: Id of the key whose text each query has, [Q], -1 if there is no such key in the data.
        onward_ids: Ids of what is never a negative of each query's positive, where that is a query too, [Q, M], padded
            with -1.
    """

    # The metadata is what it takes to put batches together: what a row stands for, and what pads it to a common width.
    queries: Tensor = field(metadata={"rows": "queries"})
    keys: Tensor = field(metadata={"rows": "keys"})
    owners: Tensor | None = field(default=None, metadata={"rows": "keys"})
    key_ids: Tensor | None = field(default=None, metadata={"rows": "keys"})
    positive_ids: Tensor | None = field(default=None, metadata={"rows": "queries", "padding": -1})
    positives: Tensor | None = field(default=None, metadata={"rows": "pairs"})
    weights: Tensor | None = field(default=None, metadata={"rows": "queries"})
    grades: Tensor | None = field(default=None, metadata={"rows": "queries"})
    targets: Tensor | None = field(default=None, metadata={"rows": "queries"})
    teacher_scores: Tensor | None = field(default=None, metadata={"rows": "queries", "padding": NAN})
    guide_queries: Tensor | None = field(default=None, metadata={"rows": "queries"})
    guide_keys: Tensor | None = field(default=None, metadata={"rows": "keys"})
    own_ids: Tensor | None = field(default=None, metadata={"rows": "queries"})
    onward_ids: Tensor | None = field(default=None, metadata={"rows": "queries", "padding": -1})

    def __len__(self) -> int:
        return len(self.queries)


def _known(batch: EmbeddedBatch) -> Any:
    if batch.positive_ids is None or batch.key_ids is None:
        return None
    return known_positive(batch.positive_ids, batch.key_ids)


def _same_texts(batch: EmbeddedBatch) -> Any:
    """Return, by direction, who is left out of the comparison since some texts are queries and keys at once."""
    if batch.own_ids is None or batch.positive_ids is None or batch.key_ids is None:
        return None
    asked = known_positive(batch.positive_ids, batch.own_ids)
    found = {
        "query_to_key": known_positive(batch.own_ids[:, None], batch.key_ids),
        "query_to_query": asked | asked.T,
        "key_to_query": asked,
    }
    if batch.onward_ids is not None:
        found["key_to_query"] = asked | known_positive(batch.onward_ids, batch.own_ids)
        found["key_to_key"] = known_positive(batch.onward_ids, batch.key_ids)
    return found


LOSS_ARGUMENTS: dict[str, Callable[[EmbeddedBatch], Any]] = {
    "owners": lambda batch: batch.owners,
    "exclude": _known,
    "same_texts": _same_texts,
    "positives": lambda batch: batch.positives,
    "weights": lambda batch: batch.weights,
    "grades": lambda batch: batch.grades,
    "targets": lambda batch: batch.targets,
    "teacher_scores": lambda batch: batch.teacher_scores,
    "guide_queries": lambda batch: batch.guide_queries,
    "guide_keys": lambda batch: batch.guide_keys,
}
"""What a loss can ask for by the name of a parameter, and where in the batch it is found."""

_SOURCES = {
    "targets": "the score of each pair, as data=files reads it from a column (data.columns.score=NAME, no min_score)",
    "teacher_scores": "what a teacher model gave each query's documents (Record.teacher_scores)",
    "guide_queries": "embeddings of the queries by a guide model (ContrastiveData(guide=...))",
    "guide_keys": "embeddings of the documents by a guide model (ContrastiveData(guide=...))",
}
"""What the fields are that few data sets have, and who has them."""


def loss_arguments(loss: Callable[..., Tensor], batch: EmbeddedBatch) -> dict[str, Any]:
    """Return those fields of a batch that the signature of a loss names, by name.

    What `**options` of a function may hold is not named: pass the module of a loss, whose `forward` says all it takes.

    Raises:
        ValueError: If the loss cannot do without one that the batch does not have.

    Example:
        >>> import torch
        >>> from contrastive.losses import InfoNCELoss
        >>> batch = EmbeddedBatch(torch.eye(2), torch.eye(2), owners=torch.arange(2), targets=torch.ones(2))
        >>> loss_arguments(InfoNCELoss(), batch)
        {'owners': tensor([0, 1])}
    """
    arguments = {}
    for name, parameter in parameters_of(loss).items():
        value = LOSS_ARGUMENTS[name](batch) if name in LOSS_ARGUMENTS else None
        if value is not None:
            arguments[name] = value
        elif name in LOSS_ARGUMENTS and parameter.default is inspect.Parameter.empty:
            who = getattr(loss, "__name__", type(loss).__name__)
            what = f": {_SOURCES[name]}" if name in _SOURCES else ""
            raise ValueError(f"{who} needs {name}, which the training records do not have{what}")
    return arguments
