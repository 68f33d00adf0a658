from __future__ import annotations

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contrastive.similarity import ProductSimilarity, cosine, dot, euclidean, score_pairs, unit

ALL = pytest.mark.parametrize("chosen", [cosine, dot, euclidean], ids=repr)


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@ALL
@settings(deadline=None, max_examples=25)
@given(num_queries=st.integers(0, 4), num_keys=st.integers(0, 5), width=st.integers(1, 6), seed=st.integers(0, 9))
def test_equals_its_definition(
    chosen: ProductSimilarity, num_queries: int, num_keys: int, width: int, seed: int
) -> None:
    queries, keys = embeddings(num_queries, width, seed=seed), embeddings(num_keys, width, seed=seed + 100)
    define = oracles.SIMILARITIES[chosen.name]
    expected = torch.tensor([[define(q, k) for k in keys] for q in queries], dtype=torch.float64)
    torch.testing.assert_close(chosen(queries, keys), expected.reshape(num_queries, num_keys))


@ALL
def test_gradcheck(chosen: ProductSimilarity) -> None:
    assert torch.autograd.gradcheck(
        chosen, (embeddings(3, 4).requires_grad_(), embeddings(5, 4, seed=1).requires_grad_())
    )


@ALL
def test_prepared_vectors_give_the_scores_in_blocks(chosen: ProductSimilarity) -> None:
    queries, keys = embeddings(3, 4), embeddings(6, 4, seed=1)
    prepared, candidates = chosen.prepare(queries), chosen.prepare(keys)
    blocks = [chosen.scores(prepared, block) for block in candidates.split(4)]
    torch.testing.assert_close(torch.cat(blocks, dim=1), chosen(queries, keys))


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scores_are_float32_or_better(chosen: ProductSimilarity, dtype: torch.dtype) -> None:
    queries, keys = embeddings(3, 16).to(dtype), embeddings(5, 16, seed=1).to(dtype)
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, any_callable = chosen(queries, keys), score_pairs(lambda q, k: q @ k.T, queries, keys)
    assert scores.dtype == any_callable.dtype == precise
    torch.testing.assert_close(scores, chosen(queries.double(), keys.double()).to(precise))
    torch.testing.assert_close(any_callable, dot(queries.double(), keys.double()).to(precise))


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_vectors_and_equal_vectors_have_finite_gradients(chosen: ProductSimilarity, dtype: torch.dtype) -> None:
    queries = embeddings(3, 48).to(dtype)
    queries[0] = 0
    keys = torch.cat([queries.clone(), torch.zeros(1, 48, dtype=dtype)])
    queries.requires_grad_()
    keys.requires_grad_()
    scores = chosen(queries, keys)
    assert scores.isfinite().all()
    for gradient in torch.autograd.grad(scores.sum(), (queries, keys)):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 50
    if chosen is euclidean:
        assert scores.diagonal().eq(0).all()
    if chosen is cosine:
        assert scores[0].eq(0).all()


def test_unit_vectors_have_length_one_and_float32() -> None:
    torch.testing.assert_close(unit(embeddings(4, 3).bfloat16()).norm(dim=1), torch.ones(4))


@ALL
def test_shapes_that_do_not_match_are_named(chosen: ProductSimilarity) -> None:
    expected = r"expected queries \[Q, D\] and keys \[K, D\] with the same D, got \[4, 8\] and \[4, 16\]"
    for score in (chosen, lambda q, k: score_pairs(chosen, q, k)):
        with pytest.raises(ValueError, match=expected):
            score(torch.zeros(4, 8), torch.zeros(4, 16))
        with pytest.raises(ValueError, match=r"got \[8\] and \[4, 8\]"):
            score(torch.zeros(8), torch.zeros(4, 8))


def direct_distances(queries: Tensor, keys: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """Minus the distances by their definition in float64, and the gradients of their weighted sum."""
    sides = [side.detach().double().requires_grad_() for side in (queries, keys)]
    scores = -torch.linalg.vector_norm(sides[0][:, None] - sides[1][None], dim=-1)
    return scores.detach(), *torch.autograd.grad((scores * weights).sum(), sides)


def lying_close(kind: str) -> tuple[Tensor, Tensor]:
    """Vectors in float32 whose distances are far below their lengths, in one place, in two, or two by two."""
    spots = 50 * embeddings(12, 40, seed=7)
    middles = {"one place": spots[:1].expand(12, -1), "two places": spots[torch.arange(12) % 2], "pairs": spots}[kind]
    return tuple((middles + 0.02 * embeddings(12, 40, seed=seed)).float() for seed in (8, 9))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["one place", "two places", "pairs"])
def test_distances_of_long_vectors_that_lie_close_are_those_of_their_differences(kind: str) -> None:
    queries, keys = lying_close(kind)
    weights = embeddings(12, 12, seed=3)
    queries.requires_grad_()
    keys.requires_grad_()
    scores = euclidean(queries, keys)
    found = scores.detach(), *torch.autograd.grad((scores * weights).sum(), (queries, keys))
    for ours, expected in zip(found, direct_distances(queries, keys, weights), strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)


@ALL
def test_pairs_row_by_row_have_the_scores_of_the_diagonal(chosen: ProductSimilarity) -> None:
    left, right = embeddings(4, 5), embeddings(4, 5, seed=1)
    torch.testing.assert_close(chosen.of_pairs(left, right), chosen(left, right).diagonal())
    assert chosen.of_pairs(left.bfloat16(), right.bfloat16()).dtype == torch.float32


def test_one_bad_key_spoils_its_own_distances_only() -> None:
    keys = embeddings(4, 5).float()
    keys[2, 1] = torch.nan
    assert euclidean(embeddings(3, 5, seed=1).float(), keys).isfinite().all(0).tolist() == [True, True, False, True]


def test_size_is_that_of_the_largest_score_there_may_be() -> None:
    queries, keys = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[0.0, 12.0], [0.0, 0.1]])
    assert cosine.size(queries, keys) == 1
    assert dot.size(queries, keys) == 64  # of 60
    assert dot.size(queries / 5000, keys / 12) == 2**-10
    assert dot.size(unit(embeddings(9, 7)).float(), unit(embeddings(9, 7)).float()) == 1
    assert euclidean.size(queries + 1e4, keys + 1e4) == euclidean.size(queries, keys) == 8  # of 5.1 + 6.0
    assert dot.size(queries[:0], keys) == dot.size(queries * 0, keys) == 1
