"""What every part that takes texts asks of them."""

from __future__ import annotations

from collections.abc import Sequence


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
