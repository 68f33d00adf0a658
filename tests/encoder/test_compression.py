"""A corpus of token vectors in fewer bytes, from an encoder's setting to the file on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from contrastive.data import RetrievalTask
from contrastive.encoder import EmbeddingCache, Encoder, TwoTowers, load_encoder
from contrastive.encoder import compression as module
from contrastive.encoder.compression import Compression, compress, pool
from contrastive.encoder.embedding_cache import embedding_key, embeddings_of
from contrastive.evaluation import rank
from contrastive.search import SearchIndex
from contrastive.similarity import TermWeights, TokenVectors, max_sim, score_texts

TEXTS = [f"{first} {second} nurse chef" for first in "abcde" for second in "vwxyz"]
WORDS = ["8bit", "2bit", "1bit", "pca16", "pca16-8bit", "pool2", "pool2-pca16-1bit", "pool3-2bit"]


def tokens(folder: Path, compression: str | None = None, **settings: object) -> Encoder:
    return Encoder.from_pretrained(folder, representation="tokens", compression=compression, **settings)


@pytest.mark.parametrize("words", WORDS)
def test_words_say_what_is_kept(words: str):
    assert str(Compression.of(words)) == words


@pytest.mark.parametrize("words", ["", "8", "8bit-pca16", "-8bit", "pool2-", "pool1", "16bit", "int8", "pool02"])
def test_other_words_are_refused(words: str):
    with pytest.raises(ValueError, match=f"expected compression such as .*, got '{words}'"):
        Compression.of(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [("3bit", "bits to be one of 16, 8, 2, 1, got 3"), ("pool0", "at least 1, got 0"), ("pca0", "got 1 and 0")],
)
def test_what_cannot_be_is_refused(words: str, message: str):
    with pytest.raises(ValueError, match=message):
        Compression.of(words)


@pytest.mark.parametrize("factor", [2, 3, 100])
def test_one_vector_is_kept_for_so_many(factor: int, monkeypatch: pytest.MonkeyPatch):
    groups = normalize(torch.eye(4)[[0, 1, 0, 2, 1, 3, 3, 2]] + 0.01 * torch.randn(8, 4).clamp(-1, 1), dim=1)
    document = TokenVectors.of_lengths(torch.cat([groups, groups[:1]]), torch.tensor([8, 0, 1]))
    pooled = pool(document, factor)
    assert pooled.lengths.tolist() == [-(-8 // factor), 0, 1]
    torch.testing.assert_close(pooled.vectors.norm(dim=1), torch.ones(len(pooled.vectors)))
    if factor == 2:  # the four groups, in the order of their first vectors
        pairs = [groups[[0, 2]], groups[[1, 4]], groups[[3, 7]], groups[[5, 6]]]
        torch.testing.assert_close(pooled[:1].vectors, normalize(torch.stack([pair.mean(0) for pair in pairs]), dim=1))
        monkeypatch.setattr(module, "_CLUSTERED", 5)
        assert pool(document, 2).lengths.tolist() == [3 + 2, 0, 1]


def test_documents_that_come_later_are_written_by_the_codec_of_the_others():
    vectors = normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    first, later = (TokenVectors.of_lengths(part, torch.tensor([12, 8])) for part in vectors.split(20))
    kept = compress(first, Compression.of("pca4-1bit"))
    added = compress(later, Compression.of("pca4-1bit"), kept.codec)
    assert added.codec is kept.codec
    assert len(TokenVectors.join([kept, added])) == 4


def test_what_is_not_finite_is_not_compressed():
    with pytest.raises(ValueError, match="expected finite vectors of documents to compress"):
        compress(TokenVectors.of_lengths(torch.tensor([[torch.nan]]), torch.tensor([1])), Compression.of("8bit"))


@pytest.mark.parametrize("words", WORDS)
def test_a_corpus_is_kept_memory_mapped_and_scored_as_without_a_cache(
    words: str, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encoder, cache = tokens(tiny_model_folder, words), EmbeddingCache(tmp_path)
    queries = encoder.encode(TEXTS[:3], as_numpy=False)
    plain = embeddings_of(encoder, TEXTS, side="document")
    made = embeddings_of(encoder, TEXTS, side="document", cache=cache)
    (file,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode", None)  # it is read
        read = embeddings_of(encoder, TEXTS, side="document", cache=cache)
    assert isinstance(np.load(file, mmap_mode="r"), np.memmap)
    expected = score_texts(max_sim, queries, plain)
    for kept in (made, read):
        assert isinstance(kept, TokenVectors)
        assert kept.vectors.dtype == plain.vectors.dtype
        assert torch.equal(kept.vectors, plain.vectors)
        torch.testing.assert_close(score_texts(max_sim, queries, kept), expected)
    full = embeddings_of(tokens(tiny_model_folder), TEXTS, side="document")
    assert plain.vectors.nbytes < full.vectors.nbytes


def test_parts_are_written_by_one_codec_fitted_to_texts_from_everywhere(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encoder, fitted = tokens(tiny_model_folder, "pca16-2bit"), []
    fit = module.Codec.fit
    monkeypatch.setattr(
        module.Codec, "fit", lambda vectors, **options: fitted.append(vectors) or fit(vectors, **options)
    )
    asked: list[str] = []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts, **options: asked.extend(texts) or encode(texts, **options))
    found = embeddings_of(encoder, TEXTS, side="document", cache=EmbeddingCache(tmp_path, part_size=5 * 16))
    assert len(fitted) == 1
    assert asked[:5] == TEXTS[::5]
    assert sorted(asked) == sorted(TEXTS)
    whole = encode(TEXTS, side="document", as_numpy=False)
    again = compress(whole, Compression.of("pca16-2bit"), found.codec)
    assert torch.equal(found.offsets, again.offsets)
    differ = (found.codec.decode(found.vectors) != found.codec.decode(again.vectors)).float().mean()
    assert differ < 0.01  # where a micro-batch rounded otherwise


def test_keys_of_documents_differ_and_those_of_queries_do_not(tiny_model_folder: Path):
    encoders = [tokens(tiny_model_folder, words) for words in (None, "none", *WORDS)]
    keys = {side: [embedding_key(encoder, TEXTS, side=side) for encoder in encoders] for side in ("query", "document")}
    assert len(set(keys["query"])) == 1
    assert keys["document"][0] == keys["document"][1]
    assert len(set(keys["document"])) == 1 + len(WORDS)


def test_a_saved_folder_says_how_its_corpus_is_kept(tiny_model_folder: Path, tmp_path: Path):
    tokens(tiny_model_folder, "pca16-1bit").save_pretrained(tmp_path)
    loaded = Encoder.from_pretrained(tmp_path)
    assert loaded.settings["compression"] == "pca16-1bit"
    assert Encoder.from_pretrained(tmp_path, compression="none").compression is None
    assert Encoder.from_pretrained(tmp_path, compression="8bit").settings["compression"] == "8bit"
    assert Encoder.from_pretrained(tmp_path, representation="pooled").compression is None  # another head's
    Encoder.from_pretrained(tmp_path, compression="none").save_pretrained(tmp_path)
    assert Encoder.from_pretrained(tmp_path).compression is None
    towers = load_encoder(tiny_model_folder, two_towers=True, representation="tokens", compression="2bit")
    assert isinstance(towers, TwoTowers)
    assert embeddings_of(towers, TEXTS, side="document").vectors.dtype == torch.uint8


def test_judging_and_search_compare_what_is_kept(tiny_model_folder: Path):
    encoder, corpus = tokens(tiny_model_folder, "pool2-pca16-1bit"), {str(i): text for i, text in enumerate(TEXTS)}
    task = RetrievalTask("some", {"q": "a v"}, corpus, {"q": {"0": 1}})
    rankings = rank(encoder, task)
    hits = SearchIndex(encoder, corpus).search(["a v"], k=5, passages=False)[0]
    assert [hit.id for hit in hits] == rankings.documents["q"][:5]
    assert [hit.score for hit in hits] == pytest.approx(rankings.scores["q"][:5])
    assert rank(tokens(tiny_model_folder), task).scores["q"] != pytest.approx(rankings.scores["q"])


@pytest.mark.parametrize("representation", ["pooled", "lexical"])
def test_one_vector_a_text_is_refused(representation: str, tiny_model_folder: Path, tiny_encoder: Encoder):
    with pytest.raises(ValueError, match=r"several vectors a text, .* for compression=8bit, got one"):
        Encoder.from_pretrained(tiny_model_folder, representation=representation, compression="8bit")
    tiny_encoder.compression = Compression.of("8bit")
    with pytest.raises(ValueError, match="several vectors a text"):
        embeddings_of(tiny_encoder, TEXTS, side="document")


def test_windows_of_pooled_documents_are_kept_too(tiny_model_folder: Path):
    encoder = Encoder.from_pretrained(tiny_model_folder, windows=True, max_length=6, compression="8bit")
    assert embeddings_of(encoder, TEXTS, side="document").vectors.dtype == torch.int8


def test_documents_that_weigh_terms_are_kept_without_zeros(tiny_model_folder: Path, tmp_path: Path):
    encoder = Encoder.from_pretrained(tiny_model_folder, representation="lexical")
    dense = encoder.encode(TEXTS, side="document", as_numpy=False)
    for cache in (None, EmbeddingCache(tmp_path, part_size=10), EmbeddingCache(tmp_path)):
        kept = embeddings_of(encoder, [*TEXTS, TEXTS[0]], side="document", cache=cache)
        assert isinstance(kept, TermWeights)
        torch.testing.assert_close(kept.dense()[:-1], dense, atol=1e-6, rtol=0)
        assert torch.equal(kept.dense()[-1], kept.dense()[0])
    assert isinstance(embeddings_of(encoder, TEXTS, side="query", cache=cache), torch.Tensor)
