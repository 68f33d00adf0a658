"""The average of the weights: what it is, what is validated and kept, and how a run goes on with it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from small_training import dev_task, quiet_trainer, records
from torch import Tensor

from contrastive.encoder import Encoder
from contrastive.losses import InfoNCELoss
from contrastive.training import ContrastiveData, ContrastiveModule
from contrastive.training.callbacks import AverageWeights, FillMemory
from contrastive.training.memory import with_queue
from contrastive.training.optimization import LinearDecayAdamW

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")


def flat(module: torch.nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


class Watch(lightning.Callback):
    """Keeps the weights after each step and in each validation; may fail in a validation, or save after a step."""

    def __init__(self, fails: Path | None = None, saves: Path | None = None) -> None:
        self.fails, self.saves = fails, saves
        self.steps: list[Tensor] = []
        self.validated: list[Tensor] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        self.steps.append(flat(pl_module))
        if self.saves is not None and len(self.steps) == 3:
            trainer.save_checkpoint(self.saves)

    def on_validation_batch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        self.validated.append(flat(module))
        if self.fails is not None and len(self.steps) == 3:
            trainer.save_checkpoint(self.fails)
            raise KeyboardInterrupt


def fit(folder: Path, model: Path, watch: Watch, *, resumed: Path | None = None, **how: Any) -> ContrastiveModule:
    """Six steps, each with a validation, of a model without dropout."""
    encoder = Encoder.from_pretrained(model, fast_dropout=False)
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    memory, _ = with_queue(encoder, size=6) if how.pop("queue", False) else (None, None)
    trainer = quiet_trainer(
        folder,
        val_check_interval=1,
        max_epochs=3,
        callbacks=[FillMemory(), AverageWeights(decay=0.5), watch],
    )
    loss, optimizer = InfoNCELoss(), LinearDecayAdamW(learning_rate=3e-3)
    module = ContrastiveModule(encoder, loss, optimizer, total_steps=6, memory=memory)
    with suppress(SystemExit):  # what Lightning makes of Ctrl-C
        trainer.fit(module, ContrastiveData(records(), dev_task(), batch_size=4), ckpt_path=resumed)
    return module


@pytest.mark.parametrize("queue", [False, True])
def test_the_average_is_validated_and_left_and_training_goes_on_without_it(
    queue: bool, tiny_model_folder: Path, tmp_path: Path
) -> None:
    watch = Watch()
    module = fit(tmp_path, tiny_model_folder, watch, queue=queue)
    average, expected = watch.steps[0], [watch.steps[0]]
    for weights in watch.steps[1:]:
        average = 0.5 * average + 0.5 * weights
        expected.append(average)
    torch.testing.assert_close(watch.validated, expected)
    torch.testing.assert_close(flat(module), expected[-1])
    assert not torch.allclose(watch.steps[-1], expected[-1])


def test_checkpoints_have_the_average_and_go_on_from_the_weights_of_training(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    whole = Watch(saves=tmp_path / "third.ckpt")
    module = fit(tmp_path, tiny_model_folder, whole)
    kept = torch.load(tmp_path / "third.ckpt", weights_only=True)
    names = [name for name, _ in module.named_parameters()]
    torch.testing.assert_close(torch.cat([kept["state_dict"][name].flatten() for name in names]), whole.validated[2])
    rest = Watch()
    again = fit(tmp_path, tiny_model_folder, rest, resumed=tmp_path / "third.ckpt")
    torch.testing.assert_close(rest.steps, whole.steps[3:], rtol=0, atol=0)
    torch.testing.assert_close(rest.validated[-3:], whole.validated[3:], rtol=0, atol=0)
    torch.testing.assert_close(flat(again), flat(module), rtol=0, atol=0)


def test_a_checkpoint_from_within_a_validation_has_each_in_its_place(tiny_model_folder: Path, tmp_path: Path) -> None:
    watch = Watch(fails=tmp_path / "within.ckpt")
    module = fit(tmp_path, tiny_model_folder, watch)
    kept = torch.load(tmp_path / "within.ckpt", weights_only=True)
    names = [name for name, _ in module.named_parameters()]
    for part, expected in (("state_dict", watch.validated[2]), ("current_model_state", watch.steps[2])):
        torch.testing.assert_close(torch.cat([kept[part][name].flatten() for name in names]), expected)


def test_what_cannot_be_averaged_is_refused(tiny_model_folder: Path) -> None:
    with pytest.raises(ValueError, match="expected a decay above 0 and below 1, got 1"):
        AverageWeights(decay=1)
    encoder = Encoder.from_pretrained(tiny_model_folder, representation="tokens")
    memory, _ = with_queue(encoder, size=6)
    how = {"total_steps": 1, "memory": memory}
    module = ContrastiveModule(encoder, InfoNCELoss(similarity="max_sim"), LinearDecayAdamW(), **how)
    with pytest.raises(ValueError, match="no average of the weights beside memory=queue of token vectors"):
        AverageWeights().setup(lightning.Trainer(accelerator="cpu", logger=False), module, "fit")
