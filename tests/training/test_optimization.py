"""The optimiser's parameter groups and schedule, and how many steps a trainer will take."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
from torch import nn

from contrastive.encoder import Encoder, LoRA, load_encoder
from contrastive.losses import InfoNCELoss
from contrastive.training.optimization import LinearDecayAdamW, planned_steps


def test_schedule_rises_then_falls_to_zero(tiny_encoder: Encoder) -> None:
    optimizer, schedule = LinearDecayAdamW(learning_rate=1.0, warmup_ratio=0.2)(tiny_encoder, InfoNCELoss(), 10)
    rates = []
    for _ in range(10):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(1 / 8)
    assert schedule.get_last_lr()[0] == 0


def test_biases_norms_and_the_loss_are_not_decayed(tiny_encoder: Encoder) -> None:
    loss = InfoNCELoss(learnable_temperature=True)
    optimizer, _ = LinearDecayAdamW(weight_decay=0.1, loss_learning_rate=0.5)(tiny_encoder, loss, 10)
    for group in optimizer.param_groups:
        matrices = [p.ndim > 1 for p in group["params"]]
        assert all(matrices) == (group["weight_decay"] == 0.1)
        assert any(matrices) == all(matrices)
    assert [id(p) for p in optimizer.param_groups[-1]["params"]] == [id(p) for p in loss.parameters()]
    assert optimizer.param_groups[-1]["initial_lr"] == 0.5


@pytest.mark.parametrize(
    ("setting", "steps"),
    [
        ({"max_epochs": 3}, 30),
        ({"max_steps": 7}, 7),
        ({"max_epochs": 3, "max_steps": 7}, 7),
        ({"max_epochs": 3, "accumulate_grad_batches": 4}, 9),
        ({"max_epochs": 2, "limit_train_batches": 4}, 8),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 10),
    ],
)
def test_planned_steps_are_those_lightning_takes(setting: dict[str, float], steps: int) -> None:
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **setting)
    assert planned_steps(10, trainer) == steps


def test_a_run_without_an_end_is_refused() -> None:
    trainer = SimpleNamespace(limit_train_batches=1.0, max_epochs=-1, max_steps=-1, accumulate_grad_batches=1)
    with pytest.raises(ValueError, match=r"expected trainer.max_epochs or trainer.max_steps"):
        planned_steps(10, trainer)
    trainer = SimpleNamespace(limit_train_batches=0, max_epochs=1, max_steps=-1, accumulate_grad_batches=1)
    with pytest.raises(ValueError, match="at least one training batch"):
        planned_steps(10, trainer)


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0.0), ("learning_rate", math.nan), ("warmup_ratio", 1.5), ("layer_decay", 0.0)],
)
def test_impossible_optimiser_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"expected {name}"):
        LinearDecayAdamW(**{name: value})


def test_gradients_can_be_clipped_in_any_precision(tiny_encoder: Encoder) -> None:
    optimizer, _ = LinearDecayAdamW()(tiny_encoder, InfoNCELoss(), 1)
    assert optimizer.defaults["fused"]
    assert not optimizer._step_supports_amp_scaling  # what Lightning asks before it clips


@pytest.mark.parametrize("options", [{}, {"lora": LoRA(rank=2)}, {"two_towers": True}, {"representation": "tokens"}])
def test_each_block_learns_slower_than_the_one_above_it(options: dict[str, Any], tiny_model_folder: Path) -> None:
    if options.get("representation") == "tokens":
        options = {**options, "dimension": 8}
    encoder = load_encoder(tiny_model_folder, **options)
    for name, weight in encoder.named_parameters():
        weight.requires_grad_(weight.requires_grad or "pooler" in name)  # which comes after the last block
    optimizer, schedule = LinearDecayAdamW(learning_rate=1.0, layer_decay=0.5)(encoder, InfoNCELoss(), 10)
    rates = {id(weight): group["initial_lr"] for group in optimizer.param_groups for weight in group["params"]}
    found = {name: rates[id(weight)] for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert len(found) == len(rates)
    expected = {"layer.1.": 1.0, "layer.0.": 0.5, "embeddings.": 0.25, "projection.": 1.0, "pooler.": 1.0}
    for name, rate in found.items():
        assert [rate] == [value for part, value in expected.items() if part in name], name
    decayed = [group["weight_decay"] > 0 for group in optimizer.param_groups for weight in group["params"]]
    assert decayed == [weight.ndim > 1 for group in optimizer.param_groups for weight in group["params"]]
    assert schedule.base_lrs[0] == 1.0  # which is logged


def test_blocks_that_cannot_be_found_have_no_rates_of_their_own(tiny_encoder: Encoder) -> None:
    tiny_encoder.backbone.encoder.layer = nn.ModuleList([*tiny_encoder.backbone.encoder.layer, nn.Identity()])
    with pytest.raises(ValueError, match="layer_decay 1: BertModel has no list"):
        LinearDecayAdamW(layer_decay=0.9)(tiny_encoder, InfoNCELoss(), 10)
