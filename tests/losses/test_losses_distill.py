"""MarginMSE and KL distillation: against their formulas, ragged and full teachers, and sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import oracles_pairs
import pytest
import torch
from oracles import Pairs
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from contrastive.contracts import DistillationLoss
from contrastive.losses.core import taught
from contrastive.losses.core.health import Health
from contrastive.losses.distill import DistillKLLoss, MarginMSELoss, distill_kl, margin_mse
from contrastive.masks import from_tensor
from contrastive.similarity import cosine

NAN = float("nan")
LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Any], Callable[..., Tensor]]] = {
    "margin_mse": (margin_mse, MarginMSELoss, oracles_pairs.margin_mse),
    "distill_kl": (distill_kl, DistillKLLoss, oracles_pairs.distill_kl),
}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("margin_mse", {}),
    ("margin_mse", {"similarity": "cosine", "temperature": 0.1}),
    ("margin_mse", {"similarity": "euclidean"}),
    ("distill_kl", {}),
    ("distill_kl", {"similarity": "dot", "temperature": 1.0, "teacher_temperature": 0.3}),
    ("distill_kl", {"similarity": "euclidean", "temperature": 0.5}),
]
ITS_OWN = {(i, i) for i in range(4)}
SEVERAL = {(0, 0), (0, 4), (1, 1), (2, 2), (3, 3), (3, 7)}
RAGGED = [0, 1, 2, 3, 0, 3, 1, 3, 3, 0, -1, -1]
UNEVEN = [0, 1, 2, 3, 0, 0, 0, 2, 2, 3, -1, -1]  # more than two, or none, where two were scored
OWN_TAUGHT = [[3.0, 1.0, 2.5], [1.0, -1.0, 0.5], [0.0, 0.2, -4.0], [2.0, 1.9, 1.8]]
RAGGED_TAUGHT = [[3.0, 1.0, 2.5, NAN], [1.0, -1.0, NAN, NAN], [0.0, NAN, NAN, NAN], [2.0, NAN, 1.9, 1.8]]


def label(value: Any) -> str | None:
    if isinstance(value, dict):
        return ",".join(f"{key}={option}" for key, option in value.items()) or "default"
    return value if isinstance(value, str) else None


def everyone(num_queries: int = 4, num_keys: int = 12) -> list[list[float]]:
    taught = torch.randn(num_queries, num_keys, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    taught[0, 3:6] = taught[2, 2] = NAN
    return taught.tolist()


def selection(pairs: Pairs) -> Tensor:
    mask = torch.zeros(4, 12, dtype=torch.bool)
    for pair in pairs:
        mask[pair] = True
    return mask


EXCLUDED = {(0, 0), (0, 4), (1, 2), (3, 5), (3, 0)}
BATCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # what the loss is given, and what the oracle is told, beside positives
    "own negatives": ({"teacher_scores": OWN_TAUGHT}, {}),
    "ragged": ({"teacher_scores": RAGGED_TAUGHT, "owners": torch.tensor(RAGGED)}, {"owners": RAGGED}),
    "not all asked": (
        {"teacher_scores": [row[:2] for row in OWN_TAUGHT], "owners": torch.tensor(UNEVEN)},
        {"owners": UNEVEN},
    ),
    "everyone": ({"teacher_scores": everyone()}, {}),
    "excluded": ({"teacher_scores": everyone(), "exclude": selection(EXCLUDED)}, {"exclude": EXCLUDED}),
    "ragged, excluded": (
        {
            "teacher_scores": RAGGED_TAUGHT,
            "owners": torch.tensor(RAGGED),
            "exclude": from_tensor(selection(EXCLUDED)),
        },
        {"owners": RAGGED, "exclude": EXCLUDED},
    ),
    "several positives": (
        {"teacher_scores": OWN_TAUGHT, "positives": torch.tensor(sorted(SEVERAL))},
        {"positives": SEVERAL},
    ),
    "several positives, everyone, weighted": (
        {"teacher_scores": everyone(), "positives": selection(SEVERAL), "weights": torch.tensor([0.5, 2, 0, 1])},
        {"positives": SEVERAL, "weights": [0.5, 2.0, 0.0, 1.0]},
    ),
    "weights": (
        {"teacher_scores": OWN_TAUGHT, "weights": torch.tensor([0.5, 2, 1.5, 1])},
        {"weights": [0.5, 2.0, 1.5, 1.0]},
    ),
}
every_loss = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=label)
every_batch = pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())


def embeddings(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries, keys = (torch.randn(rows, 5, generator=generator, dtype=torch.float64) for rows in (4, 12))
    return queries.requires_grad_(), keys.requires_grad_()


def arguments(batch: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    given = batch[0]
    return {**given, "teacher_scores": torch.tensor(given["teacher_scores"], dtype=torch.float64)}


def gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss.sum(), of, materialize_grads=True)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@every_batch
@every_loss
def test_equals_the_paper_in_value_and_gradient(
    name: str, options: dict[str, Any], batch: tuple[dict[str, Any], dict[str, Any]], reduction: str
) -> None:
    loss, _, oracle = LOSSES[name]
    queries, keys = embeddings()
    value = loss(queries, keys, **arguments(batch), **options, reduction=reduction)
    said = {"positives": ITS_OWN, **batch[1], "teacher_scores": batch[0]["teacher_scores"]}
    expected = oracle(queries, keys, **said, **options, reduction=reduction)
    assert value.sum() > 0
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(gradients(value, queries, keys), gradients(expected, queries, keys), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@every_batch
@every_loss
def test_gradcheck(name: str, options: dict[str, Any], batch: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert torch.autograd.gradcheck(partial(LOSSES[name][0], **arguments(batch), **options), embeddings())


@every_batch
@every_loss
def test_module_equals_function(
    name: str, options: dict[str, Any], batch: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    function, module, _ = LOSSES[name]
    loss: DistillationLoss = module(**options)
    mine, its = Health(), Health()
    value = loss(*embeddings(), **arguments(batch), health=mine)
    assert value == function(*embeddings(), **arguments(batch), **options, health=its)
    assert mine.summary() == pytest.approx(its.summary(), nan_ok=True)
    assert module(reduction="none")(*embeddings(), **arguments(batch)).shape == (4,)


@every_loss
def test_any_similarity_will_do(name: str, options: dict[str, Any]) -> None:
    """A callable of one's own is asked for all scores, the known ones for those that are needed."""
    del options

    def own(queries: Tensor, keys: Tensor) -> Tensor:
        return cosine(queries, keys)

    for batch in ("ragged", "everyone"):
        call = {**arguments(BATCHES[batch]), "temperature": 0.3}
        value = LOSSES[name][0](*embeddings(), similarity=own, **call)
        torch.testing.assert_close(value, LOSSES[name][0](*embeddings(), similarity="cosine", **call))


@every_loss
def test_own_negatives_cost_no_scores_of_others(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []

    def watched(similarity: Any, queries: Tensor, keys: Tensor) -> Tensor:
        shapes.append((len(queries), len(keys)))
        return original(similarity, queries, keys)

    original = taught.score_pairs
    monkeypatch.setattr(taught, "score_pairs", watched)
    LOSSES[name][0](*embeddings(), **arguments(BATCHES["ragged"]), **options)
    assert shapes == []


@every_loss
def test_masks_are_looked_at_in_blocks(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    call = {**arguments(BATCHES["ragged, excluded"]), **options}
    expected = LOSSES[name][0](*embeddings(), **call)
    monkeypatch.setattr(taught, "_BLOCK", 3)
    assert LOSSES[name][0](*embeddings(), **call) == expected


@every_loss
def test_order_of_shared_keys_does_not_matter(name: str, options: dict[str, Any]) -> None:
    """As of a queue, or of other ranks: a query's own negatives keep theirs."""
    queries, keys = embeddings()
    loss, call = partial(LOSSES[name][0], **options), arguments(BATCHES["ragged"])
    order = torch.tensor([0, 1, 2, 3, 10, 6, 4, 5, 11, 9, 7, 8])
    moved = loss(queries, keys[order], **{**call, "owners": call["owners"][order]})
    torch.testing.assert_close(moved, loss(queries, keys, **call))


@every_loss
def test_full_and_own_scores_agree(name: str, options: dict[str, Any]) -> None:
    full = torch.full((4, 12), NAN, dtype=torch.float64)
    for i in range(4):
        for column, key in enumerate([i, 4 + i, 8 + i]):
            full[i, key] = OWN_TAUGHT[i][column]
    loss = partial(LOSSES[name][0], *embeddings(), **options)
    torch.testing.assert_close(loss(teacher_scores=full), loss(teacher_scores=torch.tensor(OWN_TAUGHT).double()))


@every_loss
def test_batch_with_nothing_to_learn_gives_zero_with_a_graph(name: str, options: dict[str, Any]) -> None:
    queries, keys = embeddings()
    cases: dict[str, tuple[tuple[Tensor, Tensor], dict[str, Any]]] = {
        "empty": ((queries[:0], keys[:0]), {"teacher_scores": torch.empty(0, 3)}),
        "no queries": (
            (queries[:0], keys[:2]),
            {"teacher_scores": torch.empty(0, 1), "owners": torch.tensor([-1, -1])},
        ),
        "not asked": ((queries, keys), {"teacher_scores": torch.full((4, 3), NAN)}),
        "all excluded": (
            (queries, keys),
            {"teacher_scores": torch.ones(4, 3), "exclude": torch.ones(4, 12, dtype=torch.bool)},
        ),
    }
    for case, (sides, given) in cases.items():
        for reduction in ("mean", "sum", "none"):
            health = Health()
            value = LOSSES[name][0](*sides, **given, **options, reduction=reduction, health=health)
            assert value.eq(0).all(), case
            assert value.requires_grad, case
            assert value.shape == ((len(sides[0]),) if reduction == "none" else ()), case
            for gradient in gradients(value, queries, keys):
                assert gradient.eq(0).all(), case
            assert not len(sides[0]) or health.summary()["unanswered"] == 1


@every_loss
def test_one_candidate_a_query_is_refused_and_that_of_some_is_counted(name: str, options: dict[str, Any]) -> None:
    queries, keys = embeddings()
    loss = partial(LOSSES[name][0], **options)
    for rows in (1, 4):
        refused = rf"at least two candidates a query, such as its positive and a hard negative, got \[{rows}, 1\]"
        with pytest.raises(ValueError, match=refused):
            loss(queries[:rows], keys[:rows], teacher_scores=torch.ones(rows, 1))
    scores = torch.tensor(OWN_TAUGHT)
    scores[1, 1:] = NAN
    health = Health()
    found = loss(queries, keys, teacher_scores=scores, reduction="none", health=health)
    assert (found == 0).tolist() == [False, True, False, False]
    assert health.summary()["unanswered"] == 0.25


def test_without_positives_margins_are_nothing_and_divergences_something() -> None:
    none = torch.zeros(4, 12, dtype=torch.bool)
    call = {"teacher_scores": torch.tensor(OWN_TAUGHT), "positives": none}
    assert margin_mse(*embeddings(), **call) == 0
    torch.testing.assert_close(
        distill_kl(*embeddings(), **call), distill_kl(*embeddings(), teacher_scores=torch.tensor(OWN_TAUGHT))
    )


@every_loss
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name: str, options: dict[str, Any]) -> None:
    queries, keys = embeddings()
    call = {"similarity": "dot", "temperature": 0.7, **({"teacher_temperature": 0.7} if name == "distill_kl" else {})}
    del options
    scores = (queries @ keys.T).detach()
    taught = scores / 0.7 + 5 if name == "margin_mse" else scores + 5  # a constant changes nothing
    value = LOSSES[name][0](queries, keys, teacher_scores=taught, **call)
    assert value.abs() < 1e-12
    for gradient in gradients(value, queries, keys):
        assert gradient.abs().max() < 1e-7


@every_loss
def test_duplicates_zero_vectors_and_far_teachers_are_finite(name: str, options: dict[str, Any]) -> None:
    queries, keys = embeddings()
    with torch.no_grad():
        keys[4] = keys[0]
        keys[1] = queries[1]
        keys[2] = 0
        queries[3] = 0
    taught = torch.tensor(OWN_TAUGHT)
    taught[0] = torch.tensor([500.0, -500, 0])
    value = LOSSES[name][0](queries, keys, teacher_scores=taught, **options)
    assert value.isfinite()
    for gradient in gradients(value, queries, keys):
        assert gradient.isfinite().all()


def test_a_teacher_may_rule_out_a_candidate() -> None:
    """Minus infinity is a probability of 0: the student's is to be 0 too."""
    queries, keys = embeddings()
    ruled_out, far = (torch.tensor([[1.0, 0.5, low]] * 4) for low in (-torch.inf, -1e4))
    value = distill_kl(queries, keys, teacher_scores=ruled_out)
    torch.testing.assert_close(value, distill_kl(queries, keys, teacher_scores=far))
    assert all(gradient.isfinite().all() for gradient in gradients(value, queries, keys))


def test_a_hopeless_student_at_a_low_temperature_keeps_its_gradient() -> None:
    queries = torch.tensor([[1.0, 0.0]], requires_grad=True)
    keys = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    value = distill_kl(queries, keys, teacher_scores=torch.tensor([[100.0, 0.0]]), temperature=0.005)
    torch.testing.assert_close(value, torch.tensor(200.0))
    (gradient,) = gradients(value, queries)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -200.0]]))


@every_loss
def test_bfloat16_embeddings_cost_no_more_than_their_rounding(name: str, options: dict[str, Any]) -> None:
    for batch in ("ragged", "everyone"):
        loss = partial(LOSSES[name][0], **arguments(BATCHES[batch]), **options)
        low = [side.detach().bfloat16().requires_grad_() for side in embeddings()]
        rounded = [side.detach().float().requires_grad_() for side in low]
        expected = loss(*rounded)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(*low)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(gradients(value, *low), gradients(expected, *rounded), strict=True):
            assert ours.dtype == torch.bfloat16
            torch.testing.assert_close(ours.float(), theirs, rtol=2**-6, atol=1e-4)


@every_loss
def test_nothing_is_asked_of_the_device(name: str, options: dict[str, Any]) -> None:
    """But for distances of all pairs, whose close ones are looked for on a CPU; test_cuda has what a GPU does."""
    for width in (3,) if options.get("similarity") == "euclidean" else (3, 12):
        with FakeTensorMode():
            queries, keys = torch.randn(4, 5, requires_grad=True), torch.randn(12, 5, requires_grad=True)
            value = LOSSES[name][0](
                queries,
                keys,
                teacher_scores=torch.randn(4, width),
                owners=torch.arange(12) % 4,
                exclude=torch.zeros(4, 12, dtype=torch.bool),
                positives=torch.zeros(4, 2, dtype=torch.long),
                health=Health(),
                **options,
            )
            value.backward()
            with pytest.raises(DataDependentOutputException):
                value.item()


def test_temperature_trains() -> None:
    queries, keys = (side.detach() for side in embeddings())
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    for loss in (margin_mse, distill_kl):
        call = {"teacher_scores": torch.tensor(OWN_TAUGHT).double()}
        assert torch.autograd.gradcheck(
            lambda t, loss=loss, call=call: loss(queries, keys, temperature=t, **call), temperature
        )


def test_nothing_flows_to_the_teacher() -> None:
    for loss in (margin_mse, distill_kl):
        taught = torch.tensor(OWN_TAUGHT, requires_grad=True)
        assert gradients(loss(*embeddings(), teacher_scores=taught), taught)[0].eq(0).all()


def test_health() -> None:
    queries, keys = torch.eye(2), torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.6, 0.8], [1.0, 0.0], [1.0, 0.0]])
    call = {"owners": torch.tensor([0, 1, 0, 1, 0]), "exclude": torch.zeros(2, 5, dtype=torch.bool)}
    call["exclude"][0, 4] = True
    for loss in (margin_mse, distill_kl):
        health = Health()
        taught = torch.tensor([[1.0, 2.0, 9.0], [1.0, 0.5, NAN]])
        loss(queries, keys, teacher_scores=taught, temperature=0.5, health=health, **call)
        assert health.summary() == pytest.approx(
            {
                "positive_similarity": 0.8,
                "negative_similarity": 0.3,
                "excluded_share": 1 / 3,
                "unanswered": 0.0,
                "temperature": 0.5,
                "agreement": 0.5,
            }
        )


@every_loss
def test_shapes_that_do_not_match_are_named(name: str, options: dict[str, Any]) -> None:
    loss = partial(LOSSES[name][0], **options)
    queries, keys = embeddings()
    wanted = r"expected teacher_scores \[4, 1 \+ N\], a positive and its negatives, or \[4, 12\], got "
    with pytest.raises(ValueError, match=wanted + r"\[3, 3\]"):
        loss(queries, keys, teacher_scores=torch.ones(3, 3))
    with pytest.raises(ValueError, match=wanted + r"\[4\]"):
        loss(queries, keys, teacher_scores=torch.ones(4))
    with pytest.raises(ValueError, match=wanted + r"\[4, 2\] and no owners for 12 keys"):
        loss(queries, keys, teacher_scores=torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"same D, got \[4, 5\] and \[12, 4\]"):
        loss(queries, keys[:, :4], teacher_scores=torch.ones(4, 12))
    with pytest.raises(ValueError, match=r"same D, got \[4, 5\] and \[12, 4\]"):
        loss(queries, keys[:, :4], teacher_scores=torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"integer owners \[12\], got torch.int64 \[3\]"):
        loss(queries, keys, teacher_scores=torch.ones(4, 2), owners=torch.ones(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"bool mask of shape \[4, 12\], got torch.bool \[4, 4\]"):
        loss(queries, keys, teacher_scores=torch.ones(4, 3), exclude=torch.eye(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"weights \[4\], one a query, got \[12\]"):
        loss(queries, keys, teacher_scores=torch.ones(4, 3), weights=torch.ones(12))


@pytest.mark.parametrize("name", ["margin_mse", "distill_kl"])
def test_settings_that_cannot_be_are_refused(name: str) -> None:
    function, module, _ = LOSSES[name]
    for build in (module, partial(function, *embeddings(), teacher_scores=torch.tensor(OWN_TAUGHT))):
        with pytest.raises(ValueError, match="temperature above 0, got 0"):
            build(temperature=0)
        with pytest.raises(ValueError, match="finite temperature above 0, got inf"):
            build(temperature=float("inf"))
        with pytest.raises(ValueError, match="'mean', 'sum', 'none', got 'avg'"):
            build(reduction="avg")
        with pytest.raises(
            ValueError, match="'cosine', 'dot', 'euclidean', 'max_sim', 'max_dot' or a callable, got 'l1'"
        ):
            build(similarity="l1")
        if name == "distill_kl":
            with pytest.raises(ValueError, match="finite teacher_temperature above 0, got -1"):
                build(teacher_temperature=-1)


@pytest.fixture(scope="module")
def peers() -> Any:
    return pytest.importorskip("sentence_transformers.sentence_transformer.losses")


@pytest.mark.filterwarnings("ignore:DistillKLDivLoss")
@pytest.mark.parametrize("negatives", [1, 2])
@pytest.mark.parametrize("name", ["margin_mse", "distill_kl", "distill_kl, cooler"])
def test_equals_sentence_transformers(peers: Any, name: str, negatives: int) -> None:
    """Its divergence is multiplied by the squared temperature: 0.25 at 0.5."""
    queries, keys = embeddings()
    columns = [queries, *keys.split(4)[: 1 + negatives]]
    taught = torch.tensor(OWN_TAUGHT, dtype=torch.float64)[:, : 1 + negatives]
    if name == "margin_mse":
        ours, peer, factor = margin_mse, peers.MarginMSELoss(None), 1.0
    else:
        cooler = {"temperature": 0.5, "teacher_temperature": 0.8} if "cooler" in name else {}
        options = {"similarity": "dot", "temperature": 1.0, **cooler}
        ours, factor = partial(distill_kl, **options), options["temperature"] ** 2
        peer = peers.DistillKLDivLoss(
            None, student_temperature=options["temperature"], teacher_temperature=cooler.get("teacher_temperature", 1.0)
        )
    value = ours(queries, torch.cat(columns[1:]), teacher_scores=taught)
    theirs = peer.compute_loss_from_embeddings(columns, taught)
    torch.testing.assert_close(factor * value, theirs)
    for mine, its in zip(gradients(factor * value, *columns[:2]), gradients(theirs, *columns[:2]), strict=True):
        torch.testing.assert_close(mine, its)


def test_sentence_transformers_has_no_ragged_negatives(peers: Any) -> None:
    """A query with one negative less, marked NaN: its MarginMSE is NaN, ours leaves the place out."""
    queries, keys = embeddings()
    taught = torch.tensor(OWN_TAUGHT)
    taught[1, 2] = NAN
    theirs = peers.MarginMSELoss(None).compute_loss_from_embeddings([queries, *keys.split(4)], taught)
    assert theirs.isnan()
    assert margin_mse(queries, keys, teacher_scores=taught).isfinite()


@pytest.mark.parametrize("name", ["margin_mse", "distill_kl"])
def test_configuration_builds_the_loss(name: str) -> None:
    from hydra.errors import InstantiationException
    from omegaconf import OmegaConf

    from experiments.run.parts import build_loss

    config = OmegaConf.load(Path(__file__).parents[2] / "configs" / "loss" / f"{name}.yaml")
    taught = torch.tensor(OWN_TAUGHT)
    value = build_loss(config, encoder=None)(*embeddings(), teacher_scores=taught)
    assert value == LOSSES[name][0](*embeddings(), teacher_scores=taught, similarity="cosine")
    with pytest.raises(InstantiationException, match="unexpected keyword argument 'tau'"):
        build_loss(OmegaConf.merge(config, {"tau": 0.1}), encoder=None)
