"""Equal to sentence-transformers (ST) and pytorch-metric-learning (PML), gradients included, where they are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from contrastive.losses import info_nce, multiple_negatives_ranking, triplet

LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
SAME = LABELS[:, None] == LABELS
ITSELF = torch.eye(len(LABELS), dtype=torch.bool)
BY_LABEL = {"positives": SAME & ~ITSELF, "exclude": ITSELF}


@pytest.fixture(scope="module")
def st() -> Any:
    return pytest.importorskip("sentence_transformers.sentence_transformer.losses")


@pytest.fixture(scope="module")
def pml() -> Any:
    return pytest.importorskip("pytorch_metric_learning.losses")


@pytest.fixture(autouse=True)
def warnings_of_peers_are_theirs() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def embeddings(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def assert_equal(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    value, expected = ours(*inputs), theirs(*inputs)
    assert value > 0
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
    for mine, its in zip(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("negatives", [0, 1, 2])
@pytest.mark.parametrize("scale", [20.0, 1.0])
def test_multiple_negatives_ranking_of_st(st: Any, negatives: int, scale: float) -> None:
    loss = st.MultipleNegativesRankingLoss(None, scale=scale)
    columns = [embeddings(4, seed) for seed in range(2 + negatives)]
    assert_equal(
        lambda queries, *keys: multiple_negatives_ranking(queries, torch.cat(keys), scale=scale),
        lambda *columns: loss.compute_loss_from_embeddings(list(columns), None),
        *columns,
    )


@pytest.mark.parametrize("negatives", [0, 1])
def test_symmetric_info_nce_of_st(st: Any, negatives: int) -> None:
    loss = st.MultipleNegativesRankingLoss(
        None, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    columns = [embeddings(4, seed) for seed in range(2 + negatives)]
    assert_equal(
        lambda queries, *keys: info_nce(queries, torch.cat(keys), symmetric=True),
        lambda *columns: loss.compute_loss_from_embeddings(list(columns), None),
        *columns,
    )


@pytest.mark.parametrize(
    ("metric", "options"),
    [("COSINE", {"distance": "cosine"}), ("EUCLIDEAN", {"distance": "euclidean", "normalize": False})],
)
def test_explicit_triplets_of_st(st: Any, metric: str, options: dict[str, Any]) -> None:
    loss = st.TripletLoss(None, distance_metric=getattr(st.TripletDistanceMetric, metric), triplet_margin=1.5)
    assert_equal(
        lambda q, p, n: triplet(q, torch.cat([p, n]), mining="explicit", margin=1.5, **options),
        lambda *columns: loss.compute_loss_from_embeddings(list(columns), None),
        *(embeddings(5, seed) for seed in range(3)),
    )


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    ("peer", "options"),
    [
        ("BatchHardTripletLoss", {"mining": "hardest"}),
        ("BatchSemiHardTripletLoss", {"mining": "semi_hard"}),
        ("BatchAllTripletLoss", {"mining": "all", "average": "active"}),
        ("BatchHardSoftMarginTripletLoss", {"mining": "hardest", "soft_margin": True}),
    ],
)
def test_triplets_by_label_of_st(st: Any, peer: str, options: dict[str, Any], distance: str) -> None:
    distances = st.BatchHardTripletLossDistanceFunction
    metric = distances.cosine_distance if distance == "cosine" else distances.euclidean_distance
    margin = {} if options.get("soft_margin") else {"margin": 0.8}
    loss = getattr(st, peer)(None, distance_metric=metric, **margin)
    assert_equal(
        lambda x: triplet(x, x, distance=distance, normalize=False, **options, **margin, **BY_LABEL),
        lambda x: loss.compute_loss_from_embeddings([x], LABELS),
        embeddings(8),
    )


@pytest.mark.parametrize("average", ["active", "all"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("soft", [False, True])
def test_all_triplets_of_pml(pml: Any, average: str, distance: str, soft: bool) -> None:
    from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
    from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer

    if soft and average == "active":
        pytest.skip("every triplet of a soft margin is active")
    loss = pml.TripletMarginLoss(
        margin=0.0 if soft else 0.4,
        smooth_loss=soft,
        distance=CosineSimilarity() if distance == "cosine" else LpDistance(),
        reducer=AvgNonZeroReducer() if average == "active" else MeanReducer(),
    )
    margin: dict[str, Any] = {"soft_margin": True} if soft else {"margin": 0.4}
    assert_equal(
        lambda x: triplet(x, x, mining="all", distance=distance, average=average, **margin, **BY_LABEL),
        lambda x: loss(x, LABELS),
        embeddings(8),
    )


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_easy_positives_of_pml(pml: Any, distance: str) -> None:
    from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
    from pytorch_metric_learning.miners import BatchEasyHardMiner
    from pytorch_metric_learning.reducers import MeanReducer

    metric = CosineSimilarity() if distance == "cosine" else LpDistance()
    miner = BatchEasyHardMiner(pos_strategy="easy", neg_strategy="hard", distance=metric)
    loss = pml.TripletMarginLoss(margin=0.4, distance=metric, reducer=MeanReducer())
    assert_equal(
        lambda x: triplet(x, x, mining="easy_positive", distance=distance, margin=0.4, **BY_LABEL),
        lambda x: loss(x, LABELS, miner(x, LABELS)),
        embeddings(8),
    )


def test_distance_weighted_draws_what_pml_draws(pml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is the expectation over the probabilities that its miner draws with."""
    del pml
    from pytorch_metric_learning.miners import DistanceWeightedMiner, distance_weighted_miner

    drawn_with: list[Tensor] = []
    monkeypatch.setattr(
        distance_weighted_miner.lmu,
        "get_random_triplet_indices",
        lambda *_, weights, **__: drawn_with.append(weights) or (torch.zeros(0, dtype=torch.long),) * 3,
    )
    x = embeddings(8) + 1  # closer than 1.4, or its probabilities are NaN
    DistanceWeightedMiner()(x, LABELS)
    (probabilities,) = drawn_with
    distances = torch.cdist(*[torch.nn.functional.normalize(x)] * 2)
    losses = torch.relu(distances[:, :, None] - distances[:, None] + 1.0)
    pairs = SAME & ~ITSELF
    expected = (losses * probabilities[:, None])[pairs].sum() / pairs.sum()
    value = triplet(x, x, mining="distance_weighted", distance="euclidean", margin=1.0, **BY_LABEL)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


def test_st_counts_an_anchor_alone_in_its_class_and_trains_on_one_class(st: Any) -> None:
    """Its batch-hard loss takes a text as its own positive, at distance 0, and a farthest text as a negative."""
    metric = st.BatchHardTripletLossDistanceFunction.cosine_distance
    loss = st.BatchHardTripletLoss(None, distance_metric=metric, margin=1.0)
    labels = torch.tensor([0, 0, 1, 1, 2, 3])
    same, itself, x = labels[:, None] == labels, torch.eye(6, dtype=torch.bool), embeddings(6)
    rows = triplet(x, x, margin=1.0, positives=same & ~itself, exclude=itself, reduction="none")
    theirs = loss.compute_loss_from_embeddings([x], labels)
    alone = (
        1 - (1 - torch.nn.functional.cosine_similarity(x[4:, None], x[None], dim=-1) + 9 * itself[4:]).amin(1)
    ).relu()
    torch.testing.assert_close(theirs, (rows[:4].sum() + alone.sum()) / 6)
    assert rows[4:].eq(0).all()

    ones = torch.zeros(6, dtype=torch.long)
    assert loss.compute_loss_from_embeddings([x], ones) > 0
    value = triplet(x, x, margin=1.0, positives=~itself, exclude=itself)
    assert value == 0
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient.eq(0).all()


def test_supervised_contrastive_of_pml(pml: Any) -> None:
    loss = pml.SupConLoss(temperature=0.1)
    assert_equal(lambda x: info_nce(x, x, temperature=0.1, **BY_LABEL), lambda x: loss(x, LABELS), embeddings(8))


def test_nt_xent_of_pml_with_one_positive_each(pml: Any) -> None:
    """With two views of each text, SimCLR's loss is InfoNCE of all views against each other."""
    labels = torch.arange(4).repeat(2)
    itself = torch.eye(8, dtype=torch.bool)
    positives = (labels[:, None] == labels) & ~itself
    loss = pml.NTXentLoss(temperature=0.1)
    assert_equal(
        lambda x: info_nce(x, x, temperature=0.1, positives=positives, exclude=itself),
        lambda x: loss(x, labels),
        embeddings(8),
    )


def test_cross_modal_nt_xent_of_pml_is_info_nce(pml: Any) -> None:
    loss = pml.NTXentLoss(temperature=0.1)
    assert_equal(
        lambda q, k: info_nce(q, k, temperature=0.1),
        lambda q, k: loss(q, torch.arange(4), ref_emb=k, ref_labels=torch.arange(4)),
        embeddings(4),
        embeddings(4, 1),
    )
