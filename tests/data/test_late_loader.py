from __future__ import annotations

from lightning.fabric.utilities.data import _set_sampler_epoch

from contrastive.data.batching import EpochBatches
from contrastive.data.batching.late_loader import LateLoader


def collate(rows: list[int]) -> list[int]:
    return rows


def test_an_iterator_made_too_early_still_gives_the_epoch_set_later() -> None:
    for workers in (0, 1):
        batches = EpochBatches(20, batch_size=4, seed=0)
        loader = LateLoader(
            range(20),
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
        iterator = iter(loader)
        _set_sampler_epoch(loader, 3)
        found = list(iterator)
        batches.set_epoch(3)
        assert found == list(batches)
        assert len(loader) == 5
