"""Queries written by a language model behind an OpenAI-compatible address: OpenAI, vLLM, llama.cpp, Ollama, ..."""

from __future__ import annotations

import itertools
import logging
import re
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from requests import Session

from contrastive.data.queries.chat_completions import Key, RequestError, chat_address, complete, open_session
from contrastive.data.queries.query_writers import check_at_least_one, check_prompt, clean_queries
from contrastive.data.texts import check_texts

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
_LONGEST_PAUSE = 60.0
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
        max_retries: How often a request is repeated after a time-out, a lost connection, or status 408, 429 or 5xx.
        backoff_seconds: Pause before the first repetition; it doubles each time. A longer one that the server asks for
            is kept. Neither is ever above a minute.
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
        backoff_seconds: float = 1.0,
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
        self.backoff_seconds = backoff_seconds
        self.parallel_requests = parallel_requests
        check_prompt(self.prompt, {"n", "document"})
        check_at_least_one(
            queries_per_document=queries_per_document,
            max_tokens=max_tokens,
            document_words=document_words,
            parallel_requests=parallel_requests,
        )
        if timeout <= 0 or max_retries < 0 or backoff_seconds < 0:
            raise ValueError(
                "expected timeout above 0, max_retries and backoff_seconds of at least 0, "
                f"got {timeout}, {max_retries} and {backoff_seconds}"
            )

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
        key = Key(self.api_key_variable)
        stop = threading.Event()
        failure: BaseException | None = None
        pool = ThreadPoolExecutor(self.parallel_requests)
        with open_session(key, self.parallel_requests) as session:
            try:
                # Told to stop, not cancelled: as_completed waits for ever for what was cancelled in the queue.
                futures = {pool.submit(self._write, session, key, text, stop): i for i, text in enumerate(documents)}
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

    def _write(self, session: Session, key: Key, document: str, stop: threading.Event) -> list[str] | None:
        """Write the queries of one document, trying again where that may help; `None` if told to stop before."""
        for failures in itertools.count():
            if stop.is_set():
                return None
            try:
                answer, cut = complete(session, key, self.address, self._request(document), timeout=self.timeout)
                break
            except RequestError as failure:
                if not failure.may_pass or failures == self.max_retries:
                    raise ConnectionError(f"{failure} (document {document[:40]!r})") from None
                pause = min(max(self.backoff_seconds * 2**failures, failure.pause), _LONGEST_PAUSE)
                _log.warning("%s. Trying again in %.3g s", failure, pause)
                stop.wait(pause)
        lines = _THOUGHTS.sub("", answer).splitlines()
        # The last line of an answer that was cut is a part of a query.
        queries = clean_queries(lines[:-1] if cut else lines, self.queries_per_document)
        if not queries:
            _log.warning("no query in the answer %r to the document %r", answer[:80], document[:40])
        return queries

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
        }
        return {name: value for name, value in request.items() if value is not None} | self.extra_body
