"""Reports at stages of the training, and the end of a run that falls behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch

from experiments.run.callbacks import NotWorthFinishing
from experiments.tune.pruning import ReportToTrial

MONITOR = "dev/ndcg@10"


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=1))


def validate(callback: ReportToTrial, value: float, step: int, total_steps: int) -> None:
    trainer: Any = SimpleNamespace(callback_metrics={MONITOR: torch.tensor(value)}, global_step=step)
    module: Any = SimpleNamespace(total_steps=total_steps)
    callback.on_validation_end(trainer, module)


def test_stages_are_shares_of_the_training_whatever_the_batch_size(study: optuna.Study) -> None:
    long, short = study.ask(), study.ask()
    callback = ReportToTrial(long, MONITOR, stages=4)
    for step in (7, 14, 21, 28):  # of 30: Lightning rounds a quarter of an epoch down
        validate(callback, step / 100, step, 30)
    callback = ReportToTrial(short, MONITOR, stages=4)
    for step in (3, 6, 9, 12, 15):
        validate(callback, step / 100, step, 15)
    first, second = study.trials
    assert first.intermediate_values == pytest.approx({1: 0.07, 2: 0.14, 3: 0.21, 4: 0.28})
    assert second.intermediate_values == pytest.approx({1: 0.03, 2: 0.06, 3: 0.12, 4: 0.15})


def test_what_falls_behind_ends_and_what_is_done_does_not(study: optuna.Study) -> None:
    good = study.ask()
    for stage in (1, 2, 3, 4):
        validate(ReportToTrial(good, MONITOR, stages=4), 0.5, stage, 4)
    study.tell(good, 0.5)
    callback = ReportToTrial(study.ask(), MONITOR, stages=4)
    validate(callback, 0.6, 1, 4)
    late = ReportToTrial(study.ask(), MONITOR, stages=4)
    validate(late, 0.1, 4, 4)
    bad = study.ask()
    with pytest.raises(NotWorthFinishing, match=r"at stage 2 of 4, dev/ndcg@10 0\.1000"):
        validate(ReportToTrial(bad, MONITOR, stages=4), 0.1, 2, 4)
    assert study.trials[bad.number].intermediate_values == {2: pytest.approx(0.1)}


def test_a_trial_that_goes_on_has_the_reports_of_the_one_that_was_cut_off(study: optuna.Study) -> None:
    whole, cut_off, again = (ReportToTrial(study.ask(), MONITOR, stages=4) for _ in range(3))
    for step, value in enumerate((0.3, 0.4, 0.2, 0.5), start=1):
        validate(whole, value, step, 4)
        validate(cut_off if step < 3 else again, value, step, 4)
        if step == 2:
            again.load_state_dict(cut_off.state_dict())
            validate(again, 0.9, 2, 4)  # of a stage that was reported
    assert study.trials[2].intermediate_values == study.trials[0].intermediate_values
    assert len(study.trials[0].intermediate_values) == 4


def test_a_value_that_is_no_number_is_not_reported(study: optuna.Study) -> None:
    trial = study.ask()
    validate(ReportToTrial(trial, MONITOR, stages=4), float("nan"), 1, 4)
    assert study.trials[0].intermediate_values == {}


def test_a_metric_that_nobody_logs_is_said(study: optuna.Study) -> None:
    with pytest.raises(ValueError, match=r"expected callbacks\.checkpoint\.monitor to be one of dev/ndcg@10, got x"):
        validate(ReportToTrial(study.ask(), "x", stages=4), 0.5, 1, 4)
