"""Whether W&B can be used online: a key, and a server that answers; found out once, without W&B, which would wait."""

from __future__ import annotations

import netrc
import os
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from urllib.parse import urlparse

ANSWERED = "CONTRASTIVE_WANDB_ANSWERED"
"""Environment variable that tells the processes of a sweep whether the server answered: `URL yes` or `URL no`."""


def wandb_url() -> str:
    """Address of the W&B server."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def has_wandb_key() -> bool:
    """Whether a W&B key is in the environment or in the netrc file, looked up without asking for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    host = urlparse(wandb_url()).hostname or ""
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def is_reachable(url: str) -> bool:
    """Whether a server answers, asked once by this process and those that it starts."""
    kept, _, answer = os.environ.get(ANSWERED, "").rpartition(" ")
    if kept != url:
        answer = remember(url, server_answers(url))
    return answer == "yes"


def remember(url: str, answers: bool) -> str:
    """Keep whether a server answers for later runs of this process and of those that it starts."""
    answer = "yes" if answers else "no"
    os.environ[ANSWERED] = f"{url} {answer}"
    return answer


def server_answers(url: str, timeout: float = 2.0) -> bool:
    """Whether a server gives any answer of HTTP within `timeout` seconds, the look-up of its name included.

    That a connection can be opened says little: a proxy opens it, and behind it packets may be swallowed.
    """
    answers: list[bool] = []
    asking = Thread(target=lambda: answers.append(_answers(url, timeout)), daemon=True, name="ask-wandb")
    asking.start()
    asking.join(timeout)  # the look-up of a name has no timeout of its own, and each step of the rest has this one
    return answers == [True]


def _answers(url: str, timeout: float) -> bool:
    unchecked = ssl.create_default_context()  # nothing secret is sent, and W&B may trust what is unknown here
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout, context=unchecked).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, HTTPException, ValueError):
        return False
    return True
