"""Names of columns: "Job Title", "job_title" and "JobTitle" are one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from contrastive.data.shown import listed


def words(name: str) -> str:
    """Return a name in lower case, its words joined by underscores.

    Example:
        >>> [words(name) for name in ("Job Title ", "jobTitle", "query-id", "ID", "Sentence1")]
        ['job_title', 'job_title', 'query_id', 'id', 'sentence1']
    """
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\W_]+", "_", parted).strip("_").lower()


def letters(name: str) -> str:
    """Return a name in lower case, without what stands between its words.

    Example:
        >>> [letters(name) for name in ("Job Title", "job_title", "JobTitle")]
        ['jobtitle', 'jobtitle', 'jobtitle']
    """
    return words(name).replace("_", "")


def find(wanted: str, names: Iterable[str]) -> str | None:
    """Return the name, among those of a table, that is the same as the one wanted: exactly or else by its letters.

    Raises:
        ValueError: If it could be any of several.
    """
    same = [name for name in names if letters(name) == letters(wanted)]
    if wanted in same or len(same) < 2:
        return wanted if wanted in same else next(iter(same), None)
    raise ValueError(f"the column {wanted!r} could be {' or '.join(map(repr, same))}")


def first_usual(usual: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the name that comes first among the usual ones, if any of them is there."""
    there = {letters(name) for name in names}
    known = next((name for name in usual if letters(name) in there), None)
    return None if known is None else find(known, names)


def there_are(names: Iterable[str]) -> str:
    """Say which columns there are, for a message."""
    some = listed(map(repr, names))
    return f"There are {some}" if some else "There are none"
