"""What is particular to the triplet loss; what all losses share is in test_losses.py."""

from __future__ import annotations

from typing import Any, get_args

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contrastive.losses import TripletLoss, triplet
from contrastive.losses.core.health import Health
from contrastive.losses.core.mining import Mining, log_inverse_density


def on_a_line(*positions: float) -> Tensor:
    """Points whose Euclidean distances can be read off."""
    return torch.tensor(positions, dtype=torch.float32)[:, None].requires_grad_()


RAW = {"distance": "euclidean", "normalize": False}


@pytest.mark.parametrize(
    ("mining", "average", "expected"),
    [
        # the positive at distance 2; negatives at 1, 3, 7; margin 2
        ("hardest", "all", 2 - 1 + 2),
        ("easy_positive", "all", 2 - 1 + 2),
        ("semi_hard", "all", 2 - 3 + 2),
        ("all", "all", (3 + 1 + 0) / 3),
        ("all", "active", (3 + 1) / 2),
        ("explicit", "all", (3 + 1 + 0) / 3),
    ],
)
def test_each_way_of_mining_by_hand(mining: str, average: str, expected: float) -> None:
    value = triplet(on_a_line(0), on_a_line(2, 1, 3, -7), mining=mining, average=average, margin=2.0, **RAW)
    torch.testing.assert_close(value, torch.tensor(float(expected)))


def test_semi_hard_falls_back_to_the_farthest_negative() -> None:
    value = triplet(on_a_line(0), on_a_line(5, 1, 3, -4), mining="semi_hard", margin=2.0, **RAW)
    torch.testing.assert_close(value, torch.tensor(5.0 - 4 + 2))


def test_semi_hard_is_farther_than_the_positive_not_as_far() -> None:
    value = triplet(on_a_line(0), on_a_line(2, -2, 3), mining="semi_hard", margin=2.0, **RAW)
    torch.testing.assert_close(value, torch.tensor(2.0 - 3 + 2))


def test_hardest_takes_the_farthest_positive_easy_the_nearest_and_semi_hard_each() -> None:
    positives = torch.tensor([[True, True, False, False]])
    keys = on_a_line(2, 4, 3, 9)
    hardest = triplet(on_a_line(0), keys, mining="hardest", positives=positives, margin=2.0, **RAW)
    torch.testing.assert_close(hardest, torch.tensor(4.0 - 3 + 2))
    easy = triplet(on_a_line(0), keys, mining="easy_positive", positives=positives, margin=2.0, **RAW)
    torch.testing.assert_close(easy, torch.tensor(2.0 - 3 + 2))
    semi_hard = triplet(on_a_line(0), keys, mining="semi_hard", positives=positives, margin=2.0, **RAW)
    torch.testing.assert_close(semi_hard, torch.tensor(((2.0 - 3 + 2) + 0) / 2))


def test_explicit_negatives_are_the_querys_own_and_no_others() -> None:
    queries, keys = on_a_line(0, 16), on_a_line(2, 17, 1, 3, 16)
    owners = torch.tensor([0, 1, 0, 0, -1])
    rows = triplet(queries, keys, mining="explicit", owners=owners, margin=2.0, reduction="none", **RAW)
    torch.testing.assert_close(rows, torch.tensor([(3.0 + 1) / 2, 0]))


def test_mean_is_over_triplets_and_rows_have_their_own() -> None:
    """As Hermans et al. write batch-all: a query with more triplets counts for more."""
    queries, keys = on_a_line(0, 16), on_a_line(2, 17, 1, 3, 16)
    owners = torch.tensor([0, 1, 0, 0, 1])
    call = {"mining": "explicit", "owners": owners, "margin": 2.0, **RAW}
    torch.testing.assert_close(triplet(queries, keys, reduction="none", **call), torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(triplet(queries, keys, **call), torch.tensor((3.0 + 1 + 3) / 3))
    weighted = triplet(queries, keys, weights=torch.tensor([1.0, 4.0]), **call)
    torch.testing.assert_close(weighted, torch.tensor((3.0 + 1 + 4 * 3) / (1 + 1 + 4)))


@settings(deadline=None, max_examples=40)
@given(
    num_queries=st.integers(1, 4),
    rounds=st.integers(1, 2),
    mining=st.sampled_from(get_args(Mining)),
    distance=st.sampled_from(["cosine", "euclidean"]),
    form=st.one_of(
        st.floats(0, 2).map(lambda margin: {"margin": margin}),
        st.floats(0, 2).map(lambda margin: {"margin": margin, "average": "active"}),
        st.just({"soft_margin": True}),
        st.floats(0, 2).map(lambda margin: {"margin": margin, "soft_margin": True}),
    ),
    seed=st.integers(0, 99),
)
def test_equals_the_paper_at_any_size_and_margin(
    num_queries: int, rounds: int, mining: str, distance: str, form: dict[str, Any], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(num_queries, 3, generator=generator, dtype=torch.float64)
    keys = torch.randn(num_queries * (1 + rounds), 3, generator=generator, dtype=torch.float64)
    options = {"mining": mining, "distance": distance, **form}
    expected = oracles.triplet(queries, keys, positives={(i, i) for i in range(num_queries)}, **options)
    torch.testing.assert_close(triplet(queries, keys, **options), expected)


@pytest.mark.parametrize("weights", [None, torch.ones(1, dtype=torch.float64)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_share_of_a_triplet_below_one_is_what_it_is_divided_by(weights: Tensor | None, reduction: str) -> None:
    """One query, two negatives, of which one is active: the expected triplets are fewer than one."""
    generator = torch.Generator().manual_seed(59)
    queries = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    keys = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    options: dict[str, Any] = {"mining": "distance_weighted", "margin": 1.0, "average": "active"}
    expected = oracles.triplet(queries, keys, positives={(0, 0)}, **options)
    value = triplet(queries, keys, **options, weights=weights, reduction=reduction).sum()
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("mining", [mining for mining in get_args(Mining) if mining != "explicit"])
def test_anchor_alone_in_its_class_is_dropped(mining: str) -> None:
    """sentence-transformers' batch-hard loss counts it, with a positive at distance 0."""
    embeddings = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 2, 3])
    itself = torch.eye(6, dtype=torch.bool)
    positives = (labels[:, None] == labels) & ~itself
    value = triplet(embeddings, embeddings, mining=mining, margin=1.0, positives=positives, exclude=itself)
    paired = triplet(embeddings[:4], embeddings, mining=mining, margin=1.0, positives=positives[:4], exclude=itself[:4])
    assert value > 0
    torch.testing.assert_close(value, paired)


def test_default_margins() -> None:
    queries, keys = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    for options, margin in [({}, 0.2), ({"distance": "euclidean"}, 0.2), (RAW, 1.0)]:
        assert triplet(queries, keys, **options) == triplet(queries, keys, **options, margin=margin)
        assert triplet(queries, keys, **options) != triplet(queries, keys, **options, margin=margin + 0.1)


@pytest.mark.parametrize("build", [TripletLoss, lambda **options: triplet(torch.eye(2), torch.eye(2), **options)])
def test_margins_out_of_reach_are_refused(build) -> None:
    with pytest.raises(ValueError, match=r"at most 2, the largest cosine distance of unit vectors, got 2.1"):
        build(margin=2.1)
    with pytest.raises(ValueError, match="at most 2, the largest euclidean distance of unit vectors, got 5"):
        build(margin=5, distance="euclidean")
    with pytest.raises(ValueError, match=r"expected a finite margin of at least 0 and of at most 2.* got -0.1"):
        build(margin=-0.1)
    with pytest.raises(ValueError, match="expected a finite margin of at least 0, got -1"):
        build(margin=-1, **RAW)
    with pytest.raises(ValueError, match="got nan"):
        build(margin=float("nan"))
    with pytest.raises(ValueError, match="expected a finite margin of at least 0, got inf"):
        build(margin=float("inf"), **RAW)
    with pytest.raises(ValueError, match="expected average='all' with a soft margin"):
        build(soft_margin=True, average="active")
    with pytest.raises(ValueError, match="distance to be one of 'cosine', 'euclidean', 'max_sim', got 'manhattan'"):
        build(distance="manhattan")
    with pytest.raises(ValueError, match=r"mining to be one of 'explicit', 'hardest', .*, got 'hard'"):
        build(mining="hard")
    with pytest.raises(ValueError, match="average to be one of 'all', 'active', got 'mean'"):
        build(average="mean")
    for fine in ({"margin": 2.0}, {"margin": 0.0}, {"margin": 5.0, **RAW}):
        build(**fine)


def at_angles(*degrees: float) -> Tensor:
    """Unit vectors in the plane, at Euclidean distance 2 sin(angle / 2) from the first axis."""
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], 1)


def test_distance_weighted_is_the_expectation_of_drawing() -> None:
    """What the paper draws, drawn 20,000 times, comes to the same on average."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    keys = 3 * torch.randn(9, 4, generator=generator, dtype=torch.float64) + queries
    of_keys = 1 - torch.nn.functional.cosine_similarity(queries, keys)
    weights = log_inverse_density((2 * of_keys[1:]).sqrt(), 4).exp()
    drawn = 1 + torch.multinomial(weights, 20_000, replacement=True, generator=generator)
    losses = torch.relu(of_keys[0] - of_keys[drawn] + 1.0)
    value = triplet(queries, keys, mining="distance_weighted", margin=1.0)
    assert (value - losses.mean()).abs() < 4 * losses.std() / 20_000**0.5
    assert losses.std() > 0.02
    assert (value - torch.relu(of_keys[0] - of_keys[1:] + 1.0).mean()).abs() > 0.02  # what drawing evenly comes to


def test_distance_weighted_by_hand() -> None:
    """In the plane q(d) is (1 - d^2 / 4)^(-1/2), the secant of half the angle."""
    queries, keys = at_angles(0), at_angles(10, 20, 60, 80, 120)
    near, middle, far = (torch.tensor(degrees, dtype=torch.float64).deg2rad().cos() for degrees in (20, 60, 80))
    clipped = (1 - 0.5**2 / 4) ** 0.5  # 20 degrees is nearer than 0.5; 120 degrees is beyond 1.4
    weights = torch.stack([torch.tensor(clipped), *(torch.tensor(d).deg2rad().cos() for d in (30.0, 40.0))]).double()
    of_positive = 1 - torch.tensor(10.0, dtype=torch.float64).deg2rad().cos()
    losses = torch.relu(of_positive - (1 - torch.stack([near, middle, far])) + 0.7)
    expected = (losses * weights).sum() / weights.sum()
    torch.testing.assert_close(
        triplet(queries, keys, mining="distance_weighted", margin=0.7), expected, rtol=1e-6, atol=0
    )


def test_distance_weighted_takes_far_negatives_evenly_if_there_are_no_others() -> None:
    value = triplet(at_angles(0), at_angles(100, 150, 180), mining="distance_weighted", margin=2.0)
    losses = 2 + (1 - at_angles(100)[0, 0]) - (1 - at_angles(150, 180)[:, 0])
    torch.testing.assert_close(value, losses.mean())


def test_a_query_with_far_negatives_only_counts_as_much_as_another() -> None:
    queries, keys = at_angles(0, 0), at_angles(100, 10, 150, 180, 30)
    exclude = torch.tensor([[False, True, False, False, True], [True, False, True, True, False]])
    call = {"mining": "distance_weighted", "margin": 2.0, "exclude": exclude}
    rows = triplet(queries, keys, reduction="none", **call)
    torch.testing.assert_close(triplet(queries, keys, **call), rows.mean())


def test_distance_weights_are_finite_in_hundreds_of_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(8, 768, generator=generator)
    keys = queries.repeat(3, 1) + torch.randn(24, 768, generator=generator)
    value = triplet(queries.requires_grad_(), keys, mining="distance_weighted", margin=1.0)
    value.backward()
    assert value > 0
    assert queries.grad is not None
    assert queries.grad.isfinite().all()


def test_distance_weighted_is_about_unit_vectors() -> None:
    for build in (TripletLoss, lambda **options: triplet(torch.eye(2), torch.eye(2), **options)):
        with pytest.raises(
            ValueError, match="normalize=True with mining 'distance_weighted', which is about unit vectors"
        ):
            build(mining="distance_weighted", **RAW)


def test_explicit_triplets_need_negatives() -> None:
    with pytest.raises(ValueError, match=r"2 queries and 2 keys: the data has no negatives; choose mining 'hardest'"):
        triplet(torch.eye(2), torch.eye(2), mining="explicit")


def test_the_margin_is_reachable_at_its_bound() -> None:
    """Opposite vectors are at distance 2 under both distances: a margin of 2 can just be met."""
    queries, keys = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    for distance in ("cosine", "euclidean"):
        assert triplet(queries, keys, distance=distance, margin=2.0).abs() < 1e-6
        torch.testing.assert_close(triplet(queries, keys.flip(0), distance=distance, margin=2.0), torch.tensor(4.0))


def test_health_counts_the_active_triplets() -> None:
    queries, keys = on_a_line(0, 0), on_a_line(2, 2, 1, 4)
    exclude = torch.tensor([[False, True, False, False], [True, True, True, True]])
    summaries = {}
    for name, options in {"hinge": {"margin": 0.5}, "soft": {"soft_margin": True}}.items():
        health = Health()
        triplet(queries, keys, mining="all", exclude=exclude, health=health, **options, **RAW)
        summaries[name] = health.summary()
    expected = {
        "positive_distance": 2.0,
        "negative_distance": 2.5,
        "active_share": 0.5,
        "excluded_share": 4 / 6,
        "unanswered": 0.5,
    }
    assert summaries["hinge"] == pytest.approx(expected)
    assert summaries["soft"] == pytest.approx(expected)


def test_health_has_cosine_distances_from_0_to_2() -> None:
    health = Health()
    triplet(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [-1.0, 0.0]]), health=health)
    summary = health.summary()
    assert (summary["positive_distance"], summary["negative_distance"]) == (0, 2)


def test_modules_describe_themselves() -> None:
    assert repr(TripletLoss(margin=0.3, **RAW)) == (
        "TripletLoss(distance=euclidean, mining=hardest, margin=0.3, soft_margin=False, average=all, normalize=False, "
        "reduction=mean)"
    )


def test_a_soft_margin_says_which_it_has() -> None:
    assert "=hardest, soft_margin=True," in repr(TripletLoss(soft_margin=True))
    assert "=hardest, margin=0.3, soft_margin=True," in repr(TripletLoss(soft_margin=True, margin=0.3))
