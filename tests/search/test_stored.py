"""An index on disk: the ranking of evaluation, changes without a rebuild, nothing lost to damage or interruption."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from conftest import WORDS

from contrastive.data import RetrievalTask
from contrastive.encoder import Encoder
from contrastive.evaluation import bm25_rankings, fuse, rank
from contrastive.search import Posting, build_index, open_index, parse_filter, update_index
from contrastive.search.disk import building, segments, tables
from contrastive.search.disk.manifest import read_manifest
from contrastive.search.engines.lance import LanceEngine

POSTINGS = [
    Posting(f"d{place}", "\n".join(WORDS[place : place + 3]), {"place": ("Bonn", "Ulm")[place % 2]})
    for place in range(9)
]
TEXTS = {posting.id: posting.text for posting in POSTINGS}
TASK = RetrievalTask("tiny", {"q": WORDS[0], "r": f"{WORDS[2]} {WORDS[6]}"}, TEXTS, {"q": {"d0": 1}})


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "SIZE", 4)


@pytest.fixture(params=["exact", "lance"])
def engine(request: pytest.FixtureRequest) -> Any:
    if request.param == "lance":
        pytest.importorskip("lancedb")
    return request.param


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
def test_its_ranking_is_that_of_evaluation(options: Any, engine: Any, tiny_model_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, **options)
    weights = {"BM25+spelling": 0.4, "encoder": 0.6}
    if engine == "lance" and encoder.lexical:
        with pytest.raises(ValueError, match="expected vectors, got weights of terms: LanceDB has no sparse vectors"):
            build_index(tmp_path / "index", encoder, POSTINGS, engine=engine)
        return
    build_index(tmp_path / "index", encoder, POSTINGS, engine=engine)
    index = open_index(tmp_path / "index", encoder, weights=weights)
    parts = {"BM25+spelling": bm25_rankings(TASK, spelling=True), "encoder": rank(encoder, TASK)}
    for system, expected in (("encoder", parts["encoder"]), ("hybrid", fuse(parts, weights))):
        for hits, query in zip(found(index, system=system, passages=False), TASK.queries, strict=True):
            top = expected.top(query, 5)
            assert [id_ for id_, _ in hits] == [id_ for id_, _ in top]
            assert [score for _, score in hits] == pytest.approx([score for _, score in top], abs=1e-3)


def test_it_is_changed_as_if_built_anew(engine: Any, tiny_encoder: Encoder, tmp_path: Path) -> None:
    build_index(tmp_path / "index", tiny_encoder, POSTINGS, engine=engine)
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
    assert index.postings.columns == {
        "place": [("Bonn", 4), ("Ulm", 2), ("Trier", 1)],  # of those that are there
        "remote": [(True, 1)],
    }
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


@pytest.mark.parametrize("damage", ["a bit", "half", "all"])
@pytest.mark.parametrize("file", ["index.json", "postings.jsonl", "table.json", "embeddings.npy", "sums.json"])
def test_a_damaged_file_is_said_and_a_build_makes_it_anew(
    file: str, damage: str, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    build_index(tmp_path, tiny_encoder, POSTINGS, command=["--data", "mine"])
    answers = found(open_index(tmp_path, tiny_encoder))
    path = next(tmp_path.rglob(file))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[: {"a bit": None, "half": len(content) // 2, "all": 0}[damage]])
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


def test_lancedb_keeps_the_embeddings_where_it_is_told(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lancedb = pytest.importorskip("lancedb")
    monkeypatch.chdir(tmp_path)
    made = build_index("one", tiny_encoder, POSTINGS, engine="lance", url="elsewhere")
    build_index("two", tiny_encoder, POSTINGS[:3], engine="lance", url=f"file://{tmp_path}/elsewhere")
    answers = found(open_index("one", tiny_encoder))
    assert len(list(Path("elsewhere").glob("*/_versions/*.manifest"))) == 2  # of a new table the last one alone
    assert sorted(path.name for path in Path("one").iterdir()) == ["index.json", "segments", "words"]
    assert not list(tmp_path.glob("*/segments/*/embeddings.npy"))
    assert len(list(Path("elsewhere").glob("postings-*.lance"))) == 2  # each has its own
    Path("one").rename("moved")
    monkeypatch.chdir("/")
    assert found(open_index(tmp_path / "moved", tiny_encoder)) == answers
    build_index(tmp_path / "moved", tiny_encoder, POSTINGS[:5])  # stays in LanceDB
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2
    assert read_manifest(tmp_path / "moved").engine == {**made.engine, "version": ANY}
    build_index(tmp_path / "moved", tiny_encoder, POSTINGS, engine="lance", command=["--data", "my jobs.csv"])
    assert (tmp_path / "moved" / "vectors").is_dir()
    for version in (tmp_path / "moved" / "vectors" / "postings.lance" / "_versions").iterdir():
        version.write_bytes(b"nothing")
    command = "--model MODEL --data 'my jobs.csv' --engine lance builds it anew"
    with pytest.raises(ValueError, match=rf"damaged: expected a table of LanceDB at .*{command}"):
        open_index(tmp_path / "moved", tiny_encoder)
    build_index(tmp_path / "moved", tiny_encoder, POSTINGS)
    assert found(open_index(tmp_path / "moved", tiny_encoder)) == answers
    build_index(tmp_path / "moved", tiny_encoder, POSTINGS, engine="exact")
    assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == ["index.json", "segments", "words"]
    with pytest.raises(ValueError, match="expected the engine lance for a URL or links, got exact"):
        build_index(tmp_path / "moved", tiny_encoder, POSTINGS, engine="exact", url="elsewhere")

    class Reached(Exception):  # noqa: N818
        pass

    def connect(*address: str, **options: Any) -> None:
        raise Reached(address, options.get("host_override"))

    monkeypatch.setattr(lancedb, "connect", connect)
    for url, address, host in (
        ("s3://bucket/a b", "s3://bucket/a b", None),
        ("db://jobs?host_override=https://host:1", "db://jobs", "https://host:1"),
    ):
        with pytest.raises(Reached) as reached:
            build_index(tmp_path / "three", tiny_encoder, POSTINGS, engine="lance", url=url)
        assert reached.value.args == ((address,), host)


def test_what_a_writer_left_in_lancedb_that_was_killed_is_not_seen(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb")
    build_index(tmp_path, tiny_encoder, POSTINGS[:6], engine="lance")
    before = open_index(tmp_path, tiny_encoder)
    answers = found(before)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as until_the_manifest:
        until_the_manifest.setattr(building, "_take_over", killed)
        with pytest.raises(KeyboardInterrupt):
            update_index(tmp_path, tiny_encoder, add=POSTINGS[6:], remove=["d0", "d1"])
        assert found(open_index(tmp_path, tiny_encoder)) == found(before) == answers
        with pytest.raises(KeyboardInterrupt):
            build_index(tmp_path, tiny_encoder, POSTINGS[4:])
    assert found(open_index(tmp_path, tiny_encoder)) == found(before) == answers
    assert update_index(tmp_path, tiny_encoder, add=POSTINGS[6:8]).count == 8
    build_index(tmp_path / "anew", tiny_encoder, POSTINGS[:8])
    assert found(open_index(tmp_path, tiny_encoder)) == [
        [(id_, pytest.approx(score, abs=1e-5)) for id_, score in hits]
        for hits in found(open_index(tmp_path / "anew", tiny_encoder))
    ]
    assert found(before) == answers


def test_a_disk_that_is_full_for_lancedb_is_said(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb")
    build_index(tmp_path, tiny_encoder, POSTINGS[:6], engine="lance")
    answers = found(open_index(tmp_path, tiny_encoder))
    add, added = LanceEngine.add, []

    def full(self: LanceEngine, *given: Any) -> None:
        added.append(given)
        if len(added) == 2:
            raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)")
        add(self, *given)

    monkeypatch.setattr(LanceEngine, "add", full)
    with pytest.raises(OSError, match=r"No space left on device: .*vectors"):
        build_index(tmp_path, tiny_encoder, POSTINGS)
    assert found(open_index(tmp_path, tiny_encoder)) == answers
    build_index(tmp_path, tiny_encoder, POSTINGS)
    assert open_index(tmp_path, tiny_encoder).postings.engine.count() == 9


def test_many_postings_in_lancedb_are_linked_and_what_that_finds_is_said(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("lancedb")
    caplog.set_level("INFO", "contrastive.search")
    monkeypatch.setattr(building, "SIZE", 300)
    monkeypatch.setattr(tables, "LINKED_FROM", 299)
    postings = [Posting(f"{n:03}", f"{WORDS[n % 11]} {n}\n{WORDS[n % 7]}") for n in range(300)]
    build_index(tmp_path, tiny_encoder, postings, engine="lance", link=False)
    assert "linked" not in caplog.text
    build_index(tmp_path, tiny_encoder, postings, engine="lance")
    (recall,) = re.findall(r"linked: a search finds ([\d.]+) of the ten closest, by 50 titles", caplog.text)
    assert 0.5 <= float(recall) <= 1
    update_index(tmp_path, tiny_encoder, remove=["000"], add=[Posting("new", "nurse")])
    engine = open_index(tmp_path, tiny_encoder).postings.engine
    assert isinstance(engine, LanceEngine)
    assert engine.linked
    assert caplog.text.count("linked") == 1
    with pytest.raises(ValueError, match="expected at least 256 documents to link, got 2"):
        build_index(tmp_path, tiny_encoder, postings[:2], engine="lance", link=True)
    assert open_index(tmp_path, tiny_encoder).search(["nurse"], k=1)[0][0].id == "new"


def test_a_file_that_has_changed_is_said(
    tiny_encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "postings.csv"
    file.write_text("one")
    build_index(tmp_path / "index", tiny_encoder, POSTINGS, command=["--data", str(file)], source=file)
    caplog.clear()
    os.utime(file, (1, 1))
    open_index(tmp_path / "index", tiny_encoder)
    assert not caplog.text
    file.write_text("two")
    open_index(tmp_path / "index", tiny_encoder, model="ours")
    assert f"{file} has changed since the index {tmp_path}/index was built; python -m experiments.index" in caplog.text
    file.unlink()
    caplog.clear()
    open_index(tmp_path / "index", tiny_encoder)
    assert not caplog.text
