"""The page in a real browser: what a person sees and operates. Skipped where no Chromium is installed."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from contrastive.encoder import Encoder
from contrastive.search import SearchIndex
from experiments.serve import __main__ as program
from experiments.serve.page import make_app
from experiments.serve.results import Searching

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed: apt-get install chromium")

EXAMPLE = "data scientis 6 years expierience, LLMs, credit risk, content marketing"
SCRIPT = "<script>document.title = 'run'</script><img src='http://elsewhere.example/x.png' onerror='document.title=1'>"
DOCUMENTS = {
    "a": "Data scientist\nWork with LLMs for 6 years, experience with credit risk.",
    "b": f"Nurse {SCRIPT}\nThe hospital. {SCRIPT} Nights.",
    "c": "Chef\nA kitchen with experience.",
}
METADATA = {
    "a": {"company": "Delta", "place": "Ulm"},
    "b": {"company": SCRIPT, "place": "Bonn"},
    "c": {"place": "Bonn"},
}
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def address(tiny_model_folder: Path) -> Iterator[str]:
    import uvicorn

    encoder = Encoder.from_pretrained(tiny_model_folder, representation="tokens")
    weights = {"BM25+spelling": 0.7, "encoder": 0.3}
    index = SearchIndex(encoder, DOCUMENTS, metadata=METADATA, weights=weights)
    app = make_app(Searching(program.systems_of(index, is_run=True)), name="3 postings", example=EXAMPLE)
    config = program.configured(app, port=0)
    listener = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def requests() -> list[str]:
    return []


@pytest.fixture
def visit(browser: Any, address: str, requests: list[str]) -> Iterator[Callable[..., Any]]:
    contexts = []

    def opened(path: str = "/", **settings: Any) -> Any:
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    for url in requests:  # of every test: nothing leaves this machine
        assert urlsplit(url).hostname == "127.0.0.1" or url.startswith("data:"), url


def search(page: Any, query: str) -> None:
    page.get_by_label("Your skills").fill(query)
    page.get_by_role("button", name="Search").click()
    page.wait_for_load_state()


def test_the_query_of_the_example_shows_postings_and_the_words_that_matched(
    visit: Callable[..., Any], requests: list[str]
) -> None:
    page = visit()
    search(page, EXAMPLE)
    assert page.get_by_role("heading", level=2).all_inner_texts() == ["BM25", "Trained", "Hybrid"]
    card = page.get_by_role("region", name="BM25").get_by_role("article").first
    assert card.get_by_role("heading").inner_text() == "1 Data scientist"
    assert "Delta" in card.inner_text()
    assert "Ulm" in card.inner_text()
    skills = card.get_by_role("list", name="Skills").get_by_role("listitem").all_inner_texts()
    assert [" ".join(skill.split()) for skill in skills] == [
        "data scientis 6 years expierience data scientist 6 years experience Data scientist, years, experience",
        "LLMs LLMs",
        "credit risk credit risk",
        "content marketing missing",
    ]
    assert card.locator("mark").first.inner_text() == "Data scientist"
    assert "3 postings found in" in page.get_by_role("status").inner_text()
    assert page.get_by_label("Your skills").input_value() == EXAMPLE
    assert len(requests) >= 3  # the form, its style, the results: they are recorded


def test_the_example_is_a_link(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_role("link", name=EXAMPLE).click()
    assert page.get_by_role("article").count() > 0


def test_filters_and_systems_are_chosen_in_the_form(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_text("Filters and systems").click()
    page.get_by_label("place").select_option("place=Bonn")
    page.get_by_label("Hybrid").uncheck()
    search(page, "experience, hospital")
    assert page.get_by_role("heading", level=2).all_inner_texts() == ["BM25", "Trained"]
    titles = page.get_by_role("region", name="Trained").get_by_role("heading", level=3).all_inner_texts()
    assert len(titles) == 2
    assert not any("Data scientist" in title for title in titles)
    assert page.get_by_label("place").input_value() == "place=Bonn"
    page.get_by_label("Other filters").fill("company~nobody")
    search(page, "experience")
    assert "No posting found" in page.get_by_role("status").inner_text()


def test_a_script_in_a_posting_or_a_query_is_text(visit: Callable[..., Any]) -> None:
    page = visit()
    search(page, f'">{SCRIPT} nurse')
    assert page.title() != "run"
    assert page.title().endswith("Job search")
    assert page.locator("script, main img").count() == 0
    card = page.get_by_role("region", name="BM25").get_by_role("article").first
    assert SCRIPT in card.inner_text()
    refused = page.evaluate("""() => new Promise(done => {
        document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));
        const script = document.createElement('script'); script.textContent = 'document.title = "run"';
        document.body.append(script); setTimeout(() => done(document.title), 2000); })""")
    assert refused.startswith("script-src")  # were it not escaped, it would still not run


def test_an_empty_and_a_very_long_query_get_an_answer(visit: Callable[..., Any]) -> None:
    page = visit()
    search(page, "   ")
    assert "Type the skills" in page.get_by_role("alert").inner_text()
    search(page, ("nurse, " + ", ".join(f"skill{number}" for number in range(3000)))[:10_000])
    assert page.get_by_role("region", name="BM25").get_by_role("article").count() == 1
    assert "further skills are not looked at" in page.locator("main").inner_text()
    assert "not read: the query is too long" in page.locator("main").inner_text()
    search(page, "\N{SNOWMAN}" * 10_000)  # nine letters each in an address
    assert page.get_by_role("region", name="Trained").get_by_role("article").count() == 3
    search(page, "x" * 20_001)
    assert "at most 20,000 characters" in page.get_by_role("alert").inner_text()


def test_a_very_long_query_may_come_in_pieces(address: str) -> None:
    host, port = str(urlsplit(address).hostname), int(urlsplit(address).port or 0)
    request = f"GET /api/search?q={'%E2%98%83' * 10_000}&k=1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, port)) as connection:
        for piece in (request[:80_000], request[80_000:]):
            connection.sendall(piece.encode())
            time.sleep(0.1)  # so that the server sees it alone
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_the_keyboard_reaches_box_button_and_results(visit: Callable[..., Any]) -> None:
    page = visit("/?q=experience")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(document.activeElement.id || document.activeElement.innerText).trim()"))
    order = [reached.index(name) for name in ("Skip to the results", "q", "Search", "Filters and systems")]
    assert order == sorted(order)
    assert any(text.startswith("Whole posting") for text in reached[order[-1] :])
    page.get_by_label("Your skills").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("kitchen")
    page.keyboard.press("Enter")
    page.wait_for_url("**/*q=kitchen*")
    page.get_by_role("link", name="Skip to the results").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "results"


CONTRASTS = r"""() => {
    const light = color => color.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
    const numbers = color => color.match(/[\d.]+/g).map(Number);
    const ground = each => { for (; each; each = each.parentElement) {
        const color = numbers(getComputedStyle(each).backgroundColor);
        if (color.length < 4 || color[3] > 0) return color.slice(0, 3); } };
    const contrast = (each, pseudo) => {
        const both = [numbers(getComputedStyle(each, pseudo).color).slice(0, 3), ground(each)].map(light);
        return (Math.max(...both) + .05) / (Math.min(...both) + .05); };
    const found = {}, words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (words.nextNode()) if (words.currentNode.textContent.trim()) {
        const each = words.currentNode.parentElement;
        found[each.tagName + ' ' + each.className + ' in ' + each.parentElement.className] = contrast(each, null); }
    for (const each of document.querySelectorAll('input'))
        found['placeholder ' + each.id] = contrast(each, '::placeholder');
    return found; }"""
"""Contrast of every kind of text with what is behind it."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_light_and_dark(scheme: str, visit: Callable[..., Any]) -> None:
    page = visit(f"/?q={EXAMPLE}", viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    contrasts = page.evaluate(CONTRASTS)
    assert {"MARK  in words", "SPAN words in missing", "placeholder filter-typed"} <= set(contrasts)
    assert {name: contrast for name, contrast in contrasts.items() if contrast < 4.5} == {}
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 384) == (scheme == "dark")
