"""The columns of postings, so kept that a filter looks at each different value once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from contrastive.search.contracts import Filter, Metadata, Value, comparable


class Columns:
    """What N postings say beside their texts, column by column.

    Args:
        count: How many postings there are, N.
        values: The different values of each column.
        codes: Which of them each posting has, [N] by column; -1 for none.

    Example:
        >>> columns = Columns.of([{"place": "Berlin"}, {}, {"place": "Bonn"}, {"place": "Berlin"}])
        >>> columns.rows([Filter("place", "~", "ber")]).tolist()
        [True, False, False, True]
        >>> columns.counts("place")
        [('Berlin', 2), ('Bonn', 1)]
    """

    def __init__(
        self, count: int, values: Mapping[str, Sequence[Value]], codes: Mapping[str, NDArray[np.int32]]
    ) -> None:
        self.count = count
        self.values = values
        self.codes = codes

    @classmethod
    def of(cls, metadata: Iterable[Metadata]) -> Columns:
        """Return those of postings, one after the other."""
        known: dict[str, dict[tuple[type, Value], int]] = {}  # with the type: 1.0 and True are one key
        rows: dict[str, list[tuple[int, int]]] = {}
        count = 0
        for row, columns in enumerate(metadata):
            count = row + 1
            for name, value in columns.items():
                of_column = known.setdefault(name, {})
                rows.setdefault(name, []).append((row, of_column.setdefault((type(value), value), len(of_column))))
        codes = {name: np.full(count, -1, np.int32) for name in known}
        for name, pairs in rows.items():
            places, found = np.array(pairs).T
            codes[name][places] = found
        return cls(count, {name: [value for _, value in of_column] for name, of_column in known.items()}, codes)

    def rows(self, filters: Sequence[Filter]) -> NDArray[np.bool_]:
        """Return which postings pass all filters, [N]."""
        kept = np.ones(self.count, bool)
        for wanted in filters:
            if wanted.column not in self.values:
                kept &= wanted.holds(None)
                continue
            passing = [wanted.holds(comparable(value)) for value in self.values[wanted.column]]
            kept &= np.array([*passing, wanted.holds(None)])[self.codes[wanted.column]]  # -1 is the last
        return kept

    def counts(self, name: str, kept: NDArray[np.bool_] | None = None) -> list[tuple[Value, int]]:
        """Return how many postings, of all or those kept [N], have each value of a column, the most frequent first."""
        codes = self.codes[name] if kept is None else self.codes[name][kept]
        numbers = np.bincount(codes[codes >= 0], minlength=1)
        order = np.argsort(-numbers, kind="stable").tolist()
        return [(self.values[name][code], int(numbers[code])) for code in order if numbers[code]]
