"""The page, without a browser: what it answers to whom, and what it refuses."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from contrastive.encoder import Encoder
from contrastive.search import Posting, SearchIndex, build_index
from experiments.serve import __main__ as program
from experiments.serve.page import make_app, read_filters
from experiments.serve.results import MOST_CHARACTERS, Searching

EXAMPLE = "data scientis 6 years expierience, LLMs, credit risk, content marketing"
DOCUMENTS = {
    "n": 'Nurse <script>alert(1)</script>\nThe hospital needs a nurse at night.\x1b]0;owned\x07 Python & "data".',
    "c": "Chef\nA kitchen in the hospital.",
    "d": "Data developer\nFour years of data, python.",
}
METADATA = {
    "n": {"company": "Northern <b>Ward</b>", "location": "Bonn, Rhine", "remote": False, "salary": 50000.0},
    "c": {"company": "Soup & Sons", "location": "Ulm", "remote": False, "salary": 30000.0},
    "d": {"company": "Delta", "location": "Ulm", "remote": True, "salary": 70000.0},
}
WEIGHTS = {"BM25+spelling": 0.5, "encoder": 0.5}


def searching(encoder: Encoder, *, weights: dict[str, float] | None = WEIGHTS) -> Searching:
    index = SearchIndex(encoder, DOCUMENTS, metadata=METADATA, weights=weights)
    return Searching([*program.systems_of(index, is_run=True), program.untuned_system(index)])


@pytest.fixture
def client(tiny_encoder: Encoder) -> TestClient:
    return TestClient(make_app(searching(tiny_encoder), name="3 postings", example=EXAMPLE))


@pytest.fixture
def ask(client: TestClient) -> Callable[..., Any]:
    def answer(**given: Any) -> Any:
        return client.get("/api/search", params=given).json()

    return answer


def test_each_system_answers_with_what_the_index_finds_and_why(ask: Callable[..., Any], tiny_encoder: Encoder) -> None:
    found = ask(q="nusre, python and zebra", k=2)
    assert [column["name"] for column in found["columns"]] == ["bm25", "encoder", "hybrid", "untuned"]
    assert [column["label"] for column in found["columns"]] == ["BM25", "Trained", "Hybrid", "Untuned"]
    words, encoder, hybrid, _ = found["columns"]
    assert (words["asked"], encoder["asked"]) == ("nurse, python and zebra", "nusre, python and zebra")
    index = SearchIndex(tiny_encoder, DOCUMENTS, weights=WEIGHTS)
    for column, system in ((words, "bm25"), (encoder, "encoder"), (hybrid, "hybrid")):
        hits = index.search([found["query"]], 2, passages=False, system=system)[0]  # type: ignore[arg-type]
        assert [(hit["id"], hit["score"]) for hit in column["hits"]] == [
            (hit.id, pytest.approx(hit.score)) for hit in hits
        ]
        assert column["search_ms"] > 0
    best = words["hits"][0]
    assert (best["id"], best["company"], best["place"]) == ("n", "Northern <b>Ward</b>", "Bonn, Rhine")
    assert [(skill["skill"], skill["asked"], skill["missing"]) for skill in best["skills"]] == [
        ("nusre", "nurse", False),
        ("python", "python", False),
        ("zebra", "zebra", True),
    ]
    for skill in best["skills"]:
        for word in skill["words"]:
            assert best["text"][word["start"] : word["end"]] == word["text"]


def test_filters_and_systems_are_chosen(ask: Callable[..., Any], client: TestClient) -> None:
    found = ask(q="hospital", filter=["location=Ulm", "remote=false"], system=["encoder", "untuned"])
    assert found["filters"] == ["location=Ulm", "remote=false"]
    assert [[hit["id"] for hit in column["hits"]] for column in found["columns"]] == [["c"], ["c"]]
    assert [hit["id"] for hit in ask(q="hospital", filter="location=Bonn, Rhine")["columns"][1]["hits"]] == ["n"]
    page = client.get("/", params={"q": "hospital", "filter": ["location=Ulm", "salary>=40000"]}).text
    assert '<option value="location=Ulm" selected>' in page
    assert 'value="salary&gt;=40000"' in page
    assert '<option value="location=Bonn, Rhine">' in page
    assert len(re.findall('class="card"', page)) == 3  # of the encoder, the hybrid and the untuned: bm25 has no word
    assert "No posting found" in client.get("/", params={"q": "hospital", "filter": "salary>90000"}).text


def test_filters_are_typed_one_after_another() -> None:
    assert [str(each) for each in read_filters(["a=1, b~x", " ", "place=Bonn, Rhine"])] == [
        "a=1.0",
        "b~x",
        "place=Bonn, Rhine",
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"q": "nurse", "filter": "planet=Mars"}, "expected a column of the postings, got 'planet'"),
        ({"q": "nurse", "filter": "Mars"}, "expected a filter such as"),
        ({"q": "nurse", "system": "oracle"}, "expected systems of bm25, encoder, hybrid, untuned, got 'oracle'"),
        ({"q": "x" * (MOST_CHARACTERS + 1)}, "expected a query of at most 20,000 characters, got 20,001"),
    ],
)
def test_mistakes_are_said(given: dict[str, str], expected: str, client: TestClient) -> None:
    answer = client.get("/api/search", params=given)
    assert (answer.status_code, expected in answer.json()["error"]) == (400, True)
    page = client.get("/", params=given)
    assert page.status_code == 400
    assert expected in html.unescape(page.text)
    assert 'role="alert"' in page.text
    assert client.get("/api/search", params={"q": "nurse", "k": 0}).status_code == 422


def test_a_blank_query_is_no_mistake_and_shows_the_example(client: TestClient) -> None:
    for given in ({}, {"q": ""}, {"q": " \n"}):
        page = client.get("/", params=given)
        assert page.status_code == 200
        assert EXAMPLE in page.text
        assert ('role="alert"' in page.text) == bool(given)
        assert 'class="card"' not in page.text
    assert client.get("/api/search", params={"q": " "}).json() == {"error": "expected a query with words, got none"}


def test_what_people_write_is_text(client: TestClient) -> None:
    page = client.get("/", params={"q": '"><script>alert(2)</script><img src=x onerror=alert(3)>nurse'}).text
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>Ward" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Northern &lt;b&gt;Ward&lt;/b&gt;" in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", page)


def test_the_browser_is_told_to_load_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/", params={"q": "nurse"})
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r'(src|href|action)="(?!/|\?|#|data:,)', page.text)
    style = client.get("/style.css")
    assert style.headers["content-type"].startswith("text/css")
    assert "url(" not in style.text
    assert "@import" not in style.text
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404  # they load scripts


def test_the_answer_is_described(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert list(described["paths"]) == ["/api/search"]
    names = [each["name"] for each in described["paths"]["/api/search"]["get"]["parameters"]]
    assert names == ["q", "k", "filter", "system"]
    assert "threshold" in described["components"]["schemas"]["Skill"]["properties"]


def test_the_page_has_names_for_all_that_is_operated(client: TestClient) -> None:
    page = client.get("/", params={"q": "nurse", "k": "2"}).text
    labelled = set(re.findall(r'<label for="([^"]+)"', page))
    fields = set(re.findall(r'<(?:input|select) id="([^"]+)"', page))
    assert fields == labelled
    assert {"q", "k", "filter-typed", "filter-1"} <= fields
    for mark in ("<main>", 'role="search"', 'role="status" aria-live="polite"', '<html lang="en">', 'href="#results"'):
        assert mark in page
    for target in re.findall(r'aria-labelledby="([^"]+)"', page):
        assert page.count(f'id="{target}"') == 1


def test_an_encoder_without_a_hybrid_has_no_such_column(tiny_encoder: Encoder) -> None:
    index = SearchIndex(tiny_encoder, DOCUMENTS)
    assert [(each.name, each.label) for each in program.systems_of(index, is_run=False)] == [
        ("bm25", "BM25"),
        ("encoder", "Encoder"),
    ]


def test_the_command_listens_at_this_machine_alone(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import uvicorn

    served: list[Any] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: served.append((self.config.app, sockets)))
    data = tmp_path / "postings.jsonl"
    parts = {id_: text.split("\n") for id_, text in DOCUMENTS.items()}
    rows = [{"id": id_, "title": part[0], "text": part[1], **METADATA[id_]} for id_, part in parts.items()]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, untuned = str(tiny_model_folder), ["--untuned", str(tiny_model_folder)]
    program.main(
        ["--model", model, *untuned, "--data", str(data), "--port", "0", "--no-cache", "encoder.max_length=32"]
    )
    ((app, (listener,)),) = served
    try:
        assert listener.getsockname()[0] == "127.0.0.1"
        assert capsys.readouterr().out == f"http://127.0.0.1:{listener.getsockname()[1]}\n"
        found = TestClient(app).get("/api/search", params={"q": "nurse"}).json()
        assert [column["name"] for column in found["columns"]] == ["bm25", "untuned", "encoder"]
        assert {hit["company"] for hit in found["columns"][0]["hits"]} == {"Northern <b>Ward</b>"}
        assert EXAMPLE in TestClient(app).get("/").text
    finally:
        listener.close()


@pytest.mark.parametrize("engine", ["exact", "lance"])
def test_the_command_serves_an_index(
    engine: str, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn

    if engine == "lance":
        pytest.importorskip("lancedb")
    encoder = Encoder.from_pretrained(tiny_model_folder)
    postings = [Posting(id_, text, METADATA[id_]) for id_, text in DOCUMENTS.items()]
    build_index(tmp_path / "index", encoder, postings, engine=engine)  # type: ignore[arg-type]
    served: list[Any] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: served.append((self.config.app, sockets)))
    program.main(["--model", str(tiny_model_folder), "--index", str(tmp_path / "index"), "--port", "0"])
    ((app, (listener,)),) = served
    listener.close()
    (expected,) = SearchIndex(encoder, DOCUMENTS).search(["nurse, python"], 2)
    given = {"q": "nurse, python", "k": "2", "system": "encoder"}
    (column,) = TestClient(app).get("/api/search", params=given).json()["columns"]
    found = [(hit["id"], hit["score"]) for hit in column["hits"]]
    assert found == [(hit.id, pytest.approx(hit.score, abs=1e-5)) for hit in expected]
    assert [len(hit["skills"]) for hit in column["hits"]] == [2, 2]
    (column,) = TestClient(app).get("/api/search", params={**given, "filter": "location=Ulm"}).json()["columns"]
    assert sorted(hit["id"] for hit in column["hits"]) == ["c", "d"]


@pytest.mark.parametrize(
    ("given", "expected"), [(["-k", "0"], "expected -k from 1 to 50"), (["--port", "-1"], "--port")]
)
def test_arguments_that_cannot_be_are_refused(given: list[str], expected: str) -> None:
    with pytest.raises(SystemExit, match=expected):
        program.main(given)
