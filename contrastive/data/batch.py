"""A batch: its texts, the embeddings of them, and what is known of either, each fact described once.

What is known of the texts stays known of their embeddings, so both kinds of batch have it under the same names, and
what handles batches (gathering, the arguments of a loss) goes by the fields and what is noted beside them: a new field
is written here, and filled by the collator.

Shape letters: Q queries, K >= Q keys, D width, P (query, positive) index pairs, M known positives, N negatives a query.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from contrastive.contracts import Memory
from contrastive.losses.core.signature import parameters_of
from contrastive.masks import known_positive
from contrastive.similarity import TokenVectors, concatenate

NAN = float("nan")
_SCORES = "the score of each pair, as data=files reads it from a column (data.columns.score=NAME, no min_score)"
_TEACHER = "what a teacher model gave each query's documents (Record.teacher_scores)"
_GUIDE = "embeddings of the {} by a guide model (training.callbacks.EmbedByGuide)"


def _of(rows: str, *, padding: float | None = None, source: str = "") -> dict[str, Any]:
    """Note beside a field what it takes to handle it.

    Args:
        rows: Whose rows it has, "queries" or "keys"; "pairs" if they are index pairs.
        padding: What fills rows up where they are ragged.
        source: Who has it, if few data sets do.
    """
    return {"rows": rows, "padding": padding, "source": source}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Known:
    """What is known of a batch, each a tensor of one row per query, key or pair, or None.

    Attributes:
        owners: Index of the query that each key belongs to, [K], -1 for one that all share.
        key_ids: Id of each key's text, [K], -1 if it has none.
        positive_ids: Key ids of what is never a negative of each query, its known positives and, where that is a
            document, its own text; [Q, M], padded with -1.
        positives: Index pairs (query, key), [P, 2], if key `i` is not the one positive of query `i`.
        weights: Weight of each query, [Q].
        grades: Grade of each query's positive, [Q].
        targets: Target of each pair, [Q].
        teacher_scores: What a teacher gave each query's positive and then its negatives, [Q, 1 + N], padded with NaN.
        guide_queries: Embeddings of the queries by a guide model, [Q, G]; or of their tokens, [Q, T, G].
        guide_keys: Embeddings of the keys by a guide model, [K, G] or [K, T, G].
        own_ids: Key id of each query's own text, [Q], -1 where it is none; if any query of the data is a document.
        onward_ids: As `positive_ids`, of the text of each query's positive where that is a query too, [Q, M]; if any
            query of the data is a document.
    """

    owners: Tensor | None = field(default=None, metadata=_of("keys"))
    key_ids: Tensor | None = field(default=None, metadata=_of("keys"))
    positive_ids: Tensor | None = field(default=None, metadata=_of("queries", padding=-1))
    positives: Tensor | None = field(default=None, metadata=_of("pairs"))
    weights: Tensor | None = field(default=None, metadata=_of("queries"))
    grades: Tensor | None = field(default=None, metadata=_of("queries"))
    targets: Tensor | None = field(default=None, metadata=_of("queries", source=_SCORES))
    teacher_scores: Tensor | None = field(default=None, metadata=_of("queries", padding=NAN, source=_TEACHER))
    guide_queries: Tensor | None = field(default=None, metadata=_of("queries", source=_GUIDE.format("queries")))
    guide_keys: Tensor | None = field(default=None, metadata=_of("keys", source=_GUIDE.format("documents")))
    own_ids: Tensor | None = field(default=None, metadata=_of("queries"))
    onward_ids: Tensor | None = field(default=None, metadata=_of("queries", padding=-1))


KNOWN = tuple(field.name for field in fields(Known))
"""Names of what may be known."""


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedBatch(Known):
    """Embeddings of a batch with what is known of them.

    Attributes:
        queries: Embeddings, [Q, D], or of tokens, [Q, T, D]; the left side of a pair loss.
        keys: Embeddings, [K, D] or [K, T, D]: the positives in the order of the queries, then further negatives; or a
            right side.
    """

    queries: Tensor = field(metadata=_of("queries"))
    keys: Tensor = field(metadata=_of("keys"))

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True, slots=True, eq=False)
class Batch(Known):
    """Texts of Q queries and K documents with what is known of them; `len(batch)` is Q.

    Attributes:
        queries: Text of each query.
        documents: Text of each document, the later keys: the positives in the order of the queries, then the first
            negative of every query that has one, then the second negatives, and so on.
        query_ids: Integer id of each query, [Q].
    """

    queries: list[str]
    documents: list[str]
    query_ids: Tensor

    def __len__(self) -> int:
        return len(self.queries)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def embedded(self, queries: Tensor, keys: Tensor) -> EmbeddedBatch:
        """Put the embeddings of its queries [Q, D] and documents [K, D] in place of the texts."""
        return EmbeddedBatch(queries, keys, **{name: getattr(self, name) for name in KNOWN})


def _exclude(batch: EmbeddedBatch) -> Any:
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


_DERIVED: dict[str, Callable[[EmbeddedBatch], Any]] = {"exclude": _exclude, "same_texts": _same_texts}
"""What a loss can ask for beside the fields, and what it follows from."""


def loss_arguments(loss: Callable[..., Tensor], batch: EmbeddedBatch) -> dict[str, Any]:
    """Return what the signature of a loss names of that which is known of a batch, by name.

    What `**options` of a function may hold is not named: pass the module of a loss, whose `forward` says all it takes.

    Raises:
        ValueError: If the loss cannot do without something that the batch does not have.

    Example:
        >>> import torch
        >>> from contrastive.losses import InfoNCELoss
        >>> batch = EmbeddedBatch(torch.eye(2), torch.eye(2), owners=torch.arange(2), targets=torch.ones(2))
        >>> loss_arguments(InfoNCELoss(), batch)
        {'owners': tensor([0, 1])}
    """
    sources = {field.name: field.metadata["source"] for field in fields(Known)} | dict.fromkeys(_DERIVED, "")
    arguments = {}
    for name, parameter in parameters_of(loss).items():
        if name not in sources:
            continue
        value = _DERIVED[name](batch) if name in _DERIVED else getattr(batch, name)
        if value is not None:
            arguments[name] = value
        elif parameter.default is inspect.Parameter.empty:
            who = getattr(loss, "__name__", type(loss).__name__)
            what = f": {sources[name]}" if sources[name] else ""
            raise ValueError(f"{who} needs {name}, which the training records do not have{what}")
    return arguments


def recall(
    batch: EmbeddedBatch, memory: Memory | None, guide_documents: Tensor | TokenVectors | None = None
) -> EmbeddedBatch:
    """Return the batch with the keys that a memory appends.

    Args:
        batch: Embeddings of a batch.
        memory: What appends keys; None for nothing.
        guide_documents: Embeddings of all documents by a guide, [ids, G] or those of their tokens, for a batch with
            guide embeddings. A key without an id, or any without this, gets a row of NaN.

    Raises:
        ValueError: If the keys of the batch have no ids or owners.
    """
    if memory is None:
        return batch
    if batch.key_ids is None or batch.owners is None:
        raise ValueError("expected key_ids and owners in a batch that a memory is to extend, got none")
    keys, key_ids, owners = memory.extend(batch.keys, batch.key_ids, batch.owners)
    guides = batch.guide_keys
    if guides is not None:
        queued = key_ids[len(guides) :]
        appended = guides.new_full((len(queued), *guides.shape[1:]), NAN)
        if guide_documents is not None:
            known = guide_documents[queued]
            if isinstance(known, TokenVectors):
                known = concatenate([guides[:0], known.padded()])  # room for a NaN
            appended = known.masked_fill((queued < 0).view(-1, *[1] * (known.ndim - 1)), NAN)
        guides = concatenate([guides, appended])
    return replace(batch, keys=keys, key_ids=key_ids, owners=owners, guide_keys=guides)
