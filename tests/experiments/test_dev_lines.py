"""What the dev curve is held against, and what a run says of a training that made it worse."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from small_training import dev_task

from contrastive.data import TextData
from contrastive.encoder import Encoder
from contrastive.evaluation import bm25_rankings, evaluate_rankings, rank
from experiments.evaluate.judging import judge_bm25
from experiments.run.dev_lines import DrawLines, dev_means, draw_lines, say_if_worse


class Logger:
    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((metrics, step))


def parts(encoder: Any, **trainer: Any) -> Any:
    trainer = {
        "limit_val_batches": 1.0,
        "is_global_zero": True,
        "progress_bar_callback": None,
        "strategy": SimpleNamespace(root_device="cpu"),
        "callbacks": ["last"],
        "loggers": [Logger()],
        **trainer,
    }
    task = dev_task()
    judged = replace(task, name="test", qrels=dict.fromkeys(task.queries, task.qrels["q0"]))
    return SimpleNamespace(
        checkpoint=None,
        data=TextData("mine", dev=task),
        task=judged,
        encoder=encoder,
        trainer=SimpleNamespace(**trainer),
        cache=None,
    )


def test_bm25_and_the_untuned_encoder_are_measured_on_dev_once(tiny_encoder: Encoder) -> None:
    run = parts(tiny_encoder)
    judged = {name: judge_bm25(run.task, "nurse") for name in ("BM25", "before")}  # on another task: of no use
    means = dev_means(run, "nurse", judged)
    dev = run.data.dev
    assert means["BM25"] == evaluate_rankings(bm25_rankings(dev), dev).means
    assert means["untuned"] == evaluate_rankings(rank(tiny_encoder, dev), dev).means
    of_dev = {"BM25": judge_bm25(dev, "nurse"), "before": judge_bm25(dev, "nurse")}
    run.task, run.encoder = dev, None  # not needed
    assert dev_means(run, "nurse", of_dev)["untuned"] == means["BM25"]


@pytest.mark.parametrize("change", [{"limit_val_batches": 0}, {"is_global_zero": False}], ids=str)
def test_nothing_is_measured_where_nothing_is_validated_or_another_process_does(change: dict[str, Any]) -> None:
    run = parts(None, **change)
    assert dev_means(run, "nurse", {}) == {}
    draw_lines(run, {})
    assert run.trainer.loggers[0].logged == []
    assert run.trainer.callbacks == ["last"]


def test_lines_start_the_history_and_come_with_every_validation() -> None:
    run = parts(None)
    draw_lines(run, {"BM25": {"ndcg@10": 0.5, "map": 0.1}, "untuned": {"ndcg@10": 0.4, "map": 0.2}})
    lines = {"dev/bm25_ndcg@10": 0.5, "dev/untuned_ndcg@10": 0.4}
    assert run.trainer.loggers[0].logged == [({"dev/ndcg@10": 0.4, "dev/map": 0.2, **lines}, 0)]
    callback, _ = run.trainer.callbacks
    assert isinstance(callback, DrawLines)
    assert callback.values == lines


@pytest.mark.parametrize(
    ("value", "lower", "warned"), [(0.35, False, True), (0.45, False, False), (0.4, False, False), (0.45, True, True)]
)
def test_a_training_that_made_it_worse_is_said_to(
    value: float, lower: bool, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    monitored = {"metric": "dev/map", "value": value}
    say_if_worse(monitored, {"untuned": {"map": 0.4}}, lower=lower)
    assert monitored["untuned"] == 0.4
    assert ("Training made it worse on dev: map was 0.400 before the first step and at best" in caplog.text) == warned


def test_nothing_is_said_of_a_metric_that_is_not_of_dev(caplog: pytest.LogCaptureFixture) -> None:
    for monitored in (None, {"metric": "train/loss", "value": 1.0}):
        say_if_worse(monitored, {"untuned": {"map": 0.4}}, lower=False)
    assert caplog.text == ""
