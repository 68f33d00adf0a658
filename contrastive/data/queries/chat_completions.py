"""One request to an OpenAI-compatible chat server, and what its failures mean.

Notable decisions:

- Plain HTTP through requests. huggingface_hub's client was tried and left: without a key it sends the person's Hugging
  Face token to any address, under HF_HUB_OFFLINE it refuses local servers too, and it breaks on errors sent as a list.
- The key is read from the environment, sent as a header and blotted out of what servers say; it is never in a message.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

_PATH = "/chat/completions"
_MOST_SAID = 300


class RequestError(Exception):
    """A request that got no answer.

    Attributes:
        may_pass: Whether the same request may succeed later.
        pause: Seconds that the server asks to wait.
    """

    def __init__(self, message: str, *, may_pass: bool, pause: float = 0.0) -> None:
        super().__init__(message)
        self.may_pass = may_pass
        self.pause = pause


class Key(AuthBase):
    """A server's key, out of an environment variable; without one requests go unsigned.

    Raises:
        ValueError: If the variable holds what cannot be a key.
    """

    def __init__(self, variable: str | None) -> None:
        self._variable = variable
        self._text = os.environ.get(variable, "").strip() if variable else ""
        if not (self._text.isascii() and self._text.isprintable()):
            raise ValueError(f"expected a key in the environment variable {variable}, got text that cannot be one")

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request."""
        if self._text:
            request.headers["Authorization"] = f"Bearer {self._text}"
        return request

    def blot_out(self, text: str) -> str:
        """Return a text without the key."""
        return text.replace(self._text, "***") if self._text else text

    def advice(self) -> str:
        """Say what to check when the server refuses it."""
        if self._text:
            return f"check the key in the environment variable {self._variable}"
        if self._variable:
            return f"no key was sent: put it in the environment variable {self._variable}"
        return "no key was sent: give the name of its environment variable as api_key_variable"


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


def open_session(key: Key, connections: int) -> requests.Session:
    """Open a session that signs its requests, for so many at once."""
    session = requests.Session()
    session.auth = key
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=connections))
    return session


def complete(
    session: requests.Session, key: Key, address: str, body: Mapping[str, Any], *, timeout: float
) -> tuple[str, bool]:
    """Ask for a chat completion.

    Args:
        session: An open session.
        key: Its key, to be kept out of messages.
        address: Where to post.
        body: The request.
        timeout: Seconds to wait for an answer.

    Returns:
        The answer, "" if the model gave none, and whether it was cut for being too long.

    Raises:
        RequestError: If there is no answer in the chat format.
    """
    try:
        # A redirected POST would become a GET; better to say that the address has moved.
        response = session.post(address, json=body, timeout=timeout, allow_redirects=False)
    except requests.Timeout:
        message = f"{address} gave no answer in {timeout:g} s: raise timeout, or lower parallel_requests or max_tokens"
        raise RequestError(message, may_pass=True) from None
    except requests.RequestException as error:
        kind = type(error).__name__  # its text may hold headers
        message = f"{address} cannot be reached ({kind}): check base_url and that the server is running"
        lost = isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError)
        raise RequestError(message, may_pass=lost) from None
    # Blotted out before it is cut: a part of the key is too much too.
    said = key.blot_out(" ".join(response.text.split()))[:_MOST_SAID]
    if response.status_code != requests.codes.ok:
        raise _refusal(response, said, key, str(body.get("model")))
    answer = _answer(response)
    if answer is None:
        message = f"{address} does not answer in the chat format: check base_url. The server says: {said!r}"
        raise RequestError(message, may_pass=False)
    return answer


def _answer(response: requests.Response) -> tuple[str, bool] | None:
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


def _refusal(response: requests.Response, said: str, key: Key, model: str) -> RequestError:
    status = response.status_code
    if status in (401, 403):
        advice = key.advice()
    elif status == 404:
        advice = f"check base_url, which mostly ends in /v1, and that the server has the model {model!r}"
    else:
        advice = "the request cannot be served"
    try:
        pause = float(response.headers.get("Retry-After", 0))
    except ValueError:  # a date
        pause = 0.0
    return RequestError(
        f"{response.url} answered with status {status}: {advice}. The server says: {said!r}",
        may_pass=status in (408, 429) or status >= 500,
        pause=pause,
    )
