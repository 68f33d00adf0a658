"""Queries written by a language model behind an OpenAI-compatible address: OpenAI, vLLM, llama.cpp, Ollama, ...

Notable decisions:

- Requests, time-outs and repetitions are those of the `openai` client, imported when the first query is asked for: it
  takes seconds. Answers are read by us, for the client believes any server, and some leave fields out.
- The key is read from the environment variable that is named, sent as a header and blotted out of what servers say; it
  is never in a message. Without one nothing is sent in its place, whatever other keys the environment holds.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from contrastive.data.queries.query_writers import check_at_least_one, check_prompt, clean_queries
from contrastive.data.texts import check_texts

if TYPE_CHECKING:
    from openai import OpenAI

DEFAULT_PROMPT = """\
Below is a document from a collection that people search. Write {n} search queries by people who have not seen it and \
would be glad to find it.
- Write as people type: a few words, often a list of skills or properties with commas, hardly ever a full sentence. \
Sloppy spelling and grammar are fine.
- Use your own words, not the document's phrases, and leave out names that only this document has.
- Let each query ask for something different that the document offers.
- Answer with the queries alone, one a line: no numbers, no quotes, no remarks.

Document:
{document}"""

_log = logging.getLogger(__name__)
_PATH = "/chat/completions"
_MOST_SAID = 300
_THOUGHTS = re.compile(r"\A.*</think>|<think>.*\Z", re.DOTALL)  # some servers send no opening tag


class EndpointWriter:
    """Asks a chat model for the queries of each document, one request a document and several at a time.

    Args:
        model: Name of the model, as the server knows it.
        base_url: Address of the server up to `/chat/completions`; mostly it ends in `/v1`.
        api_key_variable: Environment variable that holds the key, which is sent to `base_url`. A local server needs
            none: the variable may be unset, or this may be `None`.
        queries_per_document: Queries to ask for.
        prompt: What to ask, with `{n}` and `{document}`; `None` takes `DEFAULT_PROMPT`.
        temperature: Sampling temperature; `None` leaves it to the server (some models refuse any).
        max_tokens: Most tokens of an answer, thoughts included; `None` leaves it to the server.
        document_words: Words a document is cut to.
        extra_body: Further fields of the request, such as `{"seed": 0}` or `{"reasoning_effort": "low"}`.
        timeout: Seconds to wait for an answer.
        max_retries: How often a request is repeated after a time-out, a lost connection, or status 408, 409, 429 or
            5xx. Pauses grow from half a second to eight; one that the server asks for is kept, up to two minutes.
        parallel_requests: Requests under way at once.

    Raises:
        ValueError: If an argument cannot be.

    Example:
        >>> writer = EndpointWriter("llama3.2", base_url="http://localhost:11434/v1", queries_per_document=2)
        >>> writer.address
        'http://localhost:11434/v1/chat/completions'
        >>> queries = writer(["Night nurse, intensive care, Leeds"])  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        api_key_variable: str | None = "OPENAI_API_KEY",
        queries_per_document: int = 3,
        prompt: str | None = None,
        temperature: float | None = 0.7,
        max_tokens: int | None = 400,
        document_words: int = 300,
        extra_body: Mapping[str, Any] | None = None,
        timeout: float = 120.0,
        max_retries: int = 5,
        parallel_requests: int = 4,
    ) -> None:
        self.model = model
        self.address = chat_address(base_url)
        self.api_key_variable = api_key_variable
        self.queries_per_document = queries_per_document
        self.prompt = DEFAULT_PROMPT if prompt is None else prompt
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.document_words = document_words
        self.extra_body = dict(extra_body or {})
        self.timeout = timeout
        self.max_retries = max_retries
        self.parallel_requests = parallel_requests
        check_prompt(self.prompt, {"n", "document"})
        check_at_least_one(
            queries_per_document=queries_per_document,
            max_tokens=max_tokens,
            document_words=document_words,
            parallel_requests=parallel_requests,
        )
        if timeout <= 0 or max_retries < 0:
            raise ValueError(f"expected timeout above 0 and max_retries of at least 0, got {timeout} and {max_retries}")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the queries of a document, as plain values.

        The address is one: two servers may mean different models by one name.
        """
        return {
            "model": self.model,
            "address": self.address,
            "queries_per_document": self.queries_per_document,
            "prompt": self.prompt,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "document_words": self.document_words,
            "extra_body": self.extra_body,
        }

    def __call__(self, documents: Sequence[str]) -> list[list[str]]:
        """Write the queries of each document, in order.

        Raises:
            ConnectionError: If the server cannot be reached, refuses, or does not answer in the chat format.
            ValueError: If the environment variable holds what cannot be a key.
        """
        return [queries for _, queries in sorted(self.stream(documents))]

    def stream(self, documents: Sequence[str]) -> Generator[tuple[int, list[str]], None, None]:
        """Yield the index of each document and its queries as they arrive.

        After a failure nothing more is asked; the answers under way are yielded, then the failure is raised.

        Raises:
            ConnectionError: As a call does.
            ValueError: As a call does.
        """
        check_texts(documents)
        key = _key(self.api_key_variable)
        stop = threading.Event()
        failure: BaseException | None = None
        pool = ThreadPoolExecutor(self.parallel_requests)
        with self._client(key) as client:
            try:
                # Told to stop, not cancelled: as_completed waits for ever for what was cancelled in the queue.
                futures = {pool.submit(self._write, client, key, text, stop): i for i, text in enumerate(documents)}
                for future in as_completed(futures):
                    error = future.exception()
                    if error is not None:
                        failure = failure or error
                        stop.set()
                    elif (queries := future.result()) is not None:
                        yield futures[future], queries
            finally:
                stop.set()
                pool.shutdown(wait=False)
        if failure is not None:
            raise failure

    def _client(self, key: str) -> OpenAI:
        try:
            from openai import DefaultHttpxClient, OpenAI
        except ImportError as error:
            needed = 'pip install "contrastive-losses[endpoint]"'
            raise ImportError(f"EndpointWriter needs openai, which is not installed: {needed}") from error
        return OpenAI(
            api_key=key or "none",
            base_url=self.address.removesuffix(_PATH),
            timeout=self.timeout,
            max_retries=self.max_retries,
            # A redirected POST would become a GET; better to say that the address has moved.
            http_client=DefaultHttpxClient(follow_redirects=False),
        )

    def _write(self, client: OpenAI, key: str, document: str, stop: threading.Event) -> list[str] | None:
        """Write the queries of one document; `None` if told to stop before."""
        if stop.is_set():
            return None
        from openai import Omit, OpenAIError

        unsigned = {} if key else {"Authorization": Omit()}
        request = self._request(document)
        try:
            response = client.chat.completions.with_raw_response.create(**request, extra_headers=unsigned).http_response
        except OpenAIError as error:
            raise ConnectionError(f"{self._explained(error, key)} (document {document[:40]!r})") from None
        answer = _answer(response)
        if answer is None:
            said = _shown(response.text, key)
            message = f"{self.address} does not answer in the chat format: check base_url. The server says: {said!r}"
            raise ConnectionError(f"{message} (document {document[:40]!r})")
        text, cut = answer
        lines = _THOUGHTS.sub("", text).splitlines()
        # The last line of an answer that was cut is a part of a query.
        queries = clean_queries(lines[:-1] if cut else lines, self.queries_per_document)
        if not queries:
            _log.warning("no query in the answer for document %r: %r", document[:40], text[:80])
        return queries

    def _explained(self, error: Exception, key: str) -> str:
        """Say what a failure means; its own text may hold headers."""
        from openai import APIStatusError, APITimeoutError

        if isinstance(error, APITimeoutError):
            advice = "raise timeout, or lower parallel_requests or max_tokens"
            return f"{self.address} gave no answer in {self.timeout:g} s: {advice}"
        if not isinstance(error, APIStatusError):
            kind = type(error.__cause__ or error).__name__
            return f"{self.address} cannot be reached ({kind}): check base_url and that the server is running"
        advice = "the request cannot be served"
        if error.status_code == 404:
            advice = f"check base_url, which mostly ends in /v1, and that the server has the model {self.model!r}"
        elif error.status_code in (401, 403):
            variable = self.api_key_variable
            advice = f"no key was sent: put it in the environment variable {variable}"
            if key:
                advice = f"check the key in the environment variable {variable}"
            elif not variable:
                advice = "no key was sent: give the name of its environment variable as api_key_variable"
        said = _shown(error.response.text, key)
        return f"{self.address} answered with status {error.status_code}: {advice}. The server says: {said!r}"

    def _request(self, document: str) -> dict[str, Any]:
        words = document.split(maxsplit=self.document_words)
        if len(words) > self.document_words:
            document = document[: -len(words[-1])]
        # The document goes in last: nothing in it is a placeholder.
        question = self.prompt.replace("{n}", str(self.queries_per_document)).replace("{document}", document.strip())
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "extra_body": self.extra_body or None,
        }
        return {name: value for name, value in request.items() if value is not None}


def chat_address(base_url: str) -> str:
    """Return the address that takes chat completions.

    Raises:
        ValueError: If `base_url` is not one, or holds a password or a query, where keys leak.

    Example:
        >>> chat_address("http://localhost:8000/v1/")
        'http://localhost:8000/v1/chat/completions'
    """
    parts = urlsplit(base_url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("expected base_url without user, password, ? and #; a key belongs in an environment variable")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected base_url such as http://localhost:8000/v1, got {base_url!r}")
    return base_url.rstrip("/").removesuffix(_PATH) + _PATH


def _key(variable: str | None) -> str:
    """Return what an environment variable holds, "" for nothing."""
    text = os.environ.get(variable, "").strip() if variable else ""
    if not (text.isascii() and text.isprintable()):
        raise ValueError(f"expected a key in the environment variable {variable}, got text that cannot be one")
    return text


def _shown(said: str, key: str) -> str:
    """Return the start of what a server says, without the key: first, for a part of it is too much too."""
    text = " ".join(said.split())
    return (text.replace(key, "***") if key else text)[:_MOST_SAID]


def _answer(response: Any) -> tuple[str, bool] | None:
    """Return an answer, "" if the model gave none, and whether it was cut for being too long."""
    try:
        body = response.json()
    except ValueError:
        return None
    match body:
        case {"choices": [{"message": {"content": str(answer)}, **choice}, *_]}:
            return answer, choice.get("finish_reason") == "length"
        # A refusal, or thoughts that used up the tokens: no content, or with some servers no message.
        case {"choices": [{"message": {"content": None}}, *_]} | {"choices": [{"finish_reason": str()}, *_]}:
            return "", False
    return None
