"""Negatives of training records: chosen before training, and again while it goes on if the strategy wants that.

Notable decisions:

- Choosing again is simple: training waits. With several processes each chooses, and all take what the first one chose.
- Documents are those of the records as they were given, so that what was chosen before never counts as given.
- The ids of what was chosen are part of a checkpoint: the model that chose them is gone by then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from contrastive.data.records import Record
from contrastive.negatives.contracts import Moment, NegativeStrategy
from contrastive.negatives.pool import Pool
from contrastive.negatives.summary import Summary, described, summarise

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """What came of choosing negatives.

    Attributes:
        step: Optimiser steps that had been made.
        seconds: What it took.
        summary: What was chosen and refused.
    """

    step: int
    seconds: float
    summary: Summary


class RecordNegatives:
    """Records with the negatives that a strategy chooses put after their own.

    Args:
        records: As they were given.
        strategy: Chooses from all documents of the records. One with a method `is_due` is asked again, see `refresh`.
        moment: Of the first choice.

    Attributes:
        records: With the negatives as last chosen; a record for which no document remains is as it was given.
        history: What came of each choice, those before a resumed checkpoint included.

    Raises:
        ValueError: If records have scores, so that their positives may not be relevant, or a teacher's scores, which
            documents chosen later would lack.
    """

    def __init__(self, records: Sequence[Record], strategy: NegativeStrategy, moment: Moment) -> None:
        if any(record.score is not None or record.teacher_scores is not None for record in records):
            raise ValueError("expected records without score and teacher_scores to choose negatives for, got some with")
        self.given = records
        self.strategy = strategy
        self.pool = Pool.of_records(records)
        self.history: list[Choice] = []
        self.records: list[Record] = []
        self._ids: list[tuple[str, ...]] = []
        self._choose(moment, step=0, agreed=lambda ids: ids)

    @property
    def summary(self) -> Summary:
        """What came of the last choice."""
        return self.history[-1].summary

    def is_due(self, *, step: int, steps_an_epoch: int) -> bool:
        """Tell whether negatives are to be chosen again after so many optimiser steps, and were not at this one yet."""
        due = getattr(self.strategy, "is_due", None)
        return due is not None and step != self.history[-1].step and due(step=step, steps_an_epoch=steps_an_epoch)

    def refresh(self, encoder: Any, *, step: int, progress: float, agreed: Callable[[Any], Any]) -> None:
        """Choose again, with the model in training.

        Args:
            encoder: The model as it is now.
            step: Optimiser steps made.
            progress: Share of the training that is over, 0 to 1.
            agreed: Returns what the first of several processes passed to it.
        """
        moment = Moment(encoder, refresh=len(self.history), progress=progress)
        self._choose(moment, step=step, agreed=agreed)
        _log.info(
            "Step %d: negatives chosen again in %.1f s: %s", step, self.history[-1].seconds, described(self.summary)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what was chosen when, for a checkpoint."""
        return {"ids": self._ids, "history": [asdict(choice) for choice in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what was chosen before a checkpoint was written.

        Raises:
            ValueError: If that was for other records.
        """
        ids = [tuple(own) for own in state["ids"]]
        unknown = {id_ for own in ids for id_ in own if id_ not in self.pool.place}
        if len(ids) != len(self.given) or unknown:
            raise ValueError(
                f"expected a checkpoint with negatives of these {len(self.given)} records, got one of {len(ids)} "
                f"with {len(unknown)} documents that are not there"
            )
        self._take(ids)
        self.history = [Choice(**{**past, "summary": Summary(**past["summary"])}) for past in state["history"]]

    def _choose(self, moment: Moment, *, step: int, agreed: Callable[[Any], Any]) -> None:
        started = time.perf_counter()
        chosen = self.strategy(self.pool, moment)
        self._take(agreed([negatives.ids for negatives in chosen]))
        self.history.append(Choice(step, time.perf_counter() - started, summarise(chosen)))

    def _take(self, ids: list[tuple[str, ...]]) -> None:
        self._ids = ids
        self.records = [
            replace(
                record,
                negatives=record.negatives + tuple(self.pool.documents[self.pool.place[id_]] for id_ in own),
                negative_ids=pair.given + own,
                query_id=pair.query_id,
                positive_id=pair.positive_id,
            )
            for record, pair, own in zip(self.given, self.pool.pairs, ids, strict=True)
        ]
