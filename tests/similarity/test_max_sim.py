"""Late interaction: equal to loops over tokens in value and gradient, in blocks, with absent tokens, and small."""

from __future__ import annotations

import sys
from typing import Any

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contrastive.similarity import flipped, max_sim

MODULE = sys.modules[type(max_sim).__module__]  # the package has a similarity of its name


def texts(number: int, tokens: int, width: int = 4, *, seed: int = 0, absent: float = 0.3) -> Tensor:
    """Vectors of tokens, [number, tokens, width] in float64, a share of which is absent."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(number, tokens, width, generator=generator, dtype=torch.float64)
    return vectors * (torch.rand(number, tokens, 1, generator=generator) >= absent)


def by_loops(queries: Tensor, keys: Tensor) -> Tensor:
    scores = [oracles.max_sim(query, key) for query in queries for key in keys]
    return torch.stack(scores).view(len(queries), len(keys))


def gradients(score: Any, queries: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a weighted sum of the scores."""
    sides = [side.detach().clone().requires_grad_() for side in (queries, keys)]
    scores = score(*sides)
    weights = torch.arange(1.0, 1 + scores.numel(), dtype=scores.dtype).view_as(scores).sin()
    return torch.autograd.grad((scores * weights).sum(), sides)


@settings(deadline=None, max_examples=40)
@given(
    numbers=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    tokens=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    absent=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 9),
    block=st.sampled_from([(1, 1), (7, 2), (2**22, 256)]),
)
def test_value_and_gradient_are_those_of_loops_whatever_the_blocks(
    numbers: tuple[int, int], tokens: tuple[int, int], absent: float, seed: int, block: tuple[int, int]
) -> None:
    queries, keys = (texts(numbers[i], tokens[i], seed=seed + 100 * i, absent=absent) for i in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "_BLOCK", block[0])
        patch.setattr(MODULE, "_BLOCK_ROWS", block[1])
        torch.testing.assert_close(max_sim(queries, keys), by_loops(queries, keys))
        for score in (max_sim, flipped(max_sim)):
            loops = by_loops if score is max_sim else lambda a, b: by_loops(b, a).T
            for ours, expected in zip(gradients(score, queries, keys), gradients(loops, queries, keys), strict=True):
                torch.testing.assert_close(ours, expected)


def test_gradcheck() -> None:
    sides = texts(3, 3, absent=0).requires_grad_(), texts(2, 4, seed=1, absent=0).requires_grad_()
    assert torch.autograd.gradcheck(max_sim, sides)
    assert torch.autograd.gradcheck(flipped(max_sim), sides)


def test_where_tokens_are_equally_close_the_first_gets_the_gradient_and_the_score_is_the_same() -> None:
    queries, keys = texts(3, 2, absent=0), texts(2, 3, seed=1, absent=0)
    twice = torch.cat([keys, keys], dim=1)
    torch.testing.assert_close(max_sim(queries, twice), max_sim(queries, keys))
    (of_queries, of_twice), (expected, of_keys) = gradients(max_sim, queries, twice), gradients(max_sim, queries, keys)
    torch.testing.assert_close(of_queries, expected)
    torch.testing.assert_close(of_twice, torch.cat([of_keys, torch.zeros_like(of_keys)], dim=1))


def test_absent_tokens_change_nothing_wherever_they_stand() -> None:
    queries, keys = texts(3, 2, absent=0), texts(2, 3, seed=1, absent=0)
    keys = torch.cat([-queries[:2, :1], keys], dim=1)  # so that scores of some are below 0
    gap = torch.zeros(3, 1, 4, dtype=torch.float64)
    wider = torch.cat([gap, queries[:, :1], gap, queries[:, 1:]], dim=1)
    longer = torch.cat([gap[:2], keys, gap[:2], gap[:2]], dim=1)
    torch.testing.assert_close(max_sim(wider, longer), max_sim(queries, keys))
    for ours, expected, there in zip(
        gradients(max_sim, wider, longer),
        gradients(max_sim, queries, keys),
        ([1, 3], [1, 2, 3, 4]),
        strict=True,
    ):
        torch.testing.assert_close(ours[:, there], expected)
        assert ours.any(-1).sum() == expected.any(-1).sum()


def test_a_negative_closest_token_is_closer_than_none() -> None:
    query, keys = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [-1.0, 0.0]]])
    assert max_sim(query, keys).item() == -1
    assert max_sim.of_pairs(query, keys).item() == -1


def test_a_text_without_tokens_has_score_0_and_nobody_a_gradient_of_it() -> None:
    queries, keys = texts(2, 3, absent=0), texts(2, 3, seed=1, absent=0)
    queries[0], keys[1] = 0, 0
    scores = max_sim(queries, keys)
    assert (scores != 0).tolist() == [[False, False], [True, False]]
    of_queries, of_keys = gradients(max_sim, queries, keys)
    assert not of_queries[0].any()
    assert not of_keys[1].any()
    for empty in (queries[:0], queries[:, :0]):
        assert not gradients(max_sim, empty, keys)[1].any()
        assert max_sim(empty, keys).tolist() == [[0, 0]] * len(empty)
        assert max_sim(keys, empty).tolist() == [[0] * len(empty)] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scores_are_float32_or_better_under_autocast_too(dtype: torch.dtype) -> None:
    queries, keys = texts(3, 4, 16).to(dtype), texts(5, 6, 16, seed=1).to(dtype)
    precise = torch.promote_types(dtype, torch.float32)
    expected = max_sim(queries.double(), keys.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, found = max_sim(queries, keys), gradients(max_sim, queries, keys)
    assert scores.dtype == precise
    assert {gradient.dtype for gradient in found} == {dtype}
    torch.testing.assert_close(scores, expected.to(precise))
    for ours, exact in zip(found, gradients(max_sim, queries.double(), keys.double()), strict=True):
        torch.testing.assert_close(ours, exact.to(dtype))


@pytest.mark.parametrize("flip", [False, True])
def test_a_block_brings_back_the_gradients_of_both_sides_and_of_the_temperature(flip: bool) -> None:
    queries, keys = max_sim.prepare(texts(3, 4)), max_sim.prepare(texts(2, 3, seed=1))
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    leaves = [queries.requires_grad_(), keys.requires_grad_(), temperature]
    asking, answering = (keys, queries) if flip else (queries, keys)
    logits = by_loops(asking, answering) / temperature
    logits = logits.T if flip else logits
    of_scores = torch.randn(3, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    expected = torch.autograd.grad((logits * of_scores).sum(), leaves)
    # The oracle takes cosines, and so the part along a vector off its gradient: as preparing them does.
    out = torch.empty(3, 2, dtype=torch.float64)
    add = max_sim.score_block(queries.detach(), keys.detach(), temperature.detach(), out=out, graph=True, flipped=flip)
    torch.testing.assert_close(out, logits.detach())
    found = [torch.zeros_like(leaf) for leaf in leaves]
    add(of_scores, *found)
    for ours, exact, leaf in zip(found, expected, leaves, strict=True):
        along = (ours * leaf).sum(-1, keepdim=True) * leaf if leaf.ndim else 0
        torch.testing.assert_close((ours - along).detach(), exact)
    add(of_scores, None, None, None)


def test_pairs_row_by_row_have_the_scores_of_the_diagonal() -> None:
    left, right = texts(5, 4), texts(5, 6, seed=1)
    left[3], right[4] = 0, 0
    torch.testing.assert_close(max_sim.of_pairs(left, right), max_sim(left, right).diagonal())


def test_a_second_derivative_is_refused() -> None:
    queries = texts(2, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(max_sim(queries, texts(2, 3)).sum(), queries, create_graph=True)
    with pytest.raises(RuntimeError, match="expected a first derivative, got a second"):
        gradient.sum().backward()


def test_shapes_that_do_not_match_are_named() -> None:
    expected = r"expected queries \[Q, Tq, D\] and keys \[K, Tk, D\] with the same D, got \[4, 8\] and \[4, 2, 8\]"
    with pytest.raises(ValueError, match=expected):
        max_sim(torch.zeros(4, 8), torch.zeros(4, 2, 8))


class _Largest(TorchDispatchMode):
    """Notes the most elements of a tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **kwargs or {})
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return made


def test_nothing_of_the_size_of_all_pairs_of_tokens_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_BLOCK", 512)
    queries, keys = texts(16, 8, absent=0).requires_grad_(), texts(16, 32, seed=1, absent=0).requires_grad_()
    with _Largest() as largest:
        max_sim(queries, keys).sum().backward()
    assert largest.elements <= 8 * 16 * 32 * 4  # 65,536 pairs of tokens; the keys have 2,048 numbers, the index 2,048
