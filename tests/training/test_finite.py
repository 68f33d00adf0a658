"""The guard against what is not finite: it names the step and the records, takes no step, and writes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from small_training import dev_task, quiet_trainer, records
from torch import Tensor, nn

from contrastive.data import Record
from contrastive.encoder import Encoder
from contrastive.encoder.finite import NotFiniteError, check_weights
from contrastive.losses import InfoNCELoss
from contrastive.training import ContrastiveData, ContrastiveModule
from contrastive.training.callbacks import FillMemory
from contrastive.training.finite import check_gradient
from contrastive.training.memory import CrossBatchQueue
from contrastive.training.optimization import LinearDecayAdamW

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")


class Bad(nn.Module):
    """InfoNCE whose value or gradient is not finite at one of its calls, or from one on."""

    def __init__(self, call: int | range, *, value: float = 1.0, gradient: float = 1.0) -> None:
        super().__init__()
        self.bad, self.value, self.gradient, self.calls = call, value, gradient, 0

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        self.calls += 1
        loss = InfoNCELoss()(queries, keys)
        if self.calls not in (self.bad if isinstance(self.bad, range) else [self.bad]):
            return loss
        loss.register_hook(lambda gradient: gradient * self.gradient)
        return loss * self.value


def fit(encoder: Encoder, loss: nn.Module, folder: Path, items: list[Record], **options: Any) -> ContrastiveModule:
    """Train in batches of four, and keep what an interruption would."""
    trainer = quiet_trainer(
        folder,
        **{"max_epochs": 2, **options, "callbacks": [FillMemory(), *options.get("callbacks", [])]},
    )
    memory = CrossBatchQueue(8, 32)
    module = ContrastiveModule(encoder, loss, LinearDecayAdamW(learning_rate=3e-3), total_steps=4, memory=memory)
    with pytest.raises(NotFiniteError) as stopped:
        trainer.fit(module, ContrastiveData(items, dev_task(), batch_size=4))
    module.message = str(stopped.value)
    return module


def named(module: ContrastiveModule, items: list[Record]) -> set[str]:
    return {record.query_id for record in items if repr(record.query[:40])[1:-1] in module.message}


@pytest.mark.parametrize(
    ("bad", "step", "what"),
    [
        (
            Bad(1, value=float("nan")),
            0,
            "a finite loss, got nan at step 0 of epoch 0 from 4 pairs, all with finite emb",
        ),
        (
            Bad(3, value=float("inf")),
            2,
            "a finite loss, got inf at step 2 of epoch 1 from 4 pairs, all with finite emb",
        ),
        (
            Bad(2, gradient=float("nan")),
            1,
            "a finite gradient, got one with norm nan at step 1 of epoch 0 from 4 pairs",
        ),
        (Bad(4, gradient=float("inf")), 3, r"a finite gradient, got one with norm (nan|inf) at step 3 of epoch 1"),
    ],
    ids=["loss nan", "loss inf", "gradient nan", "gradient inf"],
)
def test_a_run_stops_before_the_step_that_would_spoil_the_weights(
    bad: Bad, step: int, what: str, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    module = fit(tiny_encoder, bad, tmp_path, records())
    assert module.trainer.global_step == step
    assert re.match(f"expected {what}", module.message)
    assert len(named(module, records())) == 3
    assert "and 1 more" in module.message
    assert all(bool(value.isfinite().all()) for value in module.state_dict().values() if isinstance(value, Tensor))


def test_the_pair_whose_embedding_is_not_finite_is_named_and_its_text_shortened(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    items = [*records(7), Record("nurse\x1b[31m " + "kitchen " * 40, "a broken posting", query_id="broken")]
    forward = tiny_encoder.embed_sides

    def spoilt(queries: list[str], documents: list[str], **options: bool) -> tuple[Tensor, Tensor]:
        left, right = forward(queries, documents, **options)
        return left, torch.where(torch.tensor(["broken" in text for text in documents])[:, None], torch.nan, right)

    tiny_encoder.embed_sides = spoilt  # type: ignore[method-assign, assignment]
    module = fit(tiny_encoder, InfoNCELoss(), tmp_path, items)
    assert named(module, items) == {"broken"}
    assert "not finite are the embeddings of 1: 'nurse\\x1b[31m kitchen" in module.message
    assert len(module.message) < 600
    assert "\x1b" not in module.message


def test_all_batches_of_a_window_are_suspects(tiny_encoder: Encoder, tmp_path: Path) -> None:
    module = fit(tiny_encoder, Bad(1, gradient=float("nan")), tmp_path, records(), accumulate_grad_batches=2)
    assert "with norm nan at step 0 of epoch 0 from 8 pairs" in module.message


def test_float16_gradients_are_left_to_the_scaler_while_it_finds_a_scale() -> None:
    infinite = torch.tensor(float("inf"))
    check_gradient(infinite, [], "at step 0", SimpleNamespace(get_scale=lambda: 32.0))
    with pytest.raises(NotFiniteError, match=r"float16 gradients at step 9, got none at any scale down to 1\.0e-04"):
        check_gradient(infinite, [], "at step 9", SimpleNamespace(get_scale=lambda: 1e-4))


def spoil(encoder: Encoder) -> None:
    with torch.no_grad():
        encoder.backbone.embeddings.LayerNorm.weight[3] = torch.nan


def test_weights_that_are_not_finite_are_written_nowhere(tiny_encoder: Encoder, tmp_path: Path) -> None:
    class Spoiling(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            spoil(tiny_encoder)
            trainer.save_checkpoint(tmp_path / "bad.ckpt")

    module = fit(tiny_encoder, InfoNCELoss(), tmp_path, records(), callbacks=[Spoiling()])
    assert "expected a checkpoint with finite weights, got NaN or infinity in 1 of " in module.message
    assert not (tmp_path / "bad.ckpt").exists()
    with pytest.raises(NotFiniteError, match=r"expected a model in .*/model with finite weights"):
        tiny_encoder.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_validation_with_embeddings_that_are_not_finite_ends_the_run(tiny_encoder: Encoder, tmp_path: Path) -> None:
    class Spoiling(lightning.Callback):
        def on_validation_start(self, *_: Any) -> None:
            spoil(tiny_encoder)

    module = fit(tiny_encoder, InfoNCELoss(), tmp_path, records(), callbacks=[Spoiling()])
    assert module.message == "expected finite embeddings of dev at step 2 of epoch 0, got NaN or infinity among them"


def test_numbers_that_are_no_weights_are_passed_over() -> None:
    check_weights(
        {"ids": torch.tensor([-1]), "state": {"age": 3}, "weights": torch.ones(2, dtype=torch.bfloat16)}, "it"
    )


def fit_skipping(
    encoder: Encoder, loss: nn.Module, folder: Path, *, accumulate: int = 1, resumed: Path | None = None, **options: Any
) -> ContrastiveModule:
    """Train in batches of four for as many epochs as asked, and leave steps out."""
    trainer = quiet_trainer(
        folder,
        gradient_clip_val=1.0,
        accumulate_grad_batches=accumulate,
        **{"max_epochs": 2, **options, "callbacks": [FillMemory(), *options.get("callbacks", [])]},
    )
    how = {"memory": CrossBatchQueue(8, 32), "on_nonfinite": "skip"}
    module = ContrastiveModule(encoder, loss, LinearDecayAdamW(learning_rate=3e-3), total_steps=4, **how)
    trainer.fit(module, ContrastiveData(records(), None, batch_size=4), ckpt_path=resumed)
    return module


class Weights(lightning.Callback):
    """Keeps the weights after each batch."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_end(self, _: lightning.Trainer, pl_module: lightning.LightningModule, *__: Any) -> None:
        self.seen.append(torch.cat([weight.detach().flatten() for weight in pl_module.parameters()]))


@pytest.mark.parametrize(
    "bad",
    [Bad(2, value=float("nan")), Bad(2, value=float("inf")), Bad(2, gradient=float("nan"))],
    ids=["loss nan", "loss inf", "gradient nan"],
)
def test_a_bad_step_is_left_out_and_counted_and_the_others_are_taken(
    bad: Bad, tiny_encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = Weights()
    module = fit_skipping(tiny_encoder, bad, tmp_path, callbacks=[weights])
    changed = [not torch.equal(*pair) for pair in zip(weights.seen, weights.seen[1:], strict=False)]
    assert changed == [False, True, True]
    assert module.trainer.global_step == 4  # the schedule ends where it would have
    assert module.trainer.callback_metrics["train/skipped_steps"] == 1
    assert all(bool(value.isfinite().all()) for value in module.state_dict().values() if isinstance(value, Tensor))
    (said,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert said.startswith("This step is left out, 1 so far: expected a finite")
    assert "training stops" not in said
    module.trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = fit_skipping(tiny_encoder, InfoNCELoss(), tmp_path, resumed=tmp_path / "last.ckpt", max_epochs=3)
    assert again.skipping is not None
    assert again.skipping.total == 1


def test_a_bad_batch_takes_its_whole_window_with_it(tiny_encoder: Encoder, tmp_path: Path) -> None:
    weights = Weights()
    module = fit_skipping(tiny_encoder, Bad(1, value=float("nan")), tmp_path, accumulate=2, callbacks=[weights])
    assert [torch.equal(*pair) for pair in zip(weights.seen, weights.seen[1:], strict=False)] == [True, True, False]
    assert module.trainer.callback_metrics["train/skipped_steps"] == 1


def test_embeddings_that_are_not_finite_do_not_get_into_the_memory(tiny_encoder: Encoder, tmp_path: Path) -> None:
    forward, calls = tiny_encoder.embed_sides, []

    def spoilt(queries: list[str], documents: list[str], **options: bool) -> tuple[Tensor, Tensor]:
        calls.append(len(queries))
        left, right = forward(queries, documents, **options)
        bad = torch.tensor([len(calls) == 1, False, False, False])[:, None]
        return left, torch.where(bad, torch.nan, right)

    tiny_encoder.embed_sides = spoilt  # type: ignore[method-assign, assignment]
    module = fit_skipping(tiny_encoder, InfoNCELoss(), tmp_path, max_epochs=1)
    assert module.memory is not None
    assert len(module.memory) == 7
    assert module.memory.keys.isfinite().all()
    assert module.trainer.callback_metrics["train/skipped_steps"] == 1


def test_a_run_that_takes_no_step_any_more_stops(tiny_encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match="left out 10 steps in a row, the last since: expected a finite loss"):
        fit_skipping(tiny_encoder, Bad(range(2, 99), value=float("nan")), tmp_path, max_epochs=20)


def test_steps_in_a_row_are_counted_on_where_a_run_goes_on(tiny_encoder: Encoder, tmp_path: Path) -> None:
    bad = Bad(range(1, 99), value=float("nan"))
    module = fit_skipping(tiny_encoder, bad, tmp_path, max_epochs=3)
    module.trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(NotFiniteError, match="left out 10 steps in a row"):
        fit_skipping(tiny_encoder, bad, tmp_path, max_epochs=20, resumed=tmp_path / "last.ckpt")
    assert bad.calls == 10


def test_steps_are_left_out_by_all_processes_if_by_one(tiny_encoder: Encoder, tmp_path: Path) -> None:
    def decide(trainer: lightning.Trainer, *_: Any) -> None:
        asked: list[bool] = []

        def reduced(own: bool, *, all: bool) -> bool:
            assert not all  # one is enough
            asked.append(own)
            return len(asked) == 2

        trainer.strategy.reduce_boolean_decision = reduced

    weights = Weights()
    other = lightning.pytorch.callbacks.LambdaCallback(on_train_start=decide)
    module = fit_skipping(tiny_encoder, InfoNCELoss(), tmp_path, callbacks=[weights, other])
    assert [torch.equal(*pair) for pair in zip(weights.seen, weights.seen[1:], strict=False)] == [True, False, False]
    assert module.trainer.callback_metrics["train/skipped_steps"] == 1


def test_what_else_to_do_is_refused(tiny_encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="expected on_nonfinite to be stop or skip, got 'ignore'"):
        ContrastiveModule(tiny_encoder, InfoNCELoss(), LinearDecayAdamW(), total_steps=1, on_nonfinite="ignore")
