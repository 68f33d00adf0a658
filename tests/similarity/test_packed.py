"""Corpora of token vectors compared a block at a time, against loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.evaluation import retrieve
from contrastive.similarity import (
    TokenVectors,
    cosine,
    euclidean,
    finite_texts,
    max_dot,
    max_sim,
    mean_vectors,
    packed,
    score_text_pairs,
    score_texts,
)

lengths = st.lists(st.integers(0, 7), min_size=1, max_size=9)


def texts_of(lengths: list[int], seed: int, width: int = 3) -> TokenVectors:
    vectors = torch.randn(sum(lengths), width, generator=torch.Generator().manual_seed(seed))
    return TokenVectors.of_lengths(vectors, torch.tensor(lengths))


def loop_score(query: Tensor, document: Tensor) -> float:
    """Return the mean over a query's vectors of the largest cosine with one of the document's."""
    if not len(query) or not len(document):
        return 0.0
    found = [float(torch.cosine_similarity(mine[None], document).max()) for mine in query]
    return sum(found) / len(found)


def each(texts: TokenVectors) -> list[Tensor]:
    return [texts[place : place + 1].vectors for place in range(len(texts))]


@settings(max_examples=15, deadline=None)
@given(lengths, lengths, st.sampled_from([1, 2, 5, 1000]), st.sampled_from([0, 1000]))
def test_texts_are_scored_as_loops_score_them_whatever_the_blocks(asking, answering, size, few):
    queries, documents = texts_of(asking, 0), texts_of(answering, 1)
    expected = torch.tensor([[loop_score(query, document) for document in each(documents)] for query in each(queries)])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_VECTORS", "_PRODUCTS", "_TOKENS", "_VECTORS_OF_FEW"):
            patch.setattr(packed, name, size)
        patch.setattr(packed, "_FEW_TOKENS", few)
        scores = score_texts(max_sim, queries, documents)
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
        asked, answered = (range_.repeat(2) for range_ in (torch.arange(len(asking)), torch.arange(len(asking)) * 0))
        pairs = score_text_pairs(max_sim, queries, documents, asked, answered)
        torch.testing.assert_close(pairs, expected[:, 0].repeat(2), atol=1e-5, rtol=0)
        sums = max_dot(queries.padded(), documents.padded())
        torch.testing.assert_close(score_texts(max_dot, queries, documents), sums, atol=1e-4, rtol=0)
        pairs = score_text_pairs(max_dot, queries, documents, asked, answered)
        torch.testing.assert_close(pairs, sums[:, 0].repeat(2), atol=1e-4, rtol=0)
        means = [normalize(of, dim=1).mean(0) if len(of) else torch.zeros(3) for of in each(documents)]
        torch.testing.assert_close(mean_vectors(documents), torch.stack(means))
        bad = documents.vectors.clone()
        bad[len(bad) // 2 :] = torch.nan
        expected_finite = [bool(of.isfinite().all()) for of in each(TokenVectors(bad, documents.offsets))]
        assert finite_texts(TokenVectors(bad, documents.offsets)).tolist() == expected_finite


def test_half_precision_is_read_a_block_at_a_time_and_scored_in_full():
    queries, documents = texts_of([2, 3], 0, 64), texts_of([40, 1, 40, 7], 1, 64).to(torch.float16)
    scores = score_texts(max_sim, queries, documents)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, score_texts(max_sim, queries, documents.to(torch.float32)))


def test_autocast_changes_nothing():
    queries, documents = texts_of([2, 3], 0, 64), texts_of([40, 1, 40, 7], 1, 64).to(torch.float16)
    expected = score_texts(max_sim, queries, documents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        joined = TokenVectors.join([documents[:1], documents[1:]])
        assert torch.equal(score_texts(max_sim, queries, joined), expected)


def test_a_vector_a_text_is_compared_in_float64_and_with_windows_as_a_text_of_one():
    queries, documents = torch.randn(3, 4), texts_of([2, 1], 0, 4)
    assert torch.equal(score_texts(cosine, queries, queries), cosine(queries.double(), queries.double()))
    best = [[max(cosine(query[None], of)[0].tolist()) for of in each(documents)] for query in queries]
    torch.testing.assert_close(score_texts(max_sim, queries, documents), torch.tensor(best))


def test_another_similarity_gets_token_vectors_padded_and_one_of_vectors_refuses_them():
    queries, documents = texts_of([2, 1], 0), texts_of([3, 4, 0], 1)
    shapes = []

    def zeros(left, right):
        shapes.append((left.shape, right.shape))
        return torch.zeros(len(left), len(right))

    score_texts(zeros, queries, documents)
    assert shapes == [((2, 2, 3), (3, 4, 3))]
    with pytest.raises(ValueError, match="expected queries"):
        score_texts(euclidean, queries, documents)


@pytest.mark.parametrize("block_size", [1, 2, 2048])
def test_retrieval_of_token_vectors_ranks_by_max_sim_and_breaks_ties_by_id(block_size):
    queries = texts_of([2, 3, 0], 0)
    one, other = texts_of([4], 1), texts_of([5], 2)
    rankings = retrieve(
        queries,
        TokenVectors.join([one, other, one]),
        ["q", "r", "empty"],
        ["z", "b", "a"],
        depth=2,
        similarity=max_sim,
        block_size=block_size,
        exclude={"r": {"a"}},
    )
    for name, query in zip("qr", each(queries), strict=False):
        scores = {"a": loop_score(query, one.vectors), "b": loop_score(query, other.vectors)}
        scores["z"] = scores["a"]
        if name == "r":
            del scores["a"]
        expected = sorted(scores, key=lambda id_: (-round(scores[id_], 6), id_))[:2]
        assert list(rankings.documents[name]) == expected
        assert rankings.scores[name] == pytest.approx([scores[id_] for id_ in expected], abs=2e-6)
    assert rankings.top("empty", 2) == [("a", 0.0), ("b", 0.0)]


def test_retrieval_refuses_token_vectors_that_are_not_finite_or_of_another_number():
    texts = texts_of([2, 1], 0)
    with pytest.raises(ValueError, match="expected finite scores"):
        retrieve(TokenVectors(texts.vectors * torch.nan, texts.offsets), texts, "ab", "cd", depth=1, similarity=max_sim)
    with pytest.raises(ValueError, match=r"expected documents \[3, D\].*got those of 2 texts"):
        retrieve(texts, texts, "ab", "cde", depth=1, similarity=max_sim)
