"""Whether a loss is the same in several processes as in one.

Shape letters: Q queries, K keys, D width, N negatives a query, T tokens.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, spawn
from torch.nn.parallel import DistributedDataParallel

from contrastive.contracts import Memory
from contrastive.data.batch import EmbeddedBatch, loss_arguments, recall
from contrastive.losses.core.signature import parameters_of
from contrastive.similarity import of_tokens
from contrastive.testing.formula import difference
from contrastive.training.distributed import gather as gather_exactly

Gather = Callable[[EmbeddedBatch], EmbeddedBatch]

_FEATURES = 8
_EMBEDDINGS, _GUIDES = ("queries", "keys"), ("guide_queries", "guide_keys")


@dataclass(frozen=True)
class WorldSizeCase:
    """A loss, and what it is to be tried with in several processes; see `assert_world_size_invariant`.

    Attributes:
        loss: The loss.
        num_queries: Queries of the global batch, Q.
        num_negatives: Hard negatives of a query, at most: query `i` has `i % (num_negatives + 1)`. By default 2 for
            a loss that takes `owners`, and 0 for one that does not, such as a loss of pairs.
        several_positives: Whether the first hard negative of a query is made another positive of it, by `positives`.
        memory: Appends its keys to the gathered ones, on every rank the same.
        gather: What puts the ranks' batches together; yours, to check that.
    """

    loss: nn.Module
    num_queries: int = 7
    num_negatives: int | None = None
    several_positives: bool = False
    memory: Memory | None = None
    gather: Gather = gather_exactly

    def __str__(self) -> str:
        tried = {"several positives": self.several_positives, "a memory": self.memory is not None}
        return " with ".join([str(self.loss), *(name for name, is_tried in tried.items() if is_tried)])

    def batch(self, seed: int) -> EmbeddedBatch:
        """Make up the global batch."""
        negatives = (
            (2 if "owners" in parameters_of(self.loss) else 0) if self.num_negatives is None else self.num_negatives
        )
        batch = _made_up_batch(self.num_queries, negatives, self.several_positives, seed)
        for names, setting in ((_EMBEDDINGS, "similarity"), (_GUIDES, "guide_similarity")):
            if of_tokens(_said(self.loss, setting) or "cosine"):  # a loss need not say
                batch = replace(batch, **{name: _as_tokens(getattr(batch, name)) for name in names})
        return batch


def assert_world_size_invariant(
    loss: nn.Module | WorldSizeCase | Sequence[nn.Module | WorldSizeCase],
    world_sizes: Sequence[int] = (2, 3),
    *,
    dimension: int = 6,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Assert that several processes compute the loss and the gradients of one process with the global batch.

    Starts so many processes on the CPU (gloo), each with a part of one batch: parts differ in size, from three
    processes on one is empty, the known positives of some queries are other ranks' documents, the text of one query is
    another rank's document, and queries have different numbers of hard negatives. A loss that says that it compares by
    `max_sim` or `max_dot` gets vectors of tokens, of which the ranks have different numbers. Each encodes its part with
    the same linear encoder, gathers, and calls the loss with those fields its signature names. Compared with one
    process are the value on every rank, and the gradients of the encoder and of the loss's own parameters after
    DistributedDataParallel.

    Losses can be checked together, in the same processes: starting them is what takes time, about 3 s a world size.
    What differs is told of all of them.

    In a script, call it under `if __name__ == "__main__":`, as anything that starts processes.

    Args:
        loss: A module, or a case that says more, or several of them. They travel by pickle: classes of your own must be
            at the top level of a module.
        world_sizes: Numbers of processes to try.
        dimension: Width of an embedding, D.
        tolerance: Largest relative error of the value and of each gradient, and of their cosine below 1.
        seed: Seed of the batch and the encoder.

    Raises:
        AssertionError: If a rank gets something else, or one process gets no gradient, which shows nothing.
        ValueError: If a loss, the memory or the gather cannot be pickled.

    Example:
        >>> from contrastive.losses import InfoNCELoss
        >>> assert_world_size_invariant(InfoNCELoss(symmetric=True), world_sizes=(2,))  # doctest: +SKIP
    """
    given = [loss] if isinstance(loss, nn.Module | WorldSizeCase) else loss
    cases = [each if isinstance(each, WorldSizeCase) else WorldSizeCase(each) for each in given]
    tried = [(_Step(case, dimension, seed), case.batch(seed)) for case in cases]
    expected = [_outcome(step, batch) for step, batch in tried]
    for case, results in zip(cases, expected, strict=True):
        if not results["gradient of encoder.weight"].any():
            raise AssertionError(f"{case} gives one process no gradient: the comparison shows nothing")
    differences = [
        told
        for size in world_sizes
        for rank, outcomes in enumerate(_in_processes(tried, size))
        for case, results, wanted in zip(cases, outcomes, expected, strict=True)
        for name, value in wanted.items()
        if (told := difference(f"{case}: {name} on rank {rank} of {size}", results[name], value, tolerance))
    ]
    if differences:
        raise AssertionError("\n".join(differences))


class _Step(nn.Module):
    """Encodes, gathers, recalls and judges: what happens on each rank, wrapped whole by DistributedDataParallel."""

    def __init__(self, case: WorldSizeCase, dimension: int, seed: int) -> None:
        super().__init__()
        weight = torch.randn(dimension, _FEATURES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.encoder = nn.Linear(_FEATURES, dimension, bias=False).double()
        self.encoder.weight.data = weight
        self.loss = copy.deepcopy(case.loss).double()
        self.recalled = [case.memory]  # in a list, so that its buffers are not the module's
        self.gather = case.gather

    def forward(self, batch: EmbeddedBatch) -> Tensor:
        """Return the loss of the global batch."""
        batch = replace(batch, queries=self.encoder(batch.queries), keys=self.encoder(batch.keys))
        batch = recall(self.gather(batch), self.recalled[0])
        value: Tensor = self.loss(batch.queries, batch.keys, **loss_arguments(self.loss, batch)).sum()
        unused = sum(parameter.sum() for parameter in self.loss.parameters())
        return value + 0 * unused  # or DistributedDataParallel waits for the gradient of a parameter that is not used


def _outcome(step: nn.Module, batch: EmbeddedBatch) -> dict[str, Tensor]:
    """Return the loss and every gradient, by name."""
    step.zero_grad()
    value = step(batch)
    value.backward()
    inner = step.module if isinstance(step, DistributedDataParallel) else step
    gradients = {
        f"gradient of {name}": torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in inner.named_parameters()
    }
    return {"loss": value.detach(), **gradients}


def _in_processes(cases: list[tuple[_Step, EmbeddedBatch]], size: int) -> list[list[dict[str, Tensor]]]:
    """Run the cases in so many processes; return the outcomes of each rank."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            torch.save(cases, Path(folder, "cases.pt"))
        except Exception as error:  # pickle has no error of its own
            raise ValueError(f"expected losses, memory and gather that can be pickled, got {error}") from error
        outcomes = [Path(folder, f"rank{rank}.pt") for rank in range(size)]
        try:
            spawn(_run_rank, args=(size, folder), nprocs=size)  # type: ignore[no-untyped-call]
        except ProcessExitedException:
            # Once in a while gloo aborts as a process ends; by then all have passed the barrier behind the writing.
            if not all(path.exists() for path in outcomes):
                raise
        return [torch.load(path) for path in outcomes]


def _run_rank(rank: int, size: int, folder: str) -> None:
    """Run the cases as one rank and leave the outcomes in the folder."""
    torch.set_num_threads(1)
    rendezvous = Path(folder, "rendezvous").as_uri()
    dist.init_process_group("gloo", rendezvous, timedelta(seconds=60), world_size=size, rank=rank)
    cases: list[tuple[_Step, EmbeddedBatch]] = torch.load(Path(folder, "cases.pt"), weights_only=False)
    outcomes = [_outcome(DistributedDataParallel(step), _part(batch, rank, size)) for step, batch in cases]
    torch.save(outcomes, Path(folder, f"rank{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


def _made_up_batch(num_queries: int, num_negatives: int, several_positives: bool, seed: int) -> EmbeddedBatch:
    """Make a batch of random features with every field a loss may ask for; ids are those of the queries they answer."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.arange(num_queries)
    owners = torch.cat([own, *(own[own % (num_negatives + 1) > place] for place in range(num_negatives))])
    num_keys = len(owners)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # Query 0 knows the positive of the last query too, and the last hard negative is a copy of its own. Both are so
    # close to it that a loss that does not leave them out is far off.
    queries, keys = random(num_queries, _FEATURES), random(num_keys, _FEATURES)
    for close in {num_queries - 1, num_keys - 1}:
        keys[close] = queries[0] + 0.3 * random(_FEATURES)
    key_ids = torch.arange(num_keys)
    key_ids[-1] = key_ids[-1] if num_keys == num_queries else 0
    positive_ids = torch.stack([own, torch.where(own == 0, num_queries - 1, -1)], 1)
    # The text of query 2 is the positive of query 3: the two, and what answers them, are not to be told apart.
    own_ids, onward_ids = torch.full((num_queries,), -1), torch.full((num_queries, 2), -1)
    if num_queries > 4:
        keys[3] = queries[2] + 0.3 * random(_FEATURES)
        own_ids[2], positive_ids[2, 1], onward_ids[3] = 3, 3, torch.tensor([2, 3])
    counts = torch.bincount(owners, minlength=num_queries)
    taught = random(num_queries, 1 + num_negatives)
    extra = torch.tensor([[int(owners[key]), key] for key in range(num_queries, num_keys)][: num_queries // 2])
    return EmbeddedBatch(
        queries,
        keys,
        owners=owners,
        key_ids=key_ids,
        positive_ids=positive_ids,
        positives=torch.cat([torch.stack([own, own], 1), extra.view(-1, 2).long()]) if several_positives else None,
        weights=random(num_queries).abs() + 0.5,
        grades=1.0 + own % 3,
        targets=(own % 2).double(),
        teacher_scores=taught.masked_fill(torch.arange(1 + num_negatives) >= counts[:, None], float("nan")),
        guide_queries=random(num_queries, 4),
        guide_keys=random(num_keys, 4),
        own_ids=own_ids,
        onward_ids=onward_ids,
    )


def _said(loss: nn.Module, setting: str) -> Any:
    """Return what a loss, or the one inside it, says of itself."""
    inner = getattr(loss, "loss", None)
    return getattr(loss, setting, None) or (_said(inner, setting) if isinstance(inner, nn.Module) else None)


def _as_tokens(vectors: Tensor) -> Tensor:
    """Make one to four tokens of each row, [B, 4, D]: the row, turned, and zeros for the absent ones."""
    tokens = torch.stack([vectors.roll(place, dims=1) for place in range(4)], 1)
    present = torch.arange(4) <= torch.arange(len(vectors))[:, None] % 4  # of every second row at most three
    return tokens * present[..., None]


def _shortened(value: Tensor) -> Tensor:
    """Cut off the places that no text of a rank has a token at, as a batch of its own would not have them."""
    return value[:, : int(value.any(-1).sum(1).max())] if value.ndim == 3 and len(value) else value


def _part(batch: EmbeddedBatch, rank: int, size: int) -> EmbeddedBatch:
    """Return the queries of a rank with their keys; of three ranks and more the second has none."""
    assert batch.owners is not None
    busy = [other for other in range(size) if size < 3 or other != 1]
    turn = torch.arange(len(batch)) % len(busy)
    mine = turn == (busy.index(rank) if rank in busy else -1)
    kept = {"queries": mine, "keys": mine[batch.owners]}
    new_query, new_key = (selected.cumsum(0) - 1 for selected in kept.values())
    values = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if value is not None and field.metadata["rows"] in kept:
            values[field.name] = _shortened(value[kept[field.metadata["rows"]]])
    if batch.positives is not None:
        pairs = batch.positives[mine[batch.positives[:, 0]]]
        values["positives"] = torch.stack([new_query[pairs[:, 0]], new_key[pairs[:, 1]]], 1)
    return EmbeddedBatch(**{**values, "owners": new_query[values["owners"]]})
