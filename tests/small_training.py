"""Small training data, and training on it, for tests of whatever takes part in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
from conftest import WORDS
from torch import nn

from contrastive.data import Record, RetrievalTask
from contrastive.encoder import Encoder
from contrastive.training import ContrastiveData, ContrastiveModule
from contrastive.training.callbacks import LogTraining
from contrastive.training.optimization import LinearDecayAdamW, planned_steps
from contrastive.training.sparsity import Sparsity


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


def quiet_trainer(folder: Path, **options: Any) -> lightning.Trainer:
    """A trainer on the processor that shows, logs and keeps nothing, unless options say otherwise."""
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return lightning.Trainer(**{**quiet, **options})


def fit(
    encoder: Encoder,
    loss: nn.Module,
    folder: Path,
    *,
    epochs: int = 1,
    dev: RetrievalTask | None = None,
    sparsity: Sparsity | None = None,
    cached: bool = False,
    **trainer_options: object,
) -> lightning.Trainer:
    """Train on the records above in batches of 4."""
    lightning.seed_everything(0, verbose=False)
    options = {"log_every_n_steps": 1, "callbacks": [LogTraining()], **trainer_options}
    trainer = quiet_trainer(folder, max_epochs=epochs, **options)
    data = ContrastiveData(records(), dev, batch_size=4, seed=0)
    steps = planned_steps(len(data.batches), trainer)
    optimizer = LinearDecayAdamW(learning_rate=3e-3)
    module = ContrastiveModule(encoder, loss, optimizer, total_steps=steps, sparsity=sparsity, cached=cached)
    trainer.fit(module, data)
    return trainer


def alone(encoder: Encoder, loss: nn.Module) -> ContrastiveModule:
    """A module without a trainer, whose logging goes nowhere."""
    module = ContrastiveModule(encoder, loss, LinearDecayAdamW(), total_steps=1)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    return module


def with_negatives(count: int) -> list[Record]:
    """The records above with 0, 1 or 2 hard negatives each."""
    return [
        replace(
            record,
            negatives=tuple(f"{WORDS[i % 7]} {WORDS[place]} {i}" for place in range(i % 3)),
            negative_ids=tuple(f"n{i}-{place}" for place in range(i % 3)),
        )
        for i, record in enumerate(records(count))
    ]
