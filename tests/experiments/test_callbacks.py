"""Where in a run the validations are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.run.callbacks import SpreadValidations

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")


class Module(lightning.LightningModule):
    """One weight; notes after how many batches, of all epochs, it is validated."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches = 0
        self.validated: list[int] = []

    def training_step(self, batch: Tensor) -> Tensor:
        self.batches += 1
        return (self.weight * batch).sum()

    def on_train_batch_end(self, *_: Any) -> None:
        self._stop("batch")

    def on_validation_end(self) -> None:
        self._stop("validation")

    def _stop(self, after: str) -> None:
        if (after, self.batches) == getattr(self, "stop_after", None):
            self.trainer.save_checkpoint(self.path)
            raise StoppedError

    def validation_step(self, batch: Tensor) -> None:  # noqa: ARG002
        self.validated.append(self.batches)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StoppedError(Exception):
    """What ends a run in the middle."""


def fit(module: Module, folder: Path, batches: int, *, resumed: Path | None = None, **options: Any) -> list[int]:
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=[SpreadValidations()],
        **{"max_epochs": 1, **options},
    )
    loader: DataLoader[Any] = DataLoader(torch.ones(batches, 1), batch_size=1)  # type: ignore[arg-type]
    trainer.fit(module, loader, DataLoader(torch.ones(1, 1)), ckpt_path=resumed, weights_only=True)  # type: ignore[arg-type]
    return module.validated


@pytest.mark.parametrize(
    ("batches", "options", "expected"),
    [
        (30, {"val_check_interval": 0.25}, [8, 15, 23, 30]),
        (8, {"val_check_interval": 0.25, "max_epochs": 2}, [2, 4, 6, 8, 10, 12, 14, 16]),
        (3, {"val_check_interval": 0.25}, [1, 2, 3]),
        (1, {"val_check_interval": 0.25}, [1]),
        (10, {"val_check_interval": 1 / 3}, [4, 7, 10]),
        (7, {"val_check_interval": 1.0, "max_epochs": 2}, [7, 14]),
        (7, {"val_check_interval": 3}, [3, 6, 7]),
        (8, {"val_check_interval": 0.5, "max_epochs": 4, "check_val_every_n_epoch": 2}, [12, 16, 28, 32]),
        (4, {"val_check_interval": 6, "max_epochs": 3, "check_val_every_n_epoch": None}, [6, 12]),
        (9, {"val_check_interval": 0.25, "limit_train_batches": 4}, [1, 2, 3, 4]),
        (9, {"val_check_interval": 1.0, "max_steps": 4}, [4]),
        (10, {"val_check_interval": 0.25, "accumulate_grad_batches": 4}, [4, 8, 10]),
        (9, {"val_check_interval": 2, "accumulate_grad_batches": 3, "max_steps": 2}, [3, 6]),
        (6, {"val_check_interval": 0.25, "fast_dev_run": True}, [1]),
    ],
)
def test_validations_are_at_even_distances_at_the_ends_of_steps_and_at_the_end(
    batches: int, options: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    assert fit(Module(), tmp_path, batches, **options) == expected


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
@pytest.mark.parametrize("after", [("batch", 4), ("batch", 7), ("validation", 5), ("validation", 8)], ids=str)
def test_a_resumed_run_validates_where_one_that_never_stopped_does(after: tuple[str, int], tmp_path: Path) -> None:
    stopped = Module()
    stopped.stop_after, stopped.path = after, tmp_path / "stopped.ckpt"
    with pytest.raises(StoppedError):
        fit(stopped, tmp_path, 10, val_check_interval=0.25)
    resumed = Module()
    resumed.batches = after[1]
    assert stopped.validated + fit(resumed, tmp_path, 10, resumed=stopped.path, val_check_interval=0.25) == [
        3,
        5,
        8,
        10,
    ]
