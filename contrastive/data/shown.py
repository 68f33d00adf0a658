"""What people's data say, in messages and on a terminal: short, and without the characters that would control it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\)|[ -/]*[0-~])", re.DOTALL)
"""Colours and moves of the cursor, titles and links of a terminal window, and the rest."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""All control characters but tab and newline, and those that turn the direction of a text."""


def clean(text: str) -> str:
    r"""Return a text without escape sequences and control characters; tabs and newlines stay.

    Example:
        >>> clean("a \x1b[31mred\x1b[0m\x07 door\n")
        'a red door\n'
    """
    without = _ESCAPES.sub("", text.replace("\r\n", "\n"))
    return _CONTROL.sub(lambda found: " " if found[0].isspace() else "", without)


def short(value: object, width: int = 60) -> str:
    """Return how Python writes a value, cut where it is long.

    Example:
        >>> short("a" * 100, width=10)
        "'aaaaaaaa…"
    """
    text = repr(value[: width + 1] if isinstance(value, str | list | tuple) else value)
    return text if len(text) <= width else text[: width - 1] + "…"


def listed(names: Iterable[object], most: int = 12) -> str:
    """Return names for a message, the first so many of them.

    Example:
        >>> listed(range(5), most=3)
        '0, 1, 2 and 2 more'
    """
    shown = [name if len(name) <= 60 else name[:59] + "…" for name in (clean(str(name)) for name in names)]
    further = f" and {len(shown) - most:,} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + further


def counted(number: int, what: str, plural: str = "s") -> str:
    """Return a number and what it counts.

    Example:
        >>> counted(1, "row"), counted(2000, "row"), counted(0, "batch", "es")
        ('1 row', '2,000 rows', '0 batches')
    """
    return f"{number:,} {what}{'' if number == 1 else plural}"


def percent(share: float) -> str:
    """Return a share in whole per cent, which never makes all of much or nothing of little.

    Example:
        >>> [percent(share) for share in (0.0, 0.001, 0.123, 0.999, 1.0)]
        ['0 %', 'under 1 %', '12 %', 'over 99 %', '100 %']
    """
    if 0 < share < 0.01:
        return "under 1 %"
    return "over 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"
