"""One battery for all ranking losses: a table of losses and options against a table of batches, and their papers.

What they do at the edge of floating point and of batches is in test_losses_hazards.py.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from loss_battery import (
    BATCHES,
    LOSSES,
    OPTIONS,
    OWNERS,
    SEVERAL,
    Batch,
    both_ways,
    call,
    every_case,
    every_loss,
    gradients,
    guide,
    label,
    one_positive_only,
    selection,
)

from contrastive import losses, similarity
from contrastive.contracts import RankingLoss
from contrastive.losses.core.health import Health

UNIT = [
    (name, options)
    for name, options in OPTIONS
    if options.get("normalize", True) and options.get("similarity") in (None, "max_sim")
]


@every_case
def test_equals_the_paper_in_value_and_gradient(name: str, options: dict[str, Any], batch: Batch) -> None:
    queries, keys = batch.embeddings(options)
    value = call(name, options, queries, keys, **batch.given)
    expected = LOSSES[name][2](queries, keys, **options, **batch.said(name, queries, keys))
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
    for ours, theirs in zip(gradients(value, queries, keys), gradients(expected, queries, keys), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("reduction", ["none", "sum"])
@every_loss
def test_other_reductions_equal_the_paper(name: str, options: dict[str, Any], reduction: str) -> None:
    for title in ("weighted, several", "weights", "a query without negatives"):
        batch = BATCHES[title]
        if batch.suits(name, options):
            queries, keys = batch.embeddings(options)
            value = call(name, options, queries, keys, **batch.given, reduction=reduction)
            expected = LOSSES[name][2](queries, keys, **options, **batch.said(name, queries, keys), reduction=reduction)
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)


@every_loss
def test_reductions_agree(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["negatives"].embeddings(options)
    rows = call(name, options, queries, keys, reduction="none")
    assert rows.shape == (4,)
    torch.testing.assert_close(call(name, options, queries, keys, reduction="sum"), rows.sum())
    if options.get("average") != "active":  # every query then has as many triplets
        torch.testing.assert_close(call(name, options, queries, keys, reduction="mean"), rows.mean())


@every_loss
def test_gradcheck(name: str, options: dict[str, Any]) -> None:
    if options.get("mining") == "distance_weighted" or options.get("hardness") or "sigma" in options:
        pytest.skip("its weights are constants, for the gradient but not for finite differences")
    batch = BATCHES["excluded" if one_positive_only(name, options) else "several positives, excluded"]
    for seed in range(2):
        assert torch.autograd.gradcheck(
            partial(call, name, options, **batch.given), batch.embeddings(options, seed, absent=False)
        )


@pytest.mark.parametrize(("name", "options"), [each for each in OPTIONS if each[0] != "triplet"], ids=label)
def test_temperature_as_a_tensor_gets_the_gradient_of_the_paper(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["negatives"].embeddings(options)
    options = {option: value for option, value in options.items() if option not in ("temperature", "scale")}
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    value = call(name, options, queries, keys, temperature=temperature)
    expected = LOSSES[name][2](queries, keys, **options, temperature=temperature, **guide(name, queries, keys))
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(gradients(value, temperature), gradients(expected, temperature), rtol=1e-8, atol=1e-10)


@every_case
def test_module_equals_function(name: str, options: dict[str, Any], batch: Batch) -> None:
    queries, keys = batch.embeddings(options)
    options = {"merge_excluded": True} | options if name == "sup_con" else options
    value = LOSSES[name][1](**fixed(name, options))(queries, keys, **batch.given, **guide(name, queries, keys))
    torch.testing.assert_close(value, call(name, options, queries, keys, **batch.given), rtol=0, atol=0)


def fixed(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What is learnt by default is a float32 parameter; fixed, it is the number."""
    return options | ({"learnable_temperature": False, "learnable_bias": False} if name == "siglip" else {})


@every_loss
def test_is_a_ranking_loss(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["negatives"].embeddings(options)
    loss: RankingLoss = partial(LOSSES[name][1](**options), **guide(name, queries, keys))
    health = Health()
    positives = {} if one_positive_only(name, options) else {"positives": torch.arange(4)[:, None].expand(-1, 2)}
    value = loss(
        queries,
        keys,
        exclude=torch.zeros(4, 12, dtype=torch.bool),
        owners=torch.arange(12) % 4,
        weights=torch.ones(4),
        health=health,
        **positives,
    )
    assert value.shape == ()
    if not (name == "nt_xent" and positives):  # whose two views are those without `positives`
        torch.testing.assert_close(value, loss(queries, keys))
    kind = "distance" if name == "triplet" else "similarity"
    own = {"active_share"} if name == "triplet" else {"temperature", "effective_negatives"}
    assert set(health.summary()) == {f"positive_{kind}", f"negative_{kind}", "excluded_share", "unanswered"} | own


@every_loss
def test_order_of_negatives_does_not_matter(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["owners"].embeddings(options)
    order = torch.cat([torch.arange(4), 4 + torch.randperm(8, generator=torch.Generator().manual_seed(1))])
    owners = torch.tensor(OWNERS)
    torch.testing.assert_close(
        call(name, options, queries, keys[order], owners=owners[order]),
        call(name, options, queries, keys, owners=owners),
        rtol=1e-12,
        atol=0,
    )


@every_loss
def test_order_of_queries_does_not_matter(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["negatives"].embeddings(options)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        call(name, options, queries[order], keys[torch.cat([order, order + 4, order + 8])], reduction="none"),
        call(name, options, queries, keys, reduction="none")[order],
        rtol=1e-11,
        atol=1e-13,
    )


@pytest.mark.parametrize(("name", "options"), UNIT, ids=label)
def test_length_of_embeddings_does_not_matter(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["negatives"].embeddings(options)
    lengths = torch.arange(1, 13).view(-1, *[1] * (keys.ndim - 1))
    torch.testing.assert_close(call(name, options, queries * 3, keys * lengths), call(name, options, queries, keys))


@every_loss
def test_exclude_never_removes_a_positive(name: str, options: dict[str, Any]) -> None:
    queries, keys = BATCHES["negatives"].embeddings(options)
    if one_positive_only(name, options):
        positives = torch.eye(4, 12, dtype=torch.bool)
        given = {}
    else:
        positives = selection(4, 12, SEVERAL)
        given = {"positives": positives}
    torch.testing.assert_close(
        call(name, options, queries, keys, **given, exclude=positives), call(name, options, queries, keys, **given)
    )


@every_loss
def test_excluded_key_gets_no_gradient(name: str, options: dict[str, Any]) -> None:
    if options.get("merge_excluded"):
        pytest.skip("it is then a positive")
    queries, keys = BATCHES["negatives"].embeddings(options)
    exclude = torch.zeros(4, 12, dtype=torch.bool)
    exclude[:, 6] = True
    options = options | {"margin": 2.0} if name == "triplet" and not options.get("soft_margin") else options
    value = call(name, options, queries, keys, exclude=exclude)
    _, of_keys = gradients(value, queries, keys)
    assert of_keys[6].eq(0).all()
    without = torch.tensor([0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11])
    owners = torch.arange(12) % 4
    torch.testing.assert_close(value, call(name, options, queries, keys[without], owners=owners[without]))


@every_loss
def test_query_without_negatives_is_left_out_of_the_mean(name: str, options: dict[str, Any]) -> None:
    if both_ways(name, options) or name == "siglip":
        pytest.skip("its positive still looks for it, or is judged on its own")
    queries, keys = BATCHES["negatives"].embeddings(options)
    exclude = torch.zeros(4, 12, dtype=torch.bool)
    exclude[2] = True
    value = call(name, options, queries, keys, exclude=exclude)
    expected = call(name, options, queries, keys, weights=torch.tensor([1.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(value, expected)
    assert gradients(value, queries)[0][2].eq(0).all()


@every_loss
def test_unanswered_queries_are_counted(name: str, options: dict[str, Any]) -> None:
    if both_ways(name, options):
        pytest.skip("a row has more candidates than the keys")
    health = Health()
    exclude = torch.zeros(4, 12, dtype=torch.bool)
    exclude[2] = True
    queries, keys = BATCHES["negatives"].embeddings(options)
    call(name, options, queries, keys, exclude=exclude, health=health)
    summary = health.summary()
    assert summary["unanswered"] == 0.25
    if not {"merge_excluded", "drop_hardest", "false_negative_margin"} & set(options):
        assert summary["excluded_share"] == pytest.approx(0.25)


def configured(name: str, **overrides: Any) -> RankingLoss:
    """Build the loss of configs/loss/NAME.yaml."""
    from omegaconf import OmegaConf

    from experiments.run.parts import build_loss

    config = OmegaConf.load(Path(__file__).parents[2] / "configs" / "loss" / f"{name}.yaml")
    return build_loss(OmegaConf.merge(config, overrides), encoder=None)


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
    with pytest.raises(InstantiationException, match=r"got (an unexpected keyword argument )?'tau'"):
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
