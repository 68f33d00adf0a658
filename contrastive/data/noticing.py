"""What a person should know of a table before training on it, noted while its rows pass by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from contrastive.data.cells import is_missing, is_placeholder, looks_like_list, placeholder_remark
from contrastive.data.columns import Columns, Row
from contrastive.data.markup import has_markup, markup_fate
from contrastive.data.shown import clean, listed, percent

_ROLES = ("query", "positive", "negatives", "score", "query_id", "positive_id")
_FEW = 6
"""A column of more different values than this is no label."""
_WORDS_OF_LABELS = frozenset({"true", "false", "yes", "no"})


class Notes:
    """Notes on the rows of a table.

    Args:
        wanted: The columns that a person asked for.
        strip_html: Whether HTML is taken out.

    Attributes:
        rows: How many there were.
    """

    def __init__(self, wanted: Columns, *, strip_html: bool = False) -> None:
        self.rows = 0
        self._scores_are_said = wanted.score is not None
        self._used: dict[str, dict[str, None]] = {}
        self._values: dict[str, set[str] | None] = {}
        self._lists: Counter[str] = Counter()
        self._placeholders: Counter[str] = Counter()
        self._markup = 0
        self._strip_html = strip_html
        self._known: dict[tuple[str, ...], tuple[Sequence[tuple[str, bool]], Sequence[str]]] = {}

    def take(self, values: Mapping[str, Any], columns: Columns, row: Row) -> None:
        """Take down a row: its values, which columns they were read from, and what was read."""
        self.rows += 1
        names = tuple(values)
        if names not in self._known:
            self._known[names] = self._told(names, columns)
        texts, unused = self._known[names]
        for name, is_list in texts:
            self._look_at(name, values[name], is_list)
        self._markup += any(map(has_markup, row.positives))
        for name in unused:
            seen = self._values.setdefault(name, set())
            if seen is not None and not is_missing(values[name]):
                seen.add(str(values[name])[:20])
                if len(seen) > _FEW:
                    self._values[name] = None

    def _told(self, names: tuple[str, ...], columns: Columns) -> tuple[list[tuple[str, bool]], list[str]]:
        """Return which columns of such rows hold texts, and are lists, and which are not used."""
        for role in _ROLES:
            for name in columns.named(role) or ():
                self._used.setdefault(role, {})[name] = None
        used = {name for role in _ROLES for name in columns.named(role) or ()}
        texts = [name for role in _ROLES[:3] for name in columns.named(role) or ()]
        lists = columns.named("lists") or ()
        return [(name, name in lists) for name in texts], [name for name in names if name not in used]

    def _look_at(self, name: str, value: Any, is_list: bool) -> None:
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str):
                self._placeholders[name] += is_placeholder(text)
                self._lists[name] += not is_list and looks_like_list(text)

    @property
    def columns(self) -> dict[str, str]:
        """The columns that were read, by what they were read as."""
        return {role: ", ".join(names) for role, names in self._used.items()}

    @property
    def unused_columns(self) -> tuple[str, ...]:
        """The columns that hold something and were never used."""
        used = {name for names in self._used.values() for name in names}
        return tuple(name for name, seen in self._values.items() if seen != set() and name not in used)

    def remarks(self) -> tuple[str, ...]:
        """Return what else stands out, a sentence each."""
        found = [*self._labels()]
        for name, count in self._lists.items():
            if count:
                found.append(
                    f"{count:,} texts of column {name!r} look like lists and are one text each "
                    f"(columns.lists=[{name}] reads them as lists)"
                )
        negatives = self._used.get("negatives", {})
        for name, count in self._placeholders.items():
            if count:
                fate = "no negatives" if name in negatives else "used as texts"
                found.append(placeholder_remark(name, count, fate))
        if self._markup:
            fate = markup_fate(stripped=self._strip_html)
            found.append(f"{percent(self._markup / self.rows)} of the rows have HTML in a positive, {fate}")
        return tuple(map(clean, found))

    def _labels(self) -> Iterable[str]:
        if self._scores_are_said or "score" in self._used:
            return
        for name in self.unused_columns:
            seen = self._values[name]
            if seen is not None and _are_labels(seen):
                yield (
                    f"column {name!r} is not used, and looks like labels ({listed(sorted(seen))}): all its rows count "
                    f"as relevant (columns.score={name} takes it for the score, columns.score=false for something else)"
                )


def _are_labels(values: Iterable[str]) -> bool:
    """Whether a few different values look like labels: two or more small whole numbers, or yes and no."""
    values = {value.strip().lower().removesuffix(".0") for value in values}
    if len(values) < 2:
        return False
    return values <= _WORDS_OF_LABELS or all(value.lstrip("-").isdigit() and abs(int(value)) <= 10 for value in values)
