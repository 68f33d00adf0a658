from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contrastive.health import Health
from contrastive.logits import masked_mean, softmax_rows
from contrastive.masks import Mask, diagonal, everything, from_tensor
from contrastive.similarity import dot


def rows_of(scores: Tensor, positives: Mask, negatives: Mask | None = None, **given: object) -> tuple[Tensor, Tensor]:
    """Make the scores be what is given: queries times the identity."""
    given = {"temperature": 1.0} | given
    keys = torch.eye(scores.shape[1], dtype=scores.dtype)
    return softmax_rows(scores, keys, similarity=dot, positives=positives, negatives=negatives or everything(), **given)


def test_is_the_cross_entropy_of_the_one_positive() -> None:
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses, answered = rows_of(scores, diagonal(), temperature=0.3)
    expected = torch.nn.functional.cross_entropy(scores / 0.3, torch.arange(4), reduction="none")
    torch.testing.assert_close(losses, expected)
    assert answered.all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_row_without_candidates_has_zero_value_and_zero_gradient() -> None:
    scores = torch.zeros(2, 3, requires_grad=True)
    positives = from_tensor(torch.tensor([[True, False, False], [False, False, False]]))
    losses, answered = rows_of(scores, positives, positives)
    assert answered.tolist() == [False, False]
    assert losses.tolist() == [0, 0]
    with torch.autograd.detect_anomaly(check_nan=True):  # no NaN on the way either
        rows_of(scores, positives, positives)[0].sum().backward()
    assert scores.grad is not None
    assert scores.grad.eq(0).all()


def test_unanswered_row_does_not_disturb_its_neighbours() -> None:
    scores = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    exclude = torch.zeros(3, 3, dtype=torch.bool)
    exclude[1] = True
    losses, answered = rows_of(scores, diagonal(), exclude=from_tensor(exclude))
    whole, _ = rows_of(scores, diagonal())
    assert answered.tolist() == [True, False, True]
    assert losses[[0, 2]].equal(whole[[0, 2]])
    losses.sum().backward()
    assert scores.grad is not None
    assert scores.grad[1].eq(0).all()
    assert scores.grad[0].ne(0).all()


def test_hopeless_pair_keeps_its_full_gradient_at_a_low_temperature() -> None:
    """exp(-400) is 0 in float32: a probability, divided and logged, would have lost the gradient."""
    scores = torch.tensor([[-1.0, 1.0, 0.0]], requires_grad=True)
    losses, _ = rows_of(scores, diagonal(), temperature=0.005)
    torch.testing.assert_close(losses, torch.tensor([400.0]))
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    torch.testing.assert_close(gradient, torch.tensor([[-200.0, 200.0, 0.0]]))


def test_pair_all_but_found_keeps_its_small_loss_and_gradient() -> None:
    """Far from 0 float32 is coarse: log-sum-exp of logits near 200 is right to 1.5e-5 only, ten times this loss."""
    scores = torch.tensor([[1.0, 0.93]], requires_grad=True)
    losses, _ = rows_of(scores, diagonal(), temperature=0.005)
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    precise = scores.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(precise / 0.005, torch.tensor([0]))
    torch.testing.assert_close(losses.double(), expected[None], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        gradient.double(), torch.autograd.grad(expected, precise)[0], rtol=1e-4, atol=200 * 1.2e-7
    )


def test_excluded_scores_however_large_do_not_cost_precision() -> None:
    scores = torch.tensor([[1.0, 0.93, 1e6]])
    exclude = from_tensor(torch.tensor([[False, False, True]]))
    losses, _ = rows_of(scores, diagonal(), temperature=0.005, exclude=exclude)
    torch.testing.assert_close(losses, rows_of(scores[:, :2], diagonal(), temperature=0.005)[0], rtol=1e-6, atol=0)


def test_health_is_what_the_masks_say() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.2, 0.6], [0.0, 0.5, -0.4, 0.3], [0.0, 0.0, 0.7, 0.0]])
    exclude = torch.zeros(3, 4, dtype=torch.bool)
    exclude[0, 3] = exclude[0, 0] = True
    exclude[2] = True
    health = Health()
    rows_of(scores, diagonal(), temperature=0.25, exclude=from_tensor(exclude), health=health)
    expected = {
        "positive_similarity": (0.9 + 0.5 + 0.7) / 3,
        "negative_similarity": (0.1 + 0.2 + 0.0 - 0.4 + 0.3) / 5,
        "temperature": 0.25,
        "excluded_share": 4 / 9,
        "unanswered": 1 / 3,
    }
    assert health.summary() == pytest.approx(expected)


def test_nothing_selected_has_no_mean() -> None:
    assert masked_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)).isnan()
    assert masked_mean(torch.tensor([1.0, torch.inf]), torch.tensor([True, False])) == 1
