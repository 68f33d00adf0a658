from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import WORDS

from contrastive.data import Collator, Record
from contrastive.encoder import Encoder
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.training.guide_embeddings import GuideEmbeddings

RECORDS = [
    Record(
        f"{word} {place}", f"the {word}", (f"a {word}",), f"q{place}", f"d{place}", grades={f"d{place}": 1, "far": 1}
    )
    for place, word in enumerate(WORDS[:5])
]


def test_each_text_has_its_embedding_and_what_is_no_text_has_none(tiny_encoder: Encoder, tmp_path: Path) -> None:
    collate = Collator(RECORDS)
    guides = GuideEmbeddings.of(tiny_encoder, RECORDS, collate, EmbeddingCache(tmp_path))
    batch = guides.added_to(collate([RECORDS[3], RECORDS[1]]))
    for found, texts, side in (
        (batch.guide_queries, batch.queries, "query"),
        (batch.guide_keys, batch.documents, "document"),
    ):
        torch.testing.assert_close(found, tiny_encoder.encode(texts, side=side, as_numpy=False), atol=1e-6, rtol=0)
    assert guides.documents.isnan().any(1).sum() == 1  # the document known by its id alone
    assert guides.documents.dtype == torch.float32


def test_sides_are_embedded_with_their_own_prompts(tiny_model_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, query_prompt="job ")
    same = [Record("nurse", "nurse")]
    guides = GuideEmbeddings.of(encoder, same, Collator(same), EmbeddingCache(tmp_path))
    assert not torch.allclose(guides.queries, guides.documents)


def test_a_text_that_was_not_embedded_is_refused(tiny_encoder: Encoder, tmp_path: Path) -> None:
    later = [*RECORDS, Record("chef", "the kitchen")]
    collate = Collator(later)
    guides = GuideEmbeddings.of(tiny_encoder, RECORDS, collate, EmbeddingCache(tmp_path))
    with pytest.raises(ValueError, match=r"got 1 query ids of a batch without: \[5\]"):
        guides.added_to(collate(later[4:]))
    collate = Collator(RECORDS, corpus={"far": "a job far away"})
    guides = GuideEmbeddings.of(tiny_encoder, RECORDS, collate, EmbeddingCache(tmp_path))
    batch = collate(RECORDS[:1])
    batch.key_ids[0] = collate._documents.of("a job far away")
    with pytest.raises(ValueError, match="got 1 document ids of a batch without"):
        guides.added_to(batch)
