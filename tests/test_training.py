"""The Lightning module, the data module and the optimiser, on a tiny random encoder."""

from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch
from conftest import WORDS
from torch import Tensor, nn

from contrastive.contracts import ChosenNegatives
from contrastive.data import Batch, Record, RetrievalTask
from contrastive.encoder import Encoder
from contrastive.losses import InfoNCELoss, MultipleNegativesRankingLoss, TripletLoss
from contrastive.optimization import LinearDecayAdamW, planned_steps
from contrastive.training import ContrastiveData, ContrastiveModule, add_negatives

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")


def records(count: int = 8) -> list[Record]:
    """Pairs in which the query is a word of the document."""
    return [
        Record(
            query=f"{WORDS[i % len(WORDS)]} {i}",
            positive=f"the {WORDS[i % len(WORDS)]} job {i} years",
            query_id=f"q{i}",
            positive_id=f"d{i}",
            grades={f"d{i}": 2},
        )
        for i in range(count)
    ]


def dev_task() -> RetrievalTask:
    """The training pairs as a task."""
    return RetrievalTask(
        "dev",
        {record.query_id: record.query for record in records()},
        {record.positive_id: record.positive for record in records()},
        {record.query_id: record.grades for record in records()},
    )


def fit(
    encoder: Encoder,
    loss: nn.Module,
    folder: Path,
    *,
    epochs: int = 1,
    dev: RetrievalTask | None = None,
    **trainer_options: object,
) -> lightning.Trainer:
    """Train on the records above in batches of 4."""
    lightning.seed_everything(0, verbose=False)
    options = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    trainer = lightning.Trainer(
        max_epochs=epochs, enable_checkpointing=False, default_root_dir=folder, **{**options, **trainer_options}
    )
    data = ContrastiveData(records(), dev, batch_size=4, seed=0)
    steps = planned_steps(len(data.batches), trainer)
    module = ContrastiveModule(encoder, loss, LinearDecayAdamW(learning_rate=3e-3), total_steps=steps)
    trainer.fit(module, data)
    return trainer


def alone(encoder: Encoder, loss: nn.Module) -> ContrastiveModule:
    """A module without a trainer, whose logging goes nowhere."""
    module = ContrastiveModule(encoder, loss, LinearDecayAdamW(), total_steps=1)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    return module


class RecordingLoss(nn.Module):
    """InfoNCE that keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, object]] = []

    def forward(self, queries: Tensor, keys: Tensor, *, exclude: object = None, owners: object = None) -> Tensor:
        self.calls.append({"queries": queries, "keys": keys, "exclude": exclude, "owners": owners})
        return InfoNCELoss()(queries, keys, exclude=exclude, owners=owners)


@pytest.mark.parametrize(
    "loss", [InfoNCELoss(symmetric=True), MultipleNegativesRankingLoss(), TripletLoss(mining="hardest")], ids=str
)
def test_training_lowers_the_loss_and_logs_the_dev_ranking(
    loss: nn.Module, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    data = ContrastiveData(records(), None, batch_size=8)
    batch = next(iter(data.train_dataloader()))

    def value() -> float:
        tiny_encoder.eval()
        return loss(tiny_encoder(batch.queries, side="query"), tiny_encoder(batch.documents, side="document")).item()

    before = value()
    trainer = fit(tiny_encoder, loss, tmp_path, epochs=20, dev=dev_task())
    assert value() < 0.7 * before
    assert trainer.callback_metrics["dev/ndcg@10"] > 0.9
    assert {"train/loss", "train/gradient_norm", "train/pairs_per_second", "train/tokens_per_second"} <= set(
        trainer.callback_metrics
    )


def test_dropout_is_on_in_training_steps_and_off_in_validation(tiny_encoder: Encoder, tmp_path: Path) -> None:
    modes: list[bool] = []
    tiny_encoder.backbone.register_forward_hook(lambda module, *_: modes.append(module.training))
    fit(tiny_encoder, InfoNCELoss(), tmp_path, dev=dev_task())
    assert modes[0] is True
    assert modes[-1] is False


def test_health_is_logged_every_so_many_steps_over_all_of_them(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(ContrastiveModule, "log_dict", lambda *call, **_: logged.append(call[-1]))
    fit(tiny_encoder, InfoNCELoss(), tmp_path, epochs=3, log_every_n_steps=3)
    assert len(logged) == 2
    assert {"train/positive_similarity", "train/temperature", "train/learning_rate"} <= set(logged[0])


def test_loss_is_given_the_fields_its_signature_names(tiny_encoder: Encoder, tmp_path: Path) -> None:
    loss = RecordingLoss()
    fit(tiny_encoder, loss, tmp_path)
    assert torch.equal(loss.calls[0]["owners"], torch.arange(4))
    assert loss.calls[0]["exclude"](torch.arange(4), torch.arange(4)).equal(torch.eye(4, dtype=torch.bool))


def test_known_positive_of_another_row_is_no_negative(tiny_encoder: Encoder) -> None:
    twins = [replace(record, grades={"d0": 2, "d1": 1}) for record in records(2)]
    batch = next(iter(ContrastiveData(twins, None, batch_size=2).train_dataloader()))
    loss = RecordingLoss()
    alone(tiny_encoder, loss).training_step(batch, 0)
    excluded = loss.calls[0]["exclude"](torch.arange(2), torch.arange(2))
    assert excluded.all()


def test_learnable_temperature_is_trained_and_checkpointed(tiny_encoder: Encoder, tmp_path: Path) -> None:
    loss = InfoNCELoss(temperature=0.05, learnable_temperature=True)
    trainer = fit(tiny_encoder, loss, tmp_path, epochs=3)
    assert loss.temperature.item() != pytest.approx(0.05, abs=1e-4)
    assert any("logarithm" in name for name in trainer.lightning_module.state_dict())


def test_same_seed_gives_the_same_weights_to_the_bit(tiny_model_folder: Path, tmp_path: Path) -> None:
    weights = []
    for _ in range(2):
        encoder = Encoder.from_pretrained(tiny_model_folder)
        fit(encoder, InfoNCELoss(), tmp_path)
        weights.append(torch.cat([p.flatten() for p in encoder.parameters()]))
    assert torch.equal(*weights)


def test_bfloat16_autocast_keeps_scores_and_loss_in_float32(tiny_encoder: Encoder, tmp_path: Path) -> None:
    loss = RecordingLoss()
    seen: list[torch.dtype] = []
    module = tiny_encoder.backbone.encoder.layer[0].intermediate.dense
    module.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    trainer = fit(tiny_encoder, loss, tmp_path, precision="bf16-mixed")
    assert loss.calls[0]["queries"].dtype == torch.float32
    assert trainer.callback_metrics["train/loss"].dtype == torch.float32
    assert seen[0] == torch.bfloat16


def test_steps_taken_equal_steps_planned(tiny_encoder: Encoder, tmp_path: Path) -> None:
    trainer = fit(tiny_encoder, InfoNCELoss(), tmp_path, epochs=3)
    assert trainer.global_step == trainer.lightning_module.total_steps == 6


def test_a_loss_that_the_data_cannot_serve_says_so_before_training(tiny_encoder: Encoder) -> None:
    class NeedsTeacher(nn.Module):
        def forward(self, queries: Tensor, keys: Tensor, *, teacher_scores: Tensor) -> Tensor:
            assert teacher_scores.shape == (len(queries), len(keys) // len(queries))
            return queries.sum()

    def batch(items: list[Record]) -> Batch:
        return next(iter(ContrastiveData(items, None, batch_size=4).train_dataloader()))

    with pytest.raises(ValueError, match="NeedsTeacher needs teacher_scores, which the training records do not have"):
        alone(tiny_encoder, NeedsTeacher()).rehearse(batch(records()))
    taught = [replace(record, teacher_scores=(1.0,)) for record in records()]
    alone(tiny_encoder, NeedsTeacher()).rehearse(batch(taught))
    with pytest.raises(ValueError, match="negatives"):
        alone(tiny_encoder, TripletLoss(mining="explicit")).rehearse(batch(records()))
    with pytest.raises(ValueError, match=r"InfoNCELoss takes every pair as relevant, .* min_score says"):
        alone(tiny_encoder, InfoNCELoss()).rehearse(batch([replace(record, score=0.1) for record in records()]))


def test_batch_of_one_trains_without_an_answer(tiny_encoder: Encoder) -> None:
    data = ContrastiveData(records(1), None, batch_size=4)
    module = alone(tiny_encoder, InfoNCELoss())
    loss = module.training_step(next(iter(data.train_dataloader())), 0)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in tiny_encoder.parameters())
    assert module.health.summary()["unanswered"] == 1


def test_no_records_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one training record, got none"):
        ContrastiveData([], None)


def test_chosen_negatives_reach_the_batch_after_the_records_own() -> None:
    def next_document(query_id: str, positive_ids: object) -> ChosenNegatives:
        other = f"d{(int(query_id[1:]) + 1) % 4}"
        assert other not in positive_ids
        return ChosenNegatives((other,), (0.5,), (0,), {})

    completed = add_negatives(records(4), next_document)
    assert [record.negative_ids for record in completed] == [("d1",), ("d2",), ("d3",), ("d0",)]
    data = ContrastiveData(records(4), None, batch_size=4, negatives=next_document)
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, Batch)
    assert len(batch.documents) == 8
    assert batch.owners.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
