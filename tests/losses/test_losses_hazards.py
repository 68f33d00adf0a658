"""The battery at the edges: low temperatures, nothing to answer, duplicates, half precision, devices, wrong shapes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_battery import (
    BATCHES,
    LOSSES,
    OPTIONS,
    SEVERAL,
    Batch,
    call,
    every_loss,
    gradients,
    guide,
    label,
    of_tokens,
    one_positive_only,
    selection,
)
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from contrastive.losses.core.health import Health

WITH_TEMPERATURE = [
    (name, {option: value for option, value in options.items() if option not in ("temperature", "scale")})
    for name, options in OPTIONS
    if name != "triplet" and options.get("similarity", "cosine") == "cosine"
]
SOFTMAX = pytest.mark.parametrize(("name", "options"), WITH_TEMPERATURE, ids=label)


@SOFTMAX
def test_low_temperature_costs_neither_value_nor_gradient(name: str, options: dict[str, Any]) -> None:
    """Hopeless pairs and pairs all but found, at 0.005 in float32, against the paper in float64."""
    angles = torch.tensor([[0.0, 3.1], [1.5, 1.45], [4.0, 0.9]], dtype=torch.float64)
    queries, keys = (torch.stack([angles[:, side].cos(), angles[:, side].sin()], 1) for side in (0, 1))
    queries, keys = torch.cat([queries, queries[:, :1]], 1), torch.cat([keys, keys[:, :1]], 1)
    precise = [side.clone().requires_grad_() for side in (queries, keys)]
    expected = LOSSES[name][2](*precise, **options, temperature=0.005, **guide(name, *precise))
    single = [side.float().requires_grad_() for side in (queries, keys)]
    value = call(name, options, *single, temperature=0.005)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(gradients(value, *single), gradients(expected, *precise), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-2)
        if name != "gist" and not {"false_negative_margin", "drop_hardest"} & set(options):  # which leave out the worst
            assert theirs.abs().max() > 10


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "triplet"])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_equals_the_paper_at_any_size_mask_and_temperature(name: str, data: Any) -> None:
    options = data.draw(st.sampled_from([options for other, options in WITH_TEMPERATURE if other == name]))
    batch = data.draw(any_batch(several=not one_positive_only(name, options)))
    # The difference in the debiased papers has no digits left below 0.02, not even in float64.
    temperature = data.draw(st.floats(0.02 if name in ("debiased_contrastive", "hard_weighted") else 0.005, 10))
    queries, keys = batch.embeddings(options, data.draw(st.integers(0, 99)))
    value = call(name, options, queries, keys, temperature=temperature, **batch.given)
    expected = LOSSES[name][2](queries, keys, **options, temperature=temperature, **batch.said(name, queries, keys))
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)
    for ours, theirs in zip(gradients(value, queries, keys), gradients(expected, queries, keys), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@st.composite
def any_batch(draw: Any, several: bool) -> Batch:
    num_queries = draw(st.integers(1, 4))
    num_keys = num_queries * draw(st.integers(1, 3))
    pairs = st.sets(st.tuples(st.integers(0, num_queries - 1), st.integers(0, num_keys - 1)), max_size=6)
    batch = Batch(num_queries, num_keys)
    if draw(st.booleans()):
        batch.exclude = draw(pairs)
        batch.given["exclude"] = selection(num_queries, num_keys, batch.exclude)
    if several and draw(st.booleans()):
        batch.positives = draw(pairs.filter(bool))
        batch.given["positives"] = selection(num_queries, num_keys, batch.positives)
    if draw(st.booleans()):
        owner = st.integers(-1, num_queries - 1)
        batch.owners = [*range(num_queries), *(draw(owner) for _ in range(num_keys - num_queries))]
        batch.given["owners"] = torch.tensor(batch.owners)
    if draw(st.booleans()):
        batch.weights = [draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])) for _ in range(num_queries)]
        batch.given["weights"] = torch.tensor(batch.weights)
    return batch


@every_loss
def test_batch_with_nothing_to_answer_gives_zero_with_a_graph(name: str, options: dict[str, Any]) -> None:
    cases: dict[str, tuple[Batch, dict[str, Tensor]]] = {"empty": (Batch(0, 0), {})}
    if not one_positive_only(name, options):
        cases["no positives"] = (Batch(3, 9), {"positives": torch.empty(0, 2, dtype=torch.long)})
    if name != "siglip":  # which judges a positive on its own
        if "key_to_query" not in options.get("directions", ()) or options.get("partition") == "per_direction":
            cases["no negatives left"] = (Batch(3, 9), {"exclude": torch.ones(3, 9, dtype=torch.bool)})
        if options.get("mining") != "explicit":
            cases["one pair"] = (Batch(1, 1), {})
            if not one_positive_only(name, options):
                cases["all positives"] = (Batch(2, 2), {"positives": torch.ones(2, 2, dtype=torch.bool)})
    for case, (batch, said) in cases.items():
        for reduction in ("mean", "sum", "none"):
            queries, keys = batch.embeddings(options)
            value = call(name, options, queries, keys, **said, reduction=reduction)
            assert value.requires_grad, case
            assert value.shape == ((batch.num_queries,) if reduction == "none" else ()), case
            assert value.eq(0).all(), case
            for gradient in gradients(value.sum(), queries, keys):
                assert gradient.eq(0).all(), case


@every_loss
def test_a_batch_of_no_queries_has_keys_without_gradient(name: str, options: dict[str, Any]) -> None:
    queries, keys = Batch(0, 3).embeddings(options)
    value = call(name, options, queries, keys, owners=torch.full((3,), -1))
    assert value.eq(0)
    assert gradients(value, keys)[0].eq(0).all()


@every_loss
def test_queries_without_any_key_go_unanswered(name: str, options: dict[str, Any]) -> None:
    if one_positive_only(name, options) or options.get("mining") == "explicit":
        pytest.skip("key i is the positive of query i there")
    queries, keys = Batch(2, 0).embeddings(options)
    value = call(name, options, queries, keys, positives=torch.zeros(2, 0, dtype=torch.bool))
    assert value.eq(0)
    assert gradients(value, queries)[0].eq(0).all()


@every_loss
def test_duplicates_and_zero_vectors_are_finite(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["negatives"].embeddings(options)
    with torch.no_grad():
        keys[4] = keys[0]  # a hard negative that is the positive
        keys[1] = queries[1]  # distance 0
        keys[2] = 0
        queries[3] = 0
    value = call(name, options, queries, keys)
    assert value.isfinite()
    for gradient in gradients(value, queries, keys):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 100


@every_loss
def test_ties_do_not_change_the_value(name: str, options: dict[str, Any]) -> None:
    """Equal keys give one value whichever of them is chosen, and gradients that sum to the same."""
    queries, keys = BATCHES["negatives"].embeddings(options)
    with torch.no_grad():
        keys[8:] = keys[4:8]
    order = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7])
    value, swapped = call(name, options, queries, keys), call(name, options, queries, keys[order])
    torch.testing.assert_close(value, swapped, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradients(value, queries), gradients(swapped, queries))


@every_loss
def test_bfloat16_embeddings_cost_no_more_than_their_rounding(name: str, options: dict[str, Any]) -> None:
    """Scores are float32 whatever the embeddings and autocast are."""
    queries, keys = (
        embeddings.detach().bfloat16().requires_grad_() for embeddings in BATCHES["negatives"].embeddings(options)
    )
    rounded = [embeddings.detach().float().requires_grad_() for embeddings in (queries, keys)]
    expected = call(name, options, *rounded)
    of_expected = gradients(expected, *rounded)

    plain = call(name, options, queries, keys)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = call(name, options, queries, keys)
        float_under_autocast = call(name, options, *rounded)
    for value in (plain, under_autocast, float_under_autocast):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    for ours, theirs in zip(gradients(under_autocast, queries, keys), of_expected, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), theirs, rtol=2**-8, atol=1e-6)


@every_loss
def test_nothing_is_mutated(name: str, options: dict[str, Any]) -> None:
    batch = BATCHES["several positives, excluded"]
    queries, keys = batch.embeddings(options)
    module = LOSSES[name][1](**options)
    given = {"weights": torch.ones(4), "exclude": batch.given["exclude"], "owners": torch.arange(12) % 4}
    if not one_positive_only(name, options):
        given["positives"] = selection(4, 12, SEVERAL)
    given |= {"key_weights": torch.rand(12)} if name != "triplet" else {}
    given |= guide(name, queries, keys)
    before = {argument: tensor.clone() for argument, tensor in (given | {"queries": queries, "keys": keys}).items()}
    first = module(queries, keys, **given)
    first.backward()
    assert module(queries, keys, **given) == first
    for argument, tensor in (given | {"queries": queries, "keys": keys}).items():
        assert tensor.equal(before[argument]), argument


@every_loss
def test_nothing_is_asked_of_the_device(name: str, options: dict[str, Any]) -> None:
    """A fake tensor has no values: reading one, or a shape that depends on one, raises; on a GPU it would wait."""
    if options.get("similarity") == "euclidean" or options.get("distance") == "euclidean":
        pytest.skip("on a CPU distances look for close pairs; test_cuda has what a GPU does")
    if of_tokens(options):
        pytest.skip("max_sim compares as many tokens as there are, and has to count them")
    with FakeTensorMode():
        queries, keys = torch.randn(4, 5, requires_grad=True), torch.randn(12, 5, requires_grad=True)
        given = {
            "exclude": torch.zeros(4, 12, dtype=torch.bool),
            "weights": torch.ones(4),
            "owners": torch.arange(12) % 4,
        }
        value = call(name, options, queries, keys, **given, health=Health())
        value.backward()
        with pytest.raises(DataDependentOutputException):
            value.item()


@every_loss
def test_shapes_that_do_not_match_are_named(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["negatives"].embeddings(options)

    def refused(match: str, keys: Tensor = keys, **given: Any) -> None:
        with pytest.raises(ValueError, match=match):
            call(name, options, queries, keys, **given)

    for wrong in (keys[..., :4], keys[..., None]):
        shapes = re.escape(f"same D, got {list(queries.shape)} and {list(wrong.shape)}")
        refused(rf"{shapes}|guide_keys \[12, .*G\], got \[12, .*1\]", wrong)
    refused(r"bool mask of shape \[4, 12\], got torch.bool \[12, 4\]", exclude=torch.zeros(12, 4, dtype=torch.bool))
    refused(r"bool mask of shape \[4, 12\], got torch.float32 \[4, 12\]", exclude=torch.zeros(4, 12))
    refused(r"weights \[4\], one a query, got \[12\]", weights=torch.ones(12))
    refused("'mean', 'sum', 'none', got 'avg'", reduction="avg")
    refused("key i to be the positive of query i, got 4 queries, 3 keys", keys[:3])
    with pytest.raises(ValueError, match="'mean', 'sum', 'none', got 'avg'"):
        LOSSES[name][1](**options, reduction="avg")
    if one_positive_only(name, options):
        refused("key i to be the one positive of query i.*, got `positives`", positives=torch.eye(4, 12) > 0)
    else:
        refused(r"bool mask of shape \[4, 12\], got torch.bool \[4, 4\]", positives=torch.eye(4) > 0)
        refused(r"index pairs of shape \[P, 2\], got torch.int64 \[4\]", positives=torch.arange(4))
    if name != "triplet":
        refused(r"key_weights \[12\], one a key, got \[4\]", key_weights=torch.ones(4))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("info_nce", {"others_negatives": False}),
        ("info_nce", {"hardness": 1.0, "hardened": "hard"}),
        ("info_nce", {"hardness": 1.0, "hardened": "in_batch"}),
        ("triplet", {"mining": "explicit"}),
    ],
    ids=label,
)
def test_owners_that_cannot_be_told_are_asked_for(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["negatives"].embeddings(options)
    with pytest.raises(ValueError, match="got no owners, 4 queries and 11 keys"):
        call(name, options, queries, keys[:11])
    with pytest.raises(ValueError, match=r"integer owners \[11\], got torch.int64 \[12\]"):
        call(name, options, queries, keys[:11], owners=torch.arange(12))
    call(name, options, queries, keys[:11], owners=torch.arange(11) % 4)
