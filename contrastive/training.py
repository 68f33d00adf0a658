"""Training an encoder with a contrastive loss under Lightning: the module and the data module.

- The loss is any callable with the signature of `contracts.RankingLoss`; it is given those fields of the batch that its
  signature names, so a new kind of loss needs no change here.
- Validation ranks the full corpus of the dev task: accuracy on a handful of triplets saturates and says little.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from contrastive.batching import EpochBatches
from contrastive.contracts import NegativeStrategy
from contrastive.data import Batch, Collator, Record, RetrievalTask
from contrastive.encoder import Encoder
from contrastive.evaluation import evaluate_rankings, rank
from contrastive.health import Health
from contrastive.masks import known_positive
from contrastive.optimization import LinearDecayAdamW

BATCH_FIELDS: dict[str, Callable[[Batch], Any]] = {
    "owners": lambda batch: batch.owners,
    "exclude": lambda batch: known_positive(batch.positive_ids, batch.document_ids),
    "grades": lambda batch: batch.grades,
    "targets": lambda batch: batch.scores,
    "teacher_scores": lambda batch: batch.teacher_scores,
}
"""What a loss can ask for by the name of a parameter, and where in the batch it is found."""


class ContrastiveModule(lightning.LightningModule):
    """Trains an encoder with a contrastive loss and validates it by ranking a corpus.

    Args:
        encoder: The encoder to train.
        loss: A ranking loss; see `contracts.RankingLoss`.
        optimizer: Builds the optimiser and its schedule from encoder, loss and number of steps.
        total_steps: Optimiser steps of the whole run, for the schedule.
    """

    def __init__(self, encoder: Encoder, loss: nn.Module, optimizer: LinearDecayAdamW, *, total_steps: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss = loss
        self.optimizer = optimizer
        self.total_steps = total_steps
        self.health = Health()
        self._loss_parameters = inspect.signature(loss.forward).parameters
        self._step_started = 0.0
        self._tokens_before = 0

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and a schedule that advances with every step."""
        optimizer, schedule = self.optimizer(self.encoder, self.loss, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Turn dropout on: `from_pretrained` returns an encoder in eval mode and Lightning keeps what it finds."""
        self.train()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Encode both sides, judge them, return the loss."""
        self._step_started, self._tokens_before = time.perf_counter(), self.encoder.tokens_seen.real
        queries = self.encoder(batch.queries, side="query")
        keys = self.encoder(batch.documents, side="document")
        loss = self.judge(queries, keys, batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def judge(self, queries: Tensor, keys: Tensor, batch: Batch) -> Tensor:
        """Give the loss embeddings [Q, D] and [K, D] and those fields of their batch that its signature names.

        Raises:
            ValueError: If the loss needs a field that the batch does not have.
        """
        fields: dict[str, Any] = {"health": self.health} if "health" in self._loss_parameters else {}
        for name, read in BATCH_FIELDS.items():
            if name not in self._loss_parameters:
                continue
            value = read(batch)
            if value is not None:
                fields[name] = value
            elif self._loss_parameters[name].default is inspect.Parameter.empty:
                raise ValueError(f"{type(self.loss).__name__} needs {name}, which the training records do not have")
        loss: Tensor = self.loss(queries, keys, **fields)
        return loss

    def rehearse(self, batch: Batch) -> None:
        """Judge made-up embeddings of a batch, so that a loss that the data cannot serve says so before training.

        Raises:
            ValueError: Whatever the loss objects to, or that it would take pairs of any score as relevant.
        """
        if batch.scores is not None and "targets" not in self._loss_parameters:
            raise ValueError(
                f"{type(self.loss).__name__} takes every pair as relevant, and the training records have scores: "
                "min_score says which are (columns.score=false says that all are)"
            )
        generator = torch.Generator().manual_seed(0)
        queries, keys = (torch.randn(count, 8, generator=generator) for count in (len(batch), len(batch.documents)))
        with torch.no_grad():
            self.judge(queries, keys, batch)
        self.health.clear()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the size of the gradient before it is clipped."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Log speed, learning rate, and what the loss said of the batches since they were last logged."""
        if self.trainer.global_step % max(1, self.trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return  # the summary below waits for the device
        seconds = time.perf_counter() - self._step_started
        tokens = self.encoder.tokens_seen.real - self._tokens_before
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        self.log_dict(
            {
                "train/pairs_per_second": len(batch) / seconds,
                "train/tokens_per_second": tokens / seconds,
                "train/learning_rate": schedule.get_last_lr()[0],
                **{f"train/{name}": value for name, value in self.health.summary().items()},
            },
            batch_size=len(batch),
        )
        self.health.clear()

    def validation_step(self, task: RetrievalTask, batch_idx: int) -> None:  # noqa: ARG002
        """Rank the whole corpus of the dev task and log the metrics as `dev/<metric>`."""
        shows_progress = self.trainer.progress_bar_callback is not None
        results = evaluate_rankings(rank(self.encoder, task, show_progress=shows_progress), task)
        for name, value in results.means.items():
            self.log(f"dev/{name}", value, prog_bar=name == "ndcg@10", batch_size=len(task.queries))


class ContrastiveData(lightning.LightningDataModule):
    """Serves shuffled batches of records, and the dev task.

    Args:
        records: Training records.
        dev: The task to validate on, if there is one.
        batch_size: Pairs in a batch.
        seed: The order of the batches is a function of this and the epoch.
        num_negatives: At most so many hard negatives a query; None for all that the records have.
        negatives: Chooses further negatives from the training documents; see `contracts.NegativeStrategy`.
        source_temperature: Of records from several data sets (see `contrastive.data.mixed`), 1 draws each once an
            epoch, a higher value the smaller data sets more often, infinity all equally; see `EpochBatches`.
        one_source: Whether each batch comes from one data set.

    Raises:
        ValueError: If there are no records, a batch size below 1, or records without a source where it matters; and
            whatever `EpochBatches` refuses.
    """

    def __init__(
        self,
        records: Sequence[Record],
        dev: RetrievalTask | None,
        *,
        batch_size: int = 32,
        seed: int = 0,
        num_negatives: int | None = None,
        negatives: NegativeStrategy | None = None,
        source_temperature: float = 1.0,
        one_source: bool = False,
    ) -> None:
        super().__init__()
        if not records:
            raise ValueError("expected at least one training record, got none")
        self.records = records if negatives is None else add_negatives(records, negatives)
        self.dev = dev
        self.collate = Collator(self.records, num_negatives=num_negatives)
        self.batches = EpochBatches(
            len(self.records),
            batch_size=batch_size,
            seed=seed,
            sources=_sources(self.records) if one_source or source_temperature != 1 else None,
            temperature=source_temperature,
            one_source=one_source,
        )

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Turn validation off if there is nothing to validate on; Lightning warns of an empty loader."""
        if self.dev is None and self.trainer is not None:
            self.trainer.limit_val_batches = 0

    def train_dataloader(self) -> Iterable[Batch]:
        """Batches of records with their ids."""
        return DataLoader(
            self.records,  # type: ignore[arg-type]  # any list is a data set
            batch_sampler=self.batches,
            collate_fn=self.collate,
        )

    def val_dataloader(self) -> Iterable[RetrievalTask]:
        """The dev task, whole, as the only item."""
        return DataLoader([self.dev], batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the device; a retrieval task is text and stays where it is."""
        if isinstance(batch, RetrievalTask):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


def _sources(records: Sequence[Record]) -> list[str]:
    """Return the source of each record."""
    bar = tqdm(records, desc="Reading sources", unit=" records", delay=5, leave=False, disable=None)
    sources = [record.source for record in bar]
    if not all(sources):
        raise ValueError(
            "expected records that name their source, for one_source or a source_temperature other than 1: those of "
            f"several data sets mixed; got {sources.count('')} of {len(sources)} without"
        )
    return sources


def add_negatives(records: Sequence[Record], strategy: NegativeStrategy) -> list[Record]:
    """Return the records with the negatives that a strategy chooses from the training documents put after their own."""
    texts = {record.positive_id: record.positive for record in records}
    for record in records:
        texts.update(zip(record.negative_ids, record.negatives, strict=True))
    completed = []
    for record in records:
        known = {record.positive_id, *(id_ for id_, grade in record.grades.items() if grade > 0)}
        chosen = strategy(record.query_id, sorted(known)).ids
        completed.append(
            replace(
                record,
                negatives=record.negatives + tuple(texts[id_] for id_ in chosen),
                negative_ids=record.negative_ids + chosen,
            )
        )
    return completed
