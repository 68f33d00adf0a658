"""Vectors in fewer bits: what is written, what is read, and how far it is from what was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.similarity import (
    Codec,
    TokenVectors,
    max_dot,
    max_sim,
    mean_vectors,
    packed,
    score_text_pairs,
    score_texts,
)


def vectors_of(number: int, width: int = 12, seed: int = 0) -> Tensor:
    """Directions of which the later dimensions are smaller."""
    drawn = torch.randn(number, width, generator=torch.Generator().manual_seed(seed))
    return normalize(drawn / (1 + torch.arange(width)), dim=1)


CODECS = [(8, None), (2, None), (1, None), (16, 5), (8, 5), (2, 5), (1, 5), (1, 12)]


def test_a_byte_is_off_by_half_a_step_of_the_largest_value_of_its_dimension():
    vectors = vectors_of(200)
    codec = Codec.fit(vectors, bits=8)
    errors = (codec.restored(codec.encode(vectors)) - vectors).abs()
    assert (errors <= vectors.abs().amax(0) / 254 + 1e-6).all()
    beyond = codec.restored(codec.encode(3 * vectors))
    assert (beyond.abs() <= vectors.abs().amax(0) + 1e-6).all()  # cut, and not wrapped around


@pytest.mark.parametrize("bits", [1, 2])
def test_few_bits_are_the_nearest_level_of_each_dimension(bits: int):
    vectors = vectors_of(200)
    codec = Codec.fit(vectors, bits=bits)
    levels = torch.tensor({1: [-1.0, 1.0], 2: [-1.510, -0.4528, 0.4528, 1.510]}[bits])
    wide = vectors / vectors.square().mean(0).sqrt()
    nearest = levels[(wide[..., None] - levels).abs().argmin(-1)]
    assert torch.equal(codec.decode(codec.encode(vectors)), nearest)


@pytest.mark.parametrize("bits", [16, 8, 2, 1])
def test_all_principal_axes_of_equal_width_are_read_as_they_were_but_for_rounding(bits: int):
    vectors = normalize(torch.randn(5000, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    codec = Codec.fit(vectors, bits=bits, dimensions=6)
    lost = (codec.restored(codec.encode(vectors)) - vectors).square().sum(1).mean()
    assert lost < {16: 1e-3, 8: 1e-3, 2: 0.2, 1: 0.45}[bits]
    left = Codec.fit(vectors[:, :1] * torch.tensor([3.0, 4.0]), bits=16, dimensions=1)  # all on one axis
    kept = left.restored(left.encode(torch.tensor([[0.3, 0.4]])))
    torch.testing.assert_close(kept, torch.tensor([[0.3, 0.4]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("bits", "dimensions"), CODECS)
def test_the_bytes_of_a_vector_are_what_was_asked_for(bits: int, dimensions: int | None):
    codec = Codec.fit(vectors_of(50), bits=bits, dimensions=dimensions)
    codes = codec.encode(vectors_of(7, seed=1))
    assert codes.nbytes == 7 * -(-bits * (dimensions or 12) // 8)
    assert codec.decode(codes).shape == (7, dimensions or 12)
    assert codec.encode(vectors_of(0)).shape == (0, codes.shape[1])


@pytest.mark.parametrize(("bits", "dimensions"), CODECS)
@pytest.mark.parametrize("similarity", [max_sim, max_dot])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_scores_of_what_is_kept_are_those_of_what_is_read(bits, dimensions, similarity, size):
    vectors, queries = vectors_of(40), TokenVectors.of_lengths(vectors_of(9, seed=2), torch.tensor([4, 0, 5]))
    codec = Codec.fit(vectors, bits=bits, dimensions=dimensions)
    documents = TokenVectors.of_lengths(codec.encode(vectors), torch.tensor([7, 0, 7, 25, 1]), codec)
    restored = documents.restored()
    assert restored.codec is None
    sums = score_texts(max_dot, TokenVectors(similarity.prepare(queries.vectors), queries.offsets), restored)
    expected = sums / queries.lengths.clamp_min(1)[:, None] if similarity is max_sim else sums
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_VECTORS", "_PRODUCTS", "_TOKENS"):
            patch.setattr(packed, name, size)
        torch.testing.assert_close(score_texts(similarity, queries, documents), expected, atol=1e-5, rtol=0)
        pairs = score_text_pairs(similarity, queries, documents, [0, 2, 2, 1], [3, 0, 4, 3])
        torch.testing.assert_close(pairs, expected[[0, 2, 2, 1], [3, 0, 4, 3]], atol=1e-5, rtol=0)
        torch.testing.assert_close(mean_vectors(documents), mean_vectors(restored))


def test_what_is_kept_is_taken_apart_and_put_together_like_any_token_vectors():
    vectors = vectors_of(12)
    codec = Codec.fit(vectors, bits=2)
    texts = TokenVectors.of_lengths(codec.encode(vectors), torch.tensor([3, 4, 5]), codec)
    full = texts.restored()
    for part in (texts[1:], texts[[2, 0]], texts[torch.tensor([1])], TokenVectors.join([texts[2:], texts[:1]])):
        assert part.codec is codec
    torch.testing.assert_close(texts[[2, 0]].restored().vectors, full[[2, 0]].vectors)
    torch.testing.assert_close(texts.padded(), full.padded())
    assert texts.to(torch.device("cpu")).vectors.dtype == torch.uint8
    assert texts.to(torch.float16).codec is None
    torch.testing.assert_close(texts.to(torch.float16).vectors, full.vectors.half())
    same = Codec(2, codec.of_documents.clone(), codec.of_queries.clone())
    assert len(TokenVectors.join([texts, TokenVectors(texts.vectors, texts.offsets, same)])) == 6
    for other in (None, Codec.fit(vectors[:5], bits=2)):
        with pytest.raises(ValueError, match="all kept by one codec, got several"):
            TokenVectors.join([texts, TokenVectors(texts.vectors, texts.offsets, other)])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="expected bits to be one of 16, 8, 2, 1, got 3"):
        Codec.fit(vectors_of(5), bits=3)
    with pytest.raises(ValueError, match="expected dimensions from 1 to 12 for these vectors, got 13"):
        Codec.fit(vectors_of(5), bits=1, dimensions=13)
    with pytest.raises(ValueError, match=r"expected at least one vector \[N, D\] to fit to, got \[0, 12\]"):
        Codec.fit(vectors_of(0), bits=1)
    with pytest.raises(ValueError, match=r"expected two matrices \[D, d\] of one shape, got \[2, 2\] and \[2, 1\]"):
        Codec(1, torch.ones(2, 2), torch.ones(2, 1))
