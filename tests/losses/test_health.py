"""The accumulator, and that every loss fills it: always the same, at no cost but elementwise work."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import all_losses
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from contrastive.losses.core import blocks
from contrastive.losses.core.health import Health
from contrastive.losses.core.signature import parameters_of

every_loss = pytest.mark.parametrize(("name", "options"), all_losses.SETTINGS, ids=str)


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


def batch(num_queries: int, num_keys: int) -> dict[str, Tensor]:
    """What a loss may be given; queries 0 and 1 know each other's positive."""
    generator = torch.Generator().manual_seed(0)
    exclude = torch.zeros(num_queries, num_keys, dtype=torch.bool)
    exclude[0, 1] = exclude[1, 0] = True
    return {
        "queries": torch.randn(num_queries, 6, generator=generator),
        "keys": torch.randn(num_keys, 6, generator=generator),
        "owners": torch.arange(num_keys) % num_queries,
        "exclude": exclude,
        "weights": torch.rand(num_queries, generator=generator) + 0.5,
        "targets": (torch.arange(num_queries) % 2).float(),
        "teacher_scores": torch.randn(num_queries, num_keys // num_queries, generator=generator),
        "guide_queries": torch.randn(num_queries, 4, generator=generator),
        "guide_keys": torch.randn(num_keys, 4, generator=generator),
    }


def judge(loss: nn.Module, given: dict[str, Tensor], **more: Any) -> Tensor:
    """Call a loss with what it takes; a loss of pairs with as many on the right."""
    takes = parameters_of(loss)
    queries, keys = given["queries"], given["keys"]
    if "owners" not in takes:
        keys = keys[: len(queries)]
    arguments = {name: given[name] for name in takes if name in given and name not in ("queries", "keys")}
    return loss(queries, keys, **arguments, **more)


def expected_names(name: str, options: dict[str, Any]) -> set[str]:
    """What the training log is to show of a loss."""
    name, options = all_losses.innermost(name, options)
    if name in ("ContrastiveLoss", "OnlineContrastiveLoss"):
        return {"positive_distance", "negative_distance", "active_share"}
    if name == "TripletLoss":
        return {"positive_distance", "negative_distance", "active_share", "excluded_share", "unanswered"}
    if name in ("CoSENTLoss", "AnglELoss"):
        return {"positive_similarity", "negative_similarity", "temperature", "unanswered"}
    names = {"positive_similarity", "negative_similarity", "temperature", "excluded_share", "unanswered"}
    return names | {"agreement" if name in ("MarginMSELoss", "DistillKLLoss") else "effective_negatives"}


@every_loss
def test_every_loss_fills_it_and_is_not_changed_by_it(name: str, options: dict[str, Any]) -> None:
    loss, given, health = all_losses.make(name, options), batch(5, 10), Health()
    value = judge(loss, given)
    torch.testing.assert_close(judge(loss, given, health=health), value)
    summary = health.summary()
    assert summary.keys() == expected_names(name, options)
    assert not any(math.isnan(number) for number in summary.values())
    inner = loss.loss if name == "MatryoshkaLoss" else loss
    if "temperature" in summary:
        assert summary["temperature"] == pytest.approx(torch.as_tensor(inner.temperature).item())


@every_loss
def test_filling_it_asks_nothing_of_the_device(name: str, options: dict[str, Any]) -> None:
    """A fake tensor has no values: reading one, or a shape that depends on one, raises; on a GPU it would wait.

    But for distances, whose close pairs are looked for on a CPU; test_cuda has what a GPU does.
    """
    if "euclidean" in options.values():
        pytest.skip("distances look at their values on a CPU")
    with FakeTensorMode() as mode:
        loss = all_losses.make(name, options)
        given = {key: mode.from_tensor(value) for key, value in batch(5, 10).items()}
        given["queries"].requires_grad_()
        value = judge(loss, given, health=Health())
        value.backward()
        with pytest.raises(DataDependentOutputException):
            value.item()


@pytest.mark.parametrize(
    ("name", "options"), [each for each in all_losses.SETTINGS if each[0] not in all_losses.DENSE], ids=str
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_blocks_tell_what_the_whole_tells(
    name: str, options: dict[str, Any], reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LEAST_ROWS", 32)
    monkeypatch.setattr(blocks, "BLOCK_SCORES", 1)
    options, given = {**options, "reduction": reduction}, batch(100, 200)
    summaries, pieces = [], []
    for tiled in (False, True):
        loss, health = all_losses.make(name, {**options, "tiled": tiled}), Health()
        with mock.patch.object(health, "record", wraps=health.record) as record:
            judge(loss, given, health=health)
        pieces.append(len(record.mock_calls))
        summaries.append(health.summary())
    assert pieces[1] >= 2 * pieces[0]
    assert summaries[1] == pytest.approx(summaries[0], rel=1e-4, abs=1e-6)
