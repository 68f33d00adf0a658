"""Training in several processes as if it were one: every rank sees the global batch, and gradients come out exact.

Notable decisions:

- Every rank computes the loss of the global batch. Any loss works so, whatever its normalisers and temperature;
  sharding the rows would save time only for losses that decompose, and is left out.
- The gather's backward is the rank's own slice times the number of ranks. All ranks hold the same loss, so that is the
  gradient of one process once DistributedDataParallel has *averaged* over ranks; parameters of the loss itself need
  nothing. Where gradients are summed instead of averaged, it is too large by the number of ranks.
- Local batches may differ in size, and be empty. What each rank holds is exchanged first, in one small collective that
  waits for the device, and judged by all: a batch that cannot be gathered is an error on every rank, so none hangs.

A rank without rows still has to take part in the backward pass, or DistributedDataParallel hangs: it encodes one dummy
row and keeps none of it, `encoder(dummy)[:0]`, which has a gradient, and a zero one.

Shape letters: Q queries, K keys, D width, P (query, positive) index pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Sampler

from contrastive.data.batch import EmbeddedBatch
from contrastive.losses.core.rows import key_owners

_ROWS: dict[str, str] = {field.name: field.metadata["rows"] for field in fields(EmbeddedBatch)}
_PADDING: dict[str, float] = {
    field.name: field.metadata["padding"] for field in fields(EmbeddedBatch) if field.metadata["padding"] is not None
}
_DTYPES = (
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Return the number of ranks, 1 without a process group."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def gather(batch: EmbeddedBatch, group: dist.ProcessGroup | None = None) -> EmbeddedBatch:
    """Put the batches of all ranks together, with gradients; every rank gets the same.

    Queries come in the order of the ranks. Keys are all ranks' positives, so that key `i` still is the positive of
    query `i`; then the first further key of every query that has one, all second ones and so on, and those that all
    share: the order that one process with all rows would have. Owners and index pairs are changed to match; an owner of
    -1 stays -1. What is ragged (known positives, teacher scores) is padded to the widest, vectors of tokens to the
    longest text.

    Without a process group, or with one rank, the batch is returned as it is.

    Args:
        batch: What this rank holds: any number of queries, none included. Every rank fills in the same fields; one
            without queries may leave fields out.
        group: The ranks to gather from; all by default.

    Returns:
        The global batch. It has owners: where there were none, key `n Q + i` of a rank is its query `i`'s.

    Raises:
        ValueError: On every rank, if what one of them holds does not fit its queries and keys, or the other ranks.
    """
    if world_size(group) == 1:
        return batch
    batch = _with_owners(batch)
    held = _exchange(batch, group)
    _check(held)
    rank = dist.get_rank(group)
    num_queries, num_keys = ([shape.rows for shape in held[name]] for name in ("queries", "keys"))
    num_heads = [min(pair) for pair in zip(num_queries, num_keys, strict=True)]
    before, heads_before = sum(num_queries[:rank]), sum(num_heads[:rank])
    if batch.owners is not None:
        batch = replace(batch, owners=torch.where(batch.owners < 0, batch.owners, batch.owners + before))
    if batch.positives is not None:
        rows, keys = batch.positives.unbind(1)
        shift_of_tails = sum(num_heads) + sum(num_keys[:rank]) - heads_before - num_heads[rank]
        keys = keys + torch.where(keys < num_heads[rank], heads_before, shift_of_tails)
        batch = replace(batch, positives=torch.stack([rows + before, keys], 1))

    values = {}
    for name, shapes in held.items():
        if all(shape.dtype < 0 for shape in shapes):
            continue
        local = _conform(getattr(batch, name), name, shapes, batch.queries.device)
        parts = _gather_rows(local, [shape.rows for shape in shapes], group)
        if _ROWS[name] == "keys":
            heads = [part[:count] for part, count in zip(parts, num_heads, strict=True)]
            parts = heads + [part[count:] for part, count in zip(parts, num_heads, strict=True)]
        values[name] = torch.cat(parts)
    return EmbeddedBatch(**_in_order(values, sum(num_heads)))


class RankShare(Sampler[list[int]]):
    """This rank's share of the batches of another sampler: a run of rows of every batch, the first for the first rank.

    Shares differ by at most one row, and are empty where a batch has fewer rows than there are ranks: all ranks take
    the same number of steps, and together see what one process would, in its order.

    Args:
        batches: Makes the global batches, the same on every rank.
        rank: Which share.
        num_ranks: How many shares there are.

    Raises:
        ValueError: If there is no such share.

    Example:
        >>> [list(RankShare([[4, 2, 7], [5]], rank=rank, num_ranks=2)) for rank in range(2)]
        [[[4], []], [[2, 7], [5]]]
    """

    def __init__(self, batches: Iterable[list[int]], *, rank: int, num_ranks: int) -> None:
        if not 0 <= rank < num_ranks:
            raise ValueError(f"expected a rank from 0 to {num_ranks - 1}, got {rank}")
        self.batches: Any = batches
        self.rank = rank
        self.num_ranks = num_ranks

    @property
    def sampler(self) -> Any:
        """What makes the global batches, where Lightning looks for `set_epoch`."""
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            start, stop = (len(batch) * rank // self.num_ranks for rank in (self.rank, self.rank + 1))
            yield batch[start:stop]

    def __len__(self) -> int:
        return len(self.batches)


class _Shape(NamedTuple):
    """What a rank holds of a field: its type by number, rows, width and tokens of a row; -1 for what it has not."""

    dtype: int
    rows: int
    width: int
    tokens: int

    @classmethod
    def of(cls, value: Tensor | None) -> _Shape:
        if value is None:
            return cls(-1, 0, -1, -1)
        width, tokens = value.shape[-1] if value.ndim > 1 else -1, value.shape[1] if value.ndim == 3 else -1
        return cls(_DTYPES.index(value.dtype), len(value), width, tokens)

    @property
    def row(self) -> list[int]:
        """The shape of a row."""
        return [size for size in (self.tokens, self.width) if size >= 0]


def _with_owners(batch: EmbeddedBatch) -> EmbeddedBatch:
    """Say whose each key is by default, if that can be told."""
    num_queries, num_keys = len(batch.queries), len(batch.keys)
    if batch.owners is not None or not num_queries or num_keys % num_queries:
        return batch
    return replace(batch, owners=key_owners(None, num_queries, num_keys, batch.keys.device))


def _exchange(batch: EmbeddedBatch, group: dist.ProcessGroup | None) -> dict[str, list[_Shape]]:
    """Tell all ranks what this one holds; return what each rank does, field by field."""
    mine = [_Shape.of(getattr(batch, name)) for name in _ROWS]
    gathered = _stack_of_ranks(torch.tensor(mine, device=batch.queries.device), group).tolist()
    return {name: [_Shape(*rank[place]) for rank in gathered] for place, name in enumerate(_ROWS)}


def _check(held: Mapping[str, Sequence[_Shape]]) -> None:
    """Refuse what does not fit together; all ranks see the same, so all refuse."""
    for name, shapes in held.items():
        filled = [shape for shape in shapes if shape.rows]
        for rank, shape in enumerate(shapes):
            kind = "queries" if name == "positives" else _ROWS[name]
            expected = held[kind][rank].rows
            absent = shape.dtype < 0
            if (absent and filled and expected) or (not absent and shape.rows != expected and name != "positives"):
                got = "none" if absent else shape.rows
                raise ValueError(f"expected {name} of {expected} {kind} on rank {rank}, got {got}")
        kinds: dict[str, set[Any]] = {
            "dtype": {_DTYPES[shape.dtype] for shape in filled},
            "ndim": {len(shape.row) + 1 for shape in filled},
        }
        if name not in _PADDING:
            kinds["width"] = {shape.width for shape in filled}
        for what, found in kinds.items():
            if len(found) > 1:
                names = " and ".join(sorted(map(str, found)))
                raise ValueError(f"expected {name} of one {what} on all ranks, got {names}")


def _conform(value: Tensor | None, name: str, shapes: Sequence[_Shape], device: torch.device) -> Tensor:
    """Give the local tensor the type and rows that it has on all ranks; one without rows may have had others."""
    filled = [shape for shape in shapes if shape.rows] or [shape for shape in shapes if shape.dtype >= 0]
    example = max(filled, key=lambda shape: len(shape.row))
    alike = [shape.row for shape in filled if len(shape.row) == len(example.row)]
    row = [max(sizes) for sizes in zip(*alike, strict=True)]
    if value is None or (not len(value) and value.ndim != 1 + len(row)):
        return torch.empty(0, *row, dtype=_DTYPES[example.dtype], device=device)
    missing = [wanted - held for wanted, held in zip(row, value.shape[1:], strict=True)]
    if any(missing):
        value = pad(value, [size for more in reversed(missing) for size in (0, more)], value=_PADDING.get(name, 0))
    return value.to(_DTYPES[example.dtype])


def _in_order(values: dict[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """Put the keys behind the positives into the order of one process: each query's first, each one's second, ..."""
    if "owners" not in values or len(values["owners"]) == num_heads:
        return values
    owners = values["owners"][num_heads:]
    by_owner = owners.argsort(stable=True)
    owners = owners[by_owner]
    turn = torch.arange(len(owners), device=owners.device) - torch.searchsorted(owners, owners)
    order = by_owner[torch.where(owners < 0, len(owners), turn).argsort(stable=True)]
    order = torch.cat([torch.arange(num_heads, device=order.device), num_heads + order])
    values = {name: value[order] if _ROWS[name] == "keys" else value for name, value in values.items()}
    if "positives" in values:
        rows, keys = values["positives"].unbind(1)
        values["positives"] = torch.stack([rows, order.argsort()[keys]], 1)
    return values


def _gather_rows(rows: Tensor, counts: Sequence[int], group: dist.ProcessGroup | None) -> list[Tensor]:
    """Return the rows of each rank, which has `counts` of them, with the gradient of this rank's."""
    most = max(1, *counts)  # not every backend gathers what is empty on all ranks
    padding = rows.new_zeros(most - len(rows), *rows.shape[1:])
    gathered: Tensor = _AllGather.apply(torch.cat([rows, padding]), group)  # type: ignore[no-untyped-call]
    return [gathered[rank, :count] for rank, count in enumerate(counts)]


def _stack_of_ranks(local: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    gathered = local.new_empty(world_size(group), *local.shape)
    dist.all_gather(list(gathered.unbind()), local.contiguous(), group)
    return gathered


class _AllGather(torch.autograd.Function):
    """Stack the tensors of all ranks, of one shape; backward is the own slice times the number of ranks."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        """Return [W, ...]."""
        ctx.group = group
        return _stack_of_ranks(local, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the local tensor."""
        return gradient[dist.get_rank(ctx.group)] * world_size(ctx.group), None
