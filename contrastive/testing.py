"""Checks to run on a loss of your own: against its formula, against finite differences, and in several processes.

Each raises AssertionError saying what differs and by how much, under any test runner. They need torch only, run on the
CPU in float64, and leave the loss as it was.

Shape letters: Q queries, K keys, D width, N negatives a query.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.multiprocessing.spawn import ProcessExitedException, spawn
from torch.nn.parallel import DistributedDataParallel

from contrastive.contracts import Memory
from contrastive.distributed import gather as gather_exactly
from contrastive.embedded_batch import EmbeddedBatch, loss_arguments, parameters_of
from contrastive.memory import recall

Loss = Callable[..., Tensor]
Gather = Callable[[EmbeddedBatch], EmbeddedBatch]
Shapes = Sequence[tuple[int, int, int]]

_FEATURES = 8


def assert_matches_oracle(
    loss: Loss,
    oracle: Loss,
    *,
    shapes: Shapes = ((4, 4, 6), (3, 9, 5)),
    seeds: Sequence[int] = (0, 1),
    tolerance: float = 1e-8,
    **arguments: Any,
) -> None:
    """Assert that a loss has the value and the gradients of a plain function, such as its paper written as loops.

    Args:
        loss: Function or module, called with queries [Q, D], keys [K, D] and the arguments.
        oracle: Called with the same.
        shapes: Sizes Q, K, D to try.
        seeds: Seeds of the random embeddings to try.
        tolerance: Largest relative difference, of the value and of the gradients of queries and of keys.
        arguments: Further arguments of both.

    Raises:
        AssertionError: If they differ, or the oracle's gradient is zero everywhere, which shows nothing.

    Example:
        >>> from contrastive.losses import multiple_negatives_ranking
        >>> def by_hand(queries, keys):
        ...     scores = nn.functional.cosine_similarity(queries[:, None], keys[None], dim=-1)
        ...     return nn.functional.cross_entropy(20 * scores, torch.arange(len(queries)))
        >>> assert_matches_oracle(multiple_negatives_ranking, by_hand)
    """
    loss, moved = _in_float64(loss), False
    for queries, keys, where in _embeddings(shapes, seeds):
        results = []
        for function in (loss, oracle):
            value = function(queries, keys, **arguments)
            gradients = torch.autograd.grad(value.sum(), (queries, keys), allow_unused=True, materialize_grads=True)
            results.append(
                {"value": value, "gradient of the queries": gradients[0], "gradient of the keys": gradients[1]}
            )
        for name, expected in results[1].items():
            _compare(f"{name} for {where}", results[0][name], expected, tolerance)
            moved |= name != "value" and bool(expected.any())
    if not moved:
        raise AssertionError(
            "the oracle's gradient is zero for every input that was tried: the comparison shows nothing"
        )


def assert_gradients(
    loss: Loss, *, shapes: Shapes = ((3, 3, 4), (3, 6, 4)), seeds: Sequence[int] = (0,), **arguments: Any
) -> None:
    """Assert that gradients of queries, keys and the loss's own parameters are those of finite differences.

    A loss with kinks (hinges, the hardest of several) has no derivative there; should random inputs come within 1e-6 of
    one, try another seed.

    Args:
        loss: Function or module, called with queries [Q, D], keys [K, D] and the arguments.
        shapes: Sizes Q, K, D to try.
        seeds: Seeds of the random embeddings to try.
        arguments: Further arguments of the loss.

    Raises:
        AssertionError: If a gradient is wrong.

    Example:
        >>> from contrastive.losses import InfoNCELoss
        >>> assert_gradients(InfoNCELoss(temperature=0.5, learnable_temperature=True))
    """
    loss = _in_float64(loss)
    own = dict(loss.named_parameters()) if isinstance(loss, nn.Module) else {}
    learnt = [name for name, parameter in own.items() if parameter.requires_grad]

    def call(queries: Tensor, keys: Tensor, *parameters: Tensor) -> Tensor:
        if not isinstance(loss, nn.Module):
            return loss(queries, keys, **arguments)
        replaced = dict(zip(learnt, parameters, strict=True))
        value: Tensor = torch.func.functional_call(loss, replaced, (queries, keys), arguments)
        return value

    for queries, keys, where in _embeddings(shapes, seeds):
        try:
            gradcheck(call, (queries, keys, *(own[name] for name in learnt)))
        except GradcheckError as error:
            inputs = ", ".join(f"{place} {name}" for place, name in enumerate(["queries", "keys", *learnt]))
            raise AssertionError(f"wrong gradient for {where} (inputs: {inputs}): {error}") from error


def assert_world_size_invariant(
    loss: nn.Module | Sequence[nn.Module],
    world_sizes: Sequence[int] = (2, 3),
    *,
    num_queries: int = 7,
    num_negatives: int | None = None,
    several_positives: bool = False,
    memory: Memory | None = None,
    dimension: int = 6,
    tolerance: float = 1e-5,
    seed: int = 0,
    gather: Gather = gather_exactly,
) -> None:
    """Assert that several processes compute the loss and the gradients of one process with the global batch.

    Starts so many processes on the CPU (gloo), each with a part of one batch: parts differ in size, from three
    processes on one is empty, the known positives of some queries are other ranks' documents, and queries have
    different numbers of hard negatives. Each encodes its part with the same linear encoder, gathers, and calls the loss
    with those fields its signature names. Compared with one process are the value on every rank, and the gradients of
    the encoder and of the loss's own parameters after DistributedDataParallel.

    Losses can be checked together, in the same processes: starting them is what takes time, about 3 s a world size.
    In a script, call it under `if __name__ == "__main__":`, as anything that starts processes.

    Args:
        loss: A module, or several. They travel by pickle: classes of your own must be at the top level of a module.
        world_sizes: Numbers of processes to try.
        num_queries: Queries of the global batch, Q.
        num_negatives: Hard negatives of a query, at most: query `i` has `i % (num_negatives + 1)`. By default 2 for
            a loss that takes `owners`, and 0 for one that does not, such as a loss of pairs.
        several_positives: Whether the first hard negative of a query is made another positive of it, by `positives`.
        memory: Appends its keys to the gathered ones, on every rank the same.
        dimension: Width of an embedding, D.
        tolerance: Largest relative error of the value and of each gradient, and of their cosine below 1.
        seed: Seed of the batch and the encoder.
        gather: What puts the ranks' batches together; yours, to check that.

    Raises:
        AssertionError: If a rank gets something else, or one process gets no gradient, which shows nothing.
        ValueError: If a loss, the memory or the gather cannot be pickled.

    Example:
        >>> from contrastive.losses import InfoNCELoss
        >>> assert_world_size_invariant(InfoNCELoss(symmetric=True), world_sizes=(2,))  # doctest: +SKIP
    """
    losses = [loss] if isinstance(loss, nn.Module) else list(loss)
    cases: list[tuple[_Step, EmbeddedBatch]] = []
    for each in losses:
        negatives = (2 if "owners" in parameters_of(each) else 0) if num_negatives is None else num_negatives
        batch = _made_up_batch(num_queries, negatives, several_positives, seed)
        cases.append((_Step(each, dimension, memory, gather, seed), batch))
    expected = [_outcome(step, batch) for step, batch in cases]
    for step, results in zip(losses, expected, strict=True):
        if not results["gradient of encoder.weight"].any():
            raise AssertionError(f"{step!r} gives one process no gradient: the comparison shows nothing")
    for size in world_sizes:
        for rank, outcomes in enumerate(_in_processes(cases, size)):
            for each, results, wanted in zip(losses, outcomes, expected, strict=True):
                for name, value in wanted.items():
                    _compare(f"{each!r}: {name} on rank {rank} of {size}", results[name], value, tolerance)


class _Step(nn.Module):
    """Encodes, gathers, recalls and judges: what happens on each rank, wrapped whole by DistributedDataParallel."""

    def __init__(self, loss: nn.Module, dimension: int, memory: Memory | None, gather: Gather, seed: int) -> None:
        super().__init__()
        weight = torch.randn(dimension, _FEATURES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.encoder = nn.Linear(_FEATURES, dimension, bias=False).double()
        self.encoder.weight.data = weight
        self.loss = copy.deepcopy(loss).double()
        self.recalled = [memory]  # in a list, so that its buffers are not the module's
        self.gather = gather

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
    )


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
            values[field.name] = value[kept[field.metadata["rows"]]]
    if batch.positives is not None:
        pairs = batch.positives[mine[batch.positives[:, 0]]]
        values["positives"] = torch.stack([new_query[pairs[:, 0]], new_key[pairs[:, 1]]], 1)
    return EmbeddedBatch(**{**values, "owners": new_query[values["owners"]]})


def _embeddings(shapes: Shapes, seeds: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, str]]:
    """Return random queries and keys of every shape and seed, and words for which they are."""
    for num_queries, num_keys, dimension in shapes:
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            queries, keys = (
                torch.randn(count, dimension, generator=generator, dtype=torch.float64, requires_grad=True)
                for count in (num_queries, num_keys)
            )
            yield queries, keys, f"queries [{num_queries}, {dimension}], keys [{num_keys}, {dimension}], seed {seed}"


def _in_float64(loss: Loss) -> Loss:
    return copy.deepcopy(loss).double() if isinstance(loss, nn.Module) else loss


def _compare(what: str, got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Assert that two tensors are equal relative to the size of the expected one, and point the same way."""
    if got.shape != expected.shape:
        raise AssertionError(f"{what}: expected shape {list(expected.shape)}, got {list(got.shape)}")
    got, expected = got.detach().double().flatten(), expected.detach().double().flatten()
    length = expected.norm()
    error = (got - expected).norm() / torch.where(length > 0, length, 1)
    cosine = torch.dot(got, expected) / (got.norm() * length) if length > 0 and got.any() else error.new_ones(())
    if not (error <= tolerance and cosine >= 1 - tolerance):  # NaN is neither
        sizes = f"{got.norm().item():.6g} instead of {length.item():.6g}"
        raise AssertionError(
            f"{what}: relative error {error.item():.2g}, expected at most {tolerance:g}; "
            f"cosine {cosine.item():.6f}; size {sizes}"
        )
