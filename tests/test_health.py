from __future__ import annotations

import math

import torch

from contrastive.health import Health


def test_summary_is_the_mean_of_what_was_recorded() -> None:
    health = Health()
    health.record("a", torch.tensor([1.0, 3.0]))
    health.record("a", 5.0)
    health.record("b", torch.tensor([True, False, False, False]))
    assert health.summary() == {"a": 3.0, "b": 0.25}


def test_what_could_not_be_measured_is_left_out() -> None:
    health = Health()
    health.record("a", 1.0)
    health.record("a", math.nan)
    health.record("b", torch.empty(0))
    summary = health.summary()
    assert summary["a"] == 1
    assert math.isnan(summary["b"])


def test_nothing_keeps_a_graph() -> None:
    health = Health()
    value = torch.ones(2, requires_grad=True)
    health.record("a", value * 2)
    assert not health._sums["a"].requires_grad


def test_clear_forgets() -> None:
    health = Health()
    health.record("a", 1.0)
    health.clear()
    assert health.summary() == {}
