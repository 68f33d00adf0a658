"""The three log-sums of a row: their values, their gradients, and both where floating point has little left."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from contrastive.losses.core.choice import record_rows
from contrastive.losses.core.health import Health
from contrastive.losses.core.log_sums import LogSums, log_sums


def info_nce(statistics: LogSums) -> Tensor:
    return torch.where(statistics.answered, torch.logaddexp(statistics.positives, statistics.negatives), 0)


def random_logits(rows: int = 4, columns: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 5),
    scale=st.floats(0.1, 400),
    seed=st.integers(0, 999),
    weighted=st.booleans(),
)
def test_equals_its_definition_in_value_and_gradient(
    rows: int, columns: int, scale: float, seed: int, weighted: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.rand(rows, columns, generator=generator, dtype=torch.float64) * 2 - 1).mul(scale).requires_grad_()
    positive = torch.rand(rows, columns, generator=generator) < 0.4
    negative = torch.rand(rows, columns, generator=generator) < 0.6
    weights = torch.randint(0, 3, (rows, columns), generator=generator).double() if weighted else None
    found = log_sums(logits, positive, ~negative, None if weights is None else weights.log())
    counted = negative & ~positive
    if weights is not None:
        counted &= weights > 0
    assert found.answered.tolist() == (positive.any(1) & counted.any(1)).tolist()
    for i in found.answered.nonzero()[:, 0]:
        target = logits[i][positive[i]].mean()
        of_positives = logits[i][positive[i]].logsumexp(0) - target
        log_weights = weights[i][counted[i]].log() if weights is not None else 0
        of_negatives = (logits[i][counted[i]] + log_weights).logsumexp(0) - target
        for ours, theirs in (
            (found.target[i], target),
            (found.positives[i], of_positives),
            (found.negatives[i], of_negatives),
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
            slopes = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (ours, theirs)]
            torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("columns", [2, 6])
@pytest.mark.parametrize("masked", [False, True])
def test_an_index_says_the_same_as_a_mask_with_one_positive_a_row(columns: int, masked: bool) -> None:
    logits = random_logits(4, columns).requires_grad_()
    before = logits.detach().clone()
    index = torch.tensor([1, 0, 1, 1])
    positive = torch.zeros(4, columns, dtype=torch.bool).scatter(1, index[:, None], value=True)
    left_out = torch.rand(4, columns, generator=torch.Generator().manual_seed(5)) >= 0.7 if masked else None
    by_index, by_mask = log_sums(logits, index, left_out), log_sums(logits, positive, left_out)
    assert by_index.answered.equal(by_mask.answered)
    for part in ("target", "positives", "negatives"):
        ours, theirs = getattr(by_index, part)[by_index.answered], getattr(by_mask, part)[by_index.answered]
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
        if part != "positives":  # which are 0, without a gradient
            slopes = [torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (ours, theirs)]
            torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-13)
    assert by_index.positives.eq(0).all()
    assert logits.equal(before)


def test_is_the_cross_entropy_of_the_one_positive() -> None:
    logits = random_logits()
    statistics = log_sums(logits, torch.arange(4))
    torch.testing.assert_close(info_nce(statistics), cross_entropy(logits, torch.arange(4), reduction="none"))
    assert statistics.answered.all()


@pytest.mark.parametrize("as_mask", [False, True])
def test_gradients_are_those_of_finite_differences(as_mask: bool) -> None:
    positive = torch.eye(4, 6, dtype=torch.bool) if as_mask else torch.arange(4)
    if as_mask:
        positive[0, 3] = positive[2, 5] = True
    left_out = torch.rand(4, 6, generator=torch.Generator().manual_seed(2)) >= 0.8
    log_weights = torch.tensor([0.0, 1.0, -2.0, 0.5, -math.inf, 3.0])

    def all_three(logits: Tensor) -> tuple[Tensor, ...]:
        found = log_sums(logits, positive, left_out, log_weights)
        return found.target, found.positives, found.negatives

    assert torch.autograd.gradcheck(all_three, random_logits().requires_grad_())


def test_log_weights_have_no_gradient() -> None:
    log_weights = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    logits = random_logits().requires_grad_()
    value = log_sums(logits, torch.arange(4), None, log_weights).negatives.sum()
    assert torch.autograd.grad(value, log_weights, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(value, logits)[0].any()


def test_twice_differentiating_is_refused() -> None:
    logits = random_logits().requires_grad_()
    (first,) = torch.autograd.grad(info_nce(log_sums(logits, torch.arange(4))).sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="expected a first derivative, got a second"):
        first.square().sum().backward()


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_row_without_candidates_has_zero_value_and_zero_gradient() -> None:
    """What stands in for its log-sums is finite, so that a 0 further on stays a 0; no NaN on the way either."""
    logits = torch.zeros(2, 3, requires_grad=True)
    positive = torch.tensor([[True, False, False], [False, False, False]])
    with torch.autograd.detect_anomaly(check_nan=True):
        statistics = log_sums(logits, positive, ~positive)
        assert statistics.answered.tolist() == [False, False]
        for part in (statistics.target, statistics.positives, statistics.negatives):
            assert part.isfinite().all()
        info_nce(statistics).sum().backward()
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


def test_row_of_no_negatives_has_no_softmax_over_them() -> None:
    logits = torch.tensor([[3.0, 7.0, 5.0]], requires_grad=True)
    statistics = log_sums(logits, torch.tensor([0]), torch.ones(1, 3, dtype=torch.bool))
    assert statistics.negatives.abs() < 10  # of the size of a logit, whatever is done with it
    (gradient,) = torch.autograd.grad(statistics.negatives.sum(), logits)
    assert gradient.tolist() == [[-1, 0, 0]]  # of the target that it is relative to


def test_negative_of_weight_0_is_none_even_if_it_is_the_only_one() -> None:
    logits = random_logits(2, 2).requires_grad_()
    log_weights = torch.tensor([0.0, -math.inf])
    statistics = log_sums(logits, torch.tensor([0, 1]), None, log_weights)
    assert statistics.answered.tolist() == [False, True]
    (gradient,) = torch.autograd.grad(info_nce(statistics).sum(), logits)
    assert gradient[0].eq(0).all()
    assert gradient.isfinite().all()


def test_empty_blocks_are_unanswered() -> None:
    for shape in ((0, 3), (0, 0), (2, 0)):
        logits = torch.zeros(shape, requires_grad=True)
        statistics = log_sums(logits, torch.zeros(shape, dtype=torch.bool))
        assert statistics.answered.tolist() == [False] * shape[0]
        assert info_nce(statistics).sum().requires_grad


def test_unanswered_row_does_not_disturb_its_neighbours() -> None:
    logits = random_logits(3, 3).requires_grad_()
    left_out = torch.zeros(3, 3, dtype=torch.bool)
    left_out[1] = True
    statistics, whole = log_sums(logits, torch.arange(3), left_out), log_sums(logits, torch.arange(3))
    assert statistics.answered.tolist() == [True, False, True]
    assert info_nce(statistics)[[0, 2]].equal(info_nce(whole)[[0, 2]])
    (gradient,) = torch.autograd.grad(info_nce(statistics).sum(), logits)
    assert gradient[1].eq(0).all()
    assert gradient[0].ne(0).all()


POSITIVES: list[Callable[[], Tensor]] = [lambda: torch.tensor([0]), lambda: torch.tensor([[True, False, False]])]


@pytest.mark.parametrize("positive", POSITIVES, ids=["index", "mask"])
def test_hopeless_pair_keeps_its_full_gradient_at_a_low_temperature(positive: Callable[[], Tensor]) -> None:
    """exp(-400) is 0 in float32: a probability, divided and logged, would have lost the gradient."""
    scores = torch.tensor([[-1.0, 1.0, 0.0]], requires_grad=True)
    losses = info_nce(log_sums(scores / 0.005, positive()))
    torch.testing.assert_close(losses, torch.tensor([400.0]))
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    torch.testing.assert_close(gradient, torch.tensor([[-200.0, 200.0, 0.0]]))


@pytest.mark.parametrize("positive", POSITIVES, ids=["index", "mask"])
def test_logits_beyond_the_range_of_exp_are_shifted_first(positive: Callable[[], Tensor]) -> None:
    logits = torch.tensor([[5e4, 5e4 - 3, 4e4]], requires_grad=True)
    losses = info_nce(log_sums(logits, positive()))
    torch.testing.assert_close(losses, torch.tensor([math.log1p(math.exp(-3))]), rtol=1e-5, atol=0)
    low = info_nce(log_sums(logits - 1e5, positive()))
    torch.testing.assert_close(low, losses, rtol=1e-5, atol=0)


def test_pair_all_but_found_keeps_its_small_loss_and_gradient() -> None:
    """Far from 0 float32 is coarse: log-sum-exp of logits near 200 is right to 1.5e-5 only, ten times this loss."""
    scores = torch.tensor([[1.0, 0.93]], requires_grad=True)
    losses = info_nce(log_sums(scores / 0.005, torch.tensor([0])))
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    precise = scores.detach().double().requires_grad_()
    expected = cross_entropy(precise / 0.005, torch.tensor([0]))
    torch.testing.assert_close(losses.double(), expected[None], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        gradient.double(), torch.autograd.grad(expected, precise)[0], rtol=1e-4, atol=200 * 1.2e-7
    )


@pytest.mark.parametrize("positive", POSITIVES, ids=["index", "mask"])
def test_excluded_logits_however_large_do_not_cost_precision(positive: Callable[[], Tensor]) -> None:
    logits = torch.tensor([[200.0, 186.0, 1e8]])
    kept = info_nce(log_sums(logits, positive(), torch.tensor([[False, False, True]])))
    torch.testing.assert_close(kept, info_nce(log_sums(logits[:, :2], torch.tensor([0]))), rtol=1e-6, atol=0)


def test_health_is_what_the_masks_say() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.2, 0.6], [0.0, 0.5, -0.4, 0.3], [0.0, 0.0, 0.7, 0.0]])
    positive = torch.eye(3, 4, dtype=torch.bool)
    exclude = torch.zeros(3, 4, dtype=torch.bool)
    exclude[0, 3] = exclude[0, 0] = True
    exclude[2] = True
    health = Health()
    record_rows(health, scores / 0.25, 0.25, positive, ~positive, ~positive & ~exclude)
    shares = [torch.tensor(row).div(0.25).softmax(0) for row in ([0.1, 0.2], [0.0, -0.4, 0.3])]
    expected = {
        "positive_similarity": (0.9 + 0.5 + 0.7) / 3,
        "negative_similarity": (0.1 + 0.2 + 0.0 - 0.4 + 0.3) / 5,
        "temperature": 0.25,
        "excluded_share": 4 / 9,
        "unanswered": 1 / 3,
        "effective_negatives": sum(math.exp(-(share * share.log()).sum()) for share in shares) / 2,
    }
    assert health.summary() == pytest.approx(expected)
