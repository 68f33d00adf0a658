"""Trying a loss on made-up embeddings, so that what cannot be trained is refused before anything long starts.

Notable decision: whether a loss learns is asked of its gradient, which has to be exactly zero for every batch that is
tried and for each of several kinds of embeddings: one batch can well have nothing to teach, such as pairs that are all
far enough apart, but a run of such batches ends as it began and says "finished".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

import torch
from torch import Tensor, nn

from contrastive.data.batch import Batch, EmbeddedBatch, loss_arguments, recall
from contrastive.losses.core.signature import parameters_of
from contrastive.training.memory import CrossBatchQueue

Judge = Callable[[EmbeddedBatch], Tensor]

KINDS = ("unrelated", "all close", "misled")
"""Kinds of made-up embeddings: of no relation; all alike; every query close to another's document."""


def rehearse(
    loss: nn.Module,
    batches: Iterable[Batch],
    width: int | tuple[int, int],
    *,
    remembers: bool = False,
) -> None:
    """Judge made-up embeddings of batches, so that a loss that the data cannot serve says so before training.

    Args:
        loss: What is to be trained.
        batches: As an epoch has them, at least one; as many are tried as it takes to find one to learn from.
        width: Of an embedding, D; or (T, D) of T tokens.
        remembers: Whether there will be a memory.

    Raises:
        ValueError: Whatever the loss objects to; that it would take pairs of any score as relevant; that it has no use
            for the further keys of a memory; or that its gradient is zero.
    """
    name, coming = type(loss).__name__, iter(batches)
    first = next(coming)
    if first.targets is not None and "targets" not in parameters_of(loss):
        raise ValueError(
            f"{name} takes every pair as relevant, and the training records have scores: "
            "min_score says which are (columns.score=false says that all are)"
        )

    def judge(batch: EmbeddedBatch) -> Tensor:
        value: Tensor = loss(batch.queries, batch.keys, **loss_arguments(loss, batch))
        return value

    with torch.no_grad():
        tried = first.embedded(*made_up(first, width))
        alone = judge(tried)
        if remembers:
            check_memory(judge, tried, alone, name)
    check_learns((lambda batch: judge(remembering(batch))) if remembers else judge, chain([first], coming), width, name)


def made_up(batch: Batch, width: int | tuple[int, int], kind: str = "unrelated") -> tuple[Tensor, Tensor]:
    """Make up embeddings of a batch, [Q, D] and [K, D], or [Q, T, D] and [K, T, D], the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    shape = (width,) if isinstance(width, int) else width
    queries, keys = (torch.randn(rows, *shape, generator=generator) for rows in (len(batch), len(batch.documents)))
    if kind == "all close":
        common = torch.randn(1, *shape, generator=generator)
        return common + 0.05 * queries, common + 0.05 * keys
    if kind == "misled" and len(batch) > 0:
        return keys[: len(batch)].roll(1, dims=0) + 0.5 * queries, keys
    return queries, keys


def remembering(batch: EmbeddedBatch) -> EmbeddedBatch:
    """Return a batch as it looks with a memory: the closest keys there are, and others, without an owner or an id."""
    # For a loss that takes the hardest, and for one that leaves those out.
    unrelated = torch.randn(64, *batch.queries.shape[1:], generator=torch.Generator().manual_seed(1))
    queued = torch.cat([unrelated, batch.queries.detach()])
    memory = CrossBatchQueue(len(queued), queued.shape[-1], of_tokens=queued.ndim == 3)
    memory.push(queued, torch.full((len(queued),), -1))
    return recall(batch, memory)


def check_memory(judge: Judge, batch: EmbeddedBatch, alone: Tensor, name: str) -> None:
    """Refuse a loss that has no use for the further keys of a memory; `alone` is what it says without them.

    Raises:
        ValueError: If they make no difference to it, or it objects to them.
    """
    try:
        useless, why = torch.equal(judge(remembering(batch)), alone), "they make no difference to it"
    except ValueError as error:
        useless, why = True, str(error)
    if useless:
        raise ValueError(f"expected a loss that uses the further keys of a memory, got {name}: {why}")


def check_learns(judge: Judge, batches: Iterable[Batch], width: int | tuple[int, int], name: str) -> None:
    """Refuse to train where no batch of those given has a gradient; stops at the first that has one.

    Args:
        judge: The loss of embedded batches, with a memory if there is to be one.
        batches: As training will see them.
        width: As in `rehearse`.
        name: Of the loss.

    Raises:
        ValueError: If the gradient of both sides is zero for all of them, whatever the embeddings.
    """
    sizes: list[int] = []
    for batch in batches:
        sizes.append(len(batch))
        if any(_has_gradient(judge, batch, *made_up(batch, width, kind)) for kind in KINDS):
            return
    if sizes:
        of = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
        raise ValueError(
            f"expected batches from which {name} can learn, got none: its gradient is zero for any embeddings in all "
            f"{len(sizes)} that were tried, of {of} pair{'' if max(sizes) == 1 else 's'} each. Most losses need a "
            "document that is no answer beside one that is: raise batch_size (pairs in a batch), give the records "
            "negatives (a column of them, or negatives=bm25), or keep several answers in a batch (batches.*)"
        )


def _has_gradient(judge: Judge, batch: Batch, queries: Tensor, keys: Tensor) -> bool:
    with torch.enable_grad():
        queries, keys = queries.requires_grad_(), keys.requires_grad_()
        loss = judge(batch.embedded(queries, keys))
        if not loss.requires_grad:
            return False
        gradients = torch.autograd.grad(loss, (queries, keys), allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)
