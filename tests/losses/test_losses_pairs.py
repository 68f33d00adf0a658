"""The losses of pairs: contrastive, online contrastive, CoSENT and AnglE."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import oracles_pairs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from contrastive.contracts import PairLoss
from contrastive.losses.core.health import Health
from contrastive.losses.ordinal import AnglELoss, CoSENTLoss, angle, cosent
from contrastive.losses.pairwise import ContrastiveLoss, OnlineContrastiveLoss, contrastive, online_contrastive

LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Any], Callable[..., Tensor]]] = {
    "contrastive": (contrastive, ContrastiveLoss, oracles_pairs.contrastive),
    "online_contrastive": (online_contrastive, OnlineContrastiveLoss, oracles_pairs.online_contrastive),
    "cosent": (cosent, CoSENTLoss, oracles_pairs.cosent),
    "angle": (angle, AnglELoss, oracles_pairs.angle),
}
RAW = {"distance": "euclidean", "normalize": False}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("contrastive", {}),
    ("contrastive", {"margin": 1.5}),
    ("contrastive", {"distance": "euclidean"}),
    ("contrastive", {**RAW, "margin": 4.0}),
    ("online_contrastive", {"margin": 1.5}),
    ("online_contrastive", {"distance": "euclidean", "margin": 1.9}),
    ("online_contrastive", {**RAW, "margin": 4.0}),
    ("cosent", {}),
    ("cosent", {"temperature": 1.0}),
    ("angle", {}),
    ("angle", {"temperature": 1.0}),
]
IN_ORDER = [(name, options) for name, options in OPTIONS if name in ("cosent", "angle")]
APART = [(name, options) for name, options in OPTIONS if name not in ("cosent", "angle")]
TARGETS = {
    "two kinds": [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0],
    "graded, with ties": [0.9, 0.2, 0.2, 0.7, 0.9, 0.0, 0.55],
    "one kind": [1.0] * 7,
    "the other kind": [0.0] * 7,
}


def label(value: Any) -> str | None:
    if isinstance(value, dict):
        return ",".join(f"{key}={option}" for key, option in value.items()) or "default"
    return value if isinstance(value, str) else None


every_loss = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=label)
every_order = pytest.mark.parametrize(("name", "options"), IN_ORDER, ids=label)
every_target = pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())


def pairs(rows: int = 7, width: int = 5, seed: int = 15) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    return left.requires_grad_(), right.requires_grad_()


def gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss.sum(), of, materialize_grads=True)


def assert_same(value: Tensor, expected: Tensor, *of: Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(gradients(value, *of), gradients(expected, *of), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@every_target
@every_loss
def test_equals_the_formula_in_value_and_gradient(name: str, options: dict[str, Any], targets: list[float]) -> None:
    loss, _, oracle = LOSSES[name]
    for width, weights in ((5, None), (4, [0.5, 2.0, 1.0, 1.0, 3.0, 0.25, 1.5])):
        left, right = pairs(width=width)
        given_weights = None if weights is None else torch.tensor(weights)
        value = loss(left, right, torch.tensor(targets, dtype=torch.float64), weights=given_weights, **options)
        assert_same(value, oracle(left, right, targets, weights=weights, **options), left, right)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize(("name", "options"), APART, ids=label)
def test_other_reductions_equal_the_formula(name: str, options: dict[str, Any], reduction: str) -> None:
    loss, _, oracle = LOSSES[name]
    left, right = pairs()
    targets, weights = TARGETS["two kinds"], [0.5, 2.0, 1.0, 1.0, 3.0, 0.25, 1.5]
    value = loss(left, right, torch.tensor(targets), weights=torch.tensor(weights), reduction=reduction, **options)
    expected = oracle(left, right, targets, weights=weights, reduction=reduction, **options)
    assert value.shape == ((7,) if reduction == "none" else ())
    assert_same(value, expected, left, right)


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(["cosent", "angle"]),
    targets=st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 5.0]), min_size=1, max_size=7),
    temperature=st.floats(0.005, 10),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_order_equals_the_formula_at_any_size_and_temperature(
    name: str, targets: list[float], temperature: float, width: int, seed: int
) -> None:
    loss, _, oracle = LOSSES[name]
    left, right = pairs(len(targets), width, seed)
    value = loss(left, right, torch.tensor(targets), temperature=temperature)
    torch.testing.assert_close(value, oracle(left, right, targets, temperature=temperature), rtol=1e-9, atol=1e-12)


@every_target
@every_loss
def test_gradcheck(name: str, options: dict[str, Any], targets: list[float]) -> None:
    loss, given_weights = LOSSES[name][0], torch.linspace(0.5, 2, 7)
    assert torch.autograd.gradcheck(
        lambda left, right: loss(left, right, torch.tensor(targets), weights=given_weights, **options), pairs()
    )


@every_loss
def test_module_equals_function(name: str, options: dict[str, Any]) -> None:
    function, module, _ = LOSSES[name]
    left, right = pairs()
    targets, weights = torch.tensor(TARGETS["two kinds"]), torch.linspace(0.5, 2, 7)
    loss: PairLoss = module(**options)
    assert loss(left, right, targets) == function(left, right, targets, **options)
    mine, its = Health(), Health()
    value = module(**options)(left, right, targets, weights=weights, health=mine)
    assert value == function(left, right, targets, weights=weights, health=its, **options)
    assert mine.summary() == its.summary()
    assert ("reduction" in repr(loss)) == (name not in ("cosent", "angle"))


def test_reductions_of_modules() -> None:
    left, right = pairs()
    for module in (ContrastiveLoss, OnlineContrastiveLoss):
        assert module(reduction="none")(left, right, torch.tensor(TARGETS["two kinds"])).shape == (7,)


@every_loss
def test_order_of_pairs_does_not_matter(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    left, right = pairs()
    targets, order = torch.tensor(TARGETS["graded, with ties"]), torch.tensor([4, 0, 6, 2, 1, 5, 3])
    torch.testing.assert_close(loss(left[order], right[order], targets[order]), loss(left, right, targets))


@every_loss
def test_sides_may_be_exchanged_but_for_the_angle(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    left, right = pairs()
    targets = torch.tensor(TARGETS["two kinds"])
    same = torch.isclose(loss(right, left, targets), loss(left, right, targets))
    assert same == (name != "angle")  # whose sines change sign


@every_loss
def test_length_of_embeddings_does_not_matter(name: str, options: dict[str, Any]) -> None:
    if options.get("normalize") is False:
        pytest.skip("its distance is between the vectors as they are")
    loss = partial(LOSSES[name][0], **options)
    left, right = pairs()
    targets = torch.tensor(TARGETS["two kinds"])
    torch.testing.assert_close(loss(left * 3, right * torch.arange(1, 8)[:, None], targets), loss(left, right, targets))


@every_loss
def test_weights_count_pairs(name: str, options: dict[str, Any]) -> None:
    """A pair of weight 2 is as good as two, one of weight 0 as none."""
    loss = partial(LOSSES[name][0], **options)
    left, right = pairs()
    targets = torch.tensor(TARGETS["two kinds"])
    kept = torch.tensor([0, 1, 2, 2, 3, 4, 5])
    value = loss(left, right, targets, weights=torch.tensor([1.0, 1, 2, 1, 1, 1, 0]))
    if name == "online_contrastive":  # whose choice is that of all pairs, whatever they weigh
        rows = loss(left, right, targets, reduction="none")
        expected = rows[kept].sum() / (rows[kept] > 0).sum()
    else:
        expected = loss(left[kept], right[kept], targets[kept])
    torch.testing.assert_close(value, expected)
    assert gradients(value, left)[0][6].eq(0).all()


@every_loss
def test_batch_with_nothing_to_learn_gives_zero_with_a_graph(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    cases = {"empty": (pairs(0), torch.empty(0)), "one pair": (pairs(1), torch.ones(1))}
    if name == "contrastive":
        left = pairs(1)[0]
        cases["one pair"] = ((left, left.detach().clone().requires_grad_()), torch.ones(1))
    if name in ("cosent", "angle"):
        cases["ties only"] = (pairs(5), torch.full((5,), 0.3))
    for case, (sides, targets) in cases.items():
        value = loss(*sides, targets)
        assert value.shape == (), case
        assert value.abs() < 1e-15, case
        assert value.requires_grad, case
        for gradient in gradients(value, *sides):
            assert gradient.abs().lt(1e-7).all(), case


@every_loss
def test_duplicates_and_zero_vectors_are_finite(name: str, options: dict[str, Any]) -> None:
    left, right = pairs()
    with torch.no_grad():
        right[0], right[1] = left[0], left[1]
        right[2], left[3] = 0, 0
        left[4], right[4] = 0, 0
        right[5] = -left[5]
        left[6], right[6] = left[0], right[0]
    value = LOSSES[name][0](left, right, torch.tensor(TARGETS["two kinds"]), **options)
    assert value.isfinite()
    for gradient in gradients(value, left, right):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 100


@every_loss
def test_bfloat16_embeddings_cost_no_more_than_their_rounding(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], targets=torch.tensor(TARGETS["two kinds"]), **options)
    low = [side.detach().bfloat16().requires_grad_() for side in pairs()]
    rounded = [side.detach().float().requires_grad_() for side in low]
    expected = loss(*rounded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*low)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    for ours, theirs in zip(gradients(value, *low), gradients(expected, *rounded), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), theirs, rtol=2**-7, atol=1e-6)


@every_loss
def test_nothing_is_asked_of_the_device(name: str, options: dict[str, Any]) -> None:
    with FakeTensorMode():
        left, right = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
        value = LOSSES[name][0](left, right, torch.ones(7), weights=torch.ones(7), health=Health(), **options)
        value.backward()
        with pytest.raises(DataDependentOutputException):
            value.item()


@every_loss
def test_whole_numbers_and_bools_are_targets_too(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    left, right = pairs()
    targets = torch.tensor(TARGETS["two kinds"])
    for kind in (torch.long, torch.bool, torch.float64):
        torch.testing.assert_close(loss(left, right, targets.to(kind)), loss(left, right, targets))


@every_loss
def test_nothing_is_mutated(name: str, options: dict[str, Any]) -> None:
    module = LOSSES[name][1](**options)
    given_to = [*pairs(), torch.tensor(TARGETS["graded, with ties"])]
    before = [tensor.clone() for tensor in given_to]
    assert module(*given_to) == module(*given_to)
    for tensor, original in zip(given_to, before, strict=True):
        assert tensor.equal(original)


@every_loss
def test_shapes_that_do_not_match_are_named(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    left, right = pairs()
    with pytest.raises(ValueError, match=r"left and right \[B, D\] of the same shape, got \[7, 5\] and \[7, 4\]"):
        loss(left, right[:, :4], torch.ones(7))
    with pytest.raises(ValueError, match=r"left and right \[B, D\] of the same shape, got \[7, 5\] and \[6, 5\]"):
        loss(left, right[:6], torch.ones(7))
    with pytest.raises(ValueError, match=r"targets \[7\], one a pair, got \[7, 1\]"):
        loss(left, right, torch.ones(7, 1))
    with pytest.raises(ValueError, match=r"weights \[7\], one a query, got \[3\]"):
        loss(left, right, torch.ones(7), weights=torch.ones(3))


@pytest.mark.parametrize("name", ["contrastive", "online_contrastive"])
def test_settings_that_cannot_be_are_refused(name: str) -> None:
    function, module, _ = LOSSES[name]
    for build in (module, partial(function, *pairs(), torch.ones(7))):
        with pytest.raises(ValueError, match=r"at most 2, the largest cosine distance of unit vectors, got 2.1"):
            build(margin=2.1)
        with pytest.raises(ValueError, match="at most 2, the largest euclidean distance of unit vectors, got 5"):
            build(margin=5, distance="euclidean")
        with pytest.raises(ValueError, match="expected a finite margin of at least 0, got -1"):
            build(margin=-1, **RAW)
        with pytest.raises(ValueError, match="distance to be one of 'cosine', 'euclidean', 'max_sim', got 'manhattan'"):
            build(distance="manhattan")
        with pytest.raises(ValueError, match="'mean', 'sum', 'none', got 'avg'"):
            build(reduction="avg")
        build(margin=9, **RAW)


@pytest.mark.parametrize("name", ["cosent", "angle"])
def test_temperatures_that_cannot_be_are_refused(name: str) -> None:
    function, module, _ = LOSSES[name]
    for build in (module, partial(function, *pairs(), torch.ones(7))):
        with pytest.raises(ValueError, match="finite temperature above 0, got 0"):
            build(temperature=0)


def test_default_margins_are_the_same_angle() -> None:
    """At 60 degrees a dissimilar pair is just far enough, by either distance."""
    radians = torch.tensor([59.0, 61.0], dtype=torch.float64).deg2rad()
    left = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(2, 2)
    right = torch.stack([radians.cos(), radians.sin()], 1)
    for distance in ("cosine", "euclidean"):
        rows = contrastive(left, right, torch.zeros(2), distance=distance, reduction="none")
        assert rows[0] > 0
        assert rows[1] == 0


def test_a_similar_pair_at_distance_0_has_a_gradient_of_0() -> None:
    left = torch.ones(1, 3, requires_grad=True)
    for options in ({}, {"distance": "euclidean"}, RAW):
        (gradient,) = gradients(contrastive(left, torch.ones(1, 3), torch.ones(1), **options), left)
        assert gradient.abs().max() < 1e-6


@every_order
def test_only_the_order_of_targets_matters(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    left, right = pairs()
    targets = torch.tensor(TARGETS["graded, with ties"])
    assert loss(left, right, targets) == loss(left, right, 100 * targets - 3)
    assert loss(left, right, targets) != loss(left, right, -targets)


@every_order
def test_hopeless_order_at_a_low_temperature_keeps_its_gradient(name: str, options: dict[str, Any]) -> None:
    """All pairs in the wrong order: exp(2 / 0.005) overflows, the gradient is that of the worst two."""
    loss = partial(LOSSES[name][0], **{**options, "temperature": 0.005})
    left = torch.eye(2, requires_grad=True)
    right = torch.tensor([[0.0, 1.0], [1.0, 0.2]])
    low, high = (torch.tensor(targets) for targets in ([1.0, 0.0], [0.0, 1.0]))
    worst = loss(left, right, low if loss(left, right, low) > 1 else high)
    assert worst > 30
    (gradient,) = gradients(worst, left)
    slopes = (left.detach() * gradient).norm(), gradient.norm()
    assert gradient.isfinite().all()
    assert slopes[1] > 100


@every_order
def test_temperature_trains(name: str, options: dict[str, Any]) -> None:
    del options
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    left, right = (side.detach() for side in pairs())
    targets = torch.tensor(TARGETS["graded, with ties"])
    assert torch.autograd.gradcheck(
        lambda temperature: LOSSES[name][0](left, right, targets, temperature=temperature), (temperature,)
    )


@every_order
def test_incoming_gradient_is_multiplied_and_a_second_backward_works(name: str, options: dict[str, Any]) -> None:
    left, right = pairs()
    value = LOSSES[name][0](left, right, torch.tensor(TARGETS["two kinds"]), **options)
    (once,) = torch.autograd.grad(value, left, retain_graph=True)
    (again,) = torch.autograd.grad(3 * value, left)
    torch.testing.assert_close(again, 3 * once)


@every_order
def test_double_backward_is_refused(name: str, options: dict[str, Any]) -> None:
    left, right = pairs()
    value = LOSSES[name][0](left, right, torch.tensor(TARGETS["two kinds"]), **options)
    (gradient,) = torch.autograd.grad(value, left, create_graph=True)
    with pytest.raises(RuntimeError, match="contrastive losses can be differentiated once"):
        gradient.square().sum().backward()


def test_memory_grows_with_the_pairs_and_not_with_their_square() -> None:
    """50,000 pairs have 2.5e9 comparisons, 10 GB in float32."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 50_000, 4, generator=generator)
    targets = torch.rand(50_000, generator=generator)
    value = cosent(left.requires_grad_(), right, targets)
    value.backward()
    assert value > 20
    assert left.grad is not None
    assert left.grad.isfinite().all()


def test_health_of_pairs_that_are_told_apart() -> None:
    left = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    right = torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    targets = torch.tensor([1.0, 1.0, 0.0, 0.0])
    summaries = []
    for loss in (contrastive, online_contrastive):
        health = Health()
        loss(left, right, targets, health=health)
        summaries.append(health.summary())
    distances = {"positive_distance": 0.3, "negative_distance": 0.6}
    assert summaries[0] == pytest.approx({**distances, "active_share": 0.5})
    assert summaries[1] == pytest.approx({**distances, "active_share": 0.5})  # 0.4 > 0.2 and 0.2 < 0.4


def test_health_of_pairs_in_order() -> None:
    left = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    right = torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    health = Health()
    cosent(left, right, torch.tensor([1.0, 0.5, 0.0]), health=health)
    assert health.summary() == pytest.approx(
        {"positive_similarity": 0.8, "negative_similarity": 0.0, "unanswered": 0.0, "temperature": 0.05}
    )
    health.clear()
    cosent(left, right, torch.ones(3), health=health)
    assert health.summary()["unanswered"] == 1


@pytest.fixture(scope="module")
def peers() -> Any:
    return pytest.importorskip("sentence_transformers.sentence_transformer.losses")


def assert_peer(ours: Callable[..., Tensor], peer: Any, targets: list[float], *sides: Tensor) -> None:
    value = ours(*sides, torch.tensor(targets))
    theirs = peer.compute_loss_from_embeddings(list(sides), torch.tensor(targets))
    assert value > 0
    torch.testing.assert_close(value, theirs, rtol=1e-6, atol=1e-9)
    for mine, its in zip(gradients(value, *sides), gradients(theirs, *sides), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)  # it adds 1e-6 to Euclidean differences


@pytest.mark.parametrize("scale", [20.0, 1.0])
@pytest.mark.parametrize("width", [6, 5])
@pytest.mark.parametrize(("name", "peer"), [("cosent", "CoSENTLoss"), ("angle", "AnglELoss")])
def test_equals_the_order_of_sentence_transformers(peers: Any, name: str, peer: str, width: int, scale: float) -> None:
    ours = partial(LOSSES[name][0], temperature=1 / scale)
    for kind in ("two kinds", "graded, with ties"):
        assert_peer(ours, getattr(peers, peer)(None, scale=scale), TARGETS[kind], *pairs(width=width))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_equals_contrastive_of_sentence_transformers(peers: Any, distance: str) -> None:
    metrics = peers.SiameseDistanceMetric
    metric = metrics.COSINE_DISTANCE if distance == "cosine" else metrics.EUCLIDEAN
    call = {"distance": distance, "normalize": False, "margin": 1.8}
    assert_peer(
        partial(contrastive, **call),
        peers.ContrastiveLoss(None, distance_metric=metric, margin=1.8),
        TARGETS["two kinds"],
        *pairs(),
    )
    for kind in ("two kinds", "one kind", "the other kind"):
        assert_peer(
            partial(online_contrastive, reduction="sum", **call),
            peers.OnlineContrastiveLoss(None, distance_metric=metric, margin=1.8),
            TARGETS[kind],
            *pairs(),
        )


@pytest.mark.filterwarnings("ignore:OnlineContrastiveLoss expects binary labels")
def test_sentence_transformers_ignores_graded_pairs(peers: Any) -> None:
    """Its online loss takes 0.9 neither for similar nor for dissimilar and says so once; ours learns from it."""
    left, right = pairs()
    targets = torch.tensor([0.9, 0.1] * 3 + [0.1])
    assert peers.OnlineContrastiveLoss(None).compute_loss_from_embeddings([left, right], targets) == 0
    value = online_contrastive(left, right, targets)
    assert value > 0
    torch.testing.assert_close(value, online_contrastive(left, right, targets.round()))


@pytest.mark.parametrize("name", ["contrastive", "online_contrastive", "cosent", "angle"])
def test_configuration_builds_the_loss(name: str) -> None:
    import hydra.utils
    from hydra.errors import InstantiationException
    from omegaconf import OmegaConf

    from experiments.run.parts import build_loss

    config = OmegaConf.load(Path(__file__).parents[2] / "configs" / "loss" / f"{name}.yaml")
    left, right = pairs()
    targets = torch.tensor(TARGETS["two kinds"])
    assert build_loss(config, encoder=None)(left, right, targets) == LOSSES[name][0](left, right, targets)
    with pytest.raises(InstantiationException, match="unexpected keyword argument 'tau'"):
        hydra.utils.instantiate(config, tau=0.1)
