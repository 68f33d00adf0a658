"""One battery for all ranking losses: a table of losses and options against a table of batches."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from contrastive import losses, similarity
from contrastive.contracts import RankingLoss
from contrastive.health import Health
from contrastive.masks import Mask, from_tensor

LOSSES = {
    "info_nce": (losses.info_nce, losses.InfoNCELoss, oracles.info_nce),
    "multiple_negatives_ranking": (
        losses.multiple_negatives_ranking,
        losses.MultipleNegativesRankingLoss,
        oracles.info_nce,
    ),
    "triplet": (losses.triplet, losses.TripletLoss, oracles.triplet),
}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("info_nce", {}),
    ("info_nce", {"similarity": "dot", "temperature": 1.0}),
    ("info_nce", {"similarity": "euclidean", "temperature": 0.3}),
    ("info_nce", {"symmetric": True, "temperature": 0.1}),
    ("info_nce", {"symmetric": True, "similarity": "euclidean", "temperature": 0.5}),
    ("info_nce", {"others_negatives": False, "temperature": 0.1}),
    ("info_nce", {"others_negatives": False, "symmetric": True, "temperature": 0.1}),
    ("multiple_negatives_ranking", {}),
    ("triplet", {}),
    ("triplet", {"margin": 1.0, "average": "active"}),
    ("triplet", {"distance": "euclidean"}),
    ("triplet", {"distance": "euclidean", "normalize": False}),
    ("triplet", {"soft_margin": True}),
    ("triplet", {"mining": "semi_hard", "margin": 0.5}),
    ("triplet", {"mining": "semi_hard", "distance": "euclidean", "soft_margin": True}),
    ("triplet", {"mining": "all", "margin": 0.5}),
    ("triplet", {"mining": "all", "margin": 0.5, "average": "active"}),
    ("triplet", {"mining": "all", "distance": "euclidean", "normalize": False, "average": "active"}),
    ("triplet", {"mining": "explicit", "margin": 0.5}),
    ("triplet", {"mining": "easy_positive", "margin": 0.5}),
    ("triplet", {"mining": "distance_weighted", "margin": 0.5}),
    ("triplet", {"mining": "distance_weighted", "distance": "euclidean", "margin": 1.0, "average": "active"}),
]


def label(value: Any) -> str | None:
    if isinstance(value, dict):
        return ",".join(f"{key}={option}" for key, option in value.items()) or "default"
    return value if isinstance(value, str) else None


every_loss = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=label)
UNIT = [(name, options) for name, options in OPTIONS if options.get("normalize", True) and "similarity" not in options]


@dataclass
class Batch:
    """A call of a loss, said in tensors for the loss and in sets for its oracle."""

    num_queries: int
    num_keys: int
    given: dict[str, Tensor | Mask] = field(default_factory=dict)
    positives: oracles.Pairs | None = None
    exclude: oracles.Pairs = frozenset()
    owners: list[int] | None = None
    weights: list[float] | None = None

    def embeddings(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        queries = torch.randn(self.num_queries, 5, generator=generator, dtype=torch.float64)
        keys = torch.randn(self.num_keys, 5, generator=generator, dtype=torch.float64)
        keys[: self.num_queries] += 0.7 * queries[: self.num_keys]
        return queries.requires_grad_(), keys.requires_grad_()

    def said(self) -> dict[str, Any]:
        pairs = self.positives or {(i, i) for i in range(self.num_queries)}
        return {"positives": pairs, "exclude": self.exclude, "owners": self.owners, "weights": self.weights}


def selection(num_rows: int, num_cols: int, pairs: oracles.Pairs) -> Tensor:
    mask = torch.zeros(num_rows, num_cols, dtype=torch.bool)
    for i, j in pairs:
        mask[i, j] = True
    return mask


SEVERAL = {(0, 0), (0, 5), (1, 1), (2, 2), (2, 0), (3, 3), (3, 9), (3, 10)}
EXCLUDED = {(0, 0), (0, 1), (1, 0), (2, 6), (3, 9), (3, 7)}
FOR_ALL = {(0, 0), (1, 0), (2, 0), (1, 1), (2, 2)}
CROSSED = {(0, 4), (1, 4), (2, 1), (3, 8)}
OWNERS = [0, 1, 2, 3, 0, 0, 1, 3, 3, 3, -1, -1]
BATCHES = {
    "negatives": Batch(4, 12),
    "excluded": Batch(4, 12, {"exclude": selection(4, 12, EXCLUDED)}, exclude=EXCLUDED),
    "excluded by mask": Batch(4, 12, {"exclude": from_tensor(selection(4, 12, EXCLUDED))}, exclude=EXCLUDED),
    "several positives": Batch(4, 12, {"positives": selection(4, 12, SEVERAL)}, positives=SEVERAL),
    "several positives, excluded": Batch(
        4,
        12,
        {"positives": from_tensor(selection(4, 12, SEVERAL)), "exclude": selection(4, 12, EXCLUDED)},
        positives=SEVERAL,
        exclude=EXCLUDED,
    ),
    "index pairs": Batch(4, 12, {"positives": torch.tensor(sorted(CROSSED))}, positives=CROSSED),
    "owners": Batch(4, 12, {"owners": torch.tensor(OWNERS)}, owners=OWNERS),
    "weights": Batch(4, 12, {"weights": torch.tensor([0.5, 2.0, 0.0, 1.0])}, weights=[0.5, 2.0, 0.0, 1.0]),
    "weighted, several": Batch(
        4,
        12,
        {"positives": selection(4, 12, SEVERAL), "weights": torch.tensor([0.5, 2.0, 1.5, 1.0])},
        positives=SEVERAL,
        weights=[0.5, 2.0, 1.5, 1.0],
    ),
    "a query without negatives": Batch(
        3,
        9,
        {"exclude": selection(3, 9, {(1, j) for j in range(9)})},
        exclude={(1, j) for j in range(9)},
    ),
    "a query without positives": Batch(
        3, 9, {"positives": torch.tensor([[0, 0], [2, 2], [2, 4]])}, positives={(0, 0), (2, 2), (2, 4)}
    ),
    "a key that answers every query": Batch(3, 9, {"positives": torch.tensor(sorted(FOR_ALL))}, positives=FOR_ALL),
    "one pair with negatives": Batch(1, 3),
}
every_batch = pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())


def gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, of, materialize_grads=True)


def without_negatives(options: dict[str, Any]) -> bool:
    """Whether a loss runs on a batch of queries and positives alone."""
    return options.get("mining") != "explicit"


@every_batch
@every_loss
def test_equals_the_paper_in_value_and_gradient(name: str, options: dict[str, Any], batch: Batch) -> None:
    loss, _, oracle = LOSSES[name]
    queries, keys = batch.embeddings()
    value = loss(queries, keys, **options, **batch.given)
    expected = oracle(queries, keys, **options, **batch.said())
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(gradients(value, queries, keys), gradients(expected, queries, keys), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("reduction", ["none", "sum"])
@every_loss
def test_other_reductions_equal_the_paper(name: str, options: dict[str, Any], reduction: str) -> None:
    loss, _, oracle = LOSSES[name]
    for batch in (BATCHES["weighted, several"], BATCHES["a query without negatives"]):
        queries, keys = batch.embeddings()
        value = loss(queries, keys, **options, **batch.given, reduction=reduction)
        expected = oracle(queries, keys, **options, **batch.said(), reduction=reduction)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


@every_loss
def test_reductions_agree(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    queries, keys = BATCHES["negatives"].embeddings()
    rows = loss(queries, keys, reduction="none")
    assert rows.shape == (4,)
    torch.testing.assert_close(loss(queries, keys, reduction="sum"), rows.sum())
    if options.get("average") != "active":  # every query then has as many triplets
        torch.testing.assert_close(loss(queries, keys, reduction="mean"), rows.mean())


@every_loss
def test_gradcheck(name: str, options: dict[str, Any]) -> None:
    if options.get("mining") == "distance_weighted":
        pytest.skip("its probabilities are constants, for the gradient but not for finite differences")
    loss = partial(LOSSES[name][0], **options, **BATCHES["several positives, excluded"].given)
    for seed in range(2):
        assert torch.autograd.gradcheck(loss, BATCHES["several positives, excluded"].embeddings(seed))


@every_batch
@every_loss
def test_module_equals_function(name: str, options: dict[str, Any], batch: Batch) -> None:
    function, module, _ = LOSSES[name]
    queries, keys = batch.embeddings()
    torch.testing.assert_close(
        module(**options)(queries, keys, **batch.given),
        function(queries, keys, **options, **batch.given),
        rtol=0,
        atol=0,
    )


@every_loss
def test_is_a_ranking_loss(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["negatives"].embeddings()
    loss: RankingLoss = LOSSES[name][1](**options)
    health = Health()
    value = loss(
        queries,
        keys,
        positives=torch.arange(4)[:, None].expand(-1, 2),
        exclude=torch.zeros(4, 12, dtype=torch.bool),
        owners=torch.arange(12) % 4,
        weights=torch.ones(4),
        health=health,
    )
    assert value.shape == ()
    torch.testing.assert_close(value, loss(queries, keys))
    kind = "distance" if name == "triplet" else "similarity"
    own = {"active_share"} if name == "triplet" else {"temperature", "effective_negatives"}
    assert set(health.summary()) == {f"positive_{kind}", f"negative_{kind}", "excluded_share", "unanswered"} | own


@every_loss
def test_order_of_negatives_does_not_matter(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    queries, keys = BATCHES["owners"].embeddings()
    order = torch.cat([torch.arange(4), 4 + torch.randperm(8, generator=torch.Generator().manual_seed(1))])
    owners = torch.tensor(OWNERS)
    torch.testing.assert_close(
        loss(queries, keys[order], owners=owners[order]), loss(queries, keys, owners=owners), rtol=1e-12, atol=0
    )


@every_loss
def test_order_of_queries_does_not_matter(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options, reduction="none")
    queries, keys = BATCHES["negatives"].embeddings()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        loss(queries[order], keys[torch.cat([order, order + 4, order + 8])]),
        loss(queries, keys)[order],
        rtol=1e-12,
        atol=0,
    )


@pytest.mark.parametrize(("name", "options"), UNIT, ids=label)
def test_length_of_embeddings_does_not_matter(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    queries, keys = BATCHES["negatives"].embeddings()
    torch.testing.assert_close(loss(queries * 3, keys * torch.arange(1, 13)[:, None]), loss(queries, keys))


@every_loss
def test_exclude_never_removes_a_positive(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    batch = BATCHES["several positives"]
    queries, keys = batch.embeddings()
    positives = selection(4, 12, SEVERAL)
    torch.testing.assert_close(
        loss(queries, keys, positives=positives, exclude=positives), loss(queries, keys, positives=positives)
    )


@every_loss
def test_excluded_key_gets_no_gradient(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["negatives"].embeddings()
    exclude = torch.zeros(4, 12, dtype=torch.bool)
    exclude[:, 6] = True
    options = options | {"margin": 2.0} if name == "triplet" and not options.get("soft_margin") else options
    value = LOSSES[name][0](queries, keys, **options, exclude=exclude)
    _, of_keys = gradients(value, queries, keys)
    assert of_keys[6].eq(0).all()
    without = torch.tensor([0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11])
    owners = torch.arange(12) % 4
    expected = LOSSES[name][0](queries, keys[without], **options, owners=owners[without])
    torch.testing.assert_close(value, expected)


@every_loss
def test_query_without_negatives_is_left_out_of_the_mean(name: str, options: dict[str, Any]) -> None:
    if options.get("symmetric"):
        pytest.skip("its positive still looks for it, among the other queries")
    queries, keys = BATCHES["negatives"].embeddings()
    exclude = torch.zeros(4, 12, dtype=torch.bool)
    exclude[2] = True
    value = LOSSES[name][0](queries, keys, **options, exclude=exclude)
    expected = LOSSES[name][0](queries, keys, **options, weights=torch.tensor([1.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(value, expected)
    assert gradients(value, queries)[0][2].eq(0).all()


@every_loss
def test_batch_with_nothing_to_answer_gives_zero_with_a_graph(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    cases = {
        "empty": (Batch(0, 0), {}),
        "no negatives left": (Batch(3, 9), {"exclude": torch.ones(3, 9, dtype=torch.bool)}),
        "no positives": (Batch(3, 9), {"positives": torch.empty(0, 2, dtype=torch.long)}),
    }
    if without_negatives(options):
        cases["one pair"] = (Batch(1, 1), {})
        cases["all positives"] = (Batch(2, 2), {"positives": torch.ones(2, 2, dtype=torch.bool)})
    for case, (batch, given) in cases.items():
        for reduction in ("mean", "sum", "none"):
            queries, keys = batch.embeddings()
            value = loss(queries, keys, **given, reduction=reduction)
            assert value.requires_grad, case
            assert value.shape == ((batch.num_queries,) if reduction == "none" else ()), case
            assert value.eq(0).all(), case
            for gradient in gradients(value.sum(), queries, keys):
                assert gradient.eq(0).all(), case


@every_loss
def test_a_batch_of_no_queries_has_keys_without_gradient(name: str, options: dict[str, Any]) -> None:
    queries, keys = Batch(0, 3).embeddings()
    value = LOSSES[name][0](queries, keys, **options, owners=torch.full((3,), -1))
    assert value.eq(0)
    assert gradients(value, keys)[0].eq(0).all()


@every_loss
def test_unanswered_queries_are_counted(name: str, options: dict[str, Any]) -> None:
    health = Health()
    exclude = torch.zeros(4, 12, dtype=torch.bool)
    exclude[2] = True
    queries, keys = BATCHES["negatives"].embeddings()
    LOSSES[name][0](queries, keys, **options, exclude=exclude, health=health)
    summary = health.summary()
    assert summary["unanswered"] == 0.25
    assert summary["excluded_share"] == pytest.approx(0.25)


@every_loss
def test_duplicates_and_zero_vectors_are_finite(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["negatives"].embeddings()
    with torch.no_grad():
        keys[4] = keys[0]  # a hard negative that is the positive
        keys[1] = queries[1]  # distance 0
        keys[2] = 0
        queries[3] = 0
    value = LOSSES[name][0](queries, keys, **options)
    assert value.isfinite()
    for gradient in gradients(value, queries, keys):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 100


@every_loss
def test_ties_do_not_change_the_value(name: str, options: dict[str, Any]) -> None:
    """Equal keys give one value whichever of them is chosen, and gradients that sum to the same."""
    queries, keys = BATCHES["negatives"].embeddings()
    with torch.no_grad():
        keys[8:] = keys[4:8]
    loss = partial(LOSSES[name][0], **options)
    order = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7])
    value, swapped = loss(queries, keys), loss(queries, keys[order])
    assert value == swapped
    torch.testing.assert_close(gradients(value, queries), gradients(swapped, queries))


@every_loss
def test_bfloat16_embeddings_cost_no_more_than_their_rounding(name: str, options: dict[str, Any]) -> None:
    """Scores are float32 whatever the embeddings and autocast are."""
    loss = partial(LOSSES[name][0], **options)
    queries, keys = (
        embeddings.detach().bfloat16().requires_grad_() for embeddings in BATCHES["negatives"].embeddings()
    )
    rounded = [embeddings.detach().float().requires_grad_() for embeddings in (queries, keys)]
    expected = loss(*rounded)
    of_expected = gradients(expected, *rounded)

    plain = loss(queries, keys)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = loss(queries, keys)
        float_under_autocast = loss(*rounded)
    for value in (plain, under_autocast, float_under_autocast):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    for ours, theirs in zip(gradients(under_autocast, queries, keys), of_expected, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), theirs, rtol=2**-8, atol=1e-6)


@every_loss
def test_nothing_is_mutated(name: str, options: dict[str, Any]) -> None:
    batch = BATCHES["several positives, excluded"]
    queries, keys = batch.embeddings()
    module = LOSSES[name][1](**options)
    given = {"weights": torch.ones(4), "exclude": batch.given["exclude"], "positives": selection(4, 12, SEVERAL)}
    before = {argument: tensor.clone() for argument, tensor in (given | {"queries": queries, "keys": keys}).items()}
    first = module(queries, keys, **given)
    assert module(queries, keys, **given) == first
    for argument, tensor in (given | {"queries": queries, "keys": keys}).items():
        assert tensor.equal(before[argument]), argument


@every_loss
def test_nothing_is_asked_of_the_device(name: str, options: dict[str, Any]) -> None:
    """A fake tensor has no values: reading one, or a shape that depends on one, raises; on a GPU it would wait."""
    with FakeTensorMode():
        queries, keys = torch.randn(4, 5, requires_grad=True), torch.randn(12, 5, requires_grad=True)
        given = {
            "exclude": torch.zeros(4, 12, dtype=torch.bool),
            "weights": torch.ones(4),
            "owners": torch.arange(12) % 4,
        }
        value = LOSSES[name][0](queries, keys, **options, **given, health=Health())
        value.backward()
        with pytest.raises(DataDependentOutputException):
            value.item()


@every_loss
def test_shapes_that_do_not_match_are_named(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    queries, keys = BATCHES["negatives"].embeddings()
    with pytest.raises(ValueError, match=r"same D, got \[4, 5\] and \[12, 4\]"):
        loss(queries, keys[:, :4])
    with pytest.raises(ValueError, match=r"same D, got \[4, 5\] and \[12, 5, 1\]"):
        loss(queries, keys[..., None])
    with pytest.raises(ValueError, match=r"bool mask of shape \[4, 12\], got torch.bool \[12, 4\]"):
        loss(queries, keys, exclude=torch.zeros(12, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"bool mask of shape \[4, 12\], got torch.float32 \[4, 12\]"):
        loss(queries, keys, exclude=torch.zeros(4, 12))
    with pytest.raises(ValueError, match=r"bool mask of shape \[4, 12\], got torch.bool \[4, 4\]"):
        loss(queries, keys, positives=torch.eye(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"index pairs of shape \[P, 2\], got torch.int64 \[4\]"):
        loss(queries, keys, positives=torch.arange(4))
    with pytest.raises(ValueError, match=r"weights \[4\], one a query, got \[12\]"):
        loss(queries, keys, weights=torch.ones(12))
    with pytest.raises(ValueError, match="'mean', 'sum', 'none', got 'avg'"):
        loss(queries, keys, reduction="avg")
    with pytest.raises(ValueError, match="'mean', 'sum', 'none', got 'avg'"):
        LOSSES[name][1](**options, reduction="avg")
    with pytest.raises(ValueError, match="key i to be the positive of query i, got 4 queries, 3 keys"):
        loss(queries, keys[:3])


@pytest.mark.parametrize(
    ("name", "options"),
    [("info_nce", {"others_negatives": False}), ("triplet", {"mining": "explicit"})],
    ids=label,
)
def test_owners_that_cannot_be_told_are_asked_for(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    queries, keys = BATCHES["negatives"].embeddings()
    with pytest.raises(ValueError, match="got no owners, 4 queries and 11 keys"):
        loss(queries, keys[:11])
    with pytest.raises(ValueError, match=r"integer owners \[11\], got torch.int64 \[12\]"):
        loss(queries, keys[:11], owners=torch.arange(12))
    loss(queries, keys[:11], owners=torch.arange(11) % 4)


def configured(name: str, **overrides: Any) -> RankingLoss:
    """Build the loss of configs/loss/NAME.yaml."""
    import hydra.utils
    from omegaconf import OmegaConf

    config = OmegaConf.load(Path(__file__).parents[1] / "configs" / "loss" / f"{name}.yaml")
    return hydra.utils.instantiate(config, **overrides)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("infonce", partial(losses.info_nce, temperature=0.05, symmetric=True)),
        ("mnrl", partial(losses.info_nce, temperature=0.05)),
        ("triplet", partial(losses.triplet, mining="hardest", distance="cosine", margin=0.2)),
    ],
    ids=label,
)
def test_configuration_builds_the_loss(config: str, expected: RankingLoss) -> None:
    from hydra.errors import InstantiationException

    queries, keys = BATCHES["negatives"].embeddings()
    assert configured(config)(queries, keys) == expected(queries, keys)
    with pytest.raises(InstantiationException, match="got (an unexpected keyword argument )?'tau'"):
        configured(config, tau=0.1)


def test_infonce_and_mnrl_configurations_differ() -> None:
    queries, keys = BATCHES["negatives"].embeddings()
    assert (configured("infonce")(queries, keys) - configured("mnrl")(queries, keys)).abs() > 1e-3


def test_similarities_are_chosen_by_name_or_callable() -> None:
    queries, keys = BATCHES["negatives"].embeddings()
    for chosen in (similarity.cosine, similarity.dot, similarity.euclidean):
        by_name = losses.info_nce(queries, keys, similarity=chosen.name, temperature=1.0)
        assert by_name == losses.info_nce(queries, keys, similarity=chosen, temperature=1.0)
        assert by_name == losses.InfoNCELoss(1.0, similarity=chosen.name)(queries, keys)


def test_losses_load_torch_and_nothing_heavier() -> None:
    script = (
        "import sys, torch; before = set(sys.modules); import contrastive.losses;"
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["contrastive"]
