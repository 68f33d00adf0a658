"""Steps that compute micro-batches again in the backward pass: the same to the bit, in less memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from small_training import alone, fit, records, with_negatives
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from contrastive.data import Batch
from contrastive.encoder import Encoder, LoRA, load_encoder
from contrastive.losses import InfoNCELoss
from contrastive.training import ContrastiveData

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")

KINDS: dict[str, dict[str, Any]] = {
    "pooled": {},
    "pytorch's dropout": {"fast_dropout": False},
    "checkpointed layers": {"gradient_checkpointing": True},
    "lora": {"lora": LoRA(rank=2, dropout=0.3)},
    "frozen": {"frozen_layers": 1},
    "two towers": {"two_towers": True},
    "random windows": {"windows": True, "max_length": 8, "training_windows": "random"},
    "tokens": {"representation": "tokens", "query_expansion": 8, "dimension": 16},
    "tokens of windows": {"representation": "tokens", "windows": True, "max_length": 8, "training_windows": "all"},
    "lexical": {"representation": "lexical"},
    "learnt query weights": {"representation": "lexical", "query_weights": "learnt"},
}


def batch() -> Batch:
    data = ContrastiveData(with_negatives(9), None, batch_size=9)
    return data.batch(next(iter(data.train_dataloader())))


def step(encoder: Any, *, cached: bool, autocast: bool = False) -> dict[str, Tensor]:
    """One step with dropout; the loss, the gradients, and the next draw of the generator."""
    name = encoder.similarity
    loss = InfoNCELoss(0.5, learnable_temperature=True, similarity=name)
    module = alone(encoder, loss).train()
    module.cached = cached
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = module.training_step(batch(), 0)
    value.backward()
    found = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    return {"loss": value.detach(), "next draw": torch.rand(3), **found}


def passes(encoder: nn.Module) -> list[int]:
    """Fills with the rows of each pass through the model from now on."""
    sizes: list[int] = []
    for module in encoder.modules():
        if isinstance(module, Encoder):
            module.backbone.register_forward_pre_hook(
                lambda *call: sizes.append(len(call[-1]["input_ids"])), with_kwargs=True
            )
    return sizes


@pytest.mark.parametrize(
    ("kind", "autocast"), [*((kind, False) for kind in KINDS), ("pooled", True), ("tokens", True), ("lexical", True)]
)
def test_value_and_gradients_are_those_of_the_plain_step_to_the_bit(
    kind: str, autocast: bool, tiny_model_folder: Path
) -> None:
    found, counts = [], []
    for cached in (False, True):
        torch.manual_seed(0)  # of what LoRA starts from
        encoder = load_encoder(tiny_model_folder, tokens_per_batch=32, **KINDS[kind])
        counts.append(passes(encoder))
        found.append(step(encoder, cached=cached, autocast=autocast))
    plain, cached_step = found
    assert any(bool(gradient.any()) for name, gradient in plain.items() if name.endswith("weight"))
    torch.testing.assert_close(cached_step, plain, rtol=0, atol=0)
    # The last is not computed again; it is of queries alone where they do not reach the model.
    once = {"two towers": 2, "learnt query weights": 0}.get(kind, 1)
    assert len(counts[0]) > once + 1
    assert len(counts[1]) == 2 * len(counts[0]) - once


def test_tokens_are_counted_once(tiny_encoder: Encoder) -> None:
    counts = []
    for cached in (False, True):
        before = tiny_encoder.tokens_seen.real, tiny_encoder.tokens_seen.padded
        step(tiny_encoder, cached=cached)
        counts.append((tiny_encoder.tokens_seen.real - before[0], tiny_encoder.tokens_seen.padded - before[1]))
    assert counts[0] == counts[1]


def test_nothing_is_computed_again_without_gradients(tiny_encoder: Encoder) -> None:
    sizes = passes(tiny_encoder.train())
    with torch.no_grad():
        embeddings = tiny_encoder(batch().documents, side="document", cached=True)
    assert not embeddings.requires_grad
    assert sum(sizes) == len(set(batch().documents))


def test_a_run_with_accumulation_ends_with_the_same_weights(tiny_model_folder: Path, tmp_path: Path) -> None:
    weights = []
    for cached in (False, True):
        encoder = Encoder.from_pretrained(tiny_model_folder, tokens_per_batch=16)
        fit(encoder, InfoNCELoss(), tmp_path, epochs=2, accumulate_grad_batches=2, cached=cached)
        weights.append(torch.cat([weight.flatten() for weight in encoder.parameters()]))
    assert torch.equal(*weights)
    untrained = Encoder.from_pretrained(tiny_model_folder)
    assert not torch.equal(weights[0], torch.cat([weight.flatten() for weight in untrained.parameters()]))


def kept(encoder: Encoder, *, cached: bool) -> int:
    """Bytes that autograd keeps between the passes, embeddings left out."""
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    queries, documents = [record.query for record in records(11)] * 8, [f"{i} job" for i in range(88)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encoder.train().embed_sides(queries, documents, cached=cached)
    return total


def test_activations_are_kept_of_one_micro_batch_alone(tiny_encoder: Encoder) -> None:
    assert kept(tiny_encoder, cached=True) < 0.1 * kept(tiny_encoder, cached=False)


class Step(nn.Module):
    """A step as a forward pass, for DistributedDataParallel."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, rows: Batch) -> Tensor:
        value: Tensor = self.module.training_step(rows, 0)  # type: ignore[operator]
        return value


def averaged(reduced, bucket):  # type: ignore[no-untyped-def]
    """Average a bucket of gradients over two ranks, and note which; torch takes no annotations that are strings."""
    reduced.append(bucket.index())
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0] / 2)


def on_rank(rank: int, folder: str, model: Path) -> None:
    """One plain and one cached step in two processes, with unequal shares; saves gradients and counts all-reduces."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    data = ContrastiveData(with_negatives(9), None, batch_size=9)
    rows = data.batch([0, 1, 2, 3, 4, 5] if rank == 0 else [6, 7, 8])
    found = []
    for cached in (False, True):
        encoder = Encoder.from_pretrained(model, tokens_per_batch=32)
        module = alone(encoder, InfoNCELoss(0.5, learnable_temperature=True)).train()
        module.cached = cached
        parallel = DistributedDataParallel(Step(module), bucket_cap_mb=100)
        reduced: list[int] = []

        parallel.register_comm_hook(reduced, averaged)
        torch.manual_seed(5 + rank)
        parallel(rows).backward()
        gradients = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
        found.append((gradients, len(reduced)))
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_several_processes_reduce_once_a_step_and_get_the_same(tiny_model_folder: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(on_rank, args=(folder, tiny_model_folder), nprocs=2)
        ranks = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
    for (plain, reduced_plain), (cached, reduced_cached) in ranks:
        torch.testing.assert_close(cached, plain, rtol=0, atol=0)
        assert reduced_cached == reduced_plain <= 2
    assert any(bool(gradient.any()) for gradient in ranks[0][0][0].values())
    torch.testing.assert_close(ranks[0][1][0], ranks[1][1][0], rtol=0, atol=0)
