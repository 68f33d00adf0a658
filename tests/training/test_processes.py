"""Lightning's `ddp` on 2 and 3 processes ends with the weights of one: adapters, frozen layers, unused ones, tokens.

Float64 and plain SGD without dropout, so that what is left is rounding: 1e-9 at most, in weights of about 1. With
dropout and AdamW, 2 processes that were stopped and go on end with the weights of those that nobody stopped.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch.callbacks import Callback
from small_training import dev_task, quiet_trainer, with_negatives
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from contrastive.encoder import Encoder
from contrastive.encoder.adapters import LoRA
from contrastive.losses import InfoNCELoss
from contrastive.training import ContrastiveData, ContrastiveModule
from contrastive.training.callbacks import FillMemory
from contrastive.training.memory import with_queue
from contrastive.training.optimization import LinearDecayAdamW
from experiments.run.checkpoints import WholeCheckpoints, newest
from experiments.run.continuation import SaveToContinue

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")

CASES: dict[str, dict[str, Any]] = {
    "lora": {"lora": LoRA(rank=2)},
    "frozen": {"frozen_layers": 1},
    "unused": {},
    "tokens": {"representation": "tokens"},
}


def sgd(encoder: nn.Module, loss: nn.Module, total_steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:  # noqa: ARG001
    trained = [each for each in (*encoder.parameters(), *loss.parameters()) if each.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9)
    return optimizer, LambdaLR(optimizer, lambda _: 1.0)


class Rows(Callback):
    """Notes the queries of each batch that this process has."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def on_train_batch_start(self, _: Any, __: Any, batch: Any, ___: int) -> None:
        self.batches.append(list(batch.queries))


def trained(case: str, model: Path, folder: Path, ranks: int) -> dict[str, Any]:
    """Train on batches of 4, 4 and 1 rows with 0 to 2 hard negatives each and a queue, twice."""
    torch.manual_seed(0)
    encoder = Encoder.from_pretrained(model, **CASES[case]).double()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "lora_B"):
            nn.init.normal_(module.lora_B["default"].weight)  # zero at first, which stops the gradient of the other
    if case == "unused":
        encoder.register_parameter("extra", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    memory, _ = with_queue(encoder, size=6)
    loss = InfoNCELoss(symmetric=True, learnable_temperature=True, **similarity(case))
    strategy = "ddp_find_unused_parameters_true" if case == "unused" else "ddp"
    rows = Rows()
    trainer = quiet_trainer(
        folder,
        devices=ranks,
        strategy="auto" if ranks == 1 else strategy,
        use_distributed_sampler=False,
        max_epochs=2,
        gradient_clip_val=1.0,
        callbacks=[FillMemory(), rows],
    )
    data = ContrastiveData(with_negatives(9), dev_task(), batch_size=4)
    module_ = ContrastiveModule(encoder, loss.double(), sgd, total_steps=6, memory=memory.double())  # type: ignore[arg-type]
    trainer.fit(module_, data)
    state = {name: value for name, value in module_.state_dict().items() if isinstance(value, torch.Tensor)}
    return {"state": state, "metrics": trainer.callback_metrics, "rows": rows.batches}


def similarity(case: str) -> dict[str, Any]:
    return {"similarity": "max_sim"} if case == "tokens" else {}


def on_rank(rank: int, ranks: int, port: int, model: Path, folder: Path) -> None:
    """Be one of the processes that torchrun would start."""
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test")
    found = {case: trained(case, model, folder, ranks) for case in CASES}
    if ranks == 2:
        found |= {name: {"state": stopped(rank, model, folder / name, name == "stopped")} for name in STOPPED}
    torch.save(found, folder / f"{rank}.pt")


STOPPED = ("straight", "stopped")


class Stop(Callback):
    """Ends the training of all processes in the middle of the 4th step."""

    def on_before_optimizer_step(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            raise StoppedError


class StoppedError(Exception):
    """What ends a run in the middle."""


def stopped(rank: int, model: Path, folder: Path, is_stopped: bool) -> dict[str, torch.Tensor]:
    """Train with dropout that differs between the processes, and go on if it is stopped."""
    for stop in [Stop()] * is_stopped + [None]:
        torch.manual_seed(rank)
        encoder = Encoder.from_pretrained(model)
        memory, _ = with_queue(encoder, size=6)
        trainer = quiet_trainer(
            folder,
            devices=2,
            strategy="ddp",
            use_distributed_sampler=False,
            max_epochs=2,
            plugins=[WholeCheckpoints()],
            callbacks=[FillMemory(), SaveToContinue(folder / "checkpoints", seconds=0), *([stop] if stop else [])],
        )
        data = ContrastiveData(with_negatives(9), None, batch_size=4)
        module = ContrastiveModule(
            encoder, InfoNCELoss(learnable_temperature=True), LinearDecayAdamW(1e-3), total_steps=6, memory=memory
        )
        checkpoint = newest(folder / "checkpoints")
        assert (checkpoint is None) == (stop is not None or not is_stopped)
        with suppress(StoppedError):
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def alone(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {case: trained(case, tiny_model_folder, tmp_path_factory.mktemp("alone"), 1) for case in CASES}


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_processes_end_with_the_weights_of_one(
    ranks: int, alone: dict[str, Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    mp.spawn(on_rank, args=(ranks, free_port(), tiny_model_folder, tmp_path), nprocs=ranks)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(ranks)]
    for case, one in alone.items():
        start = Encoder.from_pretrained(tiny_model_folder, **CASES[case]).double().state_dict()
        for of_rank in (each[case] for each in found):
            torch.testing.assert_close(of_rank["state"], one["state"], rtol=0, atol=1e-9)
            assert of_rank["metrics"].keys() == one["metrics"].keys()
            for name, value in one["metrics"].items():
                torch.testing.assert_close(of_rank["metrics"][name], value, rtol=1e-6, atol=1e-7)
        moved = [name for name in start if not torch.equal(start[name], one["state"][f"encoder.{name}"])]
        assert moved
        assert all("layer.0." not in name for name in moved) or case != "frozen"
        shares = zip(*(each[case]["rows"] for each in found), strict=True)
        assert [[row for share in batch for row in share] for batch in shares] == one[
            "rows"
        ]  # none twice, none left out
    for each in found if ranks == 2 else ():
        straight, again = (each[name]["state"] for name in STOPPED)
        torch.testing.assert_close(again, straight, rtol=0, atol=0)
