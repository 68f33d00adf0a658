"""What a cell of a table holds: a text, a list of texts, ids or a score, checked."""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
from typing import Any

from contrastive.data.shown import clean, short

_PLACEHOLDERS = frozenset({"nan", "null", "none", "n/a", "#n/a", "<na>"})
_LIST = re.compile(r"\s*\[\s*(['\"].*['\"]\s*)?\]\s*", re.DOTALL)


def is_placeholder(text: str) -> bool:
    """Whether a text only says that there is none, such as the "nan" that pandas writes.

    Example:
        >>> [is_placeholder(text) for text in (" NaN", "N/A", "nancy", "")]
        [True, True, False, False]
    """
    return len(text) < 10 and text.strip().lower() in _PLACEHOLDERS


def placeholder_remark(column: str, count: int, fate: str) -> str:
    """Say how many cells of a column are placeholders, and what becomes of them."""
    return f"{count:,} cells of column {column!r} say nan, null, none or n/a: they are {fate}"


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, the NaN of JSON, or blanks."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def clean_id(value: object) -> str:
    """Return an id as text without blanks, which become underscores, since TREC files cannot hold them.

    What would control a terminal goes too, since ids are printed.

    Example:
        >>> clean_id(" Posting 7 b"), clean_id(7)
        ('Posting_7_b', '7')
    """
    return "_".join(clean(str(value)).split())


def looks_like_list(text: str) -> bool:
    """Whether a text is a list of texts as Python or JSON writes it."""
    return text[:1] in "[ \t\n" and _LIST.fullmatch(text) is not None


def as_list(name: str, value: Any) -> list[Any]:
    """Take a cell that holds a list, or a text that says one as Python or JSON writes it; without text there is none.

    Raises:
        ValueError: If the text says something else.

    Example:
        >>> as_list("skills", "['SQL', 'C++']")
        ['SQL', 'C++']
    """
    if isinstance(value, list):
        return value
    if is_missing(value):
        return []
    found: Any = None
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            found = _python_list(value)
    if not isinstance(found, list):
        raise ValueError(f"expected a list such as ['a', 'b'] in column {name!r}, got {described(value)}")
    return found


def _python_list(value: str) -> Any:
    """Return what Python makes of a text; None if nothing, or if it would join texts that no comma keeps apart."""
    try:
        found = ast.literal_eval(value.strip())
        kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(value.strip()).readline)]
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        return None
    # An array as NumPy prints it has no commas: ['a' 'b'] would be the one text "ab".
    return found if isinstance(found, list) and kinds.count(tokenize.STRING) == len(found) else None


def text(name: str, value: Any) -> str:
    """Take a cell that holds a text.

    Raises:
        ValueError: If it holds anything else.
    """
    if not isinstance(value, str):
        raise ValueError(f"expected a text in column {name!r}, got {described(value)}")
    return value


def texts(name: str, value: Any, *, nullable: bool = False) -> list[str]:
    """Take a cell of one text or a list of them; with `nullable` there may be none."""
    values = value if isinstance(value, list) else [value]
    return [text(name, one) for one in values if not (nullable and (one is None or one != one))]


def ids(name: str | bool | None, value: Any, count: int) -> tuple[str, ...]:
    """Take a cell of one id or a list of them, for so many texts; empty ids if the cell is null.

    Raises:
        ValueError: If there are more or fewer, or one is neither a text nor an integer.
    """
    if value is None:
        return ("",) * count
    several = value if isinstance(value, list) else [value]
    for id_ in several:
        if not isinstance(id_, str | int) or isinstance(id_, bool):
            raise ValueError(f"expected an id, a text or an integer, in column {name!r}, got {described(id_)}")
    if len(several) != count:
        raise ValueError(f"expected {count} ids, one for each text, in column {name!r}, got {len(several)}")
    return tuple(map(clean_id, several))


def score(name: str, value: Any) -> float:
    """Take a finite number, which in a CSV file is text.

    Raises:
        ValueError: If it is none.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"expected a finite number in column {name!r}, got {described(value)} (columns.score=false ignores scores)"
        )
    return number


def described(value: Any) -> str:
    """Say what a cell holds."""
    return "nothing (null)" if value is None else f"the {type(value).__name__} {short(value)}"
