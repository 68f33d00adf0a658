"""Batches of queries that the encoder in training finds alike; see `data.batching.clusters`."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from contrastive.contracts import TextEncoder
from contrastive.data.batching.clusters import k_means
from contrastive.similarity import mean_vectors
from contrastive.training.data_module import ContrastiveData
from contrastive.training.module import ContrastiveModule

_log = logging.getLogger(__name__)


class ClusterQueries(Callback):
    """Puts similar queries into clusters, of one of which each batch is.

    The clusters are part of the state of the batches; within an epoch they could not be made again from the encoder as
    it is by then.

    Args:
        data: Whose batches they are.
        clusters: How many.
        refresh: After how many epochs to make them anew; None keeps those of the encoder before training.

    Raises:
        ValueError: If there cannot be so many, or batches are made of rows of one document.
    """

    def __init__(self, data: ContrastiveData, clusters: int, refresh: int | None = 1) -> None:
        if not 1 <= clusters <= len(data.records) or (refresh is not None and refresh < 1):
            raise ValueError(
                f"expected from 1 to {len(data.records)} clusters, refreshed after one epoch or more, "
                f"got {clusters} and {refresh}"
            )
        if data.batches.rows_per_class > 1:
            raise ValueError(
                "expected rows of a document to come together, or clusters, "
                f"got rows_per_document={data.batches.rows_per_class} and clusters={clusters}"
            )
        self.data = data
        self.clusters = clusters
        self.refresh = refresh
        self._epoch = -1  # the latest that was looked at

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Make them for the epoch that is begun here: Lightning leaves the next hook out where a run is resumed."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Make them anew, if they are due at the start of this epoch."""
        assert isinstance(pl_module, ContrastiveModule)
        epoch, before = trainer.current_epoch, self._epoch
        self._epoch = epoch
        if epoch != before and self.is_due(epoch):
            self.recluster(pl_module.encoder, trainer)

    def is_due(self, epoch: int) -> bool:
        """Tell whether an epoch begins with clusters of its own."""
        return epoch == 0 if self.refresh is None else epoch % self.refresh == 0

    def recluster(self, encoder: TextEncoder, trainer: lightning.Trainer | None = None) -> None:
        """Make clusters of the queries as an encoder sees them, which takes as long as encoding all queries once.

        Of several vectors a query, their mean counts.

        All processes get those of the first, so that they agree.
        """
        started = time.perf_counter()
        queries = [record.query for record in self.data.records]
        embeddings = encoder.encode(queries, side="query", show_progress=False, as_numpy=False)
        found = k_means(mean_vectors(embeddings).cpu().numpy(), self.clusters, seed=self.data.batches.seed).tolist()
        if trainer is not None:
            found = trainer.strategy.broadcast(found)
        self.data.batches.regroup(found)
        seconds = time.perf_counter() - started
        _log.info("%s queries in %d clusters, in %.1f s", f"{len(queries):,}", len(set(found)), seconds)

    def state_dict(self) -> dict[str, Any]:
        """Return for which epoch they were made."""
        return {"epoch": self._epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._epoch = state_dict["epoch"]
