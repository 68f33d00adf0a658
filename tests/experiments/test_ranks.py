"""Which of the processes of a run is the first, and how the others end with it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from experiments.run import ranks
from experiments.run.ranks import is_first, take_part, train


class Process:
    """One that Lightning started."""

    def __init__(self) -> None:
        self.killed = False

    def kill(self) -> None:
        self.killed = True


def parts(fit: Any, *processes: Process) -> Any:
    """Return what a run trains with; `launcher.procs` is the list that Lightning's observer looks at."""
    launcher = SimpleNamespace(procs=list(processes))
    trainer = SimpleNamespace(fit=fit, strategy=SimpleNamespace(launcher=launcher))
    return SimpleNamespace(trainer=trainer, module=None, datamodule=None, checkpoint=None)


def failing(*_: object, **__: object) -> None:
    raise ArithmeticError("not finite")


@pytest.mark.parametrize(
    ("devices", "strategy", "nodes", "expected"),
    [
        (1, "auto", 1, True),
        ("1", "auto", 1, True),
        ([3], "auto", 1, True),
        (2, "ddp", 1, False),
        ([0, 1], "auto", 1, False),
        ("auto", "auto", 1, False),
        (1, "auto", 2, False),
        (1, "ddp", 1, False),
    ],
)
def test_a_task_with_a_run_of_its_own_is_the_first_of_it(
    devices: Any, strategy: str, nodes: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Slurm numbers its tasks, whether they share a run or not
    trainer = OmegaConf.create({"devices": devices, "strategy": strategy, "num_nodes": nodes})
    assert is_first(trainer) is expected
    assert (rank_zero_only.rank == 0) is expected


def test_the_first_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    assert is_first(OmegaConf.create({"devices": 2, "strategy": "ddp"}))


def test_after_training_nobody_watches_the_others() -> None:
    process = Process()
    trained = parts(lambda *_, **__: None, process)
    watched = trained.trainer.strategy.launcher.procs
    train(trained)
    assert not process.killed  # it ends by itself
    assert watched == []


def test_a_training_that_fails_leaves_no_other_process() -> None:
    process = Process()
    failed = parts(failing, process)
    watched = failed.trainer.strategy.launcher.procs
    with pytest.raises(ArithmeticError):
        train(failed)
    assert process.killed
    assert watched == []


def test_a_run_of_one_process_has_no_others() -> None:
    alone = parts(failing)
    alone.trainer.strategy.launcher = None
    with pytest.raises(ArithmeticError):
        train(alone)


def test_another_process_leaves_the_first_the_time_to_say_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "PATIENCE", 0.2)
    monkeypatch.setattr(ranks, "end_with_parent", lambda *_: None)
    began = time.monotonic()
    with pytest.raises(ArithmeticError):
        take_part(parts(failing))
    assert time.monotonic() - began > 0.2
    began = time.monotonic()
    take_part(parts(lambda *_, **__: None))
    assert time.monotonic() - began < 0.2
