"""The data module: which rows its batches hold, epochs that were interrupted, and what a guide adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from test_training import dev_task, records

from contrastive.data import Batch
from contrastive.encoder import Encoder
from contrastive.losses import InfoNCELoss
from contrastive.optimization import LinearDecayAdamW
from contrastive.training import ContrastiveModule
from contrastive.training_data import ContrastiveData

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*in eval mode at the start of training"
)


class Stopped(Exception):
    """What ends a run in the middle."""


class Watcher(lightning.Callback):
    """Notes the batches whose step was made; writes a checkpoint, and ends the run, when it is told to."""

    def __init__(self, hook: str = "", step: int = -1, path: Path | None = None) -> None:
        self.hook, self.step, self.path = hook, step, path
        self.batches: list[tuple[int, list[str]]] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._stop("on_train_batch_start", trainer)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Batch, index: int
    ) -> None:
        self.batches.append((trainer.current_epoch, batch.queries))
        self._stop("on_train_batch_end", trainer)

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self._stop("on_validation_end", trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self._stop("on_train_epoch_end", trainer)

    def _stop(self, hook: str, trainer: lightning.Trainer) -> None:
        if hook == self.hook and trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise Stopped


def run(
    folder: Path,
    tmp_path: Path,
    watcher: Watcher,
    resumed: Path | None = None,
    data: dict[str, Any] | None = None,
    **options: Any,
) -> list[tuple[int, list[str]]]:
    """Three epochs of five batches of four; return the batches whose step was made."""
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        max_epochs=3,
        default_root_dir=tmp_path,
        callbacks=[watcher],
        **options,
    )
    encoder = Encoder.from_pretrained(folder)
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # a resumed run has other random numbers, and other weights to cluster with
    module = ContrastiveModule(encoder, InfoNCELoss(), LinearDecayAdamW(learning_rate=3e-3), total_steps=15)
    served = ContrastiveData(records(18), dev_task(), batch_size=4, seed=0, **(data or {}))
    try:
        trainer.fit(module, served, ckpt_path=resumed, weights_only=True)
    except Stopped:
        pass
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
@pytest.mark.parametrize("data", [{}, {"clusters": 4, "refresh_clusters": 2}], ids=["plain", "clusters"])
def test_a_resumed_run_takes_the_batches_of_one_that_never_stopped(
    hook: str, step: int, data: dict[str, Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "stopped.ckpt"
    straight = run(tiny_model_folder, tmp_path, Watcher(), data=data)
    assert [epoch for epoch, _ in straight] == [0] * 5 + [1] * 5 + [2] * 5
    stopped = run(tiny_model_folder, tmp_path, Watcher(hook, step, path), data=data)
    assert stopped == straight[:step]
    assert stopped + run(tiny_model_folder, tmp_path, Watcher(), resumed=path, data=data) == straight
