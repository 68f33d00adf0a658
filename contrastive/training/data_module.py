"""Batches for training: shuffled, shared among processes, and with the negatives that a strategy chose.

Notable decisions:

- By default rows with the same document may meet in a batch: losses are told (`exclude`) and leave it out, or take it
  as a further positive, so that this costs a few negatives and no correctness. Keeping such rows apart would take
  those positives from the losses that want them, and makes short batches where a document has many queries.
- The position in an epoch is that of Lightning's own progress, batches whose step was made: one that was being worked
  on when the run ended comes again, with those of the same step, and none is lost that a loader had only asked for.
- Clusters are part of the state; within an epoch they could not be made again from the encoder as it is by then.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Literal

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from contrastive.contracts import TextEncoder
from contrastive.data import Batch, Collator, Record, RetrievalTask
from contrastive.data.batching import EpochBatches
from contrastive.data.batching.clusters import k_means
from contrastive.data.batching.late_loader import LateLoader
from contrastive.encoder.embedding_cache import EmbeddingCache, KeyedEncoder
from contrastive.negatives.contracts import Moment, NegativeStrategy
from contrastive.training.accumulation import batches_of_steps
from contrastive.training.distributed import RankShare
from contrastive.training.guide_embeddings import GuideEmbeddings
from contrastive.training.record_negatives import RecordNegatives

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
        negatives: Chooses further negatives from the training documents; see `contracts.NegativeStrategy`.
        encoder: Embeds for a strategy that has no encoder of its own.
        source_temperature: Of records from several data sets (see `contrastive.data.mixed`), 1 draws each once an
            epoch, a higher value the smaller data sets more often, infinity all equally; see `EpochBatches`.
        one_source: Whether each batch comes from one data set.
        no_duplicates: What may come only once in a batch: nothing with `none`; with `exact` the text of a query or
            positive document, on whichever side; with `near` also what is nearly the same as a positive document, see
            `near_duplicate_groups`.
        clusters: Into how many clusters to put similar queries, each batch being from one of them; 0 for none. The
            `encoder` of the Lightning module makes them; without a trainer, call `recluster`.
        refresh_clusters: After how many epochs to make the clusters anew; None keeps those of the encoder before
            training.
        rows_per_document: Rows with the same positive document to put in a batch together, where there are so many; for
            losses with batch mining.
        guide: A model that is not trained, whose embeddings of all texts come with the batches, for `GISTLoss`.
        cache: Keeps embeddings from run to run, of the guide and of the encoder before training; without it every
            process makes them.

    Attributes:
        negatives: What was chosen, and what came of it; None without a strategy.

    Raises:
        ValueError: If there are no records, a batch size below 1, or records without a source where it matters; if
            clusters or `refresh_clusters` cannot be, or rows are to be both together and apart; and whatever
            `EpochBatches` and `RecordNegatives` refuse.
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
        no_duplicates: Literal["none", "exact", "near"] = "none",
        clusters: int = 0,
        refresh_clusters: int | None = 1,
        rows_per_document: int = 1,
        guide: KeyedEncoder | None = None,
        cache: EmbeddingCache | None = None,
    ) -> None:
        super().__init__()
        if not records:
            raise ValueError("expected at least one training record, got none")
        if not 0 <= clusters <= len(records) or (refresh_clusters is not None and refresh_clusters < 1):
            raise ValueError(
                f"expected from 0 to {len(records)} clusters, refreshed after one epoch or more, "
                f"got {clusters} and {refresh_clusters}"
            )
        if rows_per_document > 1 and (clusters or no_duplicates != "none"):
            raise ValueError(
                "expected rows of a document to come together, or clusters, or no duplicates; "
                f"got rows_per_document={rows_per_document}, clusters={clusters}, no_duplicates={no_duplicates}"
            )
        self.negatives = (
            None if negatives is None else RecordNegatives(records, negatives, Moment(encoder, cache=cache))
        )
        self._given = records
        self.dev = dev
        self.collate = Collator(self.records, num_negatives=num_negatives)
        self.batches = EpochBatches(
            len(self.records),
            batch_size=batch_size,
            seed=seed,
            sources=_sources(self.records) if one_source or source_temperature != 1 else None,
            temperature=source_temperature,
            one_source=one_source,
            identities=_identities(self.records, self.collate, no_duplicates),
            classes=[own[1] for own in self.collate.identities(self.records)] if rows_per_document > 1 else None,
            rows_per_class=rows_per_document,
        )
        fewest = -(-len(self.records) // batch_size)
        if no_duplicates != "none" and not one_source and len(self.batches) > fewest:
            _log.warning(
                "%d batches in place of %d, some of them short: no_duplicates=%s keeps the rows of a query or document "
                "apart, and one has many",
                *(len(self.batches), fewest, no_duplicates),
            )
        self.clusters = clusters
        self.refresh_clusters = refresh_clusters
        self.guides: GuideEmbeddings | None = None
        self._guide = guide
        self._cache = cache
        self._logged_choices = 0

    @property
    def records(self) -> Sequence[Record]:
        """Training records, with the negatives that are chosen now."""
        return self._given if self.negatives is None else self.negatives.records

    def prepare_data(self) -> None:
        """Embed the training texts by the guide: on one process of a machine, whose files the others then read."""
        self._embed_by_guide()

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Turn validation off if there is nothing to validate on; Lightning warns of an empty loader."""
        self._embed_by_guide()
        if self.dev is None and self.trainer is not None:
            self.trainer.limit_val_batches = 0

    def train_dataloader(self) -> Iterable[list[int]]:
        """Row numbers of each batch, see `batch`; under several processes, those of this one's share."""
        batches: EpochBatches | RankShare = self.batches
        if self.trainer is not None and self.trainer.world_size > 1:
            batches = RankShare(batches, rank=self.trainer.global_rank, num_ranks=self.trainer.world_size)
        return LateLoader(
            range(len(self.records)),
            batch_sampler=batches,
            collate_fn=list,
            before_pass=self._before_pass,
        )

    def val_dataloader(self) -> Iterable[RetrievalTask]:
        """The dev task, whole, as the only item."""
        # A generator of its own draws nothing from that of dropout: training is the same however often this is asked.
        return DataLoader([self.dev], batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]

    def batch(self, rows: Sequence[int]) -> Batch:
        """Make the batch of some rows with their present negatives and, once they are made, the guide's embeddings.

        No rows make a batch too: the share of a rank when a batch has fewer rows than there are ranks.
        """
        if not rows:
            none = torch.empty(0, dtype=torch.long)
            empty = Batch([], [], query_ids=none, document_ids=none, positive_ids=none.view(0, 0), owners=none)
            return empty if self.guides is None else self.guides.added_to(empty)
        batch = self.collate([self.records[row] for row in rows])
        return batch if self.guides is None else self.guides.added_to(batch)

    def rehearsal(self) -> Batch:
        """Make a batch of the first records, with guide embeddings if there are to be any, before all are embedded."""
        return self._rehearsed(range(min(self.batches.batch_size, len(self.records))))

    def rehearsals(self, count: int = 100) -> Iterator[Batch]:
        """Make at most `count` batches, spread over the coming epoch as it is without clusters; as `rehearsal`."""
        order = list(copy(self.batches))  # whose own position stays as it is
        for place in range(0, len(order), -(-len(order) // count)):
            yield self._rehearsed(order[place])

    def _rehearsed(self, rows: Sequence[int]) -> Batch:
        batch = self.collate([self.records[row] for row in rows])
        if self._guide is None:
            return batch if self.guides is None else self.guides.added_to(batch)
        return replace(
            batch,
            guide_queries=self._guide.encode(batch.queries, side="query", show_progress=False, as_numpy=False),
            guide_keys=self._guide.encode(batch.documents, side="document", show_progress=False, as_numpy=False),
        )

    def recluster(self, encoder: TextEncoder, epoch: int) -> None:
        """Make clusters of the queries as an encoder sees them, if they are due at the start of this epoch.

        It takes as long as encoding all queries once. All processes get those of the first, so that they agree.
        """
        if not self.clusters or (epoch % self.refresh_clusters if self.refresh_clusters else epoch):
            return
        started = time.perf_counter()
        queries = [record.query for record in self.records]
        embeddings = encoder.encode(queries, side="query", show_progress=False, as_numpy=False)
        found = k_means(embeddings.cpu().numpy(), self.clusters, seed=self.batches.seed).tolist()
        if self.trainer is not None:
            found = self.trainer.strategy.broadcast(found)
        self.batches.regroup(found)
        seconds = time.perf_counter() - started
        _log.info(
            "Epoch %d: %s queries in %d clusters, in %.1f s", epoch, f"{len(queries):,}", len(set(found)), seconds
        )

    def state_dict(self) -> dict[str, Any]:
        """Return where training is in the epoch, for the checkpoint."""
        chosen = {} if self.negatives is None else {"negatives": self.negatives.state_dict()}
        if self.trainer is None:
            return {"batches": self.batches.state_dict(), **chosen}
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        seen = batches_of_steps(
            progress.current.ready,
            progress.current.processed,
            accumulate=self.trainer.accumulate_grad_batches,
            is_last=progress.is_last_batch,
        )
        return {"batches": self.batches.state_dict(seen), **chosen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written.

        Raises:
            ValueError: If batches are made of other rows, or in another way.
        """
        self.batches.load_state_dict(state_dict["batches"])
        if self.negatives is not None and "negatives" in state_dict:
            self.negatives.load_state_dict(state_dict["negatives"])
            self._logged_choices = len(self.negatives.history)

    def _before_pass(self) -> None:
        # Not in `on_train_epoch_start`: Lightning leaves it out if a run resumes just after an epoch's last batch.
        if self.clusters and self.trainer is not None and self.batches.start == 0:
            encoder: Any = self.trainer.lightning_module.encoder
            self.recluster(encoder, self.batches.epoch)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Make the batch of row numbers here and not in the loader, which may be a few batches ahead of the model."""
        if not isinstance(batch, list):
            return batch
        self._refresh_negatives()
        return self.batch(batch)

    def _refresh_negatives(self) -> None:
        """Choose negatives again if they are due, and log each choice once."""
        if self.negatives is None or self.trainer is None:
            return
        trainer: Any = self.trainer
        step, steps = trainer.global_step, math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        if self.negatives.is_due(step=step, steps_an_epoch=steps):
            progress = min(1.0, step / max(1, trainer.lightning_module.total_steps))
            self.negatives.refresh(
                trainer.lightning_module.encoder, step=step, progress=progress, agreed=trainer.strategy.broadcast
            )
        if self._logged_choices < len(self.negatives.history):
            self._logged_choices = len(self.negatives.history)
            choice = self.negatives.history[-1]
            for logger in trainer.loggers:
                logger.log_metrics({**choice.summary.numbers(), "negatives/seconds": choice.seconds}, step)

    def _embed_by_guide(self) -> None:
        if self._guide is None:
            return
        shows_progress = False
        if self.trainer is not None and isinstance(self._guide, nn.Module):
            self._guide.to(self.trainer.strategy.root_device)
            shows_progress = self.trainer.progress_bar_callback is not None and self.trainer.is_global_zero
        self.guides = GuideEmbeddings.of(
            self._guide, self.records, self.collate, self._cache, show_progress=shows_progress
        )
        self._guide = None  # its weights are no longer needed

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
