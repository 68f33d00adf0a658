"""Search: the same ranking as evaluation, the closest passage, and the program around it."""

import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from contrastive.data import RetrievalTask, TextData
from contrastive.encoder import Encoder
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.evaluation import Hybrid, bm25_rankings, fuse, rank, write_hybrid
from contrastive.evaluation.spelling import Spelling
from contrastive.search import SearchIndex
from contrastive.search.explaining.explanation import Explainer
from contrastive.search.passages import one_line, split_passages
from contrastive.similarity import cosine, similarity_of
from contrastive.statistics import Difference
from experiments.postings.generator import jobs
from experiments.results import received
from experiments.search import __main__ as program
from experiments.search.explaining import explained_lines

ROOT = Path(__file__).parents[2]
LONG = "Nurse\n" + "\n".join(f"{word} data years. " * 12 for word in ("python", "hospital", "kitchen"))
DOCUMENTS = {
    "n": LONG,
    "c": "Chef\x1b[1m\nA kitchen with engineers.",
    "d": "Developer\n\N{BULLET} python\n\N{BULLET} data, the job for years\x1b[31m",
    "e": "Engineer",
}
SMALL = ["data.train_pairs=8", "data.dev_queries=4", "data.test_queries=4"]


@pytest.fixture(scope="module")
def task() -> RetrievalTask:
    test = jobs(train_pairs=8, dev_queries=4, test_queries=6).test
    assert test is not None
    return test


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Every call of `Encoder.encode`, as side and texts."""
    calls: list[tuple[str, list[str]]] = []
    encode = Encoder.encode

    def counted(self: Encoder, texts: Sequence[str], **options: Any) -> Any:
        calls.append((options["side"], list(texts)))
        return encode(self, texts, **options)

    monkeypatch.setattr(Encoder, "encode", counted)
    return calls


@pytest.mark.parametrize("cached", [False, True])
def test_search_ranks_and_scores_exactly_as_evaluation(
    cached: bool, task: RetrievalTask, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    index = SearchIndex(tiny_encoder, task.corpus, cache=EmbeddingCache(tmp_path) if cached else None)
    rankings = rank(tiny_encoder, task, depth=7)
    found = index.search(list(task.queries.values()), 7, passages=False)
    for query_id, hits in zip(task.queries, found, strict=True):
        assert [(hit.id, hit.score) for hit in hits] == rankings.top(query_id, 7)
        assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6, 7]
        assert all(hit.text == task.corpus[hit.id] and hit.text.startswith(hit.title) for hit in hits)


def test_ties_are_broken_by_id_and_a_query_finds_its_own_text(tiny_encoder: Encoder) -> None:
    index = SearchIndex(tiny_encoder, {"b": "nurse", "z": "chef", "a": "nurse"})
    hits = index.search(["nurse"], 2)[0]
    assert [(hit.id, hit.score) for hit in hits] == [("a", 1.0), ("b", 1.0)]


def test_a_mixture_is_searched_as_it_is_evaluated(task: RetrievalTask, tiny_encoder: Encoder) -> None:
    weights = {"BM25+spelling": 0.6, "encoder": 0.4}
    spelling = Spelling.of(task.corpus.values())
    right = replace(task, queries={id_: spelling.put_right_text(text) for id_, text in task.queries.items()})
    parts = {"BM25+spelling": bm25_rankings(task, spelling=True), "encoder": rank(tiny_encoder, right)}
    mixed = fuse(parts, weights)
    found = SearchIndex(tiny_encoder, task.corpus, weights=weights).search(list(task.queries.values()), 7)
    plain = SearchIndex(tiny_encoder, task.corpus).search(list(right.queries.values()), 7)
    passages = {(place, hit.id): hit.passage for place, hits in enumerate(plain) for hit in hits}
    for place, (query_id, hits) in enumerate(zip(task.queries, found, strict=True)):
        assert [(hit.id, hit.score) for hit in hits] == mixed.top(query_id, 7)
        assert all(hit.passage == passages.get((place, hit.id), hit.passage) for hit in hits)
    assert mixed.documents != parts["encoder"].documents


def test_a_hybrid_that_is_its_encoder_alone_asks_it_with_words_put_right(
    tiny_encoder: Encoder, asked: list[tuple[str, list[str]]]
) -> None:
    """As its row was judged: what `hybrid.json` says holds, whatever the weight of BM25."""
    documents = {"a": "Nurse\nNight shifts.", "b": "Chef\nSoups."}
    for weights, expected in (
        ({"BM25+spelling": 0.0, "encoder": 1.0}, "nurse with shifts"),
        (None, "nusre with shfits"),
    ):
        asked.clear()
        SearchIndex(tiny_encoder, documents, weights=weights).search(["nusre with shfits"], passages=False)
        assert [texts for side, texts in asked if side == "query"] == [[expected]]


def test_word_matching_alone_embeds_no_document(
    task: RetrievalTask, tiny_encoder: Encoder, asked: list[tuple[str, list[str]]]
) -> None:
    index = SearchIndex(tiny_encoder, {"a": "Nurse\nNight shifts.", "b": "Chef\nSoups."}, weights={"BM25+spelling": 1})
    (found,) = index.search(["nusre"], 5, passages=False)
    assert [hit.id for hit in found] == ["a"]
    assert asked == []
    with pytest.raises(ValueError, match="expected weights of BM25\\+spelling, encoder, from 0 to 1 and 1 in all"):
        SearchIndex(tiny_encoder, task.corpus, weights={"BM25": 1.0})


def test_prompts_of_both_sides_are_used(tiny_model_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, query_prompt="the job ", document_prompt="kitchen ")
    hit = SearchIndex(encoder, {"c": "Chef\npython years"}).search(["nurse"])[0][0]
    query = encoder.encode(["nurse"], side="query", as_numpy=False)
    document, passage = encoder.encode(["Chef\npython years", "python years"], side="document", as_numpy=False)
    assert hit.score == pytest.approx(cosine(query, document[None]).item(), abs=1e-6)
    assert hit.passage_score == pytest.approx(cosine(query, passage[None]).item(), abs=1e-6)


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_hits_and_passages_are_scored_as_the_encoder_says(similarity: str, tiny_model_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, similarity=similarity)  # type: ignore[arg-type]
    texts = {"a": "Nurse\nhospital years", "b": "python " * 9, "c": "the job of the chef"}
    query = encoder.encode(["nurse"], as_numpy=False)
    documents = encoder.encode([*texts.values(), "hospital years"], side="document", as_numpy=False)
    scores = similarity_of(encoder)(query, documents)[0].tolist()
    hits = {hit.id: hit for hit in SearchIndex(encoder, texts).search(["nurse"])[0]}
    assert [hits[id_].score for id_ in texts] == pytest.approx(scores[:3], abs=1e-4)
    assert hits["a"].passage_score == pytest.approx(scores[3], abs=1e-4)
    assert list(hits) == sorted(texts, key=lambda id_: -hits[id_].score)


def test_the_closest_passage_is_that_of_comparing_them_all(tiny_encoder: Encoder) -> None:
    passages = split_passages(LONG.partition("\n")[2])
    assert len(passages) == 3
    queries = ["python", passages[0], passages[2]]
    chosen = []
    for query, hits in zip(queries, SearchIndex(tiny_encoder, DOCUMENTS).search(queries, 4), strict=True):
        found = {hit.id: hit for hit in hits}
        scores = cosine(
            tiny_encoder.encode([query], side="query", as_numpy=False),
            tiny_encoder.encode(passages, side="document", as_numpy=False),
        )[0]
        assert found["n"].passage == passages[int(scores.argmax())]
        assert found["n"].passage_score == pytest.approx(float(scores.max()), abs=1e-6)
        assert found["e"].passage == "Engineer"  # there is nothing but the title
        chosen.append(found["n"].passage)
    assert chosen[1:] == queries[1:]


def test_passages_of_the_documents_found_are_embedded_once_and_only_if_wanted(
    tiny_encoder: Encoder, asked: list[tuple[str, list[str]]]
) -> None:
    index = SearchIndex(tiny_encoder, {"a": "x\nnurse", "b": "y\nnurse", "c": "z\nchef\n" + "python " * 900})
    assert [hit.passage for hit in index.search(["nurse"], 2, passages=False)[0]] == [None, None]
    assert [side for side, _ in asked] == ["document", "query"]
    index.search(["nurse", "a nurse"], 2)
    assert asked[2:] == [("query", ["nurse", "a nurse"]), ("document", ["nurse"])]


def test_a_document_without_text_has_no_passage(tiny_encoder: Encoder) -> None:
    hits = SearchIndex(tiny_encoder, {"a": " \n", "b": "nurse"}).search(["chef"])[0]
    assert {(hit.id, hit.title, hit.passage) for hit in hits} == {("a", "", None), ("b", "nurse", "nurse")}
    assert SearchIndex(tiny_encoder, {"a": ""}).search(["chef"])[0][0].passage_score is None


def test_k_above_the_corpus_gives_all_and_no_query_nothing(tiny_encoder: Encoder) -> None:
    index = SearchIndex(tiny_encoder, DOCUMENTS)
    assert [len(hits) for hits in index.search(["nurse", "chef"], 100)] == [4, 4]
    assert index.search([]) == []


@pytest.mark.parametrize(
    ("queries", "k", "error", "message"),
    [
        (["nurse"], 0, ValueError, "expected k of at least 1, got 0"),
        ([""], 1, ValueError, "expected queries with text, got '' at position 0"),
        (["nurse", " \n"], 1, ValueError, r"expected queries with text, got ' \\n' at position 1"),
        ("nurse", 1, TypeError, "got one text: 'nurse'"),
        ([None], 1, TypeError, "got NoneType at index 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    queries: Any, k: int, error: type[Exception], message: str, tiny_encoder: Encoder
) -> None:
    index = SearchIndex(tiny_encoder, DOCUMENTS)
    with pytest.raises(error, match=message):
        index.search(queries, k)


def test_an_empty_corpus_is_refused(tiny_encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="expected at least one document to search, got none"):
        SearchIndex(tiny_encoder, {})


def test_a_cache_saves_embedding_the_corpus_again(
    tiny_encoder: Encoder, asked: list[tuple[str, list[str]]], tmp_path: Path
) -> None:
    answers = []
    for _ in range(2):
        index = SearchIndex(tiny_encoder, DOCUMENTS, cache=EmbeddingCache(tmp_path))
        answers.append(index.search(["nurse"], 4))
    assert answers[0] == answers[1]
    assert asked.count(("document", list(DOCUMENTS.values()))) == 1


# The program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a corpus and neither queries nor judgements."""
    folder = tmp_path / "postings"
    folder.mkdir()
    rows = [{"_id": id_, "text": text} for id_, text in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


Ask = Callable[..., str]


@pytest.fixture
def ask(tiny_model_folder: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: Any) -> Ask:
    """Run the program on the folder and return what it prints; its log is in `caplog`."""
    caplog.set_level(logging.INFO)

    def run(*arguments: str, data: str | None = str(folder), model: str = str(tiny_model_folder)) -> str:
        where = [] if data is None else ["--data", data]
        program.main([*arguments, "--model", model, *where, "--cache", str(tmp_path / "cache"), "--device", "cpu"])
        return capsys.readouterr().out

    return run


def test_hits_are_printed_plainly_with_title_id_and_passage(
    ask: Ask, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    printed = ask("python", "data", "-k", "4")
    hits = SearchIndex(tiny_encoder, DOCUMENTS).search(["python data"], 4)[0]
    heads = [line for line in printed.splitlines() if line[:3].strip()[:1].isdigit()]
    assert heads == [f" {hit.rank}. {hit.score:.3f}  {one_line(hit.title)}  {hit.id}" for hit in hits]
    assert "           python · data, the job for years\n" in printed
    assert "\x1b" not in printed
    assert printed.count("Engineer") == 1  # a passage that is but the title is not repeated
    passages = [line for line in printed.splitlines() if line.startswith(" " * 11)]
    assert len(passages) > 4
    assert all(len(line) <= 60 and line == line.rstrip() for line in passages)


def test_a_terminal_gets_bold_titles(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    printed = ask("nurse", "--no-passages", "-k", "1")
    assert "\x1b[1m" in printed
    assert "\x1b[2m" in printed


def test_no_passages_prints_a_line_a_hit(ask: Ask, asked: list[tuple[str, list[str]]]) -> None:
    assert len(ask("nurse", "--no-passages").strip().splitlines()) == 4
    assert [side for side, _ in asked] == ["document", "query"]


def test_json_has_a_line_a_query(ask: Ask, tmp_path: Path, tiny_encoder: Encoder) -> None:
    queries = [f"nurse {i}" for i in range(9)]
    file = tmp_path / "queries.txt"
    file.write_text("\ufeff" + "\r\n \n".join(queries) + "\n", encoding="utf-8")
    lines = [json.loads(line) for line in ask("--queries", str(file), "--json", "-k", "2").splitlines()]
    assert [line["query"] for line in lines] == queries
    expected = SearchIndex(tiny_encoder, DOCUMENTS).search(queries, 2)
    for line, hits in zip(lines, expected, strict=True):
        assert [set(hit) for hit in line["hits"]] == [{"rank", "id", "score", "title", "passage", "passage_score"}] * 2
        for shown, hit in zip(line["hits"], hits, strict=True):
            assert (shown["rank"], shown["id"], shown["title"], shown["passage"]) == (
                hit.rank,
                hit.id,
                hit.title,
                hit.passage,
            )
            assert (shown["score"], shown["passage_score"]) == pytest.approx((hit.score, hit.passage_score), abs=2e-6)


@pytest.mark.parametrize("arguments", [(), ("--queries", "-")])
def test_queries_come_from_standard_input(
    arguments: tuple[str, ...], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("nurse\n\n  chef \n"))
    printed = ask(*arguments, "--no-passages", "-k", "1").splitlines()
    assert [line for line in printed if not line.startswith(" 1. ")] == ["nurse", "", "chef", ""]
    assert len(printed) == 6


def test_hits_of_a_file_are_printed_as_they_are_found(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    search = SearchIndex.search
    lines = []

    def noted(self: SearchIndex, *arguments: Any, **options: Any) -> Any:
        lines.append(len((tmp_path / "output").read_text().splitlines()))
        return search(self, *arguments, **options)

    monkeypatch.setattr(SearchIndex, "search", noted)
    (tmp_path / "queries").write_text("nurse\n" * 20)
    with (tmp_path / "output").open("w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        ask("--queries", str(tmp_path / "queries"), "--json", "--no-passages")
    assert lines == [0, 8, 16]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("end", ["", EOFError, KeyboardInterrupt])
def test_a_prompt_answers_until_it_is_ended(
    end: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[str, list[str]]]
) -> None:
    lines = ["nurse", " chef ", end, "never asked"]

    def answer(prompt: str) -> str:
        line = lines.pop(0)
        assert prompt == ""  # standard output is not a terminal here
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", answer)
    printed = ask("--json", "-k", "1", "--no-passages")
    assert [json.loads(line)["query"] for line in printed.splitlines()] == ["nurse", "chef"]
    assert lines == ["never asked"]
    assert [side for side, _ in asked] == ["document", "query", "query"]


def test_interrupting_a_search_returns_to_the_prompt(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["long", "nurse", ""]
    search = SearchIndex.search

    def interrupted(self: SearchIndex, queries: Sequence[str], *rest: Any, **options: Any) -> Any:
        if queries == ["long"]:
            raise KeyboardInterrupt
        return search(self, queries, *rest, **options)

    monkeypatch.setattr(SearchIndex, "search", interrupted)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda _: lines.pop(0))
    assert json.loads(ask("--json"))["query"] == "nurse"
    assert "interrupted" in caplog.text
    with pytest.raises(SystemExit) as stopped:
        ask("long")
    assert stopped.value.code == 130


def test_the_second_call_finds_the_documents_in_the_cache(
    ask: Ask, caplog: pytest.LogCaptureFixture, asked: list[tuple[str, list[str]]], tmp_path: Path
) -> None:
    first = ask("nurse")
    assert "4 documents embedded in" in caplog.text
    assert "and cached in" in caplog.text
    assert ask("nurse") == first
    assert "4 document embeddings from the cache" in caplog.text
    assert asked.count(("document", list(DOCUMENTS.values()))) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_no_cache_keeps_nothing(ask: Ask, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    ask("nurse", "--no-cache")
    assert "4 documents embedded in" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_the_default_cache_is_the_users(
    folder: Path, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    program.main(["nurse", "--model", str(tiny_model_folder), "--data", str(folder)])
    assert len(list((tmp_path / "xdg" / "contrastive" / "embeddings").iterdir())) == 1


def make_run(folder: Path, model: Path, data: dict[str, Any]) -> Path:
    (folder / "run").mkdir()
    (folder / "run" / "model").symlink_to(model)
    OmegaConf.save({"data": data}, folder / "run" / "config.yaml")
    return folder / "run"


@pytest.mark.parametrize("inside", ["", "model"])
def test_a_run_is_searched_in_what_it_was_trained_with(
    inside: str, ask: Ask, tiny_model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"_target_": "experiments.postings.generator.jobs", "train_pairs": 8, "dev_queries": 4, "test_queries": 6}
    run = make_run(tmp_path, tiny_model_folder, data)
    ask("nurse", data=None, model=str(run / inside))
    assert "searching jobs (test)" in caplog.text
    assert f": {len(jobs(train_pairs=8, dev_queries=4, test_queries=6).test.corpus)} documents" in caplog.text
    with pytest.raises(SystemExit, match=r"expected --data with data\.seed=1"):
        ask("nurse", "data.seed=1", data=None, model=str(run / inside))
    assert "searching postings " in [ask("nurse", model=str(run / inside)), caplog.text][1]


def test_a_model_folder_with_some_config_is_no_run(
    ask: Ask, tiny_model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tiny_model_folder, tmp_path / "copy")
    (tmp_path / "copy" / "config.yaml").write_text("name: mine\n")
    ask("nurse", *SMALL, data=None, model=str(tmp_path / "copy"))
    assert "searching jobs (test)" in caplog.text


def test_two_towers_and_leading_dimensions(ask: Ask, asked: list[tuple[str, list[str]]], tmp_path: Path) -> None:
    first = ask("nurse", "--json", "--dimension", "16", "encoder.two_towers=true")
    assert ask("nurse", "--json", "--dimension", "16", "encoder.two_towers=true") == first
    assert asked.count(("document", list(DOCUMENTS.values()))) == 1
    assert ask("nurse", "--json", "--dimension", "8", "encoder.two_towers=true") != first
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("options", [{"data": "jobs"}, {"data": None}])
def test_a_choice_of_data_takes_overrides_wherever_they_stand(
    options: dict[str, Any], ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    hits = json.loads(ask("encoder.max_length=8", "nurse", "--json", *SMALL, "--no-passages", **options))["hits"]
    assert len(hits) == 5
    test = jobs(train_pairs=8, dev_queries=4, test_queries=4).test
    assert test is not None
    assert "searching jobs (test) with " in caplog.text
    assert f": {len(test.corpus)} documents" in caplog.text
    assert all(hit["id"] in test.corpus for hit in hits)


def test_the_order_is_that_of_the_models_hybrid_unless_told_otherwise(
    ask: Ask,
    tiny_model_folder: Path,
    tiny_encoder: Encoder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    asked: list[Any],
) -> None:
    shutil.copytree(tiny_model_folder, tmp_path / "mixed")
    weights = {"BM25+spelling": 0.5, "encoder": 0.5}
    write_hybrid(tmp_path / "mixed", Hybrid(weights, weights, "encoder", Difference(0.1, 0.05, 0.2, 0.01), "dev", 9))
    plain = ask("kitchen", "--json")
    mixed = json.loads(ask("kitchen", "--json", model=str(tmp_path / "mixed")))["hits"]
    (expected,) = SearchIndex(tiny_encoder, DOCUMENTS, weights=weights).search(["kitchen"])
    assert [hit["id"] for hit in mixed] == [hit.id for hit in expected]
    assert [hit["score"] for hit in mixed] == pytest.approx([hit.score for hit in expected], abs=2e-6)
    assert [hit["score"] for hit in mixed] != [hit["score"] for hit in json.loads(plain)["hits"]]
    assert "0.50 BM25+spelling + 0.50 encoder" in caplog.text
    assert ask("kitchen", "--json", "--no-hybrid", model=str(tmp_path / "mixed")) == plain
    del asked[:]
    by_words = json.loads(ask("ktichen", "--json", "--bm25", "--no-passages"))["hits"]
    assert {hit["id"] for hit in by_words} == {"n", "c"}
    assert asked == []
    assert ask("xylophones", "--bm25").strip() == ""
    assert "no document has a word of the query" in caplog.text
    (tmp_path / "mixed" / "hybrid.json").write_text('{"weights": {}}')
    with pytest.raises(SystemExit, match=r"expected .*hybrid\.json to say the hybrid of BM25\+spelling and encoder"):
        ask("kitchen", model=str(tmp_path / "mixed"))


def test_what_a_run_made_of_documents_is_not_made_again_to_search_them(
    ask: Ask, tiny_model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "postings.csv").write_text("title,body\nNurse,Nights\nChef,Days\n")
    writer = {"_target_": f"{__name__}.never_called"}
    data = {"_target_": "contrastive.data.corpus.corpus", "path": str(tmp_path / "postings.csv"), "writer": writer}
    run = make_run(tmp_path, tiny_model_folder, {**data, "columns": {"text": "body"}})
    found = json.loads(ask("nurse", "--json", data=None, model=str(run)))
    assert {hit["title"] for hit in found["hits"]} == {"Nurse", "Chef"}


def never_called() -> None:
    """Stand in for a language model that costs money."""
    raise AssertionError


def test_overrides_reach_the_encoder(ask: Ask) -> None:
    short, long = (
        json.loads(ask("python nurse data years", "--json", f"encoder.max_length={n}"))["hits"] for n in (3, 64)
    )
    assert {hit["id"]: hit["score"] for hit in short} != {hit["id"]: hit["score"] for hit in long}


def small_data(dev: bool, test: bool) -> TextData:
    """A data set as a reader returns it, for `_target_`."""
    tasks = {name: RetrievalTask(name, {"q": "nurse"}, {name: "nurse"}, {"q": {name: 1}}) for name in ("dev", "test")}
    return TextData("small", dev=tasks["dev"] if dev else None, test=tasks["test"] if test else None)


@pytest.mark.parametrize(
    ("dev", "test", "split", "found"),
    [
        (True, True, None, "test"),
        (True, False, None, "dev"),
        (True, True, "dev", "dev"),
        (True, False, "test", "'small' to have a test split, it has none"),
        (False, False, None, "'small' to have a test or dev split, it has none"),
    ],
)
def test_the_test_split_is_searched_else_dev_unless_one_is_named(
    dev: bool,
    test: bool,
    split: str | None,
    found: str,
    ask: Ask,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(received, "READERS", (f"{__name__}.small_data",))
    run = make_run(tmp_path, tiny_model_folder, {"_target_": f"{__name__}.small_data", "dev": dev, "test": test})
    arguments = ["nurse", "--json", *([] if split is None else ["--split", split])]
    if "none" in found:
        with pytest.raises(SystemExit, match=found):
            ask(*arguments, data=None, model=str(run))
    else:
        assert [hit["id"] for hit in json.loads(ask(*arguments, data=None, model=str(run)))["hits"]] == [found]


def test_a_file_of_documents_needs_no_queries(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text('{"_id": "1", "title": "Nurse", "text": "Nights."}\n{"_id": "2", "text": "Chef"}\n')
    hits = json.loads(ask("nurse", "--json", data=str(file)))["hits"]
    assert {hit["id"]: (hit["title"], hit["passage"]) for hit in hits} == {
        "1": ("Nurse", "Nights."),
        "2": ("Chef",) * 2,
    }


def test_a_file_of_pairs_is_searched_in_its_different_documents(
    ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "pairs.csv"
    rows = [f"nurse number {i},Ward {i // 2} wants a nurse" for i in range(20)]
    file.write_text("\n".join(["query,document", *rows]) + "\n")
    titles = [hit["title"] for hit in json.loads(ask("nurse", "--json", "-k", "20", data=str(file)))["hits"]]
    assert sorted(titles) == [f"Ward {i} wants a nurse" for i in range(10)]
    assert "searching pairs (test) with" in caplog.text


def test_a_file_of_too_few_pairs_is_searched_as_documents(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("query,document\nnurse,Nurse wanted\n")
    assert [hit["title"] for hit in json.loads(ask("nurse", "--json", data=str(file)))["hits"]] == ["Nurse wanted"]


def test_a_file_of_neither_is_refused_with_both_reasons(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "numbers.csv"
    file.write_text("one,two\n1,2\n")
    with pytest.raises(
        SystemExit, match=r"numbers\.csv to hold documents \(.*column of texts.*or pairs \(.*for the query"
    ):
        ask("nurse", data=str(file))


def test_a_folder_of_malformed_documents_is_not_read_as_anything_else(ask: Ask, folder: Path) -> None:
    (folder / "corpus.jsonl").write_text("{")
    with pytest.raises(SystemExit, match=r"error: .*corpus\.jsonl, line 1"):
        ask("nurse")


def test_a_dimension_is_passed_to_the_encoder(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path
) -> None:
    composed = {}

    def stand_in(*, model: str, overrides: Sequence[str]) -> Any:
        composed[model] = list(overrides)
        return OmegaConf.create(
            {"encoder": {"_target_": "contrastive.encoder.encoder.Encoder.from_pretrained", "name_or_path": model}}
        )

    monkeypatch.setattr(program, "compose", stand_in)
    ask("nurse")
    assert composed == {str(tiny_model_folder): []}
    ask("nurse", "--dimension", "16", "encoder.pooling=cls")
    assert composed == {str(tiny_model_folder): ["encoder.pooling=cls", "encoder.dimension=16"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nurse", "-k", "0"], "error: expected -k of at least 1, got 0"),
        ([" "], "error: expected a query with text in the command line, found none"),
        (["nurse", "--queries", "FILE"], "error: expected a query or --queries, got 'nurse' and FILE"),
        (["--queries", "no-such-file"], "error: .*no-such-file"),
        (["--queries", "/dev/null"], "error: expected a query with text in /dev/null, found none"),
        (
            ["nurse", "--data", "no-such-data"],
            "error: expected data to be .* one of ai_jobs, .*no-such-data",
        ),
        (["nurse", "data.max_train_pairs=3"], "error: .*qrels"),
        (["nurse", "--data", "jobs", "data.sed=1"], "error: .*sed"),
        (["nurse", "--model", "no-such-model"], "error: .*no-such-model"),
        (["nurse", "encodr.max_length=8"], "error: .*encodr"),
        (["nurse", "--device", "abacus"], "error: .*abacus"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    arguments: list[str], message: str, folder: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    defaults = ["--model", str(tiny_model_folder), "--data", str(folder), "--cache", str(tmp_path / "cache")]
    with pytest.raises(SystemExit, match=message):
        program.main([*defaults, *arguments])


def test_standard_output_holds_the_hits_and_nothing_else(folder: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    (folder / "corpus.jsonl").write_text('{"_id": "a", "text": "infirmi\\u00e8re"}\n')
    command = [sys.executable, "-m", "experiments.search", "--model", str(tiny_model_folder), "--data", str(folder)]
    command += ["--cache", str(tmp_path / "cache"), "--no-passages"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}  # a terminal that knows few characters
    answer = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, input="nurse\n", env=environment
    )
    assert answer.stdout.strip().endswith("  infirmi?re  a")
    assert len(answer.stdout.strip().splitlines()) == 1
    assert "reading queries from standard input\nsearching postings with " in answer.stderr
    assert "1 documents embedded in 0 s and cached in" in answer.stderr


def test_a_reader_that_stops_early_is_no_error(ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(program, "print_json", stop)
    with (tmp_path / "output").open("w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        ask("nurse", "--json")
        output.write("goes nowhere")
    assert (tmp_path / "output").read_text() == ""


def test_explain_shows_the_words_of_each_skill_and_what_is_missing(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "postings.jsonl"
    text = "The \x1b]0;owned\x07hospital\x1b[31m needs a nurse\x1b[0m. The job\x1bdata!"
    data.write_text(json.dumps({"id": "n", "title": "Nurse\x1b[1m", "text": text}) + "\n")
    query = "nusre, python\x1b[5m, job\x07data"
    arguments = [query, "--model", str(tiny_model_folder), "--data", str(data), "--bm25", "--no-cache"]
    program.main([*arguments, "--explain"])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[1:4] == [
        "+ nusre (put right: nurse): Nurse 1.00",
        "- python: missing",
        "+ jobdata: jobata 1.00",  # marked as one, without what is between them, and what that would do
    ]
    program.main([*arguments, "--explain", "--json"])
    (hit,) = json.loads(capsys.readouterr().out)["hits"]
    assert [skill["missing"] for skill in hit["skills"]] == [False, True, False]
    assert hit["skills"][0]["words"] == [{"start": 0, "end": 5, "text": "Nurse", "score": 1.0}]
    program.main([*arguments, "--json"])
    assert "skills" not in json.loads(capsys.readouterr().out)["hits"][0]


def test_explained_words_are_marked_in_a_terminal(tiny_encoder: Encoder) -> None:
    text = "Nurse\nThe hospital\x1b[31m. Python!"
    index = SearchIndex(tiny_encoder, {"n": text})
    (hits,) = index.search(["hospital, kitchen"], system="bm25")
    (found,) = Explainer(index).explain("hospital, kitchen", hits, system="bm25")
    lines = explained_lines(found, text)
    assert [line.plain for line in lines] == ["+ hospital: hospital  1.00", "- kitchen: missing", "The hospital."]
    marked = [line.plain[span.start : span.end] for line in lines for span in line.spans if span.style == "bold yellow"]
    assert marked == ["hospital", "hospital"]
