"""Candidates before late interaction: the exact ranking of those that are found, kept with an index on disk."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from conftest import WORDS

from contrastive.encoder import Encoder
from contrastive.evaluation.bm25 import BM25Index
from contrastive.search import ExactEngine, Posting, build_index, open_index, parse_filter, update_index
from contrastive.search.disk import stored_candidates
from contrastive.search.engines.candidates import Candidates, drawn
from contrastive.search.words import WordSearch
from contrastive.similarity import TokenVectors, cosine, max_sim, mean_vectors

POSTINGS = [
    Posting(f"d{place}", "\n".join(WORDS[place % 7 : place % 7 + 3]), {"place": ("Bonn", "Ulm")[place % 2]})
    for place in range(20)
]
QUERIES = [WORDS[0], f"{WORDS[2]} {WORDS[6]}"]


@pytest.fixture
def tokens_encoder(tiny_model_folder: Path) -> Encoder:
    return Encoder.from_pretrained(tiny_model_folder, representation="tokens")


def made(number: int) -> tuple[Candidates, ExactEngine, TokenVectors]:
    generator = torch.Generator().manual_seed(0)
    tokens = TokenVectors.of_lengths(torch.randn(90, 6, generator=generator), torch.full((30,), 3))
    engine, means = ExactEngine(max_sim), ExactEngine(cosine)
    ids = [f"d{row:02}" for row in range(30)]
    engine.add(ids, tokens, [{"even": row % 2 == 0} for row in range(30)])
    means.add(ids, mean_vectors(tokens), [{"even": row % 2 == 0} for row in range(30)])
    words = WordSearch(ids, BM25Index("nurse chef" if row < 3 else "chef" for row in range(30)))
    return Candidates(engine, words, means, number), engine, tokens


def test_both_kinds_take_turns_and_are_ranked_exactly() -> None:
    candidates, engine, tokens = made(6)
    query = tokens[17:18]
    by_means = [id_ for id_, _ in candidates._means.search(mean_vectors(query), 6)[0]]
    found = candidates.find(["nrse"], query)[0]  # put right
    assert [id_ for id_ in found if id_ in ("d00", "d01", "d02")] == ["d00", "d01", "d02"]
    assert found[1] == by_means[0] == "d17"
    assert len(found) == len(set(found)) == 6
    exact = [each for each in engine.search(query, 30)[0] if each[0] in found]
    assert candidates.search(["nrse"], query, 4) == [exact[:4]]
    assert len(candidates.search(["nrse"], query, 99)[0]) == 6
    everything, engine, _ = made(60)
    assert everything.search(["nurse"], query, 10) == engine.search(query, 10)
    filters = [parse_filter("even=true")]
    assert everything.search(["nurse"], query, 10, filters, engine.rows(filters)) == engine.search(query, 10, filters)
    with pytest.raises(ValueError, match="expected at least 1 candidate of a query, got 0"):
        made(0)


def test_recall_is_the_share_of_the_ten_closest() -> None:
    candidates, engine, tokens = made(60)
    assert candidates.recall(engine, ["chef", "nurse"], tokens[:2]) == 1.0
    few, engine, tokens = made(1)
    assert 0 <= few.recall(engine, ["chef"], tokens[:1]) <= 0.1
    titles = [str(number) for number in range(99)]
    assert drawn(titles) == drawn(titles)
    assert len(set(drawn(titles))) == 50


def found(folder: Path, encoder: Encoder, **options: int) -> list[list[tuple[str, float]]]:
    hits = open_index(folder, encoder, **options).search(QUERIES, 5, passages=False)  # type: ignore[arg-type]
    return [[(hit.id, round(hit.score, 4)) for hit in of_query] for of_query in hits]


def test_an_index_keeps_them_and_what_they_find(
    tokens_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build_index(tmp_path / "all", tokens_encoder, POSTINGS)
    exact = found(tmp_path / "all", tokens_encoder)
    with caplog.at_level(logging.INFO):
        manifest = build_index(tmp_path / "few", tokens_encoder, POSTINGS, candidates=20)
    assert manifest.candidates == {"number": 20, "recall@10": 1.0, "titles": 20}
    assert json.loads((tmp_path / "few" / "index.json").read_text())["candidates"]["recall@10"] == 1.0
    assert "20 candidates of a query have 1.000 of the ten closest, by 20 titles" in caplog.text
    monkeypatch.setattr(stored_candidates, "mean_vectors", None)  # they are read
    assert found(tmp_path / "few", tokens_encoder) == exact
    assert len(found(tmp_path / "few", tokens_encoder, candidates=2)[0]) == 2
    assert found(tmp_path / "few", tokens_encoder, candidates=0) == exact
    monkeypatch.undo()
    for folder in ("few", "all"):
        update_index(tmp_path / folder, tokens_encoder, add=[Posting("new", WORDS[0])], remove=["d0"])
    assert found(tmp_path / "few", tokens_encoder) == found(tmp_path / "all", tokens_encoder) != exact
    assert found(tmp_path / "all", tokens_encoder, candidates=21) == found(tmp_path / "all", tokens_encoder)
    assert len(list((tmp_path / "few" / "means").iterdir())) == 2
    build_index(tmp_path / "few", tokens_encoder, POSTINGS[:3])
    assert not list((tmp_path / "few" / "means").iterdir())


def test_damaged_means_are_made_anew(tokens_encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build_index(tmp_path, tokens_encoder, POSTINGS, candidates=4)
    answer = found(tmp_path, tokens_encoder)
    path = next((tmp_path / "means").iterdir())
    content = path.read_bytes()
    path.write_bytes(content[:-20] + bytes(20))
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path, tokens_encoder) == answer
    assert "is damaged and is made anew" in caplog.text
    assert path.read_bytes() == content


def test_an_index_of_many_has_them_and_others_are_refused(
    tokens_encoder: Encoder, tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_candidates, "FROM", 20)
    made = build_index(tmp_path / "many", tokens_encoder, POSTINGS)
    assert made.candidates is not None
    assert made.candidates["number"] == 1000
    assert build_index(tmp_path / "many", tokens_encoder, POSTINGS, candidates=0).candidates is None
    assert build_index(tmp_path / "pooled", tiny_encoder, POSTINGS).candidates is None
    with pytest.raises(
        ValueError, match=r"expected an index of tokens with the engine exact .*, got pooled with exact"
    ):
        open_index(tmp_path / "pooled", tiny_encoder, candidates=5)
