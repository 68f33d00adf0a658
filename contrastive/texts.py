"""When two texts are the same text."""

from __future__ import annotations

import re
import unicodedata


def normalise_text(text: str) -> str:
    """Return the identity key of a text: Unicode NFKC, case folded, each run of whitespace made one space.

    Example:
        >>> normalise_text("  Data   Scientist ")
        'data scientist'
    """
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def query_key(query: str) -> str:
    """Return the identity key of a query: as of any text, with commas, semicolons, slashes and bars for spaces.

    Example:
        >>> query_key("SQL,  Python/Spark")
        'sql python spark'
    """
    normalised = normalise_text(query)
    return " ".join(filter(None, re.split(r"[\s,;/|]+", normalised))) or normalised


def word_order_key(query: str) -> str:
    """Return what a query has in common with the same words in another order, which may say something else.

    Example:
        >>> word_order_key("from Rome to Bari") == word_order_key("from Bari to Rome")
        True
    """
    return " ".join(sorted(query_key(query).split()))
