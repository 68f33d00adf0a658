"""When two texts are the same text."""

from __future__ import annotations

import unicodedata


def normalise_text(text: str) -> str:
    """Return the identity key of a text: Unicode NFKC, case folded, each run of whitespace made one space.

    Example:
        >>> normalise_text("  Data   Scientist ")
        'data scientist'
    """
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())
