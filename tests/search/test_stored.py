"""An index on disk: the ranking of evaluation, changes without a rebuild, nothing lost to damage or interruption."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from conftest import WORDS

from contrastive.data import RetrievalTask
from contrastive.encoder import Encoder
from contrastive.evaluation import bm25_rankings, fuse, rank
from contrastive.search import Posting, build_index, open_index, parse_filter, segments, stored, update_index

POSTINGS = [
    Posting(f"d{place}", "\n".join(WORDS[place : place + 3]), {"place": ("Bonn", "Ulm")[place % 2]})
    for place in range(9)
]
TEXTS = {posting.id: posting.text for posting in POSTINGS}
TASK = RetrievalTask("tiny", {"q": WORDS[0], "r": f"{WORDS[2]} {WORDS[6]}"}, TEXTS, {"q": {"d0": 1}})


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "SIZE", 4)


def found(index: Any, **options: Any) -> list[list[tuple[str, float]]]:
    return [[(hit.id, hit.score) for hit in hits] for hits in index.search(list(TASK.queries.values()), 5, **options)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"representation": "tokens"},
        {"windows": True, "max_length": 5},
        {"similarity": "dot"},
        {"representation": "lexical"},
    ],
    ids=["pooled", "tokens", "windows", "dot", "lexical"],
)
def test_its_ranking_is_that_of_evaluation(options: Any, tiny_model_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, **options)
    weights = {"BM25+spelling": 0.4, "encoder": 0.6}
    build_index(tmp_path / "index", encoder, POSTINGS)
    index = open_index(tmp_path / "index", encoder, weights=weights)
    parts = {"BM25+spelling": bm25_rankings(TASK, spelling=True), "encoder": rank(encoder, TASK)}
    for system, expected in (("encoder", parts["encoder"]), ("hybrid", fuse(parts, weights))):
        for hits, query in zip(found(index, system=system, passages=False), TASK.queries, strict=True):
            top = expected.top(query, 5)
            assert [id_ for id_, _ in hits] == [id_ for id_, _ in top]
            assert [score for _, score in hits] == pytest.approx([score for _, score in top], abs=1e-3)


def test_it_is_changed_as_if_built_anew(tiny_encoder: Encoder, tmp_path: Path) -> None:
    build_index(tmp_path / "index", tiny_encoder, POSTINGS)
    before = open_index(tmp_path / "index", tiny_encoder)
    answers = found(before)
    changed = [Posting("d1", "chef kitchen", {"place": "Trier"}), Posting("new", "nurse years", {"remote": True})]
    made = update_index(tmp_path / "index", tiny_encoder, add=changed, remove=["d3", "d8"])
    assert (made.count, made.generation) == (8, 2)
    kept = [posting for posting in POSTINGS if posting.id not in ("d1", "d3", "d8")]
    build_index(tmp_path / "anew", tiny_encoder, [*kept, *changed])
    index, anew = (open_index(tmp_path / name, tiny_encoder) for name in ("index", "anew"))
    for system in ("encoder", "bm25"):
        for filters in ((), [parse_filter("place=ulm")], [parse_filter("remote=true")]):
            ours, theirs = (found(each, system=system, filters=filters) for each in (index, anew))
            assert [[id_ for id_, _ in hits] for hits in ours] == [[id_ for id_, _ in hits] for hits in theirs]
    assert index.search(["chef"], filters=[parse_filter("place=trier")])[0][0].metadata == {"place": "Trier"}
    assert found(before) == answers  # who has opened it sees what was there
    assert len(list((tmp_path / "index" / "segments").iterdir())) == 3  # the one of d8 alone is gone
    with pytest.raises(KeyError, match="expected ids of the index to remove, got 'd3'"):
        update_index(tmp_path / "index", tiny_encoder, remove=["d0", "d3"])
    with pytest.raises(ValueError, match="expected ids of postings that differ, got 'new' twice"):
        update_index(tmp_path / "index", tiny_encoder, add=[changed[1], changed[1]])
    assert open_index(tmp_path / "index", tiny_encoder).postings.ids == index.postings.ids


def test_a_build_that_fails_leaves_what_was_there_and_the_next_goes_on(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(tmp_path, tiny_encoder, POSTINGS[:2])
    answers = found(open_index(tmp_path, tiny_encoder))
    write, written = segments.write_embeddings, []

    def full(path: Path, embeddings: Any) -> None:
        written.append(path)
        if len(written) == 2:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, embeddings)

    monkeypatch.setattr(segments, "write_embeddings", full)
    with pytest.raises(OSError, match=r"No space left on device: .*segments"):
        build_index(tmp_path, tiny_encoder, POSTINGS)
    assert found(open_index(tmp_path, tiny_encoder)) == answers
    assert build_index(tmp_path, tiny_encoder, POSTINGS).count == 9
    assert len(written) == 4  # the first of three was there
    assert len(list((tmp_path / "segments").iterdir())) == 3


@pytest.mark.parametrize("file", ["index.json", "postings.jsonl", "table.json", "embeddings.npy", "sums.json"])
def test_a_damaged_file_is_said_and_a_build_makes_it_anew(file: str, tiny_encoder: Encoder, tmp_path: Path) -> None:
    build_index(tmp_path, tiny_encoder, POSTINGS, command=["--data", "mine"])
    answers = found(open_index(tmp_path, tiny_encoder))
    path = next(tmp_path.rglob(file))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = rf"{file}.*build the index anew|expected .*{file}" if file == "index.json" else f"damaged: .*{file}"
    with pytest.raises(ValueError, match=message) as caught:
        open_index(tmp_path, tiny_encoder, model="ours")
    if file != "index.json":
        assert f"experiments.index --out {tmp_path} --model ours --data mine builds it anew" in str(caught.value)
    build_index(tmp_path, tiny_encoder, POSTINGS)
    assert found(open_index(tmp_path, tiny_encoder)) == answers
    path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"damaged|expected an index in .*found none; python -m"):
        open_index(tmp_path, tiny_encoder)


def test_another_model_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    build_index(tmp_path, Encoder.from_pretrained(tiny_model_folder), POSTINGS)
    for options, message in (
        (
            {"representation": "tokens"},
            "representation pooled, dimension 32, similarity cosine, got representation t",
        ),
        ({"dimension": 8}, "dimension 32, similarity cosine, got representation pooled, dimension 8"),
        ({"similarity": "dot"}, "similarity cosine, got .* similarity dot"),
        ({"document_prompt": "job "}, "expected the model that the index .* was built with, got another one"),
    ):
        other = Encoder.from_pretrained(tiny_model_folder, **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message + ".* --model theirs builds it anew"):
            open_index(tmp_path, other, model="theirs")
        with pytest.raises(ValueError, match=message):
            update_index(tmp_path, other, remove=["d0"])
