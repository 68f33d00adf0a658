"""What a GPU computes is what the CPU computes; skipped where there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from loss_battery import BATCHES, Batch, call, every_loss, gradients

from contrastive.data import Record
from contrastive.encoder import Encoder
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.losses import InfoNCELoss
from contrastive.losses.core import blocks
from contrastive.masks import Mask, dense, from_tensor
from contrastive.negatives import Dense, Mined, Moment, Pool
from experiments.run.training_run import train_and_judge

ROOT = Path(__file__).parents[2]
TEXTS = ["python developer", "the nurse", "a chef in the kitchen " * 8, "data engineer", "", "hospital years"]

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec"),
]


def on_gpu(batch: Batch) -> dict[str, Any]:
    return {
        name: from_tensor(dense(given, batch.num_queries, batch.num_keys, torch.device("cpu")).cuda())
        if isinstance(given, Mask)
        else given.cuda()
        for name, given in batch.given.items()
    }


@every_loss
def test_losses_and_gradients_are_those_of_the_cpu(name: str, options: dict[str, Any]) -> None:
    for title, batch in BATCHES.items():
        if not batch.suits(name, options) or (title == "pairs alone" and options.get("mining") == "explicit"):
            continue
        queries, keys = batch.embeddings()
        expected = call(name, options, queries, keys, **batch.given)
        ours = [side.detach().cuda().requires_grad_() for side in (queries, keys)]
        value = call(name, options, *ours, **on_gpu(batch))
        assert value.is_cuda
        torch.testing.assert_close(value.cpu(), expected, rtol=1e-9, atol=1e-9, msg=title)
        for mine, right in zip(gradients(value, *ours), gradients(expected, queries, keys), strict=True):
            torch.testing.assert_close(mine.cpu(), right, rtol=1e-7, atol=1e-9, msg=title)


@every_loss
def test_nothing_waits_for_the_gpu(name: str, options: dict[str, Any]) -> None:
    batch = BATCHES["negatives"]
    sides = [side.detach().cuda().requires_grad_() for side in batch.embeddings()]
    given = on_gpu(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(name, options, *sides, **given).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(side.grad is not None and side.grad.isfinite().all() for side in sides)


@pytest.mark.parametrize("tiled", [True, False])
def test_a_large_batch_in_bfloat16_is_close(tiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "GPU_BLOCK_SCORES", 2**20)  # nine blocks
    generator = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(3000, 64, generator=generator), dim=1)
    keys = torch.nn.functional.normalize(queries + 0.1 * torch.randn(3000, 64, generator=generator), dim=1)
    loss = InfoNCELoss(temperature=0.05, symmetric=True, tiled=tiled)
    found = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.bfloat16)):
        sides = [side.to(device, dtype).requires_grad_() for side in (queries, keys)]
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
            value = loss(*sides)
        assert value.dtype == (torch.float64 if device == "cpu" else torch.float32)
        found.append((value.double().cpu(), *(grad.double().cpu() for grad in gradients(value, *sides))))
    (right, *right_gradients), (value, *mine) = found
    assert abs(value - right) < 0.02 * right
    for ours, expected in zip(mine, right_gradients, strict=True):
        assert (ours - expected).norm() < 0.05 * expected.norm()


def test_embeddings_and_gradients_of_an_encoder(tiny_encoder: Encoder) -> None:
    found = []
    for device in ("cpu", "cuda"):
        tiny_encoder.to(device).zero_grad()
        queries, documents = tiny_encoder.embed_sides(TEXTS[:3], TEXTS[3:])
        InfoNCELoss(temperature=0.1)(queries, documents).backward()
        weights = [weight.grad.to("cpu", copy=True) for weight in tiny_encoder.parameters() if weight.grad is not None]
        found.append([queries.detach().cpu(), documents.detach().cpu(), *weights])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


def test_documents_are_ranked_on_the_gpu_with_and_without_a_cache(tiny_encoder: Encoder, tmp_path: Path) -> None:
    records = [Record(query, f"{query} {text}") for query in TEXTS[:4] for text in TEXTS if text]
    chosen = []
    for device, cache in (("cpu", None), ("cuda", None), ("cuda", EmbeddingCache(tmp_path))):
        strategy = Mined(Dense(tiny_encoder.to(device)), count=2)
        chosen.append([negatives.ids for negatives in strategy(Pool.of_records(records), Moment(cache=cache))])
    assert chosen[0] == chosen[1] == chosen[2]


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss=infonce", "trainer.precision=auto"],
        ["loss=gist", "guide=untuned", "negatives=dense", "negatives.count=1", "trainer.precision=32-true"],
        ["loss=triplet", "negatives=refresh", "negatives.count=1", "trainer.max_epochs=2"],
        ["loss=infonce", "memory=queue", "memory.size=8", "negatives=mixed", "negatives.count=1"],
    ],
)
def test_a_run_on_the_gpu_leaves_its_results(overrides: list[str], tiny_model_folder: Path, tmp_path: Path) -> None:
    tiny = ["encoder=pretrained", f"encoder.name_or_path={tiny_model_folder}", "trainer.enable_progress_bar=false"]
    small = ["data.train_pairs=8", "data.dev_queries=4", "data.test_queries=4", "batch_size=4"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose(
            "config", overrides=[f"folder={tmp_path}/run", "logger=csv", "trainer=gpu", *tiny, *small, *overrides]
        )
    train_and_judge(config)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["status"] == "finished"
