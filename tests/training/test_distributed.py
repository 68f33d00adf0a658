"""World size does not matter: gathering by itself, and every loss of the library in several processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import all_losses
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from contrastive import losses
from contrastive.data import Collator, Record
from contrastive.data.batch import EmbeddedBatch, loss_arguments
from contrastive.testing import WorldSizeCase, assert_world_size_invariant
from contrastive.training.distributed import RankShare, gather, world_size
from contrastive.training.memory import CrossBatchQueue


def filled_queue() -> CrossBatchQueue:
    """Four keys of width 6; two are known positives of queries of the made-up batch."""
    queue = CrossBatchQueue(size=8, dimension=6)
    queue.push(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 50, 4, -1]))
    return queue


def queue_of_tokens() -> CrossBatchQueue:
    """Four keys of five tokens of width 6, more than any of the made-up batch has."""
    queue = CrossBatchQueue(size=8, dimension=6, of_tokens=True)
    queue.push(torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 50, 4, -1]))
    return queue


def cases() -> list[WorldSizeCase]:
    """Every loss; with hard negatives and a queue, and with several positives, where it can have them."""
    found = []
    for name, options in all_losses.SETTINGS:
        loss, queue = all_losses.make(name, options), all_losses.takes_a_queue(name, options)
        found.append(WorldSizeCase(loss))
        if queue:
            found.append(WorldSizeCase(loss, memory=filled_queue()))
        if all_losses.takes_several_positives(name, options):
            found.append(WorldSizeCase(loss, several_positives=True, memory=filled_queue() if queue else None))
    for name, options in all_losses.OF_TOKENS:
        loss, queue = all_losses.make(name, options), all_losses.takes_a_queue(name, options)
        several = all_losses.takes_several_positives(name, options)
        queued = queue_of_tokens() if queue else None
        found.append(WorldSizeCase(loss, several_positives=several, memory=queued))
    return found


def test_no_loss_is_left_out() -> None:
    assert {name for name, _ in all_losses.SETTINGS} == all_losses.CLASSES.keys()


def test_world_size_does_not_matter() -> None:
    """All losses in the same processes: starting them is what takes time."""
    assert_world_size_invariant(cases())


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def own_slice_only(batch: EmbeddedBatch) -> EmbeddedBatch:
    """The gather of open_clip's default: right values, and gradients too small by the number of ranks."""
    whole, factor = gather(batch), 1 / world_size()
    return replace(whole, queries=_Scale.apply(whole.queries, factor), keys=_Scale.apply(whole.keys, factor))


def factor_twice(batch: EmbeddedBatch) -> EmbeddedBatch:
    """As contrastors and PyLate: gradients are summed over ranks, and the loss multiplied by their number."""
    whole, factor = gather(batch), world_size()
    return replace(whole, queries=_Scale.apply(whole.queries, factor), keys=_Scale.apply(whole.keys, factor))


def no_gather(batch: EmbeddedBatch) -> EmbeddedBatch:
    """Each rank by itself."""
    return batch


def without_exclusion(batch: EmbeddedBatch) -> EmbeddedBatch:
    """Forgets the ids of other ranks."""
    whole = gather(batch)
    return whole if world_size() == 1 else replace(whole, positive_ids=None)


def without_same_texts(batch: EmbeddedBatch) -> EmbeddedBatch:
    """Forgets that a query of one rank is a document of another, which matters to what compares queries."""
    whole = gather(batch)
    return whole if world_size() == 1 else replace(whole, own_ids=None, onward_ids=None)


def test_a_wrong_gather_is_caught() -> None:
    wrong = {0.1: own_slice_only, 0.2: factor_twice, 0.3: no_gather, 0.4: without_exclusion, 0.5: gather}
    tried = [WorldSizeCase(losses.InfoNCELoss(temperature), gather=each) for temperature, each in wrong.items()]
    wrong[0.6] = without_same_texts
    tried.append(WorldSizeCase(losses.NTXentLoss(0.6), gather=without_same_texts))
    with pytest.raises(AssertionError) as caught:
        assert_world_size_invariant(tried, (2,))
    told = {
        temperature: [line for line in str(caught.value).splitlines() if f"temperature={temperature}" in line]
        for temperature in wrong
    }
    for temperature, error in ((0.1, "0.5"), (0.2, "1")):
        assert len(told[temperature]) == 2
        for rank, line in enumerate(told[temperature]):
            assert f": gradient of encoder.weight on rank {rank} of 2: relative error {error}, expected" in line
            assert "; cosine 1.000000; size " in line
    for temperature in (0.3, 0.4, 0.6):
        assert ": loss on rank 0 of 2: relative error" in told[temperature][0]
        assert len(told[temperature]) == 4  # value and gradient on both ranks
    assert not told[0.5]


class LocalLoss(nn.Module):
    """Has no gradient: the loss does not depend on the embeddings."""

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        return (queries.sum() + keys.sum()) * 0


def test_a_check_that_shows_nothing_is_not_passed() -> None:
    with pytest.raises(
        AssertionError, match=r"LocalLoss\(\) gives one process no gradient: the comparison shows nothing"
    ):
        assert_world_size_invariant(LocalLoss(), (2,))


def test_what_cannot_be_sent_to_another_process_is_refused() -> None:
    class Inner(losses.InfoNCELoss):
        pass

    with pytest.raises(ValueError, match="expected losses, memory and gather that can be pickled, got"):
        assert_world_size_invariant(Inner(), (2,))


def parts() -> list[EmbeddedBatch]:
    """Three ranks: two queries with a negative each and a shared one; nothing; one query with two negatives."""
    first = torch.arange(5.0)[:, None] * torch.ones(2)
    last = 10 + torch.arange(3.0)[:, None] * torch.ones(2)
    return [
        EmbeddedBatch(
            torch.full((2, 2), 100.0),
            first,
            owners=torch.tensor([0, 1, 1, 0, -1]),
            key_ids=torch.tensor([0, 1, 2, 3, -1]),
            positive_ids=torch.tensor([[0], [1]]),
            positives=torch.tensor([[0, 0], [1, 1], [1, 2]]),
            teacher_scores=torch.tensor([[0.5, 0.25], [0.75, 0.5]]),
        ),
        EmbeddedBatch(torch.zeros(0, 2), torch.zeros(0, 2), positive_ids=torch.zeros(0, 0, dtype=torch.long)),
        EmbeddedBatch(
            torch.full((1, 2), 101.0),
            last,
            key_ids=torch.tensor([10, 11, 12]),
            positive_ids=torch.tensor([[10, 20]]),
            positives=torch.tensor([[0, 0], [0, 2]]),
            teacher_scores=torch.tensor([[0.5, 0.25, 0.125]]),
        ),
    ]


def gathered_parts(rank: int) -> dict[str, Any]:
    """What a rank gets to see, and the gradient it gets."""
    part = parts()[rank]
    keys = part.keys.requires_grad_()
    whole = gather(part)
    weights = torch.arange(len(whole.keys), dtype=torch.float)[:, None]
    (gradient,) = torch.autograd.grad((whole.keys * weights).sum(), keys)
    found = {"keys": whole.keys[:, 0].tolist(), "queries": whole.queries[:, 0].tolist(), "gradient": gradient[:, 0]}
    for name in ("owners", "key_ids", "positive_ids", "positives", "teacher_scores"):
        found[name] = getattr(whole, name)
    # The one without rows has them in another type than the others.
    sides = (side if rank == 1 else side.bfloat16() for side in (part.queries, part.keys))
    halves = gather(EmbeddedBatch(*sides, owners=torch.full((len(keys),), -1)))
    found["dtype"], found["shared"] = halves.keys.dtype, halves.owners
    assert halves.weights is None
    found["refused"] = [refusal(batch) for batch in misfits(part, rank)]
    found["shares"] = [gather(each) for each in served(rank)]
    return found


def served(rank: int, num_ranks: int = 3) -> list[EmbeddedBatch]:
    """What a rank has of two batches with made-up embeddings; negatives are ragged, the second batch has two rows."""
    items, batches = records(9), []
    collate = Collator(items)
    for rows in RankShare([[5, 3, 8, 0, 7, 2, 6], [4, 1]], rank=rank, num_ranks=num_ranks):
        if not rows:
            batches.append(EmbeddedBatch(torch.zeros(0, 1), torch.zeros(0, 1)))
            continue
        batch = collate([items[row] for row in rows])
        embeddings = [ids[:, None].float() for ids in (batch.query_ids, batch.key_ids)]
        ids = {"key_ids": batch.key_ids, "positive_ids": batch.positive_ids}
        known = {"owners": batch.owners, "teacher_scores": batch.teacher_scores, **ids}
        batches.append(EmbeddedBatch(*embeddings, **known))
    return batches


def records(count: int) -> list[Record]:
    """Records of 0, 1 or 2 negatives, all scored by a teacher."""
    return [
        Record(
            query=f"q{i}",
            positive=f"d{i}",
            query_id=f"q{i}",
            positive_id=f"d{i}",
            negatives=tuple(f"n{i} {place}" for place in range(i % 3)),
            negative_ids=tuple(f"n{i} {place}" for place in range(i % 3)),
            grades={f"d{i}": 1, f"d{(i + 1) % count}": 1},
            teacher_scores=tuple(float(i + place) for place in range(1 + i % 3)),
        )
        for i in range(count)
    ]


def misfits(part: EmbeddedBatch, rank: int) -> list[EmbeddedBatch]:
    """Batches that cannot be gathered, because of what one rank holds."""
    bare = EmbeddedBatch(part.queries, part.keys, owners=torch.full((len(part.keys),), -1))
    return [
        replace(bare, weights=torch.ones(len(part) + (rank == 2))),
        replace(bare, weights=torch.ones(len(part)) if rank < 2 else None),
        replace(bare, queries=part.queries.double() if rank == 2 else part.queries),
        replace(bare, queries=torch.ones(1, 3) if rank == 2 else part.queries),
        replace(bare, owners=bare.owners if rank else None),
        replace(bare, positives=part.positives if rank == 0 else None),
    ]


def refusal(batch: EmbeddedBatch) -> str:
    try:
        gather(batch)
    except ValueError as error:
        return str(error)
    return "gathered"


def on_ranks(function: Callable[[int], Any], size: int) -> list[Any]:
    """What a function of this module returns on each of so many ranks."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_on_rank, args=(function, size, folder), nprocs=size)
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(size)]


def _on_rank(rank: int, function: Callable[[int], Any], size: int, folder: str) -> None:
    torch.set_num_threads(1)
    rendezvous = Path(folder, "rendezvous").as_uri()
    dist.init_process_group("gloo", rendezvous, timedelta(seconds=60), world_size=size, rank=rank)
    torch.save(function(rank), Path(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


def test_every_rank_gets_all_positives_and_then_all_further_negatives() -> None:
    ranks = on_ranks(gathered_parts, 3)
    for found in ranks:
        assert found["queries"] == [100, 100, 101]
        assert found["keys"] == [0, 1, 10, 3, 2, 11, 12, 4]
        assert found["key_ids"].tolist() == [0, 1, 10, 3, 2, 11, 12, -1]
        assert found["owners"].tolist() == [0, 1, 2, 0, 1, 2, 2, -1]
        assert found["positive_ids"].tolist() == [[0, -1], [1, -1], [10, 20]]
        assert found["positives"].tolist() == [[0, 0], [1, 1], [1, 4], [2, 2], [2, 6]]
        torch.testing.assert_close(
            found["teacher_scores"],
            torch.tensor([[0.5, 0.25, float("nan")], [0.75, 0.5, float("nan")], [0.5, 0.25, 0.125]]),
            equal_nan=True,
        )
        assert found["dtype"] == torch.bfloat16
        assert found["shared"].tolist() == [-1] * 8
        for whole, expected in zip(found["shares"], served(0, num_ranks=1), strict=True):
            assert len(expected) in (7, 2)
            for name in ("queries", "keys", "owners", "key_ids", "positive_ids", "teacher_scores"):
                torch.testing.assert_close(getattr(whole, name), getattr(expected, name), equal_nan=True)
    # The own slice of 0 ... 7, times three ranks.
    assert [found["gradient"].tolist() for found in ranks] == [[0, 3, 12, 9, 21], [], [6, 15, 18]]
    for found in ranks:
        for message, expected in zip(
            found["refused"],
            [
                "expected weights of 1 queries on rank 2, got 2",
                "expected weights of 1 queries on rank 2, got none",
                "expected queries of one dtype on all ranks, got torch.float32 and torch.float64",
                "expected queries of one width on all ranks, got 2 and 3",
                "expected owners of 5 keys on rank 0, got none",
                "expected positives of 1 queries on rank 2, got none",
            ],
            strict=True,
        ):
            assert message == expected


def test_one_process_is_given_its_batch_back() -> None:
    batch = parts()[0]
    assert world_size() == 1
    assert gather(batch) is batch


def test_shares_of_the_ranks_make_up_every_batch() -> None:
    batches = [[4, 2, 7, 1], [3, 5], [6]]
    shares = [RankShare(batches, rank=rank, num_ranks=3) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 3]
    for batch, *own in zip(batches, *shares, strict=True):
        assert [row for share in own for row in share] == batch
        assert max(map(len, own)) - min(map(len, own)) <= 1
    assert shares[0].sampler is batches
    with pytest.raises(ValueError, match="expected a rank from 0 to 2, got 3"):
        RankShare(batches, rank=3, num_ranks=3)


def test_a_loss_is_given_what_its_signature_names_and_the_batch_has() -> None:
    def judge(queries: Tensor, keys: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Tensor:
        return queries.sum() + keys.sum() + targets.sum() + (0 if weights is None else weights.sum())

    batch = EmbeddedBatch(torch.eye(2), torch.eye(2), targets=torch.ones(2), grades=torch.ones(2))
    assert loss_arguments(judge, batch).keys() == {"targets"}
    with pytest.raises(ValueError, match="judge needs targets, which the training records do not have"):
        loss_arguments(judge, replace(batch, targets=None))


def test_gathering_and_the_checks_of_a_loss_need_torch_alone() -> None:
    script = "import sys, contrastive.testing; print({'lightning', 'transformers', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "set()"
