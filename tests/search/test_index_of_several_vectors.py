"""Search and judging where a text has several vectors: its tokens', or its windows'."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import WORDS

from contrastive.data import RetrievalTask
from contrastive.encoder import Encoder
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.evaluation import bm25_rankings, rank
from contrastive.search import SearchIndex
from contrastive.similarity import max_sim
from experiments.evaluate.judging import judge_encoder

DOCUMENTS = {f"d{place}": "\n".join(WORDS[place : place + 4]) for place in range(5)}


@pytest.mark.parametrize("options", [{"representation": "tokens"}, {"windows": True, "max_length": 5}])
def test_it_finds_and_judges_by_max_sim(options: dict[str, object], tiny_model_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, **options)  # type: ignore[arg-type]
    queries = {"q0": WORDS[0], "q1": f"{WORDS[2]} {WORDS[3]}"}
    padded = [
        encoder.encode(list(texts.values()), side=side, as_numpy=False).padded()
        for texts, side in ((queries, "query"), (DOCUMENTS, "document"))
    ]
    expected = max_sim(*padded)
    plain, cached = (
        SearchIndex(encoder, DOCUMENTS, cache=cache).search(list(queries.values()), k=5)
        for cache in (None, EmbeddingCache(tmp_path))
    )
    assert [[hit.id for hit in hits] for hits in plain] == [[hit.id for hit in hits] for hits in cached]
    for row, hits in enumerate(plain):
        assert [hit.score for hit in hits] == pytest.approx(
            expected[row].sort(descending=True).values.tolist(), abs=1e-3
        )
        assert all(hit.passage and math.isfinite(hit.passage_score or math.nan) for hit in hits)
    task = RetrievalTask("tiny", queries, DOCUMENTS, {"q0": {"d0": 1}, "q1": {"d2": 1, "d1": 1}})
    judgement = judge_encoder(encoder, task, bm25_rankings(task), WORDS[0], show_progress=False)
    assert judgement.rankings.documents == rank(encoder, task).documents
    assert all(map(math.isfinite, (judgement.embedding_health or {}).values()))
    of_pairs = torch.stack([expected[0, 0], expected[1, 2], expected[1, 1]]).tolist()
    assert (judgement.similarities or {})["relevant"] == pytest.approx(of_pairs, abs=1e-3)
