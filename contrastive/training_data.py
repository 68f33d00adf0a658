"""Batches for training: shuffled, shared among processes, and with the negatives that a strategy chose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from contrastive.batching import EpochBatches
from contrastive.contracts import Moment, NegativeStrategy, TextEncoder
from contrastive.data import Batch, Collator, Record, RetrievalTask
from contrastive.distributed import RankShare
from contrastive.negatives import Pool
from contrastive.negatives.summary import Summary, summarise


class ContrastiveData(lightning.LightningDataModule):
    """Serves shuffled batches of records, and the dev task.

    Under several processes each gets its share of every batch, and the whole dev task; the trainer must leave samplers
    as they are (`Trainer(use_distributed_sampler=False)`).

    Args:
        records: Training records.
        dev: The task to validate on, if there is one.
        batch_size: Pairs in a batch, of all processes together.
        seed: The order of the batches is a function of this and the epoch.
        num_negatives: At most so many hard negatives a query; None for all that the records have.
        negatives: Chooses further negatives from the training documents; see `contracts.NegativeStrategy`.
        encoder: Embeds for a strategy that has no encoder of its own.
        source_temperature: Of records from several data sets (see `contrastive.data.mixed`), 1 draws each once an
            epoch, a higher value the smaller data sets more often, infinity all equally; see `EpochBatches`.
        one_source: Whether each batch comes from one data set.

    Attributes:
        mined: What came of choosing negatives; None without a strategy.

    Raises:
        ValueError: If there are no records, a batch size below 1, or records without a source where it matters; and
            whatever `EpochBatches` and `add_negatives` refuse.
    """

    def __init__(
        self,
        records: Sequence[Record],
        dev: RetrievalTask | None,
        *,
        batch_size: int = 32,
        seed: int = 0,
        num_negatives: int | None = None,
        negatives: NegativeStrategy | None = None,
        encoder: TextEncoder | None = None,
        source_temperature: float = 1.0,
        one_source: bool = False,
    ) -> None:
        super().__init__()
        if not records:
            raise ValueError("expected at least one training record, got none")
        self.records: Sequence[Record] = records
        self.mined: Summary | None = None
        if negatives is not None:
            self.records, self.mined = add_negatives(records, negatives, Moment(encoder))
        self.dev = dev
        self.collate = Collator(self.records, num_negatives=num_negatives)
        self.batches = EpochBatches(
            len(self.records),
            batch_size=batch_size,
            seed=seed,
            sources=_sources(self.records) if one_source or source_temperature != 1 else None,
            temperature=source_temperature,
            one_source=one_source,
        )

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Turn validation off if there is nothing to validate on; Lightning warns of an empty loader."""
        if self.dev is None and self.trainer is not None:
            self.trainer.limit_val_batches = 0

    def train_dataloader(self) -> Iterable[Batch]:
        """Batches of records with their ids; under several processes, this one's share of each."""
        batches: EpochBatches | RankShare = self.batches
        if self.trainer is not None and self.trainer.world_size > 1:
            batches = RankShare(batches, rank=self.trainer.global_rank, num_ranks=self.trainer.world_size)
        return DataLoader(
            self.records,  # type: ignore[arg-type]  # any list is a data set
            batch_sampler=batches,
            collate_fn=self._collated,
        )

    def val_dataloader(self) -> Iterable[RetrievalTask]:
        """The dev task, whole, as the only item."""
        return DataLoader([self.dev], batch_size=None)  # type: ignore[arg-type]

    def _collated(self, records: Sequence[Record]) -> Batch:
        """Make a batch, of no rows too: the share of a rank when a batch has fewer rows than there are ranks."""
        if records:
            return self.collate(records)
        none = torch.empty(0, dtype=torch.long)
        return Batch([], [], query_ids=none, document_ids=none, positive_ids=none.view(0, 0), owners=none)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the device; a retrieval task is text and stays where it is."""
        if isinstance(batch, RetrievalTask):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


def _sources(records: Sequence[Record]) -> list[str]:
    """Return the source of each record."""
    bar = tqdm(records, desc="Reading sources", unit=" records", delay=5, leave=False, disable=None)
    sources = [record.source for record in bar]
    if not all(sources):
        raise ValueError(
            "expected records that name their source, for one_source or a source_temperature other than 1: those of "
            f"several data sets mixed; got {sources.count('')} of {len(sources)} without"
        )
    return sources


def add_negatives(
    records: Sequence[Record],
    strategy: NegativeStrategy,
    moment: Moment = Moment(),  # noqa: B008
) -> tuple[list[Record], Summary]:
    """Return the records with the negatives that a strategy chooses from their documents put after their own.

    Also returned is what came of it; a record for which no document remains is left as it is. All texts are then in
    memory, those of records that were on disk too.

    Raises:
        ValueError: If records have scores, so that their positives may not be relevant, or a teacher's scores, which
            documents chosen later would lack.
    """
    if any(record.score is not None or record.teacher_scores is not None for record in records):
        raise ValueError("expected records without score and teacher_scores to choose negatives for, got some with")
    pool = Pool.of_records(records)
    chosen = strategy(pool, moment)
    completed = [
        replace(
            record,
            negatives=record.negatives + tuple(pool.documents[pool.place[id_]] for id_ in negatives.ids),
            negative_ids=pair.given + negatives.ids,
            query_id=pair.query_id,
            positive_id=pair.positive_id,
        )
        for record, pair, negatives in zip(records, pool.pairs, chosen, strict=True)
    ]
    return completed, summarise(chosen)
