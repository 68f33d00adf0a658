"""What one loss of the softmax family is of another, and the numbers and words that they refuse."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from loss_battery import BATCHES, EXCLUDED, LOSSES, SEVERAL, gradients, label, selection
from torch import Tensor

from contrastive import losses
from contrastive.losses.core.health import Health
from contrastive.masks import diagonal, two_views
from contrastive.similarity import named

QUERIES, KEYS = BATCHES["negatives"].embeddings()
GUIDE = {"guide_queries": QUERIES.detach(), "guide_keys": KEYS.detach()}
SMALL = (torch.eye(3), torch.eye(3))


def assert_same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_supervised_contrastive_is_info_nce_at_another_temperature() -> None:
    positives = selection(4, 12, SEVERAL)
    assert_same(
        losses.sup_con(QUERIES, KEYS, positives=positives),
        losses.info_nce(QUERIES, KEYS, positives=positives, temperature=0.1),
    )


def test_merging_takes_the_excluded_for_positives() -> None:
    exclude = selection(4, 12, EXCLUDED)
    merged = exclude | torch.eye(4, 12, dtype=torch.bool)
    for loss in (losses.info_nce, losses.sup_con, losses.decoupled_contrastive, losses.siglip):
        assert_same(loss(QUERIES, KEYS, exclude=exclude, merge_excluded=True), loss(QUERIES, KEYS, positives=merged))
    # The training of texts with several known answers, which are found as positives by default.
    assert_same(losses.SupConLoss()(QUERIES, KEYS, exclude=exclude), losses.sup_con(QUERIES, KEYS, positives=merged))


def test_two_views_are_one_batch_of_views_against_itself() -> None:
    first, second = BATCHES["pairs alone"].embeddings()
    views = torch.cat([first, second])
    together = partial(losses.nt_xent, views, views, positives=two_views(4), exclude=diagonal())
    assert_same(losses.nt_xent(first, second), together())
    assert_same(
        losses.nt_xent(first, second), losses.info_nce(first, second, temperature=0.5, symmetric=True, same_side=True)
    )


def test_nt_xent_does_not_let_positives_compete() -> None:
    call = {"positives": selection(4, 12, SEVERAL), "temperature": 0.5, "reduction": "none"}
    apart, competing = losses.nt_xent(QUERIES, KEYS, **call), losses.sup_con(QUERIES, KEYS, **call)
    assert (apart < competing).tolist() == [True, False, True, True]
    assert_same(apart[1], competing[1])  # which has one


def test_decoupled_is_info_nce_without_the_positive_in_the_denominator() -> None:
    rows = losses.info_nce(QUERIES, KEYS, temperature=0.3, reduction="none")
    assert_same(
        losses.decoupled_contrastive(QUERIES, KEYS, temperature=0.3, reduction="none"),
        torch.expm1(rows).log(),
    )


def test_reweighted_losses_end_in_info_nce() -> None:
    call = {"temperature": 0.3, "symmetric": True}
    plain = losses.info_nce(QUERIES, KEYS, **call)
    assert_same(losses.debiased_contrastive(QUERIES, KEYS, positive_prior=0.0, **call), plain)
    assert_same(losses.hard_weighted(QUERIES, KEYS, positive_prior=0.0, concentration=0.0, **call), plain)
    assert_same(
        losses.hard_weighted(QUERIES, KEYS, concentration=0.0, **call),
        losses.debiased_contrastive(QUERIES, KEYS, **call),
    )
    assert (
        losses.debiased_contrastive(QUERIES, KEYS, **call)
        < plain
        < losses.hard_weighted(QUERIES, KEYS, positive_prior=0.0, **call)
    )


def test_gist_with_a_guide_that_suspects_nothing_is_ranking_over_three_directions() -> None:
    blind = {"guide_queries": torch.full((4, 2), torch.nan), "guide_keys": torch.full((12, 2), torch.nan)}
    for contrast_positives in (True, False):
        directions = ["query_to_key", "query_to_query", "key_to_key"][: 2 + contrast_positives]
        value = losses.gist(QUERIES, KEYS[:4], contrast_positives=contrast_positives, **_first_four(blind))
        assert_same(value, losses.multiple_negatives_ranking(QUERIES, KEYS[:4], directions=directions))
    value = losses.gist(QUERIES, KEYS, contrast_queries=False, contrast_positives=False, **blind)
    assert_same(value, losses.info_nce(QUERIES, KEYS))


def _first_four(guide: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: texts[:4] for name, texts in guide.items()}


def test_gist_takes_several_hard_negatives_whose_order_does_not_matter() -> None:
    order = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7])
    swapped = {"guide_queries": QUERIES.detach(), "guide_keys": KEYS.detach()[order]}
    assert_same(losses.gist(QUERIES, KEYS, **GUIDE), losses.gist(QUERIES, KEYS[order], **swapped))


def test_gist_compares_unit_guides() -> None:
    lengths = torch.arange(1.0, 13)[:, None]
    longer = {"guide_queries": QUERIES.detach() * lengths[:4], "guide_keys": KEYS.detach() * lengths}
    assert_same(losses.gist(QUERIES, KEYS, **GUIDE), losses.gist(QUERIES, KEYS, **longer))


def test_weight_of_a_key_is_how_often_it_is_there() -> None:
    twice = torch.cat([KEYS, KEYS[8:]])
    owners = torch.arange(16) % 4
    weights = torch.ones(12)
    weights[8:] = 2
    for loss in (losses.info_nce, losses.decoupled_contrastive, losses.siglip):
        assert_same(loss(QUERIES, KEYS, key_weights=weights), loss(QUERIES, twice, owners=owners))
        weightless = loss(QUERIES, KEYS, key_weights=(torch.arange(12) < 8).float())
        assert_same(weightless, loss(QUERIES, KEYS[:8]))


def test_smoothing_counts_candidates_that_count() -> None:
    present = (torch.arange(12) < 8).float()
    smoothed = partial(losses.info_nce, QUERIES, label_smoothing=0.3)
    assert_same(smoothed(KEYS, key_weights=present), smoothed(KEYS[:8]))


def test_hard_negatives_are_hardened_in_no_other_direction() -> None:
    """Positives that look for their queries have no hard negatives."""
    call = {"symmetric": True, "temperature": 0.3, "reduction": "none"}
    forth = partial(losses.info_nce, QUERIES, KEYS, temperature=0.3, reduction="none")
    hardened = {"hardness": 5.0, "hardened": "hard"}
    changed = losses.info_nce(QUERIES, KEYS, **call, **hardened) - losses.info_nce(QUERIES, KEYS, **call)
    torch.testing.assert_close(changed, (forth(**hardened) - forth()) / 2)


def test_health_tells_of_the_way_to_the_keys_alone() -> None:
    summaries = []
    for symmetric in (False, True):
        for tiled in (False, True):
            health = Health()
            losses.info_nce(QUERIES, KEYS, symmetric=symmetric, tiled=tiled, temperature=0.3, health=health)
            summaries.append(health.summary())
    for summary in summaries[1:]:
        assert summary == pytest.approx(summaries[0])


def test_bias_and_temperature_of_siglip_are_learnt() -> None:
    loss = losses.SigLIPLoss()
    loss(QUERIES, KEYS).backward()
    assert {name for name, _ in loss.named_parameters()} == {"bias", "learnt_temperature.logarithm"}
    for parameter in loss.parameters():
        assert parameter.grad is not None
        assert parameter.grad != 0
    assert loss.extra_repr() == "temperature=0.1 (learnt), bias=-10.0 (learnt)"
    assert not list(losses.SigLIPLoss(learnable_bias=False, learnable_temperature=False).parameters())


def test_siglip_gives_the_bias_its_gradient() -> None:
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    for tiled in (False, True):
        value = partial(losses.siglip, QUERIES.detach(), KEYS.detach(), tiled=tiled)
        (gradient,) = gradients(value(bias=bias), bias)
        step = 1e-6
        slope = (value(bias=-2 + step) - value(bias=-2 - step)) / (2 * step)
        torch.testing.assert_close(gradient, slope, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("info_nce", {"label_smoothing": 1.0}, r"label_smoothing from 0 to below 1, got 1\.0"),
        ("info_nce", {"label_smoothing": -0.1}, r"label_smoothing from 0 to below 1, got -0\.1"),
        ("info_nce", {"drop_hardest": 1.0}, r"drop_hardest from 0 to below 1, got 1\.0"),
        ("info_nce", {"drop_hardest": -0.1}, r"drop_hardest from 0 to below 1, got -0\.1"),
        ("info_nce", {"hardness": -1.0}, r"hardness of at least 0, got -1\.0"),
        ("info_nce", {"hardness": math.inf}, "finite hardness of at least 0, got inf"),
        ("info_nce", {"false_negative_margin": math.nan}, "finite false_negative_margin, got nan"),
        ("info_nce", {"hardened": "own"}, "hardened to be one of 'all', 'in_batch', 'hard', got 'own'"),
        ("multiple_negatives_ranking", {"partition": "each"}, "partition to be one of 'joint', 'per_direction'"),
        ("multiple_negatives_ranking", {"directions": ["q_to_k"]}, r"directions to be one of .*, got 'q_to_k'"),
        ("multiple_negatives_ranking", {"directions": ["key_to_query"]}, "directions with 'query_to_key', each once"),
        (
            "multiple_negatives_ranking",
            {"directions": ["query_to_key", "query_to_key"]},
            "directions with 'query_to_key', each once",
        ),
        (
            "multiple_negatives_ranking",
            {"directions": ["query_to_key", "key_to_key"], "partition": "per_direction"},
            "partition='joint' with key_to_key",
        ),
        ("multiple_negatives_ranking", {"symmetric": True}, "directions to say what is compared, got symmetric=True"),
        ("multiple_negatives_ranking", {"same_side": True}, "directions to say what is compared, got same_side=True"),
        ("decoupled_contrastive", {"sigma": 0.0}, r"sigma above 0, got 0\.0"),
        ("decoupled_contrastive", {"sigma": math.inf}, "finite sigma above 0, got inf"),
        ("debiased_contrastive", {"similarity": "dot"}, "expected lowest_score with similarity dot, .* got none"),
        ("debiased_contrastive", {"lowest_score": -math.inf}, "finite lowest_score, got -inf"),
        ("hard_weighted", {"similarity": "euclidean"}, "expected lowest_score with similarity euclidean, .* got none"),
        ("hard_weighted", {"concentration": math.inf}, "finite concentration of at least 0, got inf"),
        ("siglip", {"bias": math.nan}, "finite bias, got nan"),
        *(
            (name, {"temperature": math.inf}, "finite temperature above 0, got inf")
            for name in LOSSES
            if name not in ("triplet", "gist")
        ),
        ("debiased_contrastive", {"positive_prior": 1.0}, r"positive_prior from 0 to below 1, got 1\.0"),
        ("debiased_contrastive", {"positive_prior": -0.1}, r"positive_prior from 0 to below 1, got -0\.1"),
        ("hard_weighted", {"concentration": -1.0}, r"concentration of at least 0, got -1\.0"),
        ("siglip", {"symmetric": True}, "each judged once, got symmetric=True"),
        ("siglip", {"same_side": True}, "each judged once, got same_side=True"),
    ],
    ids=label,
)
def test_what_is_out_of_range_is_refused_by_function_and_module(
    name: str, options: dict[str, Any], message: str
) -> None:
    function, module, _ = LOSSES[name]
    for refuse in (partial(function, *SMALL, **options), partial(module, **options)):
        with pytest.raises(ValueError, match=message):
            refuse()


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("triplet", "gist")])
def test_options_that_are_none_are_named(name: str) -> None:
    function, module, _ = LOSSES[name]
    for refuse in (partial(function, *SMALL, tau=1.0), partial(module, tau=1.0)):
        with pytest.raises(TypeError, match=r"expected options .*among .*, got 'tau'"):
            refuse()


def test_gist_wants_a_guide_for_every_text_and_one_positive_a_query() -> None:
    for name, expected in (("guide_queries", 4), ("guide_keys", 12)):
        with pytest.raises(ValueError, match=rf"expected {name} \[{expected}, G\], got \[3, 5\]"):
            losses.gist(QUERIES, KEYS, **GUIDE | {name: torch.ones(3, 5)})
    with pytest.raises(ValueError, match="got `positives` or same_side=True"):
        losses.gist(QUERIES, KEYS, **GUIDE, same_side=True)
    with pytest.raises(ValueError, match="got `positives` or same_side=True"):
        losses.GISTLoss(same_side=True)
    with pytest.raises(TypeError, match="guide_queries"):
        losses.GISTLoss()(QUERIES, KEYS)
    with pytest.raises(ValueError, match="finite margin, got nan"):
        losses.GISTLoss(margin=math.nan)
    with pytest.raises(ValueError, match="similarity to be one of cosine, dot, euclidean, max_sim, max_dot, got 'l1'"):
        losses.GISTLoss(guide_similarity="l1")
    with pytest.raises(ValueError, match="finite temperature above 0, got inf"):
        losses.GISTLoss(math.inf)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("chosen", ["cosine", "dot", "euclidean"])
def test_gist_compares_the_guide_as_it_is_told(chosen: Any, relative: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    guides = [3 * torch.randn(rows, 5, generator=generator, dtype=torch.float64) for rows in (4, 12)]
    guides[1][9] = guides[1][2]  # a duplicate of the third positive, which is a tie
    scores = named(chosen)(*guides)
    own = scores.diagonal()[:, None]
    left_out = scores >= own - 0.1 * (own.abs() if relative else 1) - 1e-9
    assert left_out[2, 9]
    options: dict[str, Any] = {"contrast_queries": False, "contrast_positives": False}
    value = losses.gist(
        QUERIES,
        KEYS,
        guide_queries=guides[0],
        guide_keys=guides[1],
        margin=0.1,
        relative_margin=relative,
        guide_similarity=chosen,
        **options,
    )
    torch.testing.assert_close(value, losses.info_nce(QUERIES, KEYS, exclude=left_out))


@pytest.mark.parametrize("options", [{"same_side": True}, {"same_side": True, "symmetric": True}], ids=label)
def test_own_side_is_for_one_positive_a_query(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="directions query_to_key, query_to_query, got `positives`"):
        losses.info_nce(QUERIES, KEYS, positives=selection(4, 12, SEVERAL), **options)
