"""Text of other people in a Markdown page: it is shown as it is, and can be neither markup nor HTML."""

from __future__ import annotations

import json
import re

from contrastive.data.shown import clean

_MARKUP = re.compile(
    r"[\\`*\[\]|~$#]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # between letters it is no emphasis
    r"|:(?=//)|(?<=www)\.|@(?=[\w-]+\.)|(?<=mailto):|(?<=xmpp):",  # become links by themselves
    re.IGNORECASE,
)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class Markdown(str):
    """Markdown that we wrote: `shown` leaves it as it is. What is made of it by string operations is text again."""

    __slots__ = ()


def shown(value: object) -> Markdown:
    r"""Return Markdown that shows a text on one line; it may stand anywhere but at the start of a line.

    Example:
        >>> shown("a_b <i>*c*</i>\n# d")
        'a_b &lt;i&gt;\\*c\\*&lt;/i&gt; \\# d'
    """
    if isinstance(value, Markdown):
        return value
    escaped = _MARKUP.sub(lambda found: "\\" + found[0], re.sub(r"\s+", " ", clean(str(value))))
    return Markdown(re.sub("[&<>]", lambda found: _ENTITIES[found[0]], escaped))


def code(value: object) -> Markdown:
    """Return a text as code within a line, with all its spaces.

    Example:
        >>> code("a `b` <c>")
        '``a `b` <c>``'
    """
    text = re.sub(r"\s", " ", clean(str(value)))
    if not text:
        return Markdown()
    ticks = "`" * _more_than_in(text, least=1)
    padding = " " if "`" in (text[0], text[-1]) or (text.strip() and text[0] == text[-1] == " ") else ""
    return Markdown(f"{ticks}{padding}{text}{padding}{ticks}")


def block(value: object, language: str) -> Markdown:
    """Return a text as a block of code that no line of it can end."""
    text = clean(str(value))
    fence = "`" * _more_than_in(text, least=3)
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def string(value: str) -> Markdown:
    """Return a text as a string of Python in double quotes, on one line."""
    return Markdown(json.dumps(value))


def _more_than_in(text: str, *, least: int) -> int:
    return max(least, 1 + max(map(len, re.findall("`+", text)), default=0))
