"""What every part that takes texts asks of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BETWEEN = re.compile(r"[,;|•·\n\r\t]|\band\b", re.IGNORECASE)


def check_texts(texts: Sequence[str]) -> None:
    """Refuse what is not a sequence of strings.

    Raises:
        TypeError: If it is one string, or holds something else; says what and where.
    """
    if isinstance(texts, str):
        raise TypeError(f"expected a sequence of texts, got one text: {texts[:40]!r}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"expected texts to be strings, got {type(text).__name__} at index {i}: {text!r:.40}")


def parts_of(query: str) -> list[tuple[int, int]]:
    """Say where the parts of a query start and end: what stands between commas, semicolons, line ends and "and".

    Blanks around a part are not in it; what has neither a letter nor a digit is none.

    Example:
        >>> query = "Python, SQL and 3 years;"
        >>> [query[start:end] for start, end in parts_of(query)]
        ['Python', 'SQL', '3 years']
    """
    cuts = [found.span() for found in _BETWEEN.finditer(query)]
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(query)]
    parts = []
    for start, end in zip(starts, ends, strict=True):
        part = query[start:end]
        if any(letter.isalnum() for letter in part):
            parts.append((start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())))
    return parts
