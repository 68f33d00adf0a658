"""Batches for training: shuffled, shared among processes, made of the records as they are by then.

Notable decisions:

- By default rows with the same document may meet in a batch: losses are told (`exclude`) and leave it out, or take it
  as a further positive, so that this costs a few negatives and no correctness. Keeping such rows apart would take
  those positives from the losses that want them, and makes short batches where a document has many queries.
- The position in an epoch is that of Lightning's own progress, batches whose step was made: one that was being worked
  on when the run ended comes again, with those of the same step, and none is lost that a loader had only asked for.
- It embeds nothing and asks no model: callbacks do, and leave here what came of it (`training.callbacks`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any, Literal

import lightning
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from contrastive.data import Collator, Record, RetrievalTask
from contrastive.data.batch import Batch
from contrastive.data.batching import EpochBatches
from contrastive.data.batching.late_loader import LateLoader
from contrastive.training.accumulation import batches_of_steps
from contrastive.training.distributed import RankShare
from contrastive.training.guide_embeddings import GuideEmbeddings

_log = logging.getLogger(__name__)


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
        source_temperature: Of records from several data sets (see `contrastive.data.mixed`), 1 draws each once an
            epoch, a higher value the smaller data sets more often, infinity all equally; see `EpochBatches`.
        one_source: Whether each batch comes from one data set.
        no_duplicates: What may come only once in a batch: nothing with `none`; with `exact` the text of a query or
            positive document, on whichever side; with `near` also what is nearly the same as a positive document, see
            `near_duplicate_groups`.
        rows_per_document: Rows with the same positive document to put in a batch together, where there are so many; for
            losses with batch mining.

    Attributes:
        records: Training records, those of the next batch; whoever replaces them keeps queries and positives, and takes
            negatives from the documents of the data.
        batches: Which rows go together.
        guides: Embeddings of all texts by a guide, which come with the batches; None for none.

    Raises:
        ValueError: If there are no records, a batch size below 1, or records without a source where it matters; if rows
            are to be both together and apart; and whatever `EpochBatches` refuses.
    """

    def __init__(
        self,
        records: Sequence[Record],
        dev: RetrievalTask | None,
        *,
        batch_size: int = 32,
        seed: int = 0,
        num_negatives: int | None = None,
        source_temperature: float = 1.0,
        one_source: bool = False,
        no_duplicates: Literal["none", "exact", "near"] = "none",
        rows_per_document: int = 1,
    ) -> None:
        super().__init__()
        if not records:
            raise ValueError("expected at least one training record, got none")
        if rows_per_document > 1 and no_duplicates != "none":
            raise ValueError(
                "expected rows of a document to come together, or no duplicates; "
                f"got rows_per_document={rows_per_document}, no_duplicates={no_duplicates}"
            )
        self.records = records
        self.dev = dev
        self.collate = Collator(records, num_negatives=num_negatives)
        self.batches = EpochBatches(
            len(records),
            batch_size=batch_size,
            seed=seed,
            sources=_sources(records) if one_source or source_temperature != 1 else None,
            temperature=source_temperature,
            one_source=one_source,
            identities=_identities(records, self.collate, no_duplicates),
            classes=[own[1] for own in self.collate.identities(records)] if rows_per_document > 1 else None,
            rows_per_class=rows_per_document,
        )
        fewest = -(-len(records) // batch_size)
        if no_duplicates != "none" and not one_source and len(self.batches) > fewest:
            _log.warning(
                "%d batches in place of %d, some of them short: no_duplicates=%s keeps the rows of a query or document "
                "apart, and one has many",
                *(len(self.batches), fewest, no_duplicates),
            )
        self.guides: GuideEmbeddings | None = None

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Turn validation off if there is nothing to validate on; Lightning warns of an empty loader."""
        if self.dev is None and self.trainer is not None:
            self.trainer.limit_val_batches = 0

    def train_dataloader(self) -> Iterable[list[int]]:
        """Row numbers of each batch, see `batch`; under several processes, those of this one's share."""
        batches: EpochBatches | RankShare = self.batches
        if self.trainer is not None and self.trainer.world_size > 1:
            batches = RankShare(batches, rank=self.trainer.global_rank, num_ranks=self.trainer.world_size)
        rows: Any = range(len(self.records))
        return LateLoader(rows, batch_sampler=batches, collate_fn=list)

    def val_dataloader(self) -> Iterable[RetrievalTask]:
        """The dev task, whole, as the only item."""
        # A generator of its own draws nothing from that of dropout: training is the same however often this is asked.
        return DataLoader([self.dev], batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]

    def batch(self, rows: Sequence[int]) -> Batch:
        """Make the batch of some rows, with the guide's embeddings if there are any.

        No rows make a batch too: the share of a rank when a batch has fewer rows than there are ranks.
        """
        if not rows:
            none = torch.empty(0, dtype=torch.long)
            batch = Batch([], [], none, key_ids=none, positive_ids=none.view(0, 0), owners=none)
        else:
            batch = self.collate([self.records[row] for row in rows])
        return batch if self.guides is None else self.guides.added_to(batch)

    def rehearsals(self, count: int = 100) -> Iterator[Batch]:
        """Make at most `count` batches, spread over the coming epoch as it is without clusters."""
        order = list(copy(self.batches))  # whose own position stays as it is
        for place in range(0, len(order), -(-len(order) // count)):
            yield self.batch(order[place])

    def state_dict(self) -> dict[str, Any]:
        """Return where training is in the epoch, for the checkpoint."""
        if self.trainer is None:
            return {"batches": self.batches.state_dict()}
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        seen = batches_of_steps(
            progress.current.ready,
            progress.current.processed,
            accumulate=self.trainer.accumulate_grad_batches,
            is_last=progress.is_last_batch,
        )
        return {"batches": self.batches.state_dict(seen)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written.

        Raises:
            ValueError: If batches are made of other rows, or in another way.
        """
        self.batches.load_state_dict(state_dict["batches"])

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Make the batch of row numbers here and not in the loader, which may be a few batches ahead of the model."""
        return self.batch(batch) if isinstance(batch, list) else batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the device; a retrieval task is text and stays where it is."""
        if isinstance(batch, RetrievalTask):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


def _identities(
    records: Sequence[Record], collate: Collator, no_duplicates: Literal["none", "exact", "near"]
) -> list[tuple[str, ...]] | None:
    """Return what no two rows of a batch may share."""
    if no_duplicates not in ("none", "exact", "near"):
        raise ValueError(f"expected no_duplicates to be none, exact or near, got {no_duplicates!r}")
    return None if no_duplicates == "none" else collate.identities(records, near=no_duplicates == "near")


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
