"""A batch: what is known of its texts is known of their embeddings, and of use to whoever names it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from contrastive.data.batch import KNOWN, Batch, EmbeddedBatch, loss_arguments


def whole_batch() -> Batch:
    """Two texts of each side, and something of everything that may be known."""
    known: dict[str, Any] = {name: torch.full((2, 1), place) for place, name in enumerate(KNOWN)}
    return Batch(["a", "b"], ["c", "d"], torch.arange(2), **known)


def test_whatever_is_known_of_the_texts_is_known_of_the_embeddings() -> None:
    batch = whole_batch()
    found = batch.embedded(torch.eye(2), torch.eye(2))
    assert len(found) == len(batch) == 2
    for name in KNOWN:
        assert getattr(found, name) is getattr(batch, name) is not None


def test_a_batch_moves_whole() -> None:
    moved = whole_batch().to("meta")
    assert {getattr(moved, name).device.type for name in (*KNOWN, "query_ids")} == {"meta"}
    assert moved.queries == ["a", "b"]


@pytest.mark.parametrize("name", KNOWN)
def test_a_loss_is_given_what_it_names(name: str) -> None:
    class Asks(torch.nn.Module):
        def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
            return queries.sum() + keys.sum()

    scope: dict[str, Any] = {}
    exec(f"def forward(self, queries, keys, *, {name}): ...", scope)
    Asks.forward = scope["forward"]
    found = whole_batch().embedded(torch.eye(2), torch.eye(2))
    assert loss_arguments(Asks(), found) == {name: getattr(found, name)}
    with pytest.raises(ValueError, match=f"Asks needs {name}, which the training records do not have"):
        loss_arguments(Asks(), EmbeddedBatch(torch.eye(2), torch.eye(2)))
