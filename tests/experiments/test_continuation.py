"""A run that was stopped goes on as if it never had been: with memory, new negatives, clusters, and windows of batches.

`benchmarks/kills.py` kills processes at random; here one run is stopped in a few places that matter, in this process.
"""

from __future__ import annotations

import csv
import errno
import logging
import os
import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import CompactHydraException
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from contrastive.encoder.finite import NotFiniteError
from contrastive.training.out_of_memory import OutOfMemoryError
from experiments.composing import CONFIGS
from experiments.interruptions import Interrupted, interruptible, interruption
from experiments.run import training_run
from experiments.run.checkpoints import STEPS, best_of, newest
from experiments.run.continuation import SaveToContinue
from experiments.run.run_folder import read_report

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")

EVERYTHING = [
    *("memory=queue", "memory.size=10", "memory.momentum=0.9", "trainer.accumulate_grad_batches=2"),
    *("negatives=refresh", "negatives.every_n_epochs=null", "negatives.every_n_steps=3", "negatives.count=1"),
    *("batches.clusters=2", "trainer.log_every_n_steps=2", "encoder.lora.rank=2", "optimizer.learning_rate=1e-2"),
]
"""12 rows in batches of 2: epochs of 6 batches, 3 steps."""


class StoppedError(Exception):
    """What ends a run in the middle."""


class Stop(Callback):
    """Ends the training the n-th time that it comes to a place, and notes the batches on the way."""

    def __init__(self, place: str = "", times: int = 0, error: type[Exception] = StoppedError) -> None:
        self.place, self.times, self.error = place, times, error
        self.batches: dict[tuple[int, int], list[str]] = {}

    def passes(self, place: str) -> None:
        self.times -= place == self.place
        if place == self.place and self.times == 0:
            raise self.error

    def on_train_batch_start(self, trainer: lightning.Trainer, _: Any, batch: Any, batch_idx: int) -> None:
        self.batches[trainer.current_epoch, batch_idx] = batch.queries + batch.documents

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.passes("step")

    def on_train_batch_end(self, *_: Any) -> None:
        self.passes("batch")

    def on_validation_batch_end(self, *_: Any) -> None:
        self.passes("validation")

    def on_train_end(self, trainer: lightning.Trainer, _: Any) -> None:
        self.end = trainer._checkpoint_connector.dump_checkpoint()
        self.passes("end")


Configure = Callable[..., DictConfig]


@pytest.fixture
def configure(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Compose the configuration of a tiny run, which draws nothing and writes to continue at every step."""
    monkeypatch.setattr(training_run, "present", lambda *_: None)

    def composed(*overrides: str) -> DictConfig:
        tiny = ["encoder=pretrained", f"encoder.name_or_path={tiny_model_folder}", "trainer.enable_progress_bar=false"]
        tiny += ["data.train_pairs=12", "data.dev_queries=4", "data.test_queries=4", "batch_size=2", "logger=csv"]
        tiny += ["callbacks.continuation.seconds=0", "trainer.max_epochs=2", "trainer.val_check_interval=0.5"]
        return compose_once((f"folder={tmp_path}/run", *tiny, *overrides)).copy()

    return composed


@cache
def compose_once(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def train(config: DictConfig, stop: Stop | None = None) -> Stop:
    stop = stop or Stop()
    if stop.place:
        with pytest.raises(stop.error):
            training_run.train_and_judge(config, callbacks=[stop])
    else:
        training_run.train_and_judge(config, callbacks=[stop])
    return stop


def checkpoints(config: DictConfig) -> list[str]:
    return sorted(path.name for path in (Path(config.folder) / "checkpoints").glob(STEPS))


def left(config: DictConfig) -> dict[str, Any]:
    """Return what a run left, but for times."""
    folder, report = Path(config.folder), read_report(Path(config.folder))
    with (folder / "history" / "metrics.csv").open(newline="") as file:
        history = [{name: value for name, value in row.items() if "second" not in name} for row in csv.DictReader(file)]
    model = {path.name: path.read_bytes() for path in (folder / "model").iterdir() if path.is_file()}
    numbers = {name: report[name] for name in ("systems", "dev", "monitored", "gain", "hybrid", "trained_on")}
    return {"history": history, "model": model, **numbers}


def assert_same(found: Any, expected: Any, name: str = "") -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected.keys() - {"seconds", "loops"}:
            assert_same(found[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), name
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{name}.{place}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), name
    else:
        assert found == expected, name


def test_a_run_stopped_again_and_again_ends_as_one_that_never_was(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train(config := configure(*EVERYTHING))
    expected = left(config)
    assert checkpoints(config) == []  # of no more use
    shutil.rmtree(config.folder)

    seen = {}
    for place, times in (("batch", 1), ("step", 3), ("validation", 1), ("end", 1)):
        stopped = train(
            configure(*EVERYTHING, f"resume={config.folder}" if seen else "resume=null"), Stop(place, times)
        )
        seen.update(stopped.batches)
        monkeypatch.setattr(training_run, "judge_bm25", pytest.fail)
    judge = training_run.judge_encoder
    monkeypatch.setattr(training_run, "judge_encoder", lambda *a, **b: judged.append(1) or judge(*a, **b))
    judged: list[int] = []
    last = train(configure(*EVERYTHING, f"resume={config.folder}"))
    assert judged == [1]  # after training alone
    assert {**seen, **last.batches} == straight.batches
    assert_same(last.end, straight.end)
    assert_same(left(config), expected)
    assert [entry["step"] for entry in read_report(Path(config.folder))["continued"]] == [0, 2, 2, 5]


def test_a_step_that_fails_costs_none_of_those_before_it(
    configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    rarely = [*EVERYTHING, "callbacks.continuation.seconds=1000"]
    straight = train(config := configure(*rarely))
    expected = left(config)
    shutil.rmtree(config.folder)
    # After a refresh, in the second batch of a step; then the same step again.
    stopped = train(configure(*rarely), Stop("step", 4, NotFiniteError))
    assert checkpoints(config) == ["step-000000003.ckpt"]
    again = train(configure(*rarely, "resume=x"), Stop("step", 1, OutOfMemoryError))
    assert checkpoints(config) == ["step-000000003.ckpt"]
    for how in ("on_nonfinite=skip leaves it out", "with what helps"):
        assert f"The state before this step is kept: resume=FOLDER goes on with it, {how}" in caplog.text
    last = train(configure(*rarely, "resume=x"))
    assert {**stopped.batches, **again.batches, **last.batches} == straight.batches
    assert len(last.batches) == len(straight.batches) - 6
    assert_same(last.end, straight.end)
    assert_same(left(config), expected)


def test_a_failure_that_is_not_a_steps_leaves_the_checkpoints_before(configure: Configure) -> None:
    rarely = ["before=false", "callbacks.continuation.seconds=1000"]
    for place, error in (("step", StoppedError), ("validation", NotFiniteError), ("batch", NotFiniteError)):
        train(config := configure(*rarely), Stop(place, 1, error))
        assert checkpoints(config) == []


def test_the_run_of_a_tracker_goes_on_too_and_another_begins_where_training_does(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def start(arguments: dict[str, Any], _mode: str) -> Any:
        asked.append(arguments.get("id"))
        run: Any = MagicMock(id=arguments.get("id") or f"new{len(asked)}", offline=True)
        run.settings.sync_dir = str(Path(config.folder) / "wandb" / "offline")
        return run

    monkeypatch.setattr("experiments.run.tracking._start_wandb", start)
    few = ["logger=wandb", "before=false", "trainer.max_epochs=1", "trainer.limit_val_batches=0"]
    config = configure(*few)
    for resume in ("null", "x", "null"):
        train(configure(*few, f"resume={resume}"), Stop("step", 1))
    assert asked == [None, "new1", None]


def test_best_weights_are_those_that_there_were(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.6, 0.4, 0.3, 0.2])
    falling = lambda *_, **__: SimpleNamespace(means={"ndcg@10": next(scores)})  # noqa: E731
    monkeypatch.setattr("contrastive.training.module.evaluate_rankings", falling)
    config = configure("before=false", "trainer.val_check_interval=1.0", "trainer.max_epochs=3", "data.dev_queries=4")
    monkeypatch.setattr(training_run, "dev_means", lambda *_: {})
    train(config, Stop("validation", 1))
    best = Path(config.folder) / "checkpoints" / "best.ckpt"
    assert not best.exists()
    train(
        configure("resume=x", "before=false", "trainer.val_check_interval=1.0", "trainer.max_epochs=3"),
        Stop("batch", 2),
    )
    first = best_of(newest(best.parent) or best)
    kept = torch.load(first, weights_only=True)["global_step"]
    shutil.copyfile(first.with_suffix(".ckpt"), best)  # as a later validation would
    again = configure("resume=x", "before=false", "trainer.val_check_interval=1.0", "trainer.max_epochs=3")
    train(again)
    report = read_report(Path(config.folder))["monitored"]
    assert (report["value"], report["step"]) == (pytest.approx(0.6), kept)
    assert torch.load(best, weights_only=True)["global_step"] == kept


def test_a_signal_waits_for_the_end_of_a_step_and_is_continued(configure: Configure) -> None:
    class Kill(Stop):
        def passes(self, place: str) -> None:
            self.times -= place == self.place
            if place == self.place and self.times == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    config = configure("callbacks.continuation.seconds=1000")
    with pytest.raises(BaseException) as ended, interruptible():  # noqa: PT011
        training_run.train_and_judge(config, callbacks=[Kill("step", 2)])
    found = interruption(ended.value)
    assert isinstance(found, Interrupted)
    assert found.number == signal.SIGTERM
    assert read_report(Path(config.folder))["status"] == "interrupted"
    assert checkpoints(config) == ["step-000000002.ckpt"]


def test_a_checkpoint_that_cannot_be_written_costs_nothing(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save = torch.save

    def filling(content: Any, file: Any) -> None:
        if "step-000000003" in file.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(content, file)

    monkeypatch.setattr("experiments.run.checkpoints.torch.save", filling)
    config = configure("before=false", "trainer.limit_val_batches=0", "trainer.max_epochs=1")
    train(config, Stop("step", 5))
    assert checkpoints(config) == ["step-000000002.ckpt", "step-000000004.ckpt"]
    assert "step-000000003.ckpt is not written, the run could be continued from one before: " in caplog.text


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_where_it_was_moved(
    configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure("before=false", "trainer.max_epochs=1")
    train(config, Stop("step", 5))
    folder = Path(config.folder).rename(Path(config.folder).with_name("moved"))
    latest = folder / "checkpoints" / checkpoints(configure(f"folder={folder}"))[-1]
    latest.write_bytes(latest.read_bytes()[:-1])
    with caplog.at_level(logging.INFO):
        train(configure("before=false", "trainer.max_epochs=1", f"folder={folder}", "resume=x"))
    assert f"{latest} is damaged; the one before is taken" in caplog.text
    assert f"Going on with the run in {folder}, after step 3" in caplog.text
    report = read_report(folder)
    assert report["status"] == "finished"
    assert report["monitored"]["step"] <= 6
    assert not Path(config.folder).exists()


def test_without_a_checkpoint_training_begins_anew(configure: Configure) -> None:
    once = ["before=false", "trainer.max_epochs=1"]
    config = configure(*once, "callbacks.continuation.seconds=1000")
    train(config, Stop("step", 2))
    resumed = train(configure(*once, "resume=x"), Stop("end", 1))
    report = read_report(Path(config.folder))
    assert report["continued"] == [{"step": 0, "command": None}]
    straight = train(configure(*once), Stop("end", 1))  # anew, in the same folder
    assert "continued" not in read_report(Path(config.folder))
    assert_same(resumed.end, straight.end)


def test_a_run_does_not_go_on_with_other_data(configure: Configure) -> None:
    train(configure("before=false"), Stop("step", 2))
    with pytest.raises(CompactHydraException, match=r"the data that the run in .* began with, pairs 12, got 13"):
        training_run.train_and_judge(configure("before=false", "resume=x", "data.train_pairs=13"))


def test_writing_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    callback, now = SaveToContinue(tmp_path, seconds=10), [0.0]
    monkeypatch.setattr("experiments.run.continuation.time.monotonic", lambda: now[0])
    for seconds, took, due in ((9, 0, False), (10, 0, True), (30, 2, False), (40, 2, True)):
        now[0], callback._took = seconds, took
        assert callback._is_due() == due
