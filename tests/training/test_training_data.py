"""The data module: which rows its batches hold, epochs that were interrupted, and what a guide adds."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from small_training import dev_task, quiet_trainer, records, with_negatives

from contrastive.data import Record
from contrastive.encoder import Encoder
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.losses import GISTLoss, InfoNCELoss
from contrastive.negatives import Dense, Mined, Mixed, NegativeStrategy
from contrastive.training import ContrastiveData, ContrastiveModule
from contrastive.training.callbacks import ClusterQueries, EmbedByGuide, FillMemory, MineNegatives
from contrastive.training.guide_embeddings import GuideEmbeddings
from contrastive.training.memory import CrossBatchQueue
from contrastive.training.optimization import LinearDecayAdamW
from contrastive.training.rehearsal import rehearse

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*in eval mode at the start of training"
)


class StoppedError(Exception):
    """What ends a run in the middle."""


class Watcher(lightning.Callback):
    """Notes the batches whose step was made; writes a checkpoint, and ends the run, when it is told to."""

    def __init__(self, hook: str = "", step: int = -1, path: Path | None = None) -> None:
        self.hook, self.step, self.path = hook, step, path
        self.batches: list[tuple[int, list[str]]] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._stop("on_train_batch_start", trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
        _, _, batch, _ = rest
        self.batches.append((trainer.current_epoch, batch.queries))
        self._stop("on_train_batch_end", trainer)

    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._stop("on_validation_end", trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._stop("on_train_epoch_end", trainer)

    def _stop(self, hook: str, trainer: lightning.Trainer) -> None:
        if hook == self.hook and trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise StoppedError


def run(
    folder: Path,
    tmp_path: Path,
    watcher: Watcher,
    resumed: Path | None = None,
    data: dict[str, Any] | None = None,
    max_steps: int = -1,
    clusters: int = 0,
    refresh: int = 1,
) -> list[tuple[int, list[str]]]:
    """Three epochs of five batches of four; return the batches whose step was made."""
    lightning.seed_everything(0, verbose=False)
    served = ContrastiveData(records(18), dev_task(), **{"batch_size": 4, "seed": 0, **(data or {})})
    trainer = quiet_trainer(
        tmp_path,
        max_epochs=3,
        max_steps=max_steps,
        callbacks=[watcher, *([ClusterQueries(served, clusters, refresh)] if clusters else [])],
    )
    encoder = Encoder.from_pretrained(folder)
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # a resumed run has other random numbers, and other weights to cluster with
    module = ContrastiveModule(encoder, InfoNCELoss(), LinearDecayAdamW(learning_rate=3e-3), total_steps=15)
    with suppress(StoppedError):
        trainer.fit(module, served, ckpt_path=resumed, weights_only=True)
    return watcher.batches


@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("on_train_batch_end", 7),
        ("on_train_batch_end", 10),
        ("on_train_batch_start", 7),
        ("on_train_batch_start", 5),
        ("on_validation_end", 5),
        ("on_train_epoch_end", 10),
    ],
)
@pytest.mark.parametrize("clusters", [0, 4])
def test_a_resumed_run_takes_the_batches_of_one_that_never_stopped(
    hook: str, step: int, clusters: int, tiny_model_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "stopped.ckpt"
    straight = run(tiny_model_folder, tmp_path, Watcher(), clusters=clusters, refresh=2)
    assert [epoch for epoch, _ in straight] == [0] * 5 + [1] * 5 + [2] * 5
    stopped = run(tiny_model_folder, tmp_path, Watcher(hook, step, path), clusters=clusters, refresh=2)
    assert stopped == straight[:step]
    assert stopped + run(tiny_model_folder, tmp_path, Watcher(), resumed=path, clusters=clusters, refresh=2) == straight


@pytest.mark.parametrize("step", [7, 10])
def test_clusters_are_made_at_the_start_of_an_epoch_and_not_where_it_goes_on(
    step: int, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(ClusterQueries, "recluster", lambda _, __, trainer: steps.append(trainer.global_step))
    path = tmp_path / "stopped.ckpt"
    run(tiny_model_folder, tmp_path, Watcher("on_train_batch_end", step, path), clusters=4)
    assert steps == [0, 5]
    run(tiny_model_folder, tmp_path, Watcher(), resumed=path, clusters=4)
    assert steps == [0, 5, 10]


@pytest.mark.parametrize("step", [7, 10])
def test_a_run_bounded_by_steps_goes_on_where_it_was(step: int, tiny_model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "stopped.ckpt"
    straight = run(tiny_model_folder, tmp_path, Watcher(), max_steps=13)
    stopped = run(tiny_model_folder, tmp_path, Watcher("on_train_batch_end", step, path), max_steps=13)
    assert stopped + run(tiny_model_folder, tmp_path, Watcher(), resumed=path, max_steps=13) == straight


def test_a_checkpoint_of_other_batches_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "stopped.ckpt"
    run(tiny_model_folder, tmp_path, Watcher("on_train_batch_end", 7, path))
    with pytest.raises(ValueError, match=r"expected the state of batches with .*'seed': 1}, got one with .*'seed': 0}"):
        run(tiny_model_folder, tmp_path, Watcher(), resumed=path, data={"seed": 1})


def served_rows(data: ContrastiveData, epochs: int = 3) -> list[list[int]]:
    found = []
    for epoch in range(epochs):
        data.batches.set_epoch(epoch)
        found += list(data.batches)
        assert sorted(row for batch in found[-len(data.batches) :] for row in batch) == list(range(len(data.records)))
    return found


LONG = "we are looking for a nurse who works nights in our hospital in Leeds and likes people and cats a lot "
SAME = [Record(f"query {row}", LONG + ("" if row < 2 else f"x{row}")) for row in range(4)]
OTHERS = [Record(f"other {row}", f"document {row}") for row in range(12)]


@pytest.mark.parametrize(("no_duplicates", "apart"), [("none", 0), ("exact", 2), ("near", 4)])
def test_what_may_come_once_in_a_batch(no_duplicates: Any, apart: int) -> None:
    data = ContrastiveData([*SAME, *OTHERS], None, batch_size=4, no_duplicates=no_duplicates)
    batches = served_rows(data, epochs=20)
    assert len(data.batches) == 4
    most = {count: max(sum(row < count for row in batch) for batch in batches) for count in (2, 4)}
    assert most == {2: 2 if apart < 2 else 1, 4: {0: most[4], 2: most[4], 4: 1}[apart]}
    assert apart == 4 or most[4] > 1


def test_short_batches_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    pairs = [Record(f"query {row}", "the same") for row in range(6)] + OTHERS
    assert len(ContrastiveData(pairs, None, batch_size=6, no_duplicates="exact").batches) == 6
    assert "6 batches in place of 3" in caplog.text
    caplog.clear()
    ContrastiveData([*SAME, *OTHERS], None, batch_size=4, no_duplicates="exact")
    ContrastiveData(pairs, None, batch_size=6)
    assert not caplog.text


def test_rows_of_a_document_come_together() -> None:
    pairs = [Record(f"query {row}", f"document {row // 3}") for row in range(24)]
    data = ContrastiveData(pairs, None, batch_size=6, rows_per_document=3)
    for batch in served_rows(data):
        assert sorted(Counter(row // 3 for row in batch).values()) == [3, 3]


class Axes(torch.nn.Module):
    """An encoder to which the number in a text says on which axis it lies."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.axes = axes
        self.calls = 0

    def encode(self, texts: list[str], **_: Any) -> torch.Tensor:
        self.calls += 1
        return torch.eye(self.axes)[[int(text.split()[-1]) % self.axes for text in texts]]


def test_batches_come_from_clusters_of_what_the_encoder_finds_alike() -> None:
    data = ContrastiveData(records(24), None, batch_size=3)
    ClusterQueries(data, 24).recluster(Axes(4))
    for batch in served_rows(data):
        assert len({row % 4 for row in batch}) == 1


@pytest.mark.parametrize(("refresh", "epochs"), [(1, [0, 1, 2, 3]), (3, [0, 3]), (None, [0])])
def test_clusters_are_made_anew_when_they_are_due(refresh: int | None, epochs: list[int]) -> None:
    clusters = ClusterQueries(ContrastiveData(records(8), None, batch_size=2), 2, refresh)
    assert [epoch for epoch in range(4) if clusters.is_due(epoch)] == epochs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_duplicates": "all"}, "expected no_duplicates to be none, exact or near, got 'all'"),
        ({"rows_per_document": 2, "no_duplicates": "near"}, "got rows_per_document=2, no_duplicates=near"),
    ],
)
def test_batches_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContrastiveData(records(8), None, batch_size=4, **options)


@pytest.mark.parametrize(
    ("clusters", "options", "message"),
    [
        ((9,), {}, "expected from 1 to 8 clusters, refreshed after one epoch or more, got 9 and 1"),
        ((-1,), {}, "got -1 and 1"),
        ((2, 0), {}, "got 2 and 0"),
        ((2,), {"rows_per_document": 2}, "got rows_per_document=2 and clusters=2"),
    ],
)
def test_clusters_that_cannot_be_are_refused(clusters: Any, options: dict[str, Any], message: str) -> None:
    data = ContrastiveData(records(8), None, batch_size=4, **options)
    with pytest.raises(ValueError, match=message):
        ClusterQueries(data, *clusters)


class SeenGuides(torch.nn.Module):
    """GIST that keeps the guide's embeddings it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        *,
        guide_queries: torch.Tensor,
        guide_keys: torch.Tensor,
        owners: torch.Tensor,
        exclude: Any = None,
    ) -> torch.Tensor:
        self.seen.append((guide_queries, guide_keys))
        return GISTLoss()(
            queries, keys, guide_queries=guide_queries, guide_keys=guide_keys, owners=owners, exclude=exclude
        )


@pytest.mark.parametrize("queue", [False, True])
def test_the_loss_is_given_the_guides_embeddings_of_its_texts_and_of_queued_ones(
    queue: bool, tiny_model_folder: Path, tmp_path: Path
) -> None:
    guide = Encoder.from_pretrained(tiny_model_folder, pooling="cls")
    pairs = with_negatives(8)
    data = ContrastiveData(pairs, None, batch_size=4)
    guided = EmbedByGuide(data, guide, EmbeddingCache(tmp_path))
    loss = SeenGuides()
    encoder = Encoder.from_pretrained(tiny_model_folder)
    memory = CrossBatchQueue(8, encoder.dimension) if queue else None
    module = ContrastiveModule(encoder, loss, LinearDecayAdamW(), total_steps=4, memory=memory)
    rehearse(loss, guided.rehearsed(data.rehearsals()), encoder.dimension)
    rehearsed = len(loss.seen)
    watcher = Watcher()
    trainer = quiet_trainer(
        tmp_path,
        max_epochs=2,
        callbacks=[watcher, guided, FillMemory()],
    )
    trainer.fit(module, data)

    documents: list[str] = []
    of_query = {record.query: record for record in pairs}
    for (guide_queries, guide_keys), (_, queries) in zip(loss.seen[rehearsed:], watcher.batches, strict=True):
        batch = data.collate([of_query[query] for query in queries])
        documents = batch.documents + (documents[-8:] if queue else [])
        expected = [guide.encode(queries, side="query"), guide.encode(documents, side="document")]
        torch.testing.assert_close(guide_queries, torch.from_numpy(expected[0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(guide_keys, torch.from_numpy(expected[1]), atol=1e-5, rtol=0)
        documents = documents[len(batch.documents) :] + batch.documents


def set_up(guided: EmbedByGuide) -> None:
    guided.setup(lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False), None, "fit")


def test_a_guide_embeds_once(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> EmbedByGuide:
        guide, data = Encoder.from_pretrained(tiny_model_folder), ContrastiveData(with_negatives(8), None)
        return EmbedByGuide(data, guide, EmbeddingCache(tmp_path))

    first, second = made(), made()
    set_up(first)
    monkeypatch.setattr(Encoder, "encode", lambda *_, **__: pytest.fail("embedded again"))
    with monkeypatch.context() as patch:
        patch.setattr(GuideEmbeddings, "of", lambda *_, **__: pytest.fail("looked up again"))
        set_up(first)
    set_up(second)
    assert torch.equal(first.data.guides.documents, second.data.guides.documents)
    assert len(first.data.guides.documents) == 8 + sum(len(record.negatives) for record in with_negatives(8))


def test_a_rank_without_rows_has_no_guide_embeddings_of_the_right_width(tiny_encoder: Encoder, tmp_path: Path) -> None:
    data = ContrastiveData(records(8), None, batch_size=4)
    set_up(EmbedByGuide(data, tiny_encoder, EmbeddingCache(tmp_path)))
    batch = data.on_before_batch_transfer([], 0)
    assert batch.guide_queries.shape == batch.guide_keys.shape == (0, 32)


def test_two_processes_share_clusters_and_guides_as_one(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Batches of 4, 4 and 1 rows, the last of which one rank has no row of."""
    found = []
    for options in ({}, {"devices": 2, "strategy": "ddp_spawn", "use_distributed_sampler": False}):
        encoder = Encoder.from_pretrained(tiny_model_folder)
        for part in encoder.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        module = ContrastiveModule(
            encoder, GISTLoss(), LinearDecayAdamW(learning_rate=3e-3), total_steps=6, memory=CrossBatchQueue(6, 32)
        )
        guide = Encoder.from_pretrained(tiny_model_folder, pooling="cls")
        data = ContrastiveData(with_negatives(9), None, batch_size=4)
        guided = EmbedByGuide(data, guide, EmbeddingCache(tmp_path))
        trainer = quiet_trainer(
            tmp_path,
            max_epochs=2,
            callbacks=[ClusterQueries(data, 3, refresh=None), guided, FillMemory()],
            **options,
        )
        trainer.fit(module, data)
        found.append((trainer.callback_metrics["train/loss"], module.memory.key_ids))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-3, atol=1e-5)
    assert torch.equal(found[1][1], found[0][1])


@pytest.mark.parametrize("strategy", [Mined(Dense(), count=1), Mixed({"dense": Dense()}, mix={"dense": 1}, count=1)])
def test_embeddings_that_negatives_are_chosen_by_are_kept(
    strategy: NegativeStrategy, tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def negatives() -> list[tuple[str, ...]]:
        data = ContrastiveData(records(8), None, batch_size=4)
        MineNegatives(data, strategy, EmbeddingCache(tmp_path)).choose(tiny_encoder)
        return [record.negatives for record in data.records]

    first = negatives()
    monkeypatch.setattr(Encoder, "encode", None)
    assert negatives() == first
