"""Negatives of training records: chosen before training, and again while it goes on if the strategy wants that.

Notable decisions:

- Choosing again is simple: training waits. With several processes each chooses, and all take what the first one chose.
- Documents are those of the records as they were given, so that what was chosen before never counts as given.
- The ids of what was chosen are part of a checkpoint: the model that chose them is gone by then.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.negatives.contracts import Moment, NegativeStrategy
from contrastive.negatives.pool import Pool
from contrastive.negatives.summary import Summary, described, summarise
from contrastive.training.data_module import ContrastiveData
from contrastive.training.module import ContrastiveModule

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


class MineNegatives(Callback):
    """Puts the negatives that a strategy chooses after the records' own: first before training, if nobody did by then.

    Args:
        data: Whose records they are for; one for which no document remains stays as it was given.
        strategy: Chooses from all documents of the records. One with a method `is_due` is asked again, with the encoder
            as it is by then.
        cache: Keeps the embeddings of the first choice from run to run.

    Attributes:
        history: What came of each choice, those before a resumed checkpoint included.

    Raises:
        ValueError: If records have scores, so that their positives may not be relevant, or a teacher's scores, which
            documents chosen later would lack.
    """

    def __init__(self, data: ContrastiveData, strategy: NegativeStrategy, cache: EmbeddingCache | None = None) -> None:
        if any(record.score is not None or record.teacher_scores is not None for record in data.records):
            raise ValueError("expected records without score and teacher_scores to choose negatives for, got some with")
        self.data = data
        self.given = data.records
        self.strategy = strategy
        self.cache = cache
        self.pool = Pool.of_records(self.given)
        self.history: list[Choice] = []
        self._ids: list[tuple[str, ...]] = []
        self._logged = 0

    @property
    def summary(self) -> Summary:
        """What came of the last choice."""
        return self.history[-1].summary

    def choose(
        self, encoder: Any, *, step: int = 0, progress: float = 0.0, agreed: Callable[[Any], Any] = lambda ids: ids
    ) -> None:
        """Choose negatives, in place of those chosen before.

        Args:
            encoder: Embeds for a strategy that has no encoder of its own.
            step: Optimiser steps made.
            progress: Share of the training that is over, 0 to 1.
            agreed: Returns what the first of several processes passed to it.
        """
        started = time.perf_counter()
        cache = None if self.history else self.cache  # nobody asks again for what a model in training embeds
        chosen = self.strategy(self.pool, Moment(encoder, refresh=len(self.history), progress=progress, cache=cache))
        self._take(agreed([negatives.ids for negatives in chosen]))
        self.history.append(Choice(step, time.perf_counter() - started, summarise(chosen)))

    def is_due(self, *, step: int, steps_an_epoch: int) -> bool:
        """Tell whether negatives are to be chosen again after so many optimiser steps, and were not at this one yet."""
        due = getattr(self.strategy, "is_due", None)
        return due is not None and step != self.history[-1].step and due(step=step, steps_an_epoch=steps_an_epoch)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Choose, unless that was done, or again if it is due where a run is resumed."""
        assert isinstance(pl_module, ContrastiveModule)
        if not self.history:
            self.choose(pl_module.encoder, agreed=trainer.strategy.broadcast)
        self._follow(trainer, pl_module)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        """Choose again if it is due, for the next batch."""
        assert isinstance(pl_module, ContrastiveModule)
        self._follow(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what was chosen when, for a checkpoint."""
        return {"ids": self._ids, "history": [asdict(choice) for choice in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what was chosen before a checkpoint was written.

        Raises:
            ValueError: If that was for other records.
        """
        ids = [tuple(own) for own in state_dict["ids"]]
        unknown = {id_ for own in ids for id_ in own if id_ not in self.pool.place}
        if len(ids) != len(self.given) or unknown:
            raise ValueError(
                f"expected a checkpoint with negatives of these {len(self.given)} records, got one of {len(ids)} "
                f"with {len(unknown)} documents that are not there"
            )
        self._take(ids)
        self.history = [Choice(**{**past, "summary": Summary(**past["summary"])}) for past in state_dict["history"]]
        self._logged = len(self.history)

    def _follow(self, trainer: lightning.Trainer, module: ContrastiveModule) -> None:
        """Choose again if that is due and there is a step to come, and log each choice once."""
        step, batches = trainer.global_step, trainer.num_training_batches
        steps_an_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
        if step < module.total_steps and self.is_due(step=step, steps_an_epoch=steps_an_epoch):
            progress = step / module.total_steps
            self.choose(module.encoder, step=step, progress=progress, agreed=trainer.strategy.broadcast)
            taken = self.history[-1].seconds
            _log.info("Step %d: negatives chosen again in %.1f s: %s", step, taken, described(self.summary))
        if self._logged < len(self.history):
            self._logged = len(self.history)
            numbers = {**self.summary.numbers(), "negatives/seconds": self.history[-1].seconds}
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step)

    def _take(self, ids: list[tuple[str, ...]]) -> None:
        self._ids = ids
        self.data.records = [
            replace(
                record,
                negatives=record.negatives + tuple(self.pool.documents[self.pool.place[id_]] for id_ in own),
                negative_ids=pair.given + own,
                query_id=pair.query_id,
                positive_id=pair.positive_id,
            )
            for record, pair, own in zip(self.given, self.pool.pairs, ids, strict=True)
        ]
