"""Embedding the training texts by a guide, for losses such as GIST, once and before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import lightning
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from contrastive.data.batch import Batch
from contrastive.encoder.embedding_cache import EmbeddingCache, KeyedEncoder
from contrastive.similarity import TokenVectors
from contrastive.training.data_module import ContrastiveData
from contrastive.training.guide_embeddings import GuideEmbeddings
from contrastive.training.module import ContrastiveModule


class EmbedByGuide(Callback):
    """Gives batches, and keys that a memory appends, their embeddings by a guide.

    Args:
        data: Whose texts to embed.
        guide: A model that is not trained.
        cache: Keeps its embeddings from run to run; one process then makes them, and the others read them.
    """

    def __init__(self, data: ContrastiveData, guide: KeyedEncoder, cache: EmbeddingCache | None = None) -> None:
        self.data = data
        self.guide: KeyedEncoder | None = guide
        self.cache = cache

    def rehearsed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Embed the texts of batches one by one, before all are embedded."""
        assert self.guide is not None
        for batch in batches:
            queries: Tensor | TokenVectors = self.guide.encode(
                batch.queries, side="query", show_progress=False, as_numpy=False
            )
            keys: Tensor | TokenVectors = self.guide.encode(
                batch.documents, side="document", show_progress=False, as_numpy=False
            )
            guides = [each.padded() if isinstance(each, TokenVectors) else each for each in (queries, keys)]
            yield replace(batch, guide_queries=guides[0], guide_keys=guides[1])

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Embed all texts."""
        if stage != "fit" or self.guide is None:
            return
        if isinstance(self.guide, nn.Module):
            self.guide.to(trainer.strategy.root_device)
        shows_progress = trainer.progress_bar_callback is not None and trainer.is_global_zero
        self.data.guides = GuideEmbeddings.of(
            self.guide, self.data.records, self.data.collate, self.cache, show_progress=shows_progress
        )
        self.guide = None  # its weights are no longer needed

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Give a module that remembers keys their embeddings by the guide."""
        assert isinstance(pl_module, ContrastiveModule)
        if pl_module.memory is not None and self.data.guides is not None:
            pl_module.guide_documents = self.data.guides.documents.to(pl_module.device)
