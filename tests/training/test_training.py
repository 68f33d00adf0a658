"""The Lightning module, the data module and the optimiser, on a tiny random encoder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import all_losses
import lightning
import pytest
import torch
from small_training import alone, dev_task, fit, quiet_trainer, records, with_negatives
from torch import Tensor, nn

from contrastive.data import Batch, Record
from contrastive.encoder import Encoder
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.evaluation import evaluate_rankings, rank
from contrastive.losses import (
    GISTLoss,
    InfoNCELoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    TripletLoss,
)
from contrastive.losses.core.signature import parameters_of
from contrastive.similarity import TokenVectors
from contrastive.training import ContrastiveData, ContrastiveModule
from contrastive.training.callbacks import EmbedByGuide, FillMemory, LogTraining
from contrastive.training.memory import CrossBatchQueue, MomentumEncoder, with_queue
from contrastive.training.optimization import LinearDecayAdamW
from contrastive.training.rehearsal import rehearse

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*in eval mode at the start of training"
)


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
    batch = data.batch(next(iter(data.train_dataloader())))

    def value() -> float:
        tiny_encoder.eval()
        return loss(tiny_encoder(batch.queries, side="query"), tiny_encoder(batch.documents, side="document")).item()

    before = value()
    trainer = fit(tiny_encoder, loss, tmp_path, epochs=60, dev=dev_task())
    assert value() < 0.7 * before
    assert trainer.callback_metrics["dev/ndcg@10"] > 0.9
    assert {"train/loss", "train/gradient_norm", "train/pairs_per_second", "train/tokens_per_second"} <= set(
        trainer.callback_metrics
    )


@pytest.mark.parametrize("representation", ["pooled", "tokens"])
def test_a_matryoshka_run_logs_the_ranking_by_shorter_embeddings(
    representation: str, tiny_model_folder: Path, tmp_path: Path
) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, representation=representation)
    loss = MatryoshkaLoss(InfoNCELoss(similarity=encoder.similarity), [32, 8, 2])
    trainer = fit(encoder, loss, tmp_path, dev=dev_task())
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if "ndcg" in name}
    assert logged.keys() == {"dev/ndcg@10", "dev/ndcg@10_8", "dev/ndcg@10_2"}
    short = Encoder.from_pretrained(tiny_model_folder, representation="pooled", dimension=2)
    short.backbone = encoder.backbone
    if representation == "pooled":
        wanted = evaluate_rankings(rank(short, dev_task()), dev_task()).means["ndcg@10"]
        assert logged["dev/ndcg@10_2"] == pytest.approx(wanted)
        assert len(set(logged.values())) > 1


def test_validation_embeds_once_what_has_not_changed(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EmbeddingCache(tmp_path)
    module = ContrastiveModule(tiny_encoder, InfoNCELoss(), LinearDecayAdamW(), total_steps=1, cache=cache)
    trainer = lightning.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    data = ContrastiveData(records(), dev_task())
    encoded: list[int] = []
    encode = tiny_encoder.encode
    monkeypatch.setattr(tiny_encoder, "encode", lambda texts, **how: encoded.append(len(texts)) or encode(texts, **how))
    first, again = (trainer.validate(module, data, verbose=False) for _ in range(2))
    assert first == again
    assert encoded == [len(dev_task().queries), len(dev_task().corpus)]
    with torch.no_grad():
        next(tiny_encoder.parameters()).add_(1)
    trainer.validate(module, data, verbose=False)
    assert len(encoded) == 4


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
    data = ContrastiveData(twins, None, batch_size=2)
    batch = data.batch(next(iter(data.train_dataloader())))
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


def test_a_loss_that_the_data_cannot_serve_says_so_before_training() -> None:
    class NeedsTeacher(nn.Module):
        def forward(self, queries: Tensor, keys: Tensor, *, teacher_scores: Tensor) -> Tensor:
            assert teacher_scores.shape == (len(queries), len(keys) // len(queries))
            return queries.sum()

    def batch(items: list[Record]) -> Batch:
        data = ContrastiveData(items, None, batch_size=4)
        return data.batch(next(iter(data.train_dataloader())))

    with pytest.raises(ValueError, match="NeedsTeacher needs teacher_scores, which the training records do not have"):
        rehearse(NeedsTeacher(), [batch(records())], 32)
    taught = [replace(record, teacher_scores=(1.0,)) for record in records()]
    rehearse(NeedsTeacher(), [batch(taught)], 32)
    with pytest.raises(ValueError, match="negatives"):
        rehearse(TripletLoss(mining="explicit"), [batch(records())], 32)
    with pytest.raises(ValueError, match=r"InfoNCELoss takes every pair as relevant, .* min_score says"):
        rehearse(InfoNCELoss(), [batch([replace(record, score=0.1) for record in records()])], 32)


def test_batch_of_one_trains_without_an_answer(tiny_encoder: Encoder) -> None:
    data = ContrastiveData(records(1), None, batch_size=4)
    module = alone(tiny_encoder, InfoNCELoss())
    loss = module.training_step(data.batch(next(iter(data.train_dataloader()))), 0)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in tiny_encoder.parameters())
    assert module.health.summary()["unanswered"] == 1


def test_no_records_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one training record, got none"):
        ContrastiveData([], None)


def fit_with_memory(
    encoder: Encoder,
    loss: nn.Module,
    folder: Path,
    *,
    items: Sequence[Record] | None = None,
    momentum: float | None = None,
    size: int = 6,
    resumed: Path | None = None,
    **options: Any,
) -> tuple[ContrastiveModule, lightning.Trainer]:
    """Train on 10 records in batches of 4 with a queue, without dropout, for two epochs."""
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    options = {"log_every_n_steps": 1, "max_epochs": 2, **options}
    callbacks = [FillMemory(), LogTraining(), *options.pop("callbacks", [])]
    trainer = quiet_trainer(folder, callbacks=callbacks, **options)
    data = ContrastiveData(items or records(10), None, batch_size=4)
    module = ContrastiveModule(
        encoder,
        loss,
        LinearDecayAdamW(learning_rate=3e-3),
        total_steps=6,
        memory=CrossBatchQueue(size=size, dimension=32),
        momentum_encoder=None if momentum is None else MomentumEncoder(encoder, momentum),
    )
    trainer.fit(module, data, ckpt_path=resumed)
    return module, trainer


def test_documents_of_earlier_batches_are_negatives_of_later_ones(tiny_encoder: Encoder, tmp_path: Path) -> None:
    loss = RecordingLoss()
    module, _ = fit_with_memory(tiny_encoder, loss, tmp_path)
    assert [len(call["queries"]) for call in loss.calls] == [4, 4, 2, 4, 4, 2]
    assert [len(call["keys"]) for call in loss.calls] == [4, 8, 8, 10, 10, 8]
    first, second = loss.calls[:2]
    assert torch.equal(second["keys"][4:], first["keys"].detach())
    assert second["owners"].tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    # In the second epoch the queue holds positives of the batch, whose queries leave them out.
    ids, queued = torch.arange(4), torch.arange(4, 10)
    assert loss.calls[3]["exclude"](ids, ids).equal(torch.eye(4, dtype=torch.bool))
    assert any(call["exclude"](ids, queued).any() for call in loss.calls[3:5])
    assert len(module.memory) == 6
    assert {"memory.keys", "memory.key_ids"} <= module.state_dict().keys()


def test_token_vectors_train_with_a_queue_and_a_guide_of_their_kind(tiny_model_folder: Path, tmp_path: Path) -> None:
    encoder, guide = (Encoder.from_pretrained(tiny_model_folder, representation="tokens") for _ in range(2))
    memory, slow = with_queue(encoder, size=6, momentum=0.5)
    loss = GISTLoss(0.3, similarity="max_sim", guide_similarity="max_sim")
    data = ContrastiveData(records(10), None, batch_size=4)
    guided = EmbedByGuide(data, guide)
    rehearse(loss, guided.rehearsed(data.rehearsals()), (2, encoder.dimension), remembers=True)
    module = ContrastiveModule(
        encoder,
        loss,
        LinearDecayAdamW(learning_rate=3e-3),
        total_steps=3,
        memory=memory,
        momentum_encoder=slow,
    )
    trainer = quiet_trainer(
        tmp_path,
        max_epochs=1,
        callbacks=[guided, FillMemory(), LogTraining()],
    )
    before = {name: weight.clone() for name, weight in encoder.named_parameters()}
    trainer.fit(module, data)
    assert any(not weight.equal(before[name]) for name, weight in encoder.named_parameters())
    held = TokenVectors.pack(memory.keys)
    _, documents = data.collate.texts(records(10))
    expected = slow.encoder.encode([documents[number] for number in memory.key_ids[-2:].tolist()], side="document")
    torch.testing.assert_close(held[-2:].vectors, expected.vectors, rtol=1e-4, atol=1e-5)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again, _ = with_queue(encoder, size=6)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    again.load_state_dict({name[7:]: value for name, value in saved.items() if name.startswith("memory.")})
    assert again.keys.equal(memory.keys)


def test_a_memory_that_nobody_fills_is_refused(tiny_encoder: Encoder, tmp_path: Path) -> None:
    module = ContrastiveModule(
        tiny_encoder, InfoNCELoss(), LinearDecayAdamW(), total_steps=2, memory=CrossBatchQueue(6, 32)
    )
    trainer = quiet_trainer(
        tmp_path,
        max_epochs=1,
    )
    with pytest.raises(ValueError, match=r"keys of this batch \(callbacks.FillMemory\), got none"):
        trainer.fit(module, ContrastiveData(records(), None, batch_size=4))


def test_momentum_encoder_follows_each_optimiser_step_and_fills_the_queue(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: list[int] = []
    update = MomentumEncoder.update
    monkeypatch.setattr(MomentumEncoder, "update", lambda *call: (updates.append(1), update(*call))[1])
    module, _ = fit_with_memory(tiny_encoder, InfoNCELoss(), tmp_path, momentum=0.5, accumulate_grad_batches=3)
    assert len(updates) == 2
    slow, fast = module.momentum_encoder.encoder, module.encoder
    differences = [not torch.equal(*pair) for pair in zip(slow.parameters(), fast.parameters(), strict=True)]
    assert any(differences)
    documents = {module.trainer.datamodule.collate([record]).key_ids.item(): record.positive for record in records(10)}
    latest = slice(-2, None)
    texts = [documents[number] for number in module.memory.key_ids[latest].tolist()]
    torch.testing.assert_close(module.memory.keys[latest], slow(texts, side="document"), rtol=1e-4, atol=1e-5)
    assert "momentum_encoder.encoder.backbone.pooler.dense.weight" in module.state_dict()
    with pytest.raises(ValueError, match="expected a memory that the momentum encoder fills, got none"):
        ContrastiveModule(fast, InfoNCELoss(), LinearDecayAdamW(), total_steps=1, momentum_encoder=slow)


def test_a_loss_that_cannot_use_a_queue_says_so_before_training() -> None:
    class OfPairs(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            if left.shape != right.shape:
                raise ValueError(f"expected pairs, got {list(left.shape)} and {list(right.shape)}")
            return left.sum() + right.sum()

    data = ContrastiveData(records(), None, batch_size=4)
    batch = data.batch(next(iter(data.train_dataloader())))
    rehearse(OfPairs(), [batch], 32)
    refusal = (
        r"a loss that uses the further keys of a memory, got OfPairs: expected pairs, got \[4, 32\] and \[72, 32\]"
    )
    with pytest.raises(ValueError, match=refusal):
        rehearse(OfPairs(), [batch], 32, remembers=True)


@pytest.mark.parametrize(("name", "options"), all_losses.SETTINGS, ids=str)
def test_every_loss_uses_a_queue_or_says_before_training_that_it_does_not(name: str, options: dict[str, Any]) -> None:
    of_pairs = not all_losses.takes_a_queue(name, options)
    taught = [
        replace(
            record,
            teacher_scores=(1.0,) + (0.5,) * len(record.negatives),
            score=float(i % 2) if of_pairs else None,
        )
        for i, record in enumerate(with_negatives(8))
    ]
    batch = ContrastiveData(taught, None, batch_size=8, num_negatives=0 if of_pairs else None).collate(taught)
    loss = all_losses.make(name, options)
    loss = WithGuide(loss) if "guide_keys" in parameters_of(loss) else loss
    rehearse(loss, [batch], 32)
    knows_its_own_only = name in ("MarginMSELoss", "DistillKLLoss") or options.get("mining") == "explicit"
    if all_losses.takes_a_queue(name, options) and not knows_its_own_only:
        rehearse(loss, [batch], 32, remembers=True)
        return
    with pytest.raises(ValueError, match=rf"uses the further keys of a memory, got {name}: (they make|expected left)"):
        rehearse(loss, [batch], 32, remembers=True)


class WithGuide(nn.Module):
    """Makes the guide's embeddings up, which training cannot yet."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, queries: Tensor, keys: Tensor, *, owners: Tensor, health: Any = None) -> Tensor:
        guides = torch.randn(len(keys), 4, generator=torch.Generator().manual_seed(0))
        guides[owners == -1] = torch.nan
        given = {"guide_queries": guides[: len(queries)], "guide_keys": guides, "owners": owners, "health": health}
        return self.loss(queries, keys, **given)


def test_momentum_encoder_runs_in_the_precision_of_a_step(tiny_encoder: Encoder, tmp_path: Path) -> None:
    seen: list[tuple[bool, torch.dtype]] = []
    module = tiny_encoder.backbone.encoder.layer[0].intermediate.dense
    module.register_forward_hook(lambda module, _, output: seen.append((module.training, output.dtype)))
    fit_with_memory(tiny_encoder, InfoNCELoss(), tmp_path, momentum=0.5, precision="bf16-mixed")
    assert set(seen) == {(True, torch.bfloat16), (False, torch.bfloat16)}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_has_the_queue_and_the_average_of_one_that_never_stopped(
    accumulate: int, tiny_model_folder: Path, tmp_path: Path
) -> None:
    def train(**options: Any) -> tuple[ContrastiveModule, lightning.Trainer]:
        encoder = Encoder.from_pretrained(tiny_model_folder, normalize=True)
        options = {"momentum": 0.9, "size": 7, "accumulate_grad_batches": accumulate, **options}
        return fit_with_memory(encoder, InfoNCELoss(), tmp_path, **options)

    straight, _ = train()
    stopped, trainer = train(max_epochs=1)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    resumed, _ = train(resumed=tmp_path / "stopped.ckpt")
    wanted, found = straight.state_dict(), resumed.state_dict()
    assert found.keys() == wanted.keys()
    assert found.pop("memory._extra_state") == wanted.pop("memory._extra_state")
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert not torch.equal(stopped.memory.keys, straight.memory.keys)
    assert resumed.memory.get_extra_state() == {"counts": [1, 4, 2]}


class SameOnAllRanks(lightning.Callback):
    """Compares, at the end, what the ranks hold: weights, the average of the weights, the queue."""

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for name, value in pl_module.state_dict().items():
            if trainer.world_size > 1 and isinstance(value, Tensor):
                first, second = pl_module.all_gather(value)
                assert torch.equal(first, second), name


def test_two_processes_train_like_one(tiny_model_folder: Path, tmp_path: Path) -> None:
    """The batches have 4, 4 and 1 rows, the last of which one rank has no row of, and 0 to 2 hard negatives a query."""
    results = []
    for options in ({}, {"devices": 2, "strategy": "ddp_spawn", "use_distributed_sampler": False}):
        encoder = Encoder.from_pretrained(tiny_model_folder, normalize=True)
        loss = InfoNCELoss(symmetric=True, learnable_temperature=True)
        training = {"momentum": 0.5, "callbacks": [SameOnAllRanks()], **options}
        module, trainer = fit_with_memory(encoder, loss, tmp_path, items=with_negatives(9), **training)
        metrics = {name: value for name, value in trainer.callback_metrics.items() if "per_second" not in name}
        results.append((dict(module.state_dict()), metrics))
    (one, metrics_of_one), (two, metrics_of_two) = results
    assert {"train/loss", "train/gradient_norm", "train/effective_negatives"} <= metrics_of_one.keys()
    torch.testing.assert_close(metrics_of_two, metrics_of_one, rtol=1e-4, atol=1e-6)
    assert two.pop("memory._extra_state") == one.pop("memory._extra_state")
    for state in (one, two):  # a bias that softmax cancels: its gradient is rounding, of which AdamW makes full steps
        for name in [name for name in state if name.endswith("attention.self.key.bias")]:
            del state[name]
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)
