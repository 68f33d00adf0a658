"""The two trainers that `benchmarks.training` puts side by side, on the same batches in the same order.

Both train the embedded MiniLM with MNRL at scale 20 and AdamW (fused, weight decay 0.01, gradients clipped at 1,
dropout on, linear decay from 1e-4 without warm-up), each by its own loop: Lightning's and sentence-transformers'.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import lightning
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from torch import Tensor
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from contrastive.data import Record
from contrastive.encoder import Encoder, embedded_minilm
from contrastive.losses import MultipleNegativesRankingLoss
from contrastive.training import ContrastiveData, ContrastiveModule
from contrastive.training.optimization import LinearDecayAdamW

for name in ("lightning.pytorch", "lightning.fabric", "sentence_transformers"):
    logging.getLogger(name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore")
datasets.disable_progress_bars()


@dataclass
class Steps:
    """What a few training steps took; the first is warm-up and not among them.

    Attributes:
        seconds: Of each step, with making its batch.
        padded: Tokens computed by all steps.
        real: Tokens of the texts of all steps, duplicates that were not computed left out.
    """

    seconds: list[float] = field(default_factory=list)
    padded: int = 0
    real: int = 0


class Ours:
    """`ContrastiveModule` under Lightning."""

    def __init__(self, device: str = "cpu", max_length: int = 256) -> None:
        self.device = device
        self.encoder = Encoder.from_pretrained(embedded_minilm(), max_length=max_length)
        self.loss = MultipleNegativesRankingLoss(scale=20)

    def train(self, records: Sequence[Record], batch_size: int, steps: int, *, bf16: bool, seed: int = 0) -> Steps:
        """Take steps on the first batches of an epoch that the seed orders."""
        done, clock = Steps(), _OurClock(self.device)
        lightning.seed_everything(seed, verbose=False)
        data = ContrastiveData(records, None, batch_size=batch_size, seed=seed)
        optimizer = LinearDecayAdamW(warmup_ratio=0.0)
        before = (self.encoder.tokens_seen.real, self.encoder.tokens_seen.padded)
        with TemporaryDirectory() as folder:
            trainer = lightning.Trainer(
                accelerator="gpu" if self.device == "cuda" else "cpu",
                precision="bf16-mixed" if bf16 else "32-true",
                max_steps=steps,
                gradient_clip_val=1.0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                callbacks=[clock],
                default_root_dir=folder,
            )
            trainer.fit(ContrastiveModule(self.encoder, self.loss, optimizer, total_steps=steps), data)
        seen = self.encoder.tokens_seen
        done.seconds, done.real, done.padded = clock.seconds(), seen.real - before[0], seen.padded - before[1]
        return done

    def gradient(self, queries: list[str], documents: list[str]) -> Tensor:
        """Return the gradient of one batch, all weights as one vector, with dropout off."""
        self.encoder.to(self.device).eval().zero_grad()
        self.loss(*self.encoder.embed_sides(queries, documents)).backward()
        return _flat(self.encoder.backbone)

    def encode(self, texts: list[str]) -> Any:
        """Embed texts."""
        return self.encoder.to(self.device).encode(texts, side="document")

    def save(self, folder: Path) -> None:
        """Write the model."""
        self.encoder.save_pretrained(folder)


class Theirs:
    """`SentenceTransformerTrainer`."""

    def __init__(self, device: str = "cpu", max_length: int = 256) -> None:
        self.device = device
        self.model = SentenceTransformer(str(embedded_minilm()), device=device)
        self.model.max_seq_length = max_length
        self.loss = losses.MultipleNegativesRankingLoss(self.model, scale=20)
        self.counts = Steps()
        self.model[0].register_forward_pre_hook(self._count)

    def train(self, records: Sequence[Record], batch_size: int, steps: int, *, bf16: bool, seed: int = 0) -> Steps:
        """Take steps on the same batches."""
        order = [
            row for batch in ContrastiveData(records, None, batch_size=batch_size, seed=seed).batches for row in batch
        ]
        rows = [records[row] for row in order[: steps * batch_size]]
        pairs = datasets.Dataset.from_dict({"query": [r.query for r in rows], "document": [r.positive for r in rows]})
        clock = _TheirClock(self.device)
        self.counts = Steps()
        with TemporaryDirectory() as folder:
            arguments = SentenceTransformerTrainingArguments(
                output_dir=folder,
                use_cpu=self.device == "cpu",
                bf16=bf16,
                per_device_train_batch_size=batch_size,
                max_steps=steps,
                learning_rate=1e-4,
                weight_decay=0.01,
                max_grad_norm=1.0,
                optim="adamw_torch_fused",
                lr_scheduler_type="linear",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=seed,
            )
            trainer = _InOrder(model=self.model, args=arguments, train_dataset=pairs, loss=self.loss, callbacks=[clock])
            for noisy in (PrinterCallback, ProgressCallback):
                trainer.remove_callback(noisy)
            trainer.train()
        self.counts.seconds = clock.seconds()
        return self.counts

    def gradient(self, queries: list[str], documents: list[str]) -> Tensor:
        """Return the gradient of one batch, all weights as one vector, with dropout off."""
        self.model.eval().zero_grad()
        sides = [
            {
                name: value.to(self.device)
                for name, value in self.model.preprocess(texts).items()
                if torch.is_tensor(value)
            }
            for texts in (queries, documents)
        ]
        self.loss(sides, torch.tensor([])).backward()
        return _flat(self.model[0].auto_model)

    def encode(self, texts: list[str]) -> Any:
        """Embed texts."""
        return self.model.encode(texts, show_progress_bar=False)

    def save(self, folder: Path) -> None:
        """Write the model."""
        self.model.save(str(folder))

    def _count(self, _module: Any, inputs: tuple[dict[str, Tensor], ...]) -> None:
        mask = inputs[0]["attention_mask"]
        self.counts.padded += mask.numel()
        self.counts.real += int(mask.sum())


class _InOrder(SentenceTransformerTrainer):
    """Takes the rows as they come, so that both sides have the same batches."""

    def get_batch_sampler(self, dataset: Any, batch_size: int, drop_last: bool, *_args: Any, **_more: Any) -> Any:
        """Return a sampler of the rows in their order."""
        return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)


class _Clock:
    def __init__(self, device: str) -> None:
        self.device = device
        self.ends: list[float] = []

    def tick(self) -> None:
        """Note that a step ended."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return the time of each step but the first."""
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]


class _OurClock(_Clock, lightning.Callback):
    def on_train_batch_end(self, *_: Any) -> None:
        self.tick()


class _TheirClock(_Clock, TrainerCallback):
    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.tick()


def _flat(backbone: torch.nn.Module) -> Tensor:
    # The pooler of BERT has no gradient.
    return torch.cat([p.grad.flatten().cpu() for p in backbone.parameters() if p.grad is not None])
