"""The tiled path is the dense one in value and gradients; and the traps of a gradient that is made going forward."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contrastive import losses, masks
from contrastive.losses.core import blocks, both_ways, ranking
from contrastive.losses.core.health import Health
from contrastive.masks import diagonal, from_tensor, same_label

NUM_QUERIES, NUM_KEYS, WIDTH = 21, 45, 7
Loss = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 8 rows, so that 21 rows make three, the last one uneven; and none of them is kept."""
    monkeypatch.setattr(blocks, "LEAST_ROWS", 8)
    monkeypatch.setattr(blocks, "MOST_ROWS", 8)
    monkeypatch.setattr(both_ways, "KEPT_SCORES", 0)


def embeddings(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(NUM_QUERIES, WIDTH, generator=generator, dtype=dtype)
    keys = torch.randn(NUM_KEYS, WIDTH, generator=generator, dtype=dtype)
    keys[:NUM_QUERIES] += queries / 2
    return queries.requires_grad_(), keys.requires_grad_()


def excluded() -> Tensor:
    mask = torch.rand(NUM_QUERIES, NUM_KEYS, generator=torch.Generator().manual_seed(1)) < 0.1
    mask[4] = True  # a query without negatives
    mask[:, 2] = True  # a key that nobody is to find
    return mask


OWNERS = torch.arange(NUM_KEYS) % NUM_QUERIES
OWNERS[-4:] = -1
SAME_TEXTS = {
    "query_to_key": excluded().roll(3, 1),
    "query_to_query": excluded()[:, :NUM_QUERIES].roll(5, 1),
    "key_to_query": excluded()[:, :NUM_QUERIES].roll(7, 1),
    "key_to_key": from_tensor(excluded().roll(9, 1)),
}
WEIGHTS = torch.linspace(0, 2, NUM_QUERIES, dtype=torch.float64)
KEY_WEIGHTS = torch.linspace(0, 3, NUM_KEYS, dtype=torch.float64)
SEVERAL = torch.eye(NUM_QUERIES, NUM_KEYS, dtype=torch.bool) | (
    torch.rand(NUM_QUERIES, NUM_KEYS, generator=torch.Generator().manual_seed(2)) < 0.05
)
PAIRS = SEVERAL.nonzero()
GUIDES = {
    "guide_queries": torch.randn(NUM_QUERIES, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64),
    "guide_keys": torch.randn(NUM_KEYS, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64),
}
ALL_DIRECTIONS = ("query_to_key", "query_to_query", "key_to_query", "key_to_key")
FUNCTIONS: dict[str, Loss] = {
    "info_nce": losses.info_nce,
    "smoothed": partial(losses.info_nce, label_smoothing=0.1),
    "mnrl, joint": partial(losses.multiple_negatives_ranking, directions=ALL_DIRECTIONS),
    "sup_con": losses.sup_con,
    "nt_xent": losses.nt_xent,
    "dcl": losses.decoupled_contrastive,
    "dclw": partial(losses.decoupled_contrastive, sigma=0.5),
    "debiased": losses.debiased_contrastive,
    "hard_weighted": losses.hard_weighted,
    "gist": partial(losses.gist, **GUIDES, margin=0.1),
    "siglip": losses.siglip,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "symmetric": {"symmetric": True},
    "same side": {"symmetric": True, "same_side": True},
    "own negatives": {"others_negatives": False, "owners": OWNERS},
    "dot": {"similarity": "dot", "temperature": 1.0},
    "euclidean": {"similarity": "euclidean", "temperature": 0.3},
    "euclidean, symmetric": {"similarity": "euclidean", "temperature": 0.3, "symmetric": True},
    "excluded": {"exclude": excluded()},
    "excluded, symmetric": {"exclude": from_tensor(excluded()), "symmetric": True, "weights": WEIGHTS},
    "merged": {"exclude": excluded(), "merge_excluded": True},
    "same texts": {"exclude": excluded(), "same_texts": SAME_TEXTS, "symmetric": True},
    "same texts, merged": {"exclude": excluded(), "same_texts": SAME_TEXTS, "merge_excluded": True},
    "several positives": {"positives": SEVERAL},
    "index pairs, symmetric": {"positives": PAIRS, "symmetric": True, "exclude": excluded()},
    "weights": {"weights": WEIGHTS, "key_weights": KEY_WEIGHTS},
    "key weights, symmetric": {"key_weights": KEY_WEIGHTS, "symmetric": True},
    "margin": {"false_negative_margin": -0.1},
    "margin, symmetric": {"false_negative_margin": -0.1, "symmetric": True},
    "percentile": {"drop_hardest": 0.2},
    "hardness": {"hardness": 3.0, "hardened": "in_batch", "owners": OWNERS},
    "hardness, symmetric": {"hardness": 3.0, "hardened": "hard", "symmetric": True, "owners": OWNERS},
    "sum": {"reduction": "sum", "weights": WEIGHTS},
    "sum, symmetric": {"reduction": "sum", "symmetric": True},
    "none": {"reduction": "none", "weights": WEIGHTS},
    "none, symmetric": {"reduction": "none", "symmetric": True, "exclude": excluded()},
}


LEAST = {"debiased": {"lowest_score": -4.0}, "hard_weighted": {"lowest_score": -4.0}}
"""What some losses ask for where the similarity is not the cosine."""


def refused(name: str, options: dict[str, Any]) -> bool:
    """Whether a loss does not take these options, or none that were given; see the table in docs/losses.md."""
    both = bool(options.get("symmetric"))
    side, several = "same_side" in options, "positives" in options
    return (
        (name == "mnrl, joint" and (both or several))
        or (name == "siglip" and both)
        or (name == "gist" and (side or several))
        or (name == "dclw" and several)
    )


CASES = [
    pytest.param(function, options | (LEAST.get(name, {}) if "similarity" in options else {}), id=f"{name}-{title}")
    for name, function in FUNCTIONS.items()
    for title, options in OPTIONS.items()
    if not refused(name, options)
]
every_case = pytest.mark.parametrize(("function", "options"), CASES)
by_rows_and_both_ways = pytest.mark.parametrize(
    "options",
    [{}, {"symmetric": True}, {"similarity": "euclidean", "temperature": 0.5}, {"reduction": "none"}],
    ids=["rows", "both ways", "euclidean", "none"],
)


def value_and_gradients(function: Loss, options: dict[str, Any], *, tiled: bool) -> tuple[Tensor, ...]:
    queries, keys = embeddings()
    temperature = torch.tensor(options.get("temperature", 0.1), dtype=torch.float64, requires_grad=True)
    value = function(queries, keys, **{**options, "temperature": temperature, "tiled": tiled})
    weighted = (value * torch.linspace(1, 2, value.numel(), dtype=value.dtype)).sum()
    return value, *torch.autograd.grad(weighted, (queries, keys, temperature), materialize_grads=True)


@every_case
def test_equals_the_dense_path_in_value_and_gradients(function: Loss, options: dict[str, Any]) -> None:
    tiled, dense = (value_and_gradients(function, options, tiled=tiled) for tiled in (True, False))
    for ours, expected in zip(tiled, dense, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    assert all(gradient.ne(0).any() for gradient in tiled[1:3])


@pytest.mark.parametrize("kept", [0, NUM_QUERIES * NUM_KEYS], ids=["made again", "kept"])
@pytest.mark.parametrize("title", [title for title, options in OPTIONS.items() if options.get("symmetric")])
def test_both_ways_in_one_go_are_one_after_the_other(title: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the scores that were made to sum up the columns are kept for the rows or not."""
    monkeypatch.setattr(both_ways, "KEPT_SCORES", kept)
    in_one_go = [value_and_gradients(losses.info_nce, OPTIONS[title], tiled=tiled) for tiled in (True, False)]
    monkeypatch.setattr(ranking, "fits", lambda *_: False)
    expected = value_and_gradients(losses.info_nce, OPTIONS[title], tiled=True)
    for found in in_one_go:
        for ours, right in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-11, atol=1e-13)


def products_of(size: int) -> int:
    """How many products of all scores both ways take, or as many as these in blocks."""
    queries, keys = (each.detach()[:size].requires_grad_() for each in embeddings())
    with Products() as products:
        losses.info_nce(queries, keys, symmetric=True).backward()
    return products.multiplied // (size * size * WIDTH)


def test_both_ways_take_three_products_where_scores_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert products_of(8) == 3
    assert products_of(NUM_QUERIES) == 4
    monkeypatch.setattr(both_ways, "KEPT_SCORES", NUM_QUERIES**2)
    assert products_of(NUM_QUERIES) == 3


class Products(TorchDispatchMode):
    """Counts the multiplications of matrix products."""

    multiplied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("mm", "addmm", "addmm_"):
            left, right = [each for each in args if isinstance(each, Tensor)][-2:]
            self.multiplied += left.shape[0] * left.shape[1] * right.shape[1]
        return func(*args, **(kwargs or {}))


@settings(deadline=None, max_examples=60)
@given(
    num_queries=st.integers(1, 20),
    further=st.integers(0, 20),
    rows=st.integers(1, 9),
    temperature=st.floats(0.005, 10),
    symmetric=st.booleans(),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_equals_the_dense_path_at_any_size_temperature_and_mask(
    num_queries: int, further: int, rows: int, temperature: float, symmetric: bool, share: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(num_queries, 4, generator=generator, dtype=torch.float64).requires_grad_()
    keys = torch.randn(num_queries + further, 4, generator=generator, dtype=torch.float64).requires_grad_()
    exclude = torch.rand(num_queries, num_queries + further, generator=generator) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "LEAST_ROWS", rows)
        patch.setattr(blocks, "MOST_ROWS", rows)
        results = []
        for tiled in (True, False):
            value = losses.info_nce(
                queries, keys, temperature=temperature, symmetric=symmetric, exclude=exclude, tiled=tiled
            )
            results.append((value, *torch.autograd.grad(value, (queries, keys), materialize_grads=True)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("spots", [1, 2, 9])
@pytest.mark.parametrize("tiled", [False, True])
def test_distances_of_close_and_long_vectors_keep_their_digits(
    tiled: bool, spots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine queries and keys of length 300, at one spot, at two, or a pair at each."""
    monkeypatch.setattr(blocks, "LEAST_ROWS", 4)
    monkeypatch.setattr(blocks, "MOST_ROWS", 4)
    generator = torch.Generator().manual_seed(0)
    spot = 50 * torch.randn(spots, 40, generator=generator)[torch.arange(9) % spots]
    sides = [(spot + 0.02 * torch.randn(9, 40, generator=generator)).requires_grad_() for _ in range(2)]
    value = losses.info_nce(*sides, similarity="euclidean", temperature=0.1, tiled=tiled)
    doubles = [side.detach().double().requires_grad_() for side in sides]
    distances = torch.linalg.vector_norm(doubles[0][:, None] - doubles[1][None], dim=-1)
    expected = torch.nn.functional.cross_entropy(-distances / 0.1, torch.arange(9))
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-7)
    found = torch.autograd.grad(value, sides), torch.autograd.grad(expected, doubles)
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), right, rtol=1e-4, atol=1e-4 * right.abs().max().item())


@pytest.mark.parametrize("symmetric", [False, True])
def test_hopeless_pair_keeps_its_full_gradient(symmetric: bool) -> None:
    """At temperature 0.005 the positive is exp(-400) of what it competes with."""
    queries = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    keys = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    options: dict[str, Any] = {"temperature": 0.005, "symmetric": symmetric, "similarity": "dot", "tiled": True}
    value = losses.info_nce(queries, keys, **options)
    torch.testing.assert_close(value, torch.tensor(400.0))
    (gradient,) = torch.autograd.grad(value, queries)
    torch.testing.assert_close(gradient, torch.tensor([[200.0, 0.0], [-200.0, 0.0]]))


@by_rows_and_both_ways
def test_two_backward_passes_add_the_same_gradient_twice(options: dict[str, Any]) -> None:
    queries, keys = embeddings()
    value = losses.info_nce(queries, keys, **options, tiled=True).sum()
    value.backward(retain_graph=True)
    assert queries.grad is not None
    once = queries.grad.clone()
    (3 * value).backward()
    torch.testing.assert_close(queries.grad, 4 * once)


@pytest.mark.parametrize("function", [losses.info_nce, losses.decoupled_contrastive, losses.nt_xent])
@by_rows_and_both_ways
def test_second_derivative_is_refused(function: Loss, options: dict[str, Any]) -> None:
    """And not taken for 0, though the incoming gradient is a constant."""
    queries, keys = embeddings()
    value = function(queries, keys, **options, tiled=True).sum()
    (gradient,) = torch.autograd.grad(value, queries, create_graph=True)
    with pytest.raises(RuntimeError, match="contrastive losses can be differentiated once"):
        gradient.square().sum().backward()


def test_second_derivative_of_a_mere_callable_is_refused() -> None:
    queries, keys = embeddings()
    value = losses.info_nce(queries, keys, similarity=lambda a, b: a @ b.T)
    (gradient,) = torch.autograd.grad(value, queries, create_graph=True)
    with pytest.raises(RuntimeError, match="contrastive losses can be differentiated once"):
        gradient.square().sum().backward()


@by_rows_and_both_ways
def test_without_gradients_nothing_is_differentiated(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys = embeddings()
    expected = losses.info_nce(queries, keys, **options, tiled=True)
    monkeypatch.setattr(torch.autograd, "grad", lambda *_, **__: pytest.fail("a gradient was asked for"))
    with torch.no_grad():
        value = losses.info_nce(queries, keys, **options, tiled=True)
    assert not value.requires_grad
    torch.testing.assert_close(value, expected.detach())
    detached = losses.info_nce(queries.detach(), keys.detach(), **options, tiled=True)
    assert not detached.requires_grad


@by_rows_and_both_ways
def test_only_what_is_trained_gets_a_gradient(options: dict[str, Any]) -> None:
    """Queries against keys that are fixed, as those of a frozen tower."""
    queries, keys = embeddings()
    expected = torch.autograd.grad(losses.info_nce(queries, keys, **options, tiled=False).sum(), queries)
    value = losses.info_nce(queries, keys.detach(), **options, tiled=True).sum()
    torch.testing.assert_close(torch.autograd.grad(value, queries), expected)


@by_rows_and_both_ways
def test_autocast_does_not_reach_the_scores(options: dict[str, Any]) -> None:
    queries, keys = (each.detach().bfloat16().requires_grad_() for each in embeddings(torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        value = losses.info_nce(queries, keys, **options, tiled=True)
    assert value.dtype == torch.float32
    precise = [each.detach().double().requires_grad_() for each in (queries, keys)]
    expected = losses.info_nce(*precise, **options, tiled=False)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    gradient, exact = torch.autograd.grad(value.sum(), queries)[0], torch.autograd.grad(expected.sum(), precise[0])[0]
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"symmetric": True}], ids=["rows", "both ways"])
@pytest.mark.parametrize("temperature", [0.05, 0.02])
@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 3e-3), (torch.float32, 1e-5)], ids=str)
def test_gradients_are_as_good_as_their_precision(
    dtype: torch.dtype, error: float, temperature: float, options: dict[str, Any]
) -> None:
    """Of bfloat16 inputs 1.7e-3, what rounding a gradient to it costs; plain autograd has up to 1.5e-2 here."""
    generator = torch.Generator().manual_seed(0)
    queries, noise = (torch.randn(64, 384, generator=generator) for _ in range(2))
    sides = [each.to(dtype).requires_grad_() for each in (queries, queries + 4 * noise)]
    exact = [each.detach().double().requires_grad_() for each in sides]
    found, expected = (
        torch.cat(torch.autograd.grad(losses.info_nce(*each, temperature=temperature, **options), each)).double()
        for each in (sides, exact)
    )
    assert (found - expected).norm() <= error * expected.norm()


def test_trained_bias_and_weights_get_their_gradient() -> None:
    queries, keys = embeddings()
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    weights = WEIGHTS.clone().requires_grad_()
    results = []
    for tiled in (True, False):
        value = losses.siglip(queries, keys, temperature=0.2, bias=bias, weights=weights, tiled=tiled)
        results.append(torch.autograd.grad(value, (bias, weights, queries)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
        assert ours.ne(0).any()


def test_a_trained_parameter_of_a_formula_by_log_sums_gets_its_gradient_both_ways() -> None:
    queries, keys = embeddings()
    bias = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    found = []
    for by_log_sums in (True, False):
        value = ranking.ranking_loss(
            lambda rows: torch.nn.functional.softplus(rows.sums.negatives + bias),
            queries,
            keys,
            {"symmetric": True},
            by_log_sums=by_log_sums,
            parameters=[bias],
        )
        found.append((value, *torch.autograd.grad(value, (bias, queries, keys))))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("symmetric", [False, True])
def test_trained_weights_of_queries_get_their_gradient(symmetric: bool) -> None:
    queries, keys = embeddings()
    weights = WEIGHTS.clone().requires_grad_()
    results = []
    for tiled in (True, False):
        value = losses.info_nce(queries, keys, weights=weights, symmetric=symmetric, tiled=tiled)
        results.append(torch.autograd.grad(value, (weights, queries)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
        assert ours.ne(0).any()


@pytest.mark.parametrize(
    "title", ["default", "excluded", "excluded, symmetric", "several positives", "key weights, symmetric"]
)
def test_what_is_not_a_number_is_not_taken_for_unanswered(title: str) -> None:
    queries, keys = embeddings()
    queries.data[7] = torch.nan
    assert losses.info_nce(queries, keys, **OPTIONS[title]).isnan()


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_negatives_that_all_weigh_nothing_are_none(symmetric: bool, tiled: bool) -> None:
    queries, keys = embeddings()
    options: dict[str, Any] = {"key_weights": torch.zeros(NUM_KEYS), "tiled": tiled}
    value = losses.info_nce(queries, keys, **options, symmetric=symmetric)
    back = losses.info_nce(keys[:NUM_QUERIES], queries) / 2 if symmetric else torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(value, back)
    (gradient,) = torch.autograd.grad(value, queries)
    assert gradient.isfinite().all()
    assert gradient.ne(0).any() == symmetric


@pytest.mark.parametrize("title", ["default", "excluded, symmetric", "hardness", "euclidean", "several positives"])
def test_health_is_that_of_the_dense_path(title: str) -> None:
    summaries = []
    for tiled in (True, False):
        health = Health()
        losses.info_nce(*embeddings(), **OPTIONS[title], tiled=tiled, health=health)
        summaries.append(health.summary())
    assert summaries[0] == pytest.approx(summaries[1])


class LargestTensor(TorchDispatchMode):
    """Notes how many elements the largest tensor has that anything computes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [each for each in (result if isinstance(result, tuple) else [result]) if isinstance(each, Tensor)]
        self.elements = max([self.elements, *(each.numel() for each in tensors)])
        return result


@every_case
def test_no_tensor_of_all_scores_ever_exists(
    function: Loss, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LEAST_ROWS", 2)
    monkeypatch.setattr(blocks, "MOST_ROWS", 2)
    queries, keys = embeddings()
    options = dict(options)
    for name in ("exclude", "positives"):  # a bool [Q, K] that a caller makes is the caller's
        if isinstance(options.get(name), Tensor) and options[name].dtype == torch.bool:
            options[name] = from_tensor(options[name])
    monkeypatch.setattr(masks, "MASK_ROWS", 2)
    monkeypatch.setattr(ranking, "MASK_ROWS", 2)
    most = max(2 * (2 * NUM_KEYS + 2 * NUM_QUERIES), NUM_KEYS * WIDTH)  # a block of all four directions; the keys
    assert most < NUM_QUERIES**2
    with LargestTensor() as largest:
        function(queries, keys, **options, tiled=True).sum().backward()
    assert largest.elements <= most


def test_memory_is_linear_in_the_number_of_texts() -> None:
    kept: list[int] = []
    queries, keys = embeddings()
    with torch.autograd.graph.saved_tensors_hooks(lambda each: (kept.append(each.numel()), each)[1], lambda each: each):
        losses.info_nce(queries, keys, symmetric=True, tiled=True)
    gc.collect()
    assert max(kept) <= NUM_KEYS * WIDTH


def rows_of_blocks(**options: Any) -> list[int]:
    """The number of rows of every block that a loss goes through."""
    sizes: list[int] = []

    def noted(rows: Tensor, columns: Tensor) -> Tensor:
        sizes.append(len(rows))
        return torch.zeros(len(rows), columns.shape[1], dtype=torch.bool)

    losses.info_nce(*embeddings(), exclude=masks.Mask(noted), **options)
    return sizes


def test_a_caller_can_have_one_block() -> None:
    assert rows_of_blocks() == rows_of_blocks(tiled=True) == [8, 8, 5]
    assert rows_of_blocks(tiled=False) == [NUM_QUERIES]
    assert rows_of_blocks(similarity=lambda a, b: a @ b.T) == [NUM_QUERIES]


def test_a_gpu_has_larger_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [blocks.block_rows(2**16, columns, cpu) for columns in (100, 2**13, 2**16)] == [1024, 512, 256]
    assert [blocks.block_rows(2**16, columns, gpu) for columns in (100, 2**13, 2**20)] == [2**16, 2**13, 256]
    assert blocks.block_rows(7, 100, cpu) == blocks.block_rows(7, 100, gpu) == 7


def test_tiles_of_a_mere_callable_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected cosine, dot, euclidean or max_sim similarity with tiled=True, got"):
        losses.info_nce(*embeddings(), similarity=lambda a, b: a @ b.T, tiled=True)


@pytest.mark.parametrize("symmetric", [False, True])
def test_mistakes_are_found_in_tiles_too(symmetric: bool) -> None:
    queries, keys = embeddings()
    call = partial(losses.info_nce, symmetric=symmetric, tiled=True)
    with pytest.raises(ValueError, match=r"expected queries \[Q, D\] and keys \[K, D\] with the same D, got"):
        call(queries, keys[:, :3])
    with pytest.raises(ValueError, match=r"expected weights \[21\], one a query, got \[3\]"):
        call(queries, keys, weights=torch.ones(3))
    with pytest.raises(ValueError, match="expected reduction to be one of 'mean', 'sum', 'none', got 'average'"):
        call(queries, keys, reduction="average")


@pytest.mark.parametrize("symmetric", [False, True])
def test_empty_batch_is_zero_with_a_graph(symmetric: bool) -> None:
    queries, keys = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4, requires_grad=True)
    value = losses.info_nce(queries, keys, symmetric=symmetric, tiled=True)
    value.backward()
    assert value == 0
    assert queries.grad is not None


def test_one_class_batch_is_zero() -> None:
    embedded, _ = embeddings()
    labels = torch.zeros(NUM_QUERIES, dtype=torch.long)
    positives = same_label(labels, labels) & ~diagonal()
    value = losses.sup_con(embedded, embedded, positives=positives, exclude=diagonal(), tiled=True)
    value.backward()
    assert value == 0
    assert embedded.grad is not None
    assert embedded.grad.eq(0).all()


@pytest.mark.filterwarnings("ignore")  # dynamo does what it warns of
@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"tiled": False}], ids=["rows", "both ways", "dense"])
def test_compiles(options: dict[str, Any]) -> None:
    queries, keys = (each.detach().float() for each in embeddings())
    weight = torch.eye(WIDTH, requires_grad=True)

    def loss(queries: Tensor, keys: Tensor) -> Tensor:
        return losses.info_nce(queries @ weight, keys @ weight, **{"tiled": True, **options})

    expected = torch.autograd.grad(loss(queries, keys), weight)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(queries, keys), weight), expected)
