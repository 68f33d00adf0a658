"""How good negatives are, where more is known than a strategy is told: false ones, and what each filter is right about.

A strategy is shown each pair's own positive alone, as if nothing else had been judged. The grades then say which of the
negatives it chose are relevant, hence false, and which of those it refused: the precision of a filter is the share of
its refusals that were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contrastive.data import Record
from contrastive.negatives import REASONS, Mined, Moment, NegativeStrategy, Pool

CHOSEN = "chosen"


@dataclass(frozen=True, slots=True)
class Judged:
    """Candidates with the same fate.

    Attributes:
        count: How many.
        relevant: How many of them the grades call relevant.
    """

    count: int
    relevant: int

    @property
    def share(self) -> float:
        """Share that is relevant: of those refused a precision, of those chosen the rate of false negatives."""
        return self.relevant / self.count if self.count else float("nan")


def judge_filters(records: Sequence[Record], strategy: NegativeStrategy, moment: Moment) -> dict[str, Judged]:
    """Judge a strategy's choice by the grades of the records.

    Args:
        records: Training records, whose grades say what else is relevant.
        strategy: What chooses.
        moment: See `contracts.Moment`.

    Returns:
        By the name of the filter those that it refused, and those `chosen`. What must never be chosen whatever the
        filters (known positives, the query itself) is left out.

    Raises:
        ValueError: If the strategy mixes several sources.
    """
    if not isinstance(strategy, Mined):
        raise ValueError("expected a strategy of one source for --judge-filters, got a mixture")
    pool = Pool.of_records(records, only_own=True)
    relevant = _relevant(records, pool)
    counts = np.zeros((len(REASONS) + 1, 2), np.int64)
    depth = strategy.selection.filters.depth(pool, strategy.selection.count)
    for block in strategy.source(pool, depth, moment):
        for pair, ranks, reasons in strategy.selection.judge(pool, block, refresh=moment.refresh):
            documents = block.documents[pool.query_of[pair] - block.rows.start]
            fates = np.where(reasons == -1, -2, reasons)
            fates[ranks] = len(REASONS)
            hits = np.isin(documents, relevant[pair])
            for column, kept in enumerate((fates >= 0, (fates >= 0) & hits)):
                counts[:, column] += np.bincount(fates[kept], minlength=len(counts))
    names = (*REASONS, CHOSEN)
    always = ("itself", "known_positive", "already_given", "repeated")
    return {
        name: Judged(*row)
        for name, row in zip(names, counts.tolist(), strict=True)
        if (row[0] or name == CHOSEN) and name not in always
    }


def _relevant(records: Sequence[Record], pool: Pool) -> list[Sequence[int]]:
    """Return for each pair the places of the documents that its record's grades call relevant."""
    places: Mapping[str, int] = pool.place
    return [[places[id_] for id_, grade in record.grades.items() if grade > 0 and id_ in places] for record in records]
