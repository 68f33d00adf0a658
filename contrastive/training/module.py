"""Training an encoder with a contrastive loss under Lightning; see `contrastive.training.data_module` for the batches.

- The loss is any callable with the signature of `contracts.RankingLoss`; it is given those fields of the batch that its
  signature names, so a new kind of loss needs no change here.
- Under several processes every rank judges the batches of all ranks, see `training.distributed`: what is logged is the
  same on every rank, and the batch size is that of one process.
- A run stops at the first loss or gradient that is not finite, see `encoder.finite`, and a checkpoint claims no batch
  that its weights have not seen, see `training.accumulation`.
- Validation ranks the full corpus of the dev task: accuracy on a handful of triplets saturates and says little.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import chain
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from contrastive.data import Batch, RetrievalTask
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.encoder.encoder import Encoder
from contrastive.encoder.finite import NotFiniteError, check_weights
from contrastive.evaluation import embed, evaluate_rankings, rank_embedded
from contrastive.losses.core.health import Health
from contrastive.losses.core.signature import parameters_of
from contrastive.training.accumulation import average_window, rewind_to_step
from contrastive.training.agreement import check_agreement
from contrastive.training.batch import EmbeddedBatch, loss_arguments
from contrastive.training.data_module import ContrastiveData
from contrastive.training.distributed import gather, world_size
from contrastive.training.finite import check_gradient, check_loss
from contrastive.training.memory import CrossBatchQueue, MomentumEncoder, recall
from contrastive.training.optimization import LinearDecayAdamW
from contrastive.training.precision import check_precision
from contrastive.training.rehearsal import check_learns, check_memory, made_up, remembering


class ContrastiveModule(lightning.LightningModule):
    """Trains an encoder with a contrastive loss and validates it by ranking a corpus.

    Args:
        encoder: The encoder to train.
        loss: A ranking loss; see `contracts.RankingLoss`.
        optimizer: Builds the optimiser and its schedule from encoder, loss and number of steps.
        total_steps: Optimiser steps of the whole run, for the schedule.
        cache: Keeps the embeddings of the dev task, so that weights which were validated need not embed it again.
        memory: Keeps the keys of earlier batches as further negatives.
        momentum_encoder: Makes the keys that go into the memory; without it they are the encoder's own.

    Raises:
        ValueError: If there is a momentum encoder and no memory to fill, or loss and encoder do not compare embeddings
            alike, see `agreement.check_agreement`.
    """

    def __init__(
        self,
        encoder: Encoder,
        loss: nn.Module,
        optimizer: LinearDecayAdamW,
        *,
        total_steps: int,
        cache: EmbeddingCache | None = None,
        memory: CrossBatchQueue | None = None,
        momentum_encoder: MomentumEncoder | None = None,
    ) -> None:
        super().__init__()
        if memory is None and momentum_encoder is not None:
            raise ValueError("expected a memory that the momentum encoder fills, got none")
        check_agreement(loss, encoder)
        self.encoder = encoder
        self.loss = loss
        self.optimizer = optimizer
        self.total_steps = total_steps
        self.cache = cache
        self.memory = memory
        self.momentum_encoder = momentum_encoder
        self.health = Health()
        self._takes_health = "health" in parameters_of(loss)
        self._guide_documents: Tensor | None = None
        self._latest: EmbeddedBatch | None = None
        self._window: list[Batch] = []  # the batches of this step so far
        self._step_started = 0.0
        self._tokens_before = 0

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and a schedule that advances with every step."""
        optimizer, schedule = self.optimizer(self.encoder, self.loss, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def setup(self, stage: str) -> None:
        """Refuse a trainer's precision in which training would be lost.

        Raises:
            ValueError: If it keeps the weights in other than float32.
        """
        if stage == "fit":
            check_precision(self.trainer.precision)

    def on_fit_start(self) -> None:
        """Turn dropout on: `from_pretrained` returns an encoder in eval mode and Lightning keeps what it finds."""
        self.train()
        self._window.clear()
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ContrastiveData) and data.guides is not None and self.memory is not None:
            self._guide_documents = data.guides.documents.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Encode both sides, judge them, return the loss.

        Raises:
            NotFiniteError: If the loss is NaN or infinite.
        """
        self._step_started, self._tokens_before = time.perf_counter(), self.encoder.tokens_seen.real
        self._window.append(batch)
        queries, keys = self._embed(batch)
        self._latest = gather(embedded(batch, queries, keys))
        loss = self.judge(recall(self._latest, self.memory, self._guide_documents))
        check_loss(loss.detach(), queries, keys, batch, self._now)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(self._latest))
        return loss

    def judge(self, batch: EmbeddedBatch) -> Tensor:
        """Give the loss the embeddings of a batch and those of its fields that the loss's signature names.

        Raises:
            ValueError: If the loss needs a field that the batch does not have.
        """
        health = {"health": self.health} if self._takes_health else {}
        loss: Tensor = self.loss(batch.queries, batch.keys, **loss_arguments(self.loss, batch), **health)
        return loss

    def rehearse(self, batch: Batch, epoch: Iterable[Batch] = ()) -> None:
        """Judge made-up embeddings of a batch, so that a loss that the data cannot serve says so before training.

        Args:
            batch: Of the first records.
            epoch: Batches as an epoch has them, to find one that the loss can learn from; none for the one above.

        Raises:
            ValueError: Whatever the loss objects to; that it would take pairs of any score as relevant; that it has no
                use for the further keys of a memory; or that its gradient is zero.
        """
        if batch.scores is not None and "targets" not in parameters_of(self.loss):
            raise ValueError(
                f"{type(self.loss).__name__} takes every pair as relevant, and the training records have scores: "
                "min_score says which are (columns.score=false says that all are)"
            )
        name, width = type(self.loss).__name__, self.encoder.dimension
        with torch.no_grad():
            tried = embedded(batch, *made_up(batch, width))
            if self.memory is None:
                self.judge(tried)
            else:
                check_memory(self.judge, tried, name)
        batches = iter(epoch)
        first = next(batches, batch)

        def judge(tried: EmbeddedBatch) -> Tensor:
            return self.judge(tried if self.memory is None else remembering(tried))

        check_learns(judge, chain([first], batches), embedded, width, name)
        self.health.clear()

    def on_after_backward(self) -> None:
        """Make the gradient of an epoch's last window, if that is shorter, the mean of its batches too."""
        if self.trainer.is_last_batch:
            average_window(self.parameters(), len(self._window), self.trainer.accumulate_grad_batches)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the momentum encoder follow."""
        super().optimizer_step(*args, **kwargs)
        self._window.clear()
        if self.momentum_encoder is not None:
            self.momentum_encoder.update(self.encoder)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the size of the gradient before it is clipped.

        Raises:
            NotFiniteError: If it is NaN or infinite.
        """
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        check_gradient(norm, self._window, self._now, self.trainer.scaler)
        self.log("train/gradient_norm", norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is not finite, and claims that are not true, out of a checkpoint.

        Raises:
            NotFiniteError: If a weight or something that was remembered is NaN or infinite.
        """
        check_weights(checkpoint["state_dict"], "a checkpoint")
        rewind_to_step(checkpoint, self.trainer.accumulate_grad_batches)

    @property
    def _now(self) -> str:
        """Where training is, for messages; without a trainer, nowhere."""
        trainer = self._trainer
        return (
            "before training" if trainer is None else f"at step {trainer.global_step} of epoch {trainer.current_epoch}"
        )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Fill the memory; log speed, learning rate, and what the loss said of the batches since it last was logged."""
        assert self._latest is not None
        num_pairs = len(self._latest)
        self._remember(self._latest, batch)
        self._latest = None  # its graph
        if self.trainer.global_step % max(1, self.trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return  # the summary below waits for the device
        seconds = time.perf_counter() - self._step_started
        tokens = self.encoder.tokens_seen.real - self._tokens_before
        # The one number that differs between ranks. All of them come here, at the same steps.
        self.log("train/tokens_per_second", tokens / seconds, sync_dist=True, reduce_fx="sum", batch_size=num_pairs)
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        self.log_dict(
            {
                "train/pairs_per_second": num_pairs / seconds,
                "train/learning_rate": schedule.get_last_lr()[0],
                **{f"train/{name}": value for name, value in self.health.summary().items()},
            },
            batch_size=num_pairs,
        )
        self.health.clear()

    def _embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embed both sides with a graph, also of no rows: a rank without any takes part in the backward pass."""
        if len(batch) > 0 or world_size() == 1:
            return self.encoder.embed_sides(batch.queries, batch.documents)
        queries, keys = self.encoder.embed_sides([""], [""])
        return queries[:0], keys[:0]

    def _remember(self, latest: EmbeddedBatch, local: Batch) -> None:
        """Put the keys of the latest batch, of all ranks, into the memory."""
        if self.memory is None:
            return
        if self.momentum_encoder is not None:
            with self.trainer.precision_plugin.forward_context():  # in the precision of a step
                keys = self.momentum_encoder(local.documents, side="document")
            latest = gather(embedded(local, keys[: len(local)], keys))
        assert latest.key_ids is not None
        self.memory.push(latest.keys, latest.key_ids)

    def validation_step(self, task: RetrievalTask, batch_idx: int) -> None:  # noqa: ARG002
        """Rank the whole corpus of the dev task and log the metrics as `dev/<metric>`."""
        shows_progress = self.trainer.progress_bar_callback is not None and self.trainer.is_global_zero
        embeddings = embed(self.encoder, task, show_progress=shows_progress, cache=self.cache)
        if not (embeddings.queries.isfinite().all() and embeddings.documents.isfinite().all()):
            raise NotFiniteError(
                f"expected finite embeddings of {task.name} {self._now}, got NaN or infinity among them"
            )
        results = evaluate_rankings(rank_embedded(embeddings, task), task)
        for name, value in results.means.items():
            # Every rank ranks the whole corpus, so this is the mean of equal numbers.
            self.log(f"dev/{name}", value, prog_bar=name == "ndcg@10", batch_size=len(task.queries), sync_dist=True)
        # Lightning takes this for the place in the history: steps that were made, not the number of the last.
        self.log("step", float(self.trainer.global_step), batch_size=len(task.queries), sync_dist=True)


def embedded(batch: Batch, queries: Tensor, keys: Tensor) -> EmbeddedBatch:
    """Put the embeddings of a batch, [Q, D] and [K, D], beside what is known of its texts."""
    return EmbeddedBatch(
        queries,
        keys,
        owners=batch.owners,
        key_ids=batch.document_ids,
        positive_ids=batch.positive_ids,
        grades=batch.grades,
        targets=batch.scores,
        teacher_scores=batch.teacher_scores,
        guide_queries=batch.guide_queries,
        guide_keys=batch.guide_keys,
        own_ids=batch.own_ids,
        onward_ids=batch.onward_ids,
    )
