"""The words that BM25 counts.

Chosen on the training queries of real postings (`python -m benchmarks.bm25`). A letter that stands alone is a word (R,
the R and the D of R&D), a digit is none: most are a number of years. C++, C#, F# and .NET are words, so that C is none
of them. What a slash, a point or a hyphen joins is two words (CI/CD, Node.js): as one it misses the documents that
write it in another way, and as one beside its two it gains nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from types import ModuleType

WORD = re.compile(r"\.net\b|[^\W\d_]\w*(?:\+\+|#)|\w\w+|[^\W\d_]")
"""A word, in lower case."""


def words(texts: Iterable[str], word: re.Pattern[str] = WORD) -> list[list[str]]:
    """Return the words of each text in lower case, without English stop words.

    Args:
        texts: Any number of them.
        word: What a word is.

    Example:
        >>> words(["C++, C# and .NET, 6 years of R", "the CI/CD"])
        [['c++', 'c#', '.net', 'years', 'r'], ['ci', 'cd']]
    """
    ignored = stop_words()
    return [[found for found in word.findall(text.lower()) if found not in ignored] for text in texts]


def import_bm25s() -> ModuleType:
    """Import bm25s, which starts JAX where that is installed, which takes most of a GPU's memory unless told not to."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import bm25s
    import bm25s.stopwords

    return bm25s  # type: ignore[no-any-return]


@cache
def stop_words() -> frozenset[str]:
    """Return the English words that do not count, in lower case."""
    return frozenset(import_bm25s().stopwords.STOPWORDS_EN)
