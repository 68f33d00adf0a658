"""Trying a loss on made-up embeddings, so that what cannot be trained is refused before anything long starts.

Notable decision: whether a loss learns is asked of its gradient, which has to be exactly zero for every batch that is
tried and for each of several kinds of embeddings: one batch can well have nothing to teach, such as pairs that are all
far enough apart, but a run of such batches ends as it began and says "finished".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from contrastive.training.memory import CrossBatchQueue, recall

if TYPE_CHECKING:
    from contrastive.data import Batch
    from contrastive.training.batch import EmbeddedBatch

Judge = Callable[["EmbeddedBatch"], Tensor]
Embedded = Callable[["Batch", Tensor, Tensor], "EmbeddedBatch"]

KINDS = ("unrelated", "all close", "misled")
"""Kinds of made-up embeddings: of no relation; all alike; every query close to another's document."""


def made_up(batch: Batch, width: int, kind: str = "unrelated") -> tuple[Tensor, Tensor]:
    """Make up embeddings of a batch, [Q, D] and [K, D], the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(rows, width, generator=generator) for rows in (len(batch), len(batch.documents)))
    if kind == "all close":
        common = torch.randn(1, width, generator=generator)
        return common + 0.05 * queries, common + 0.05 * keys
    if kind == "misled" and len(batch) > 0:
        return keys[: len(batch)].roll(1, dims=0) + 0.5 * queries, keys
    return queries, keys


def remembering(batch: EmbeddedBatch) -> EmbeddedBatch:
    """Return a batch as it looks with a memory: the closest keys there are, and others, without an owner or an id."""
    # For a loss that takes the hardest, and for one that leaves those out.
    unrelated = torch.randn(64, batch.queries.shape[1], generator=torch.Generator().manual_seed(1))
    queued = torch.cat([unrelated, batch.queries.detach()])
    memory = CrossBatchQueue(len(queued), queued.shape[1])
    memory.push(queued, torch.full((len(queued),), -1))
    return recall(batch, memory)


def check_memory(judge: Judge, batch: EmbeddedBatch, name: str) -> None:
    """Refuse a loss that has no use for the further keys of a memory.

    Raises:
        ValueError: If they make no difference to it, or it objects to them; also whatever it objects to without them.
    """
    alone = judge(batch)
    try:
        useless, why = torch.equal(judge(remembering(batch)), alone), "they make no difference to it"
    except ValueError as error:
        useless, why = True, str(error)
    if useless:
        raise ValueError(f"expected a loss that uses the further keys of a memory, got {name}: {why}")


def check_learns(judge: Judge, batches: Iterable[Batch], embedded: Embedded, width: int, name: str) -> None:
    """Refuse to train where no batch of those given has a gradient; stops at the first that has one.

    Args:
        judge: The loss of embedded batches, with a memory if there is to be one.
        batches: As training will see them.
        embedded: Puts embeddings beside a batch.
        width: Of an embedding, D.
        name: Of the loss.

    Raises:
        ValueError: If the gradient of both sides is zero for all of them, whatever the embeddings.
    """
    sizes: list[int] = []
    for batch in batches:
        sizes.append(len(batch))
        if any(_has_gradient(judge, embedded, batch, *made_up(batch, width, kind)) for kind in KINDS):
            return
    if sizes:
        of = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
        raise ValueError(
            f"expected batches from which {name} can learn, got none: its gradient is zero for any embeddings in all "
            f"{len(sizes)} that were tried, of {of} pair{'' if max(sizes) == 1 else 's'} each. Most losses need a "
            "document that is no answer beside one that is: raise batch_size (pairs in a batch), give the records "
            "negatives (a column of them, or negatives=bm25), or keep several answers in a batch (batches.*)"
        )


def _has_gradient(judge: Judge, embedded: Embedded, batch: Batch, queries: Tensor, keys: Tensor) -> bool:
    with torch.enable_grad():
        queries, keys = queries.requires_grad_(), keys.requires_grad_()
        loss = judge(embedded(batch, queries, keys))
        if not loss.requires_grad:
            return False
        gradients = torch.autograd.grad(loss, (queries, keys), allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)
