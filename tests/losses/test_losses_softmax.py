"""What is particular to InfoNCE and multiple-negatives ranking; what all losses share is in test_losses.py."""

from __future__ import annotations

import inspect
import math
from typing import Any

import oracles_softmax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from contrastive import losses
from contrastive.losses import InfoNCELoss, MultipleNegativesRankingLoss, info_nce, multiple_negatives_ranking
from contrastive.similarity import cosine, dot


def batch(num_queries: int = 4, num_keys: int = 8, width: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(num_queries, width, generator=generator, dtype=torch.float64)
    keys = torch.randn(num_keys, width, generator=generator, dtype=torch.float64)
    return queries.requires_grad_(), keys.requires_grad_()


@settings(deadline=None, max_examples=40)
@given(
    num_queries=st.integers(1, 4),
    rounds=st.integers(0, 2),
    temperature=st.floats(0.02, 10),
    symmetric=st.booleans(),
    others=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_the_paper_at_any_size_and_temperature(
    num_queries: int, rounds: int, temperature: float, symmetric: bool, others: bool, seed: int
) -> None:
    queries, keys = batch(num_queries, num_queries * (1 + rounds), seed=seed)
    options = {"temperature": temperature, "symmetric": symmetric, "others_negatives": others}
    expected = oracles_softmax.info_nce(queries, keys, positives={(i, i) for i in range(num_queries)}, **options)
    torch.testing.assert_close(info_nce(queries, keys, **options), expected)


def test_is_cross_entropy() -> None:
    queries, keys = batch()
    expected = cross_entropy(cosine(queries, keys) / 0.07, torch.arange(4))
    torch.testing.assert_close(info_nce(queries, keys, temperature=0.07), expected)


def test_symmetric_is_the_loss_of_clip() -> None:
    queries, keys = batch(num_keys=4)
    logits, labels = cosine(queries, keys) / 0.07, torch.arange(4)
    expected = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(info_nce(queries, keys, temperature=0.07, symmetric=True), expected)


def test_symmetric_does_not_change_when_the_sides_are_exchanged() -> None:
    queries, keys = batch(num_keys=4)
    exclude = torch.zeros(4, 4, dtype=torch.bool)
    exclude[0, 2] = exclude[3, 1] = True
    torch.testing.assert_close(
        info_nce(queries, keys, symmetric=True, exclude=exclude),
        info_nce(keys, queries, symmetric=True, exclude=exclude.T),
    )


def test_hard_negatives_ask_for_nothing() -> None:
    """The way back from the keys is the same with and without them."""
    queries, keys = batch(4, 12)
    for positives in (None, torch.eye(4, 12, dtype=torch.bool)):
        both = info_nce(queries, keys, symmetric=True, positives=positives)
        back = 2 * both - info_nce(queries, keys)
        torch.testing.assert_close(back, info_nce(keys[:4], queries))


def test_symmetric_asks_an_asymmetric_similarity_the_right_way_round() -> None:
    queries, keys = batch(num_keys=4)
    bilinear = torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    value = info_nce(queries, keys, temperature=1.0, symmetric=True, similarity=lambda q, k: q @ bilinear @ k.T)
    logits, labels = queries @ bilinear @ keys.T, torch.arange(4)
    torch.testing.assert_close(value, (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2)


def test_supervised_contrastive_by_labels() -> None:
    """Queries and keys may be the same embeddings: self is left out by index, and equal labels are positives."""
    embeddings, _ = batch(6, 6)
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    same, itself = labels[:, None] == labels, torch.eye(6, dtype=torch.bool)
    value = info_nce(
        embeddings, embeddings, temperature=0.1, positives=same & ~itself, exclude=itself, reduction="none"
    )
    logits = cosine(embeddings, embeddings) / 0.1
    log_probabilities = logits.masked_fill(itself, -torch.inf).log_softmax(1)
    expected = [-log_probabilities[i][same[i] & ~itself[i]].mean() for i in range(5)]
    torch.testing.assert_close(value, torch.stack([*expected, value.new_zeros(())]))


def test_keys_all_share_are_negatives_even_without_those_of_others() -> None:
    queries, keys = batch(2, 5)
    owners = torch.tensor([0, 1, 0, 1, -1])
    value = info_nce(queries, keys, owners=owners, others_negatives=False, reduction="none")
    torch.testing.assert_close(value[0], info_nce(queries[:1], keys[[0, 1, 2, 4]]))
    torch.testing.assert_close(value[1], info_nce(queries[1:], keys[[1, 0, 3, 4]]))


def test_further_positives_of_others_are_not_their_hard_negatives() -> None:
    queries, keys = batch(2, 4)
    positives = torch.tensor([[0, 0], [1, 1], [1, 3]])
    value = info_nce(queries, keys, positives=positives, others_negatives=False, reduction="none")
    torch.testing.assert_close(value[0], info_nce(queries[:1], keys[[0, 1, 2, 3]]))
    torch.testing.assert_close(
        value[1], info_nce(queries, keys[[0, 1, 3]], positives=torch.tensor([[1, 1], [1, 2]]), reduction="none")[1]
    )


def test_positives_may_be_given_in_three_ways() -> None:
    from contrastive.masks import from_pairs

    queries, keys = batch()
    pairs = torch.tensor([[0, 0], [0, 5], [1, 2], [2, 2], [3, 7]])
    selected = torch.zeros(4, 8, dtype=torch.bool)
    selected[pairs[:, 0], pairs[:, 1]] = True
    values = [
        info_nce(queries, keys, positives=positives, symmetric=True)
        for positives in (pairs, pairs.int(), selected, from_pairs(pairs, 4, 8))
    ]
    assert all(value == values[0] for value in values)
    assert values[0] != info_nce(queries, keys, symmetric=True)


def test_learnt_temperature_as_a_tensor_gets_the_right_gradient() -> None:
    queries, keys = batch()
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for symmetric in (False, True):
        assert torch.autograd.gradcheck(
            lambda q, k, t, symmetric=symmetric: info_nce(q, k, temperature=t, symmetric=symmetric),
            (queries, keys, temperature),
        )
        torch.testing.assert_close(
            info_nce(queries, keys, temperature=temperature, symmetric=symmetric),
            info_nce(queries, keys, temperature=0.3, symmetric=symmetric),
        )


@pytest.mark.parametrize("symmetric", [False, True])
def test_hopeless_pair_keeps_its_full_gradient(symmetric: bool) -> None:
    """A positive opposite its query, at temperature 0.005: the gradient is 1 / temperature, in float32."""
    queries = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    keys = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    value = info_nce(queries, keys, temperature=0.005, similarity=dot, symmetric=symmetric)
    torch.testing.assert_close(value, torch.tensor(400.0))
    (gradient,) = torch.autograd.grad(value, queries)
    torch.testing.assert_close(gradient, torch.tensor([[200.0, 0.0], [-200.0, 0.0]]))


def test_temperature_changes_nothing_else() -> None:
    queries, keys = batch()
    torch.testing.assert_close(
        info_nce(queries, keys, temperature=0.2, similarity=dot),
        info_nce(queries * 5, keys, temperature=1.0, similarity=dot),
    )


def test_multiple_negatives_ranking_is_one_sided_info_nce_at_scale_20() -> None:
    queries, keys = batch()
    value = multiple_negatives_ranking(queries, keys)
    torch.testing.assert_close(value, info_nce(queries, keys, temperature=0.05), rtol=1e-14, atol=0)
    for loss in (
        MultipleNegativesRankingLoss(),
        MultipleNegativesRankingLoss(0.05),
        MultipleNegativesRankingLoss(scale=20),
    ):
        assert loss(queries, keys) == value
    tenth = multiple_negatives_ranking(queries, keys, scale=10)
    assert tenth == multiple_negatives_ranking(queries, keys, temperature=0.1)
    torch.testing.assert_close(tenth, info_nce(queries, keys, temperature=0.1), rtol=1e-14, atol=0)


def test_temperatures_that_are_none_are_refused() -> None:
    queries, keys = batch()
    for temperature in (0.0, -0.05, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"expected a finite temperature above 0, got {temperature}"):
            info_nce(queries, keys, temperature=temperature)
        with pytest.raises(ValueError, match=f"expected a finite temperature above 0, got {temperature}"):
            InfoNCELoss(temperature)
        with pytest.raises(ValueError, match=f"expected a finite temperature above 0, got {temperature}"):
            MultipleNegativesRankingLoss(temperature)
        with pytest.raises(ValueError, match=f"expected a finite scale above 0, got {temperature}"):
            MultipleNegativesRankingLoss(scale=temperature)
    with pytest.raises(ValueError, match=r"expected a temperature of no dimensions, got a tensor \[1\]"):
        info_nce(queries, keys, temperature=torch.ones(1))
    with pytest.raises(ValueError, match=r"expected temperature or scale, got both 0.05 and 20"):
        MultipleNegativesRankingLoss(temperature=0.05, scale=20)
    with pytest.raises(ValueError, match=r"expected temperature or scale"):
        multiple_negatives_ranking(queries, keys, temperature=0.05, scale=20)
    with pytest.raises(ValueError, match="'cosine', 'dot', 'euclidean', 'max_sim', 'max_dot' or a callable, got 'l1'"):
        InfoNCELoss(similarity="l1")  # type: ignore[arg-type]


def test_learnt_temperature_is_the_given_one_and_trains() -> None:
    queries, keys = batch()
    loss = InfoNCELoss(0.2, learnable_temperature=True)
    value = loss(queries, keys)
    torch.testing.assert_close(value, InfoNCELoss(0.2)(queries, keys), rtol=1e-6, atol=0)
    value.backward()
    (parameter,) = loss.parameters()
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    info_nce(queries, keys, temperature=temperature).backward()
    assert parameter.grad is not None
    assert temperature.grad is not None
    torch.testing.assert_close(parameter.grad.double(), 0.2 * temperature.grad, rtol=1e-5, atol=0)
    assert list(InfoNCELoss(0.2).parameters()) == []
    assert InfoNCELoss(0.2).temperature == 0.2


@pytest.mark.parametrize(("start", "hopeless"), [(0.01, False), (1.0, True)])
def test_temperature_stops_at_its_bounds_and_comes_back(start: float, hopeless: bool) -> None:
    """Easy pairs want it lower, hopeless ones higher; at the bound that is refused, and the way back is not."""
    queries = torch.eye(3)
    easy, hard = torch.eye(3) + 5, -torch.eye(3)
    outward, inward = (hard, easy) if hopeless else (easy, hard)
    loss = InfoNCELoss(start, learnable_temperature=True, temperature_bounds=(0.01, 1.0))
    (parameter,) = loss.parameters()
    with torch.no_grad():
        parameter += 0.5 if hopeless else -0.5  # as an optimiser's momentum may
    before = parameter.clone()
    loss(queries, outward).backward()
    torch.testing.assert_close(loss.temperature, torch.tensor(start))
    assert parameter.grad == 0
    loss(queries, inward).backward()
    assert parameter.grad is not None
    assert (parameter.grad > 0) == hopeless  # a descent step leads back inside
    assert parameter.grad != 0
    assert parameter == before


def test_temperature_within_its_bounds_feels_both_ways() -> None:
    loss = InfoNCELoss(0.5, learnable_temperature=True)
    (parameter,) = loss.parameters()
    signs = [
        torch.autograd.grad(loss(torch.eye(3), keys), parameter)[0].sign().item()
        for keys in (torch.eye(3), -torch.eye(3))
    ]
    assert signs == [1, -1]


def test_bounds_that_do_not_hold_the_temperature_are_refused() -> None:
    for temperature, bounds in [
        (0.005, (0.01, 1.0)),
        (0.05, (0.0, 1.0)),
        (0.05, (0.1, 0.01)),
        (2.0, (0.01, 1.0)),
        (0.05, (0.01, math.inf)),
        (0.05, (0.01, math.nan)),
    ]:
        with pytest.raises(ValueError, match="expected 0 < lowest <= temperature <= highest, all finite, got "):
            InfoNCELoss(temperature, learnable_temperature=True, temperature_bounds=bounds)
    assert InfoNCELoss(0.005).temperature == 0.005  # a fixed one may be anything above 0


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (MultipleNegativesRankingLoss(), "scale"),
        (MultipleNegativesRankingLoss(), "directions"),
        (InfoNCELoss(), "temperature"),
        (InfoNCELoss(), "symmetric"),
        (InfoNCELoss(learnable_temperature=True), "temperature_bounds"),
        (losses.GISTLoss(), "margin"),
        (losses.DecoupledContrastiveLoss(), "sigma"),
    ],
)
def test_a_setting_that_nothing_would_follow_from_cannot_be_assigned(module: Any, name: str) -> None:
    with pytest.raises(AttributeError, match=f"expected {name} to be given when a {type(module).__name__} is made"):
        setattr(module, name, 3)
    module.note = 3  # what is no setting is nobody's business


def test_a_bias_that_is_not_learnt_can_be_assigned() -> None:
    queries, keys = batch()
    loss = losses.SigLIPLoss(learnable_bias=False)
    loss.bias = torch.nn.Parameter(torch.tensor(-3.0))
    assert loss(queries, keys) == losses.SigLIPLoss(bias=-3.0)(queries, keys)


def test_learnt_temperature_is_saved() -> None:
    loss = InfoNCELoss(0.2, learnable_temperature=True)
    other = InfoNCELoss(0.5, learnable_temperature=True)
    other.load_state_dict(loss.state_dict())
    assert other.temperature == loss.temperature


def test_modules_describe_themselves() -> None:
    assert repr(InfoNCELoss(symmetric=True)) == ("InfoNCELoss(temperature=0.05, symmetric=True, label_smoothing=0.0)")
    assert "temperature=0.05 (learnt)" in repr(InfoNCELoss(learnable_temperature=True))


def test_a_loss_can_be_made_into_another() -> None:
    class Sharper(InfoNCELoss):
        def __init__(self, factor: float, **settings: Any) -> None:
            super().__init__(0.05 / factor, **settings)
            self.factor_used = factor

    queries, keys = batch()
    loss = Sharper(5.0, symmetric=True)
    assert list(inspect.signature(Sharper).parameters) == ["factor", "settings"]
    assert loss(queries, keys) == info_nce(queries, keys, temperature=0.01, symmetric=True)
    assert loss.factor_used == 5
