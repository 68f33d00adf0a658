import contextlib
import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from contrastive.data.queries.endpoint_writer import EndpointWriter
from contrastive.data.queries.query_writers import write_queries

CONFIG = Path(__file__).parents[2] / "configs" / "writer" / "endpoint.yaml"
KEY = "sk-0123456789abcdef"

Answer = tuple[int, bytes, dict[str, str]]


def completion(text: str | None, finish_reason: str = "stop") -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return 200, json.dumps({"object": "chat.completion", "choices": [choice]}).encode(), {}


class Server:
    """A stub that speaks the chat completions format on localhost, as `answer` says."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.answer: Callable[[str], Answer] = lambda question: completion(question.upper())
        self.first: list[Answer] = []
        self.released = threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stub.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, said, headers = stub.first.pop(0) if stub.first else stub.answer(stub.questions[-1])
                with contextlib.suppress(ConnectionError):  # the client may have gone
                    self.send_response(status)
                    for name, value in ({"Content-Length": str(len(said))} | headers).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def questions(self) -> list[str]:
        return [body["messages"][0]["content"] for _, _, body in self.requests]

    def writer(self, **arguments: Any) -> EndpointWriter:
        defaults = {"prompt": "{n} {document}", "timeout": 5.0, "parallel_requests": 1}
        return EndpointWriter("llama", **{"base_url": self.base_url} | defaults | arguments)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between repetitions
    stub = Server()
    yield stub
    stub.released.set()
    stub.http.shutdown()
    stub.http.server_close()
    stub.thread.join()


def test_each_document_is_asked_for_in_the_chat_format(server: Server) -> None:
    server.answer = lambda question: completion(f"1. jobs like {question[-1]}\n2. {question[-1]} work\n3. more")
    writer = server.writer(queries_per_document=2, temperature=0.5, max_tokens=99, extra_body={"seed": 7})
    assert writer(["a", "b"]) == [["jobs like a", "a work"], ["jobs like b", "b work"]]
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["content-type"] == "application/json"
    assert body == {
        "model": "llama",
        "messages": [{"role": "user", "content": "2 a"}],
        "temperature": 0.5,
        "max_tokens": 99,
        "seed": 7,
    }


def test_what_is_left_to_the_server_is_not_sent(server: Server) -> None:
    server.writer(temperature=None, max_tokens=None)(["a"])
    assert server.requests[0][2].keys() == {"model", "messages"}


def test_the_default_prompt_has_the_number_and_the_document(server: Server) -> None:
    server.writer(prompt=None, queries_per_document=4)(["Night nurse"])
    assert "Write 4 search queries" in server.questions[0]
    assert server.questions[0].endswith("Document:\nNight nurse")


def test_a_document_is_cut_and_nothing_in_it_is_a_placeholder(server: Server) -> None:
    server.writer(document_words=3)([" {n} {document}\n c  d e", "f g\nh "])
    assert server.questions == ["3 {n} {document}\n c", "3 f g\nh"]


def test_queries_stream_as_they_arrive_and_a_call_puts_them_in_order(server: Server) -> None:
    def answer(question: str) -> Answer:
        if question.endswith("slow"):
            assert server.released.wait(5)
            threading.Event().wait(0.1)
        elif question.endswith("quick"):
            server.released.set()
        return completion(question[2:])

    server.answer = answer
    # Without a second request at once, the slow one would never be answered.
    writer = server.writer(parallel_requests=2)
    stream = writer.stream(["slow", "fast", "quick"])
    assert next(stream) == (1, ["fast"])
    assert dict(stream) == {0: ["slow"], 2: ["quick"]}
    server.released.clear()
    assert writer(["slow", "quick"]) == [["slow"], ["quick"]]
    assert writer([]) == []


def test_no_more_requests_are_under_way_than_asked_for(server: Server) -> None:
    under_way = threading.Semaphore(2)

    def count(question: str) -> Answer:
        if not under_way.acquire(blocking=False):
            return 400, b"too many", {}
        threading.Event().wait(0.005)
        under_way.release()
        return completion(question)

    server.answer = count
    assert len(server.writer(parallel_requests=2)([str(i) for i in range(12)])) == 12


def test_there_is_a_connection_for_each_request_under_way(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    together = threading.Barrier(12, timeout=5)

    def answer(question: str) -> Answer:
        together.wait()
        return completion(question)

    server.answer = answer
    assert len(server.writer(parallel_requests=12)([str(i) for i in range(12)])) == 12
    assert "pool is full" not in caplog.text


@pytest.mark.parametrize(
    ("answer", "queries"),
    [
        (completion("<think>a nurse,\nso\n</think>\n\nicu jobs"), ["icu jobs"]),
        (completion("a nurse,\nso\n</think>icu jobs"), ["icu jobs"]),
        (completion("<think>a nurse,\nso", "length"), []),
        (completion("icu jobs\nnight shi", "length"), ["icu jobs"]),
        (completion("I cannot help with this document:"), []),
        (completion(""), []),
        (completion(None), []),
        ((200, b'{"choices": [{"message": {"content": null}}]}', {}), []),
        ((200, b'{"choices": [{"finish_reason": "length"}]}', {}), []),
    ],
)
def test_only_whole_queries_are_taken_from_an_answer(
    server: Server, answer: Answer, queries: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    server.first = [answer]
    assert server.writer()(["Night nurse"]) == [queries]
    assert ("no query in the answer" in caplog.text) == (queries == [])


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_failure_is_tried_again(server: Server, status: int) -> None:
    # Some servers send their errors as a list.
    server.first = [(status, b'[{"error": {"message": "busy"}}]', {}), (status, b"", {})]
    assert server.writer(max_retries=2)(["a"]) == [["3 A"]]
    assert server.questions == ["3 a"] * 3


def test_after_the_last_repetition_the_failure_is_raised(server: Server) -> None:
    server.answer = lambda _: (503, b"overloaded", {})
    with pytest.raises(ConnectionError, match=r"/v1/chat/completions answered with status 503.*'overloaded'"):
        server.writer(max_retries=2)(["a"])
    assert len(server.requests) == 3


def test_a_pause_that_the_server_asks_for_is_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    server.first = [(429, b"", {"Retry-After": "7"})]
    server.writer()(["a"])
    assert waited == [7]


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "no key was sent: put it in the environment variable OPENAI_API_KEY"),
        (403, "no key was sent"),
        (404, r"check base_url, which mostly ends in /v1, and that the server has the model 'llama'"),
        (400, r"the request cannot be served.*\(document 'Night nurse'\)"),
        (302, "status 302"),
    ],
)
def test_a_lasting_failure_is_raised_at_once(server: Server, status: int, advice: str) -> None:
    server.answer = lambda _: (status, b"{}", {"Location": "/elsewhere"})
    with pytest.raises(ConnectionError, match=advice) as raised:
        server.writer()(["Night nurse"])
    assert f"{server.base_url}/chat/completions answered with status {status}" in str(raised.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"<html>Welcome</html>",
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"choices": []}',
        b'{"choices": [{"text": "a"}]}',
        b'{"choices": [{"message": "a"}]}',
        b'{"choices": [{"finish_reason": null}]}',
        b'{"choices": [{"message": {"content": ["a"]}}]}',
    ],
)
def test_what_is_not_the_chat_format_is_refused(server: Server, said: bytes) -> None:
    server.answer = lambda _: (200, said, {})
    with pytest.raises(ConnectionError, match=r"does not answer in the chat format: check base_url") as raised:
        server.writer()(["a"])
    assert repr(said.decode()) in str(raised.value)
    assert len(server.requests) == 1


def test_a_server_that_hangs_is_given_up(server: Server) -> None:
    server.answer = lambda _: completion("late") if server.released.wait(5) else (500, b"", {})
    with pytest.raises(ConnectionError, match=r"gave no answer in 0\.05 s: raise timeout"):
        server.writer(timeout=0.05, max_retries=1)(["a"])
    assert len(server.requests) == 2


def test_a_server_that_is_not_there_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        writer = EndpointWriter("m", base_url=f"http://127.0.0.1:{port}", max_retries=0)
        with pytest.raises(ConnectionError, match=rf":{port}/chat/completions cannot be reached \(ConnectError\)"):
            writer(["a"])


def test_an_answer_that_breaks_off_is_asked_for_again(server: Server) -> None:
    server.first = [(200, b'{"choi', {"Content-Length": "99", "Connection": "close"})]
    assert server.writer()(["a"]) == [["3 A"]]


def test_a_long_message_of_the_server_is_cut(server: Server) -> None:
    server.answer = lambda _: (400, b"too\n   long " + b"x" * 999, {})
    with pytest.raises(ConnectionError, match=r"The server says: 'too long x{291}' \(document"):
        server.writer()(["a"])


def test_a_failure_stops_asking_but_keeps_what_is_under_way(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    refused = threading.Event()

    def answer(question: str) -> Answer:
        if question.endswith("bad"):
            refused.set()
            return 400, b"too long", {}
        if question.endswith("slow"):
            assert refused.wait(5)
            threading.Event().wait(0.1)
        return completion(question[2:])

    server.answer = answer
    documents = ["fast", "slow", "bad", *map(str, range(20))]
    with pytest.raises(ConnectionError, match=r"too long(?s:.*)of 23 documents have their queries"):
        write_queries(server.writer(parallel_requests=2), documents, file)
    kept = [json.loads(line)["queries"] for line in file.read_text().splitlines()]
    assert ["fast"] in kept
    assert ["slow"] in kept
    assert len(server.requests) < 23
    assert len(kept) == len(server.requests) - 1

    server.answer = lambda question: completion(question[2:])
    server.requests.clear()
    assert write_queries(server.writer(parallel_requests=2), documents, file) == [[d] for d in documents]
    assert len(server.requests) == 23 - len(kept)


def test_a_stream_that_is_closed_asks_no_more(server: Server) -> None:
    stream = server.writer().stream([str(i) for i in range(200)])
    next(stream)
    stream.close()
    asked = len(server.requests)
    assert asked < 150
    threading.Event().wait(0.1)
    assert len(server.requests) <= asked + 1  # that under way


def test_the_first_of_two_failures_is_raised(server: Server) -> None:
    refused = threading.Event()

    def answer(question: str) -> Answer:
        if question.endswith("first"):
            refused.set()
            return 404, b"", {}
        assert refused.wait(5)
        threading.Event().wait(0.1)
        return 400, b"", {}

    server.answer = answer
    with pytest.raises(ConnectionError, match="404"):
        server.writer(parallel_requests=2)(["second", "first"])


def test_the_key_is_sent_and_shown_nowhere(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "queries.jsonl"
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    writer = server.writer(api_key_variable="MY_KEY", max_retries=2)
    # Also where a message that is too long would be cut within the key.
    echoes = [f"{filler} wrong key {KEY}".encode() for filler in ("", "x" * 277)]
    server.first = [completion("a query"), *((500, echo, {}) for echo in echoes), (401, echoes[0], {})]
    with pytest.raises(ConnectionError, match="check the key in the environment variable MY_KEY") as raised:
        write_queries(writer, ["a", "b"], file)
    assert [headers["authorization"] for _, headers, _ in server.requests] == [f"Bearer {KEY}"] * 4
    shown = [*traceback.format_exception(raised.value), caplog.text, file.read_text(), repr(vars(writer))]
    assert not any(KEY[:8] in text for text in [*shown, json.dumps(writer.settings)])


@pytest.mark.parametrize("variable", ["UNSET_KEY", None])
def test_without_a_key_nothing_is_sent_in_its_place(
    server: Server, variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for other in ("HF_TOKEN", "OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(other, "hf_secret")
    server.writer(api_key_variable=variable)(["a"])
    assert "authorization" not in server.requests[0][1]
    assert "secret" not in str(server.requests)


@pytest.mark.parametrize("key", ["sk-sécret", "sk-\nsecret"])
def test_text_that_cannot_be_a_key_is_refused_unseen(server: Server, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="expected a key in the environment variable OPENAI_API_KEY") as raised:
        server.writer()(["a"])
    assert "cret" not in str(raised.value)


def test_one_text_is_not_taken_for_many(server: Server) -> None:
    with pytest.raises(TypeError, match="expected a sequence of texts, got one text: 'nurse'"):
        server.writer()("nurse")


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1/chat/completions"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai/chat/completions"),
        ("https://host/v1/chat/completions", "https://host/v1/chat/completions"),
    ],
)
def test_requests_go_to_the_chat_completions_of_the_base_url(base_url: str, address: str) -> None:
    assert EndpointWriter("m", base_url=base_url).address == address


@pytest.mark.parametrize("base_url", ["localhost:8000/v1", "ftp://host/v1", "http:///v1", ""])
def test_what_is_no_address_is_refused(base_url: str) -> None:
    with pytest.raises(ValueError, match="expected base_url such as http://localhost:8000/v1, got"):
        EndpointWriter("m", base_url=base_url)


@pytest.mark.parametrize("base_url", ["http://me:secret@host/v1", "http://host/v1?key=secret", "http://h/v1#secret"])
def test_an_address_with_a_secret_is_refused_unseen(base_url: str) -> None:
    with pytest.raises(ValueError, match="a key belongs in an environment variable") as raised:
        EndpointWriter("m", base_url=base_url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries_per_document": 0}, "expected queries_per_document of at least 1, got 0"),
        ({"document_words": 0}, "expected document_words of at least 1, got 0"),
        ({"max_tokens": 0}, "expected max_tokens of at least 1, got 0"),
        ({"parallel_requests": 0}, "expected parallel_requests of at least 1, got 0"),
        ({"timeout": 0}, "expected timeout above 0"),
        ({"max_retries": -1}, "expected timeout above 0 and max_retries .* got 120.0 and -1"),
        ({"prompt": "Queries for {document}"}, r"expected a prompt with .* \{document\}, \{n\}, got \{document\}"),
        ({"prompt": "{n} {title} {document}"}, r"got \{document\}, \{n\}, \{title\}"),
        ({"prompt": "Write"}, "got none: 'Write'"),
    ],
)
def test_endpoint_arguments_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EndpointWriter("m", **{"base_url": "http://host/v1"} | arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"base_url": "http://other/v1"},
        {"queries_per_document": 2},
        {"prompt": "{n} of {document}"},
        {"temperature": None},
        {"max_tokens": 5},
        {"document_words": 5},
        {"extra_body": {"seed": 1}},
    ],
)
def test_endpoint_settings_hold_what_decides_the_queries(arguments: dict[str, Any]) -> None:
    plain = EndpointWriter("m", base_url="http://host/v1").settings
    assert EndpointWriter("m", **{"base_url": "http://host/v1"} | arguments).settings != plain
    assert EndpointWriter("n", base_url="http://host/v1").settings != plain
    indifferent = EndpointWriter("m", base_url="http://host/v1/", api_key_variable="X", timeout=1, max_retries=0)
    assert indifferent.settings == plain


def test_the_configuration_has_the_defaults_of_the_class() -> None:
    values = {"model": "m", "base_url": "http://host/v1"}
    config = OmegaConf.merge(OmegaConf.load(CONFIG), values)
    assert vars(instantiate(config)) == vars(EndpointWriter(**values))


def test_nested_values_reach_the_writer_as_plain_ones() -> None:
    values = {"model": "m", "base_url": "http://host/v1", "extra_body": {"chat": {"thinking": False}, "stop": ["x"]}}
    config = OmegaConf.create({"writer": OmegaConf.merge(OmegaConf.load(CONFIG), values)})
    assert json.loads(json.dumps(instantiate(config).writer.settings))["extra_body"] == values["extra_body"]
