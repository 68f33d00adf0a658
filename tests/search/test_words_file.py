"""BM25 kept beside an index: its scores to the last digit, whatever was changed or damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from conftest import WORDS

from contrastive.encoder import Encoder
from contrastive.evaluation.bm25 import BM25Index
from contrastive.search import Posting, build_index, open_index, update_index
from contrastive.search.disk import words_file
from contrastive.search.disk.words_file import read_words, write_words

TEXTS = [" ".join(WORDS[place : place + 1 + place % 4]) for place in range(len(WORDS))]
POSTINGS = [Posting(f"d{place}", text) for place, text in enumerate(TEXTS)]


@pytest.mark.parametrize("texts", [TEXTS, ["", "the"], ["a \ud800b ñandú nurse", "nurse nurse"]])
def test_what_is_read_is_what_was_written(texts: list[str], tmp_path: Path) -> None:
    made = BM25Index(texts)
    write_words(tmp_path / "words", made)
    read = read_words(tmp_path / "words")
    assert read.frequencies() == made.frequencies()
    for query in (["nurse"], ["nurse", "data", "nurse", "unknown"], [], ["unknown"]):
        assert torch.equal(read.scores(query), made.scores(query))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the indices that are made of texts."""
    made = []

    class Counted(BM25Index):
        def __init__(self, documents: object) -> None:
            made.append(1)
            super().__init__(documents)  # type: ignore[arg-type]

    monkeypatch.setattr(words_file, "BM25Index", Counted)
    return made


def found(folder: Path, encoder: Encoder) -> object:
    return open_index(folder, encoder).search(["nurse data"], system="bm25", passages=False)


def test_an_index_has_its_words_and_a_changed_one_makes_them_once(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(tmp_path, tiny_encoder, POSTINGS)
    before = open_index(tmp_path, tiny_encoder)
    made = counted(monkeypatch)
    monkeypatch.setattr(words_file.BM25Index, "of_words", BM25Index.of_words)
    answer = found(tmp_path, tiny_encoder)
    assert not made
    update_index(tmp_path, tiny_encoder, add=[Posting("new", "nurse data")], remove=["d3"])
    assert not list((tmp_path / "words").iterdir())  # those of the state before
    changed = [found(tmp_path, tiny_encoder) for _ in range(2)]
    assert changed[0] == changed[1] != answer
    assert len(made) == 1
    assert before.search(["nurse data"], system="bm25", passages=False) == answer  # who has it open still counts


@pytest.mark.parametrize("file", ["vocabulary", "scores.npy"])
def test_what_is_damaged_is_made_anew_with_a_warning(
    file: str, tiny_encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_index(tmp_path, tiny_encoder, POSTINGS)
    answer = found(tmp_path, tiny_encoder)
    path = next(tmp_path.rglob(file))
    for content in (path.read_bytes()[:-9], path.read_bytes().replace(b"nur", b"nux"), b"", None):
        caplog.clear()
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content[:-9] + bytes(9) if len(content) > 9 else content)
        with caplog.at_level(logging.WARNING):
            assert found(tmp_path, tiny_encoder) == answer
        assert ("is damaged and is made anew" in caplog.text) == (content is not None)
        caplog.clear()
        assert found(tmp_path, tiny_encoder) == answer
        assert not caplog.text


def test_where_they_cannot_be_written_each_program_counts_them(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build_index(tmp_path, tiny_encoder, POSTINGS)
    answer = found(tmp_path, tiny_encoder)
    update_index(tmp_path, tiny_encoder, remove=["d0"])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(words_file, "write_embeddings", full)
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path, tiny_encoder) != [] != answer
    assert "the words of the index are not kept" in caplog.text
    assert not list((tmp_path / "words").iterdir())
