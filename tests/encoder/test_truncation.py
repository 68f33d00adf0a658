"""Lengths of texts in tokens, and the token cache, which measuring must not disturb."""

from pathlib import Path

import numpy as np
import pytest

from contrastive.encoder import Encoder, tokens
from contrastive.encoder.tokens import cached_token_ids, whole_token_counts
from contrastive.encoder.truncation import check_told_apart, truncation
from contrastive.encoder.two_towers import TwoTowers


def test_lengths_count_prompt_and_special_tokens_and_what_is_cut(tiny_encoder: Encoder) -> None:
    tiny_encoder.max_length, tiny_encoder.document_prompt = 6, "job "
    texts = ["nurse", "nurse chef data", "nurse chef data the", "nurse chef data the years job", "nurse", "kitchen"]
    found = truncation(tiny_encoder, texts, "document")
    assert found is not None
    assert (found.texts, found.max_length, found.median, found.longest) == (5, 6, 6, 9)
    assert found.cut == pytest.approx(2 / 5)
    assert found.lost == pytest.approx((1 + 3) / (4 + 6 + 7 + 9 + 4))
    assert found.alike == 1
    assert truncation(tiny_encoder, texts, "query").longest == 8  # type: ignore[union-attr]
    assert truncation(tiny_encoder, [], "query") is None
    assert truncation(object(), texts, "query") is None


def test_each_side_is_measured_by_its_tower(tiny_encoder: Encoder, tiny_model_folder: Path) -> None:
    towers = TwoTowers(tiny_encoder, Encoder.from_pretrained(tiny_model_folder, max_length=3))
    lengths = [truncation(towers, ["nurse chef"], side) for side in ("query", "document")]
    assert [found.cut for found in lengths if found] == [0, 1]


def test_a_document_that_is_read_whole_is_not_cut_and_queries_are_at_their_length(tiny_model_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, max_length=6, query_length=4, windows=True)
    texts = ["the job of the nurse and the chef", "the job of the nurse and the data"]
    found, asked = truncation(encoder, texts, "document"), truncation(encoder, texts, "query")
    assert found is not None
    assert asked is not None
    assert (found.max_length, found.cut, found.lost, found.alike) == (6, 0, 0, 0)
    assert found.longest == asked.longest > 6
    assert (asked.max_length, asked.cut, asked.alike) == (4, 1, 1)
    check_told_apart(encoder, texts, "document")
    with pytest.raises(ValueError, match=r"in their first 4 tokens, .* or raise encoder\.query_length"):
        check_told_apart(encoder, texts, "query")


def test_documents_that_begin_alike_are_refused(tiny_encoder: Encoder) -> None:
    tiny_encoder.max_length = 5
    texts = [f"the hospital job nurse chef {i}" for i in range(3)]
    refusal = r"expected documents that differ in their first 5 tokens, got 3 that do not; they begin alike, or raise "
    with pytest.raises(ValueError, match=rf"{refusal}encoder\.max_length \(the model has positions for 64\)"):
        check_told_apart(tiny_encoder, texts, "document")
    check_told_apart(tiny_encoder, [*texts, "nurse"], "document")
    check_told_apart(tiny_encoder, texts[:1] * 2, "document")
    check_told_apart(tiny_encoder, ["nurse", "NURSE"], "document")  # one to this tokenizer, but whole


def test_measuring_leaves_tokenizer_and_cache_as_they_were(tiny_model_folder: Path) -> None:
    one, other = (Encoder.from_pretrained(tiny_model_folder, max_length=7) for _ in range(2))
    long = "nurse " * 20
    assert whole_token_counts(one.tokenizer, [long, "chef"]) == [22, 3]
    tokens.fingerprint(one.tokenizer)
    cached_token_ids(one.tokenizer, ["chef"], max_length=7)
    before = one.tokenizer.backend_tokenizer.to_str()
    assert whole_token_counts(one.tokenizer, [long]) == [22]
    assert one.tokenizer.backend_tokenizer.to_str() == before
    kept = len(tokens._kept)
    truncation(one, [long], "document")
    assert len(tokens._kept) == kept + 1  # as training will ask for it
    assert np.array_equal(*(cached_token_ids(e.tokenizer, [long], max_length=7)[0] for e in (one, other)))
