"""Matryoshka around other losses: what it averages, and that it is called as they are."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contrastive.contracts import RankingLoss
from contrastive.data.batch import EmbeddedBatch, loss_arguments
from contrastive.losses import InfoNCELoss, TripletLoss, info_nce
from contrastive.losses.core.health import Health
from contrastive.losses.core.signature import parameters_of
from contrastive.losses.distill import DistillKLLoss, distill_kl
from contrastive.losses.matryoshka import MatryoshkaLoss
from contrastive.losses.ordinal import CoSENTLoss, cosent
from contrastive.testing import assert_gradients, assert_world_size_invariant


def batch(seed: int = 0) -> EmbeddedBatch:
    """With every field that a loss may ask for."""
    generator = torch.Generator().manual_seed(seed)
    queries, keys = (torch.randn(rows, 6, generator=generator, dtype=torch.float64) for rows in (4, 8))
    return EmbeddedBatch(
        queries.requires_grad_(),
        keys.requires_grad_(),
        owners=torch.arange(8) % 4,
        weights=torch.tensor([1.0, 2, 0.5, 1]),
        teacher_scores=torch.randn(4, 2, generator=generator),
        targets=torch.tensor([0.1, 0.9, 0.4, 0.4]),
        guide_queries=torch.randn(4, 3, generator=generator),
        guide_keys=torch.randn(8, 3, generator=generator),
    )


class Guided(nn.Module):
    """Takes guides and remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def forward(self, queries: Tensor, keys: Tensor, *, guide_queries: Tensor, guide_keys: Tensor) -> Tensor:
        self.calls.append({"width": queries.shape[1], "guides": (guide_queries, guide_keys)})
        return (queries.sum() + keys.sum()).square()


def test_is_the_weighted_mean_over_leading_dimensions() -> None:
    given = batch()
    q, k = given.queries, given.keys
    loss = MatryoshkaLoss(InfoNCELoss(0.1), dimensions=[2, 6, 3], weights=[1.0, 2.0, 0.5])
    expected = (
        info_nce(q[:, :2], k[:, :2], temperature=0.1)
        + 2 * info_nce(q, k, temperature=0.1)
        + 0.5 * info_nce(q[:, :3], k[:, :3], temperature=0.1)
    ) / 3.5
    torch.testing.assert_close(loss(q, k), expected)
    for ours, theirs in zip(
        torch.autograd.grad(loss(q, k), (q, k)), torch.autograd.grad(expected, (q, k)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    even = (info_nce(q[:, :2], k[:, :2]) + info_nce(q, k)) / 2
    torch.testing.assert_close(MatryoshkaLoss(InfoNCELoss(), [6, 2])(q, k), even)


def test_one_dimension_is_the_loss_of_that_width() -> None:
    given = batch()
    value = MatryoshkaLoss(InfoNCELoss(), [6])(given.queries, given.keys)
    assert value == info_nce(given.queries, given.keys)


def test_it_sums_where_sentence_transformers_does() -> None:
    """Its loss is as many times larger as there are dimensions."""
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")

    class Lookup(nn.Module):
        def get_embedding_dimension(self) -> int:
            return 6

        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            return {"sentence_embedding": features["embedding"]}

    model = Lookup()
    given = batch()
    theirs = losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [6, 4, 2])
    columns = [{"embedding": given.queries}, {"embedding": given.keys[:4]}]
    ours = MatryoshkaLoss(InfoNCELoss(0.05), [6, 4, 2])(given.queries, given.keys[:4])
    torch.testing.assert_close(3 * ours, theirs(columns, torch.zeros(4)).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("inner", "wanted"),
    [
        (InfoNCELoss(), {"owners", "weights"}),
        (TripletLoss(), {"owners", "weights"}),
        (DistillKLLoss(), {"owners", "weights", "teacher_scores"}),
        (CoSENTLoss(), {"targets", "weights"}),
        (Guided(), {"guide_queries", "guide_keys"}),
        (distill_kl, {"owners", "weights", "teacher_scores"}),
        (MatryoshkaLoss(Guided(), [2]), {"guide_queries", "guide_keys"}),
    ],
    ids=["info_nce", "triplet", "distill_kl", "cosent", "guided", "function", "matryoshka"],
)
def test_asks_a_batch_for_what_its_loss_asks_for(inner: Any, wanted: set[str]) -> None:
    loss = MatryoshkaLoss(inner, [6, 2])
    given = batch()
    arguments = loss_arguments(loss, given)
    assert wanted <= arguments.keys() == loss_arguments(inner, given).keys()
    rows = min(len(given.queries), len(given.keys)) if "targets" in wanted else len(given.keys)
    assert loss(given.queries, given.keys[:rows], **arguments).isfinite()
    assert inspect.signature(loss).parameters == parameters_of(inner)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert loss_arguments(twin, given).keys() == arguments.keys()


def test_what_a_batch_lacks_is_missed() -> None:
    lacking = EmbeddedBatch(torch.eye(6), torch.eye(6))
    with pytest.raises(ValueError, match="MatryoshkaLoss needs teacher_scores, which the training records do not have"):
        loss_arguments(MatryoshkaLoss(DistillKLLoss(), [6]), lacking)


def test_pairs_may_be_called_by_place() -> None:
    given = batch()
    left, right = given.queries, given.keys[:4]
    value = MatryoshkaLoss(CoSENTLoss(), [6, 2])(left, right, given.targets)
    expected = (cosent(left, right, given.targets) + cosent(left[:, :2], right[:, :2], given.targets)) / 2
    torch.testing.assert_close(value, expected)


def test_guides_are_not_cut() -> None:
    inner, given = Guided(), batch()
    MatryoshkaLoss(inner, [6, 2])(given.queries, given.keys, **loss_arguments(inner, given))
    assert [call["width"] for call in inner.calls] == [6, 2]
    for call in inner.calls:
        assert call["guides"][0] is given.guide_queries
        assert call["guides"][1] is given.guide_keys


@pytest.mark.parametrize("dimensions", [[6, 2], [2, 6]])
def test_health_is_that_of_the_greatest_width(dimensions: list[int]) -> None:
    given = batch()
    mine, its = Health(), Health()
    MatryoshkaLoss(InfoNCELoss(), dimensions)(given.queries, given.keys, health=mine)
    InfoNCELoss()(given.queries, given.keys, health=its)
    assert mine.summary() == pytest.approx(its.summary())
    assert "health" in inspect.signature(MatryoshkaLoss(InfoNCELoss(), dimensions)).parameters


def test_learnt_temperature_trains_and_is_saved() -> None:
    given = batch()
    loss = MatryoshkaLoss(InfoNCELoss(0.2, learnable_temperature=True), [6, 2])
    (parameter,) = loss.parameters()
    loss(given.queries, given.keys).backward()
    assert parameter.grad is not None
    assert parameter.grad != 0
    other = MatryoshkaLoss(InfoNCELoss(0.5, learnable_temperature=True), [6, 2])
    other.load_state_dict(loss.state_dict())
    assert other.loss.temperature == loss.loss.temperature
    assert_gradients(loss, shapes=((3, 6, 6),))


def test_rows_are_averaged_too() -> None:
    given = batch()
    rows = MatryoshkaLoss(InfoNCELoss(reduction="none"), [6, 2])(given.queries, given.keys)
    assert rows.shape == (4,)
    torch.testing.assert_close(rows.mean(), MatryoshkaLoss(InfoNCELoss(), [6, 2])(given.queries, given.keys))


def test_bfloat16_embeddings() -> None:
    given = batch()
    low = [side.detach().bfloat16().requires_grad_() for side in (given.queries, given.keys)]
    value = MatryoshkaLoss(InfoNCELoss(), [6, 2])(*low)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, MatryoshkaLoss(InfoNCELoss(), [6, 2])(*(side.float() for side in low)))


def test_world_size_does_not_matter() -> None:
    losses: list[nn.Module] = [
        MatryoshkaLoss(InfoNCELoss(0.2, learnable_temperature=True, symmetric=True), [6, 2], [1.0, 0.5]),
        MatryoshkaLoss(CoSENTLoss(), [6, 3]),
    ]
    assert_world_size_invariant(losses, world_sizes=(2,))


def test_is_a_ranking_loss_around_one() -> None:
    loss: RankingLoss = MatryoshkaLoss(InfoNCELoss(), [6])
    assert repr(loss).startswith("MatryoshkaLoss(\n  dimensions=[6], weights=[1.0]\n  (loss): InfoNCELoss(")


def test_what_cannot_be_is_refused() -> None:
    for dimensions in ([], [0, 2], [2, 2], [-1]):
        with pytest.raises(ValueError, match=r"expected distinct dimensions above 0, got \["):
            MatryoshkaLoss(InfoNCELoss(), dimensions)
    with pytest.raises(ValueError, match="expected 2 weights, one a dimension, got 3"):
        MatryoshkaLoss(InfoNCELoss(), [6, 2], [1, 1, 1])
    for weights in ([0.0, 0.0], [1.0, -0.5], [float("nan"), 1.0], [float("inf"), 1.0]):
        with pytest.raises(ValueError, match=r"expected weights of 0 or above, not all of them 0, got \["):
            MatryoshkaLoss(InfoNCELoss(), [6, 2], weights)
    given = batch()
    with pytest.raises(ValueError, match="expected embeddings of at least 8 dimensions, got 6"):
        MatryoshkaLoss(InfoNCELoss(), [8, 2])(given.queries, given.keys)


@pytest.mark.parametrize(
    ("overrides", "inner"),
    [
        ([], InfoNCELoss(0.05, symmetric=True)),
        (["loss.loss.temperature=0.2"], InfoNCELoss(0.2, symmetric=True)),
        (["loss@loss.loss=triplet", "loss.loss.margin=0.3"], TripletLoss(margin=0.3)),
    ],
    ids=str,
)
def test_configuration_holds_another(overrides: list[str], inner: RankingLoss) -> None:
    import hydra

    from experiments.run.parts import build_loss

    with hydra.initialize_config_dir(str(Path(__file__).parents[2] / "configs"), version_base="1.3"):
        config = hydra.compose("config", ["loss=matryoshka", "loss.dimensions=[6,2]", *overrides])
    given = batch()
    value = build_loss(config.loss, encoder=None)(given.queries, given.keys)
    assert value == MatryoshkaLoss(inner, [6, 2])(given.queries, given.keys)
