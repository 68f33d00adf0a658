"""Which rows go together in a batch, and in what order the batches come."""

from contrastive.data.batching.epoch_batches import EpochBatches

__all__ = ["EpochBatches"]
