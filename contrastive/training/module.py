"""Training an encoder with a contrastive loss under Lightning; see `contrastive.training.data_module` for the batches.

- The loss is any callable with the signature of `contracts.RankingLoss`; it is given what its signature names of that
  which is known of a batch, so a new kind of loss needs no change here.
- Under several processes every rank judges the batches of all ranks, see `training.distributed`: what is logged is the
  same on every rank, and the batch size is that of one process.
- A run stops at the first loss or gradient that is not finite, or leaves the step out, see `training.finite`, and a
  checkpoint claims no batch that its weights have not seen, see `training.accumulation`.
- Validation ranks the full corpus of the dev task: accuracy on a handful of triplets saturates and says little.
- What happens beside the step (filling the memory, logging, mining, clustering) are callbacks: `training.callbacks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, get_args

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from contrastive.data import RetrievalTask
from contrastive.data.batch import Batch, EmbeddedBatch, loss_arguments, recall
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.encoder.encoder import Encoder
from contrastive.encoder.finite import NotFiniteError, check_weights
from contrastive.evaluation import embed, evaluate_rankings, rank_embedded
from contrastive.losses import MatryoshkaLoss
from contrastive.losses.core.health import Health
from contrastive.losses.core.signature import parameters_of
from contrastive.similarity import TokenVectors, finite_texts
from contrastive.training.accumulation import average_window, rewind_to_step
from contrastive.training.agreement import check_agreement
from contrastive.training.distributed import gather, world_size
from contrastive.training.finite import OnNonfinite, Skipping, check_gradient, check_loss
from contrastive.training.memory import CrossBatchQueue, MomentumEncoder
from contrastive.training.optimization import LinearDecayAdamW
from contrastive.training.out_of_memory import advising
from contrastive.training.precision import check_precision
from contrastive.training.sparsity import Sparsity, active_terms


class ContrastiveModule(lightning.LightningModule):
    """Trains an encoder with a contrastive loss and validates it by ranking a corpus.

    Args:
        encoder: The encoder to train.
        loss: A ranking loss; see `contracts.RankingLoss`.
        optimizer: Builds the optimiser and its schedule from encoder, loss and number of steps.
        total_steps: Optimiser steps of the whole run, for the schedule.
        cache: Keeps the embeddings of the dev task, so that weights which were validated need not embed it again.
        memory: Keeps the keys of earlier batches as further negatives; the callback `FillMemory` puts them in.
        momentum_encoder: Makes the keys that go into the memory; without it they are the encoder's own.
        sparsity: What is added to the loss to keep embeddings sparse, for an encoder of sparse ones.
        cached: Compute each micro-batch of a step again in the backward pass, in the memory of one, rather than keep
            all; see `Encoder`.
        on_nonfinite: Whether to "stop" at a step whose loss or gradient is not finite, or to "skip" it.

    Attributes:
        latest: Embeddings of the latest batch, of all ranks and without a graph.
        health: What the loss says of the batches; the callback `LogTraining` logs it.
        guide_documents: Embeddings of all documents by a guide, for the keys that the memory appends; the callback
            `EmbedByGuide` sets it.

    Raises:
        ValueError: If there is a momentum encoder and no memory to fill, loss and encoder do not compare embeddings
            alike, see `agreement.check_agreement`, or `on_nonfinite` is unknown.
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
        sparsity: Sparsity | None = None,
        cached: bool = False,
        on_nonfinite: OnNonfinite = "stop",
    ) -> None:
        super().__init__()
        if memory is None and momentum_encoder is not None:
            raise ValueError("expected a memory that the momentum encoder fills, got none")
        if on_nonfinite not in get_args(OnNonfinite):
            raise ValueError(f"expected on_nonfinite to be stop or skip, got {on_nonfinite!r}")
        check_agreement(loss, encoder)
        self.encoder = encoder
        self.loss = loss
        self.optimizer = optimizer
        self.total_steps = total_steps
        self.cache = cache
        self.memory = memory
        self.momentum_encoder = momentum_encoder
        self.sparsity = sparsity
        self.cached = cached
        self.skipping = Skipping() if on_nonfinite == "skip" else None
        self.health = Health()
        self.latest: EmbeddedBatch | None = None
        self.guide_documents: Tensor | TokenVectors | None = None
        self._takes_health = "health" in parameters_of(loss)
        self._window: list[Batch] = []  # the batches of this step so far

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

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Encode both sides, judge them, return the loss.

        Raises:
            NotFiniteError: If the loss is NaN or infinite, unless such steps are left out.
            OutOfMemoryError: If there is not enough memory.
        """
        self._window.append(batch)
        with self._advising():
            return self._loss(batch)

    def _loss(self, batch: Batch) -> Tensor:
        queries, keys = self._embed(batch)
        whole = gather(batch.embedded(queries, keys))
        self.latest = replace(whole, queries=whole.queries.detach(), keys=whole.keys.detach())
        loss = self.judge(recall(whole, self.memory, self.guide_documents))
        if self.sparsity is not None:
            loss = loss + self._penalty(self.sparsity, whole)
        with self._may_skip():
            check_loss(loss.detach(), queries, keys, batch, self._now)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(whole))
        return loss

    def judge(self, batch: EmbeddedBatch) -> Tensor:
        """Give the loss the embeddings of a batch and what its signature names of that which is known of them.

        Raises:
            ValueError: If the loss needs something that the batch does not have.
        """
        health = {"health": self.health} if self._takes_health else {}
        loss: Tensor = self.loss(batch.queries, batch.keys, **loss_arguments(self.loss, batch), **health)
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Go back to the weights.

        Raises:
            OutOfMemoryError: If there is not enough memory.
        """
        with self._advising():
            super().backward(loss, *args, **kwargs)

    def on_after_backward(self) -> None:
        """Make the gradient of an epoch's last window, if that is shorter, the mean of its batches too."""
        if self.trainer.is_last_batch:
            average_window(self.parameters(), len(self._window), self.trainer.accumulate_grad_batches)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the size of the gradient before it is clipped, and take the gradient from a step that is to be left out.

        Raises:
            NotFiniteError: If it is NaN or infinite, unless such steps are left out, or too many were.
        """
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        with self._may_skip():
            check_gradient(norm, self._window, self._now, self.trainer.scaler)
        self.log("train/gradient_norm", norm)
        if self.skipping is not None:
            has_reason = self.skipping.reason is not None
            is_left_out = self.trainer.strategy.reduce_boolean_decision(has_reason, all=False)
            self.skipping.count(is_left_out)
            if is_left_out:
                optimizer.zero_grad(set_to_none=True)
            self.log("train/skipped_steps", float(self.skipping.total))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and begin another window."""
        super().optimizer_step(*args, **kwargs)
        self._window.clear()

    def on_train_batch_end(self, *_: Any) -> None:
        """Refuse a memory that nobody fills, whose negatives a user would wait for in vain.

        Raises:
            ValueError: If it is empty after a batch.
        """
        if self.memory is not None and not len(self.memory):
            raise ValueError("expected a memory with the keys of this batch (callbacks.FillMemory), got none in it")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is not finite, and claims that are not true, out of a checkpoint.

        Raises:
            NotFiniteError: If a weight or something that was remembered is NaN or infinite.
        """
        check_weights(checkpoint["state_dict"], "a checkpoint")
        rewind_to_step(checkpoint, self.trainer.accumulate_grad_batches)
        if self.skipping is not None:
            checkpoint["skipped_steps"] = [self.skipping.total, self.skipping.in_a_row]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting the steps that are left out."""
        if self.skipping is not None:
            self.skipping = Skipping(*checkpoint.get("skipped_steps", ()))

    def validation_step(self, task: RetrievalTask, batch_idx: int) -> None:  # noqa: ARG002
        """Rank the whole corpus of the dev task and log the metrics as `dev/<metric>`.

        With a Matryoshka loss the nDCG of shorter embeddings is logged too, such as `dev/ndcg@10_64`.
        """
        shows_progress = self.trainer.progress_bar_callback is not None and self.trainer.is_global_zero
        embeddings = embed(self.encoder, task, show_progress=shows_progress, cache=self.cache)
        if not (finite_texts(embeddings.queries).all() and finite_texts(embeddings.documents).all()):
            raise NotFiniteError(
                f"expected finite embeddings of {task.name} {self._now}, got NaN or infinity among them"
            )
        results = evaluate_rankings(rank_embedded(embeddings, task), task, resamples=1)  # their means alone are wanted
        for name, value in results.means.items():
            # Every rank ranks the whole corpus, so this is the mean of equal numbers.
            self.log(f"dev/{name}", value, prog_bar=name == "ndcg@10", batch_size=len(task.queries), sync_dist=True)
        for width in self.loss.dimensions if isinstance(self.loss, MatryoshkaLoss) else ():
            if width < self.encoder.dimension:
                ranked = rank_embedded(embeddings.cut(width), task)
                value = evaluate_rankings(ranked, task, metrics=("ndcg@10",), resamples=1).means["ndcg@10"]
                self.log(f"dev/ndcg@10_{width}", value, batch_size=len(task.queries), sync_dist=True)
        # Lightning takes this for the place in the history: steps that were made, not the number of the last.
        self.log("step", float(self.trainer.global_step), batch_size=len(task.queries), sync_dist=True)

    def _penalty(self, sparsity: Sparsity, batch: EmbeddedBatch) -> Tensor:
        """Return what sparsity adds to the loss of a batch at this step, and log what it is about."""
        share = sparsity.share(self.global_step, self.total_steps)
        penalty = sparsity(batch.queries, batch.keys, share)
        terms = {"query": active_terms(batch.queries), "document": active_terms(batch.keys)}
        self.log("train/flops", penalty.detach(), batch_size=len(batch))
        for side, number in terms.items():
            self.log(f"train/active_terms_{side}", number, batch_size=len(batch))
        return penalty

    def _embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embed both sides with a graph, also of no rows: a rank without any takes part in the backward pass."""
        if len(batch) > 0 or world_size() == 1:
            return self.encoder.embed_sides(batch.queries, batch.documents, cached=self.cached)
        queries, keys = self.encoder.embed_sides([""], [""])
        return queries[:0], keys[:0]

    @contextmanager
    def _may_skip(self) -> Iterator[None]:
        """Let what is not finite inside the block stop the run, or have the step left out."""
        with self.skipping.noting() if self.skipping is not None else nullcontext():
            yield

    def _advising(self) -> AbstractContextManager[None]:
        return advising(self.encoder, self._now, cached=self.cached)

    @property
    def _now(self) -> str:
        """Where training is, for messages; without a trainer, nowhere."""
        trainer = self._trainer
        return (
            "before training" if trainer is None else f"at step {trainer.global_step} of epoch {trainer.current_epoch}"
        )
