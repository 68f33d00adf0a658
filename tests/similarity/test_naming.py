"""Which similarity is meant: by its name, of an encoder, the other way round; and scores of any callable."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

from contrastive import similarity
from contrastive.similarity import (
    ProductSimilarity,
    cosine,
    dot,
    euclidean,
    flipped,
    max_sim,
    named,
    score_pairs,
    similarity_of,
)


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("chosen", [cosine, dot, euclidean, max_sim], ids=repr)
def test_is_known_by_name_and_survives_pickling(chosen: ProductSimilarity) -> None:
    assert named(chosen.name) is chosen
    assert named(chosen) is chosen
    assert repr(chosen) == chosen.name
    assert getattr(similarity, chosen.name) is chosen
    assert pickle.loads(pickle.dumps(chosen)) == chosen


def test_unknown_name_is_refused() -> None:
    with pytest.raises(
        ValueError, match="'cosine', 'dot', 'euclidean', 'max_sim', 'max_dot' or a callable, got 'manhattan'"
    ):
        named("manhattan")  # type: ignore[arg-type]


def test_flipped_scores_are_the_transpose() -> None:
    bilinear = embeddings(4, 4, seed=2)
    queries, keys = embeddings(3, 4), embeddings(5, 4, seed=1)
    for chosen in (cosine, lambda q, k: q @ bilinear @ k.T):
        torch.testing.assert_close(flipped(chosen)(keys, queries), chosen(queries, keys).T)
    tokens, others = embeddings(3, 2, 4), embeddings(5, 6, 4, seed=1)
    torch.testing.assert_close(flipped(max_sim)(others, tokens), max_sim(tokens, others).T)
    assert not torch.allclose(max_sim(others, tokens), max_sim(tokens, others).T)


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected scores \[2, 3\] of the similarity, got \[3, 2\]"):
        score_pairs(lambda q, k: k @ q.T, torch.zeros(2, 4), torch.zeros(3, 4))


def test_the_similarity_of_an_encoder_is_what_it_says_and_else_cosine() -> None:
    class Says:
        similarity = "dot"

    assert similarity_of(Says()) is dot
    assert similarity_of(object()) is cosine
    Says.similarity = "manhattan"
    with pytest.raises(
        ValueError, match="similarity to be one of cosine, dot, euclidean, max_sim, max_dot, got 'manhattan'"
    ):
        similarity_of(Says())
