"""Weights of terms without their zeros, against the matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contrastive.evaluation import retrieve
from contrastive.similarity import (
    TermWeights,
    cosine,
    dot,
    euclidean,
    finite_texts,
    mean_vectors,
    score_text_pairs,
    score_texts,
    size_of,
    term_weights,
)


def weights_of(number: int, seed: int = 0, width: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(number, width, generator=generator) * (torch.rand(number, width, generator=generator) < 0.1)
    drawn[1:2] = 0  # a text without terms
    return drawn


DENSE, QUERIES = weights_of(11), weights_of(5, seed=1)
SPARSE = TermWeights.of(DENSE)


@pytest.mark.parametrize(
    "rows", [slice(2, 7), slice(None), slice(8, 2), slice(None, None, -2), [3, 3, 0], torch.tensor([1]), []]
)
def test_rows_are_those_of_the_matrix(rows):
    expected = DENSE[torch.arange(len(DENSE)).tolist()[rows] if isinstance(rows, slice) else rows]
    part = SPARSE[rows]
    assert len(part) == len(expected)
    assert part.shape == expected.shape
    assert torch.equal(part.dense(), expected)
    assert torch.equal(part.dense()[: len(part)], mean_vectors(part))


def test_parts_are_joined():
    assert torch.equal(TermWeights.join([SPARSE[4:], SPARSE[:4]]).dense(), torch.cat([DENSE[4:], DENSE[:4]]))
    assert (len(SPARSE.terms), SPARSE.terms.dtype) == (int((DENSE != 0).sum()), torch.int32)


@pytest.mark.parametrize("similarity", [dot, cosine, euclidean])
def test_scores_are_those_of_the_matrix(similarity, monkeypatch):
    monkeypatch.setattr(term_weights, "_DENSE", 100)
    expected = score_texts(similarity, QUERIES, DENSE)
    torch.testing.assert_close(score_texts(similarity, QUERIES, SPARSE), expected, atol=1e-12, rtol=0)
    asked, answered = [0, 4, 2, 2], [10, 1, 3, 3]
    pairs = score_text_pairs(similarity, QUERIES, SPARSE, asked, answered)
    torch.testing.assert_close(pairs, expected[asked, answered].float(), atol=1e-6, rtol=0)
    assert size_of(similarity, 9 * QUERIES, SPARSE) == similarity.size(9 * QUERIES, DENSE)


def test_they_are_ranked_as_the_matrix_is():
    names, ids = [f"q{i}" for i in range(5)], [f"d{i}" for i in range(11)]
    kept, dense = (
        retrieve(QUERIES, documents, names, ids, depth=4, block_size=3, similarity=dot) for documents in (SPARSE, DENSE)
    )
    assert kept.documents == dense.documents
    assert kept.scores == dense.scores


def test_texts_that_are_not_finite_are_found():
    bad = DENSE.clone()
    bad[3, 7], bad[9, 0] = torch.nan, torch.inf
    assert (~finite_texts(TermWeights.of(bad))).nonzero().flatten().tolist() == [3, 9]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"expected terms and weights \[N\], got \[2\] and \[3\]"):
        TermWeights(torch.zeros(2), torch.zeros(3), torch.tensor([0, 2]), 4)
    with pytest.raises(ValueError, match="expected offsets that rise from 0 to 2"):
        TermWeights(torch.zeros(2), torch.zeros(2), torch.tensor([0, 3]), 4)
