"""Windows of several batches: their gradient is a mean, and a checkpoint claims no more than its weights have seen."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from small_training import quiet_trainer, records
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from contrastive.data import Batch
from contrastive.encoder import Encoder
from contrastive.losses import InfoNCELoss
from contrastive.training import ContrastiveData, ContrastiveModule
from contrastive.training.accumulation import batches_of_steps
from contrastive.training.optimization import LinearDecayAdamW

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")


class StoppedError(Exception):
    """What ends a run in the middle."""


class Windows(lightning.Callback):
    """Compares each step's gradient with the mean over the batches of its window; may save and stop in the middle."""

    def __init__(self, stop_after: int = -1, path: Path | None = None) -> None:
        self.stop_after = stop_after
        self.path = path
        self.seen: list[list[str]] = []
        self.window: list[Batch] = []
        self.sizes: list[int] = []

    def on_train_batch_start(self, *hook: Any) -> None:
        self.window.append(hook[2])

    def on_before_optimizer_step(self, *hook: Any) -> None:
        module: ContrastiveModule = hook[1]
        found = flat([parameter.grad for parameter in trained(module)])
        losses = [module.loss(*module.encoder.embed_sides(b.queries, b.documents)) for b in self.window]
        wanted = flat(torch.autograd.grad(torch.stack(losses).mean(), trained(module)))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        self.sizes.append(len(self.window))
        self.window = []

    def on_train_batch_end(self, trainer: lightning.Trainer, *hook: Any) -> None:
        self.seen.append(hook[2].queries)
        if len(self.seen) == self.stop_after:
            trainer.save_checkpoint(self.path)
            raise StoppedError


def trained(module: ContrastiveModule) -> list[torch.nn.Parameter]:
    return [parameter for parameter in module.encoder.parameters() if parameter.requires_grad]


def flat(gradients: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


class UnknownLength(ContrastiveData):
    """Serves five batches and does not say how many."""

    def train_dataloader(self) -> Any:
        class Rows(IterableDataset[list[int]]):
            def __iter__(self) -> Any:
                return iter([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]])

        return DataLoader(Rows(), batch_size=None)


def train(
    folder: Path, windows: Windows, tmp_path: Path, kind: type[ContrastiveData] = ContrastiveData, **options: Any
) -> ContrastiveModule:
    """Ten pairs in batches of two, without dropout, in windows of three batches."""
    lightning.seed_everything(0, verbose=False)
    resumed = options.pop("resumed", None)
    trainer = quiet_trainer(
        tmp_path,
        callbacks=[windows],
        **{"accumulate_grad_batches": 3, "max_epochs": 2, **options},
    )
    encoder = Encoder.from_pretrained(folder, normalize=True)
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    module = ContrastiveModule(encoder, InfoNCELoss(), LinearDecayAdamW(learning_rate=3e-3), total_steps=4)
    with suppress(StoppedError):
        trainer.fit(module, kind(records(10), None, batch_size=2), ckpt_path=resumed, weights_only=True)
    return module


@pytest.mark.parametrize(
    ("kind", "options", "sizes"),
    [
        (ContrastiveData, {}, [3, 2, 3, 2]),
        (ContrastiveData, {"limit_train_batches": 4}, [3, 1, 3, 1]),
        (ContrastiveData, {"limit_train_batches": 0.4}, [2, 2]),
        (ContrastiveData, {"max_steps": 3}, [3, 2, 3]),
        (UnknownLength, {}, [3, 2, 3, 2]),
    ],
    ids=["short end", "number", "share", "steps", "unknown length"],
)
def test_the_gradient_of_a_step_is_the_mean_over_its_batches(
    kind: type[ContrastiveData], options: dict[str, Any], sizes: list[int], tiny_model_folder: Path, tmp_path: Path
) -> None:
    windows = Windows()
    train(tiny_model_folder, windows, tmp_path, kind, **options)
    assert windows.sizes == sizes


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5, 7])
def test_a_run_resumed_from_inside_a_window_ends_like_one_that_never_stopped(
    stop_after: int, tiny_model_folder: Path, tmp_path: Path
) -> None:
    straight, stopped, resumed = Windows(), Windows(stop_after, tmp_path / "stopped.ckpt"), Windows()
    wanted = train(tiny_model_folder, straight, tmp_path).state_dict()
    train(tiny_model_folder, stopped, tmp_path)
    found = train(tiny_model_folder, resumed, tmp_path, resumed=tmp_path / "stopped.ckpt").state_dict()
    whole = {1: 0, 3: 3, 4: 3, 5: 5, 7: 5}[stop_after]
    assert stopped.seen == straight.seen[:stop_after]
    assert stopped.seen[:whole] + resumed.seen == straight.seen
    assert stopped.sizes + resumed.sizes == straight.sizes == [3, 2, 3, 2]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_batch_that_was_begun_does_not_end_its_window() -> None:
    assert batches_of_steps(5, 4, accumulate=3, is_last=True) == 3
    assert batches_of_steps(7, 6, accumulate=3, is_last=False) == 6
