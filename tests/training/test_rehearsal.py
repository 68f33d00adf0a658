"""What could not be learnt is refused before training, and what could is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_training import records
from torch import Tensor, nn

from contrastive.data import Record
from contrastive.encoder import Encoder
from contrastive.losses import ContrastiveLoss, CoSENTLoss, InfoNCELoss, SigLIPLoss, TripletLoss
from contrastive.training import ContrastiveData, rehearsal

NOTHING = "expected batches from which {} can learn, got none: its gradient is zero for any embeddings in all {} that"


def rehearse(encoder: Encoder, loss: nn.Module, items: list[Record], remembers: bool = False, **batches: Any) -> None:
    data = ContrastiveData(items, None, **batches)
    rehearsal.rehearse(loss, data.rehearsals(), encoder.dimension, remembers=remembers)
    assert data.batches.state_dict()["batches"] == 0


def of_one_document(count: int) -> list[Record]:
    return [Record(f"chef {i}", "the kitchen job") for i in range(count)]


@pytest.mark.parametrize(
    ("loss", "items", "batches", "tried"),
    [
        (InfoNCELoss(), records(5), {"batch_size": 1}, "5 that were tried, of 1 pair each"),
        (TripletLoss(), records(5), {"batch_size": 1}, "5 that were tried, of 1 pair each"),
        (InfoNCELoss(symmetric=True), records(250), {"batch_size": 1}, "84 that were tried, of 1 pair each"),
        (InfoNCELoss(), of_one_document(6), {"batch_size": 4}, "2 that were tried, of 2 to 4 pairs each"),
        (
            InfoNCELoss(),
            [record for text in ("nurse", "chef") for record in (Record(f"{text} {i}", text) for i in range(4))],
            {"batch_size": 4, "rows_per_document": 4},
            "2 that were tried, of 4 pairs each",
        ),
        (
            CoSENTLoss(),
            [replace(record, score=0.5) for record in records(8)],
            {"batch_size": 4},
            "2 that were tried, of 4 pairs each",
        ),
    ],
    ids=["one pair", "triplets of one", "spread", "one document", "documents together", "one score"],
)
def test_batches_without_anything_to_learn_are_refused(
    loss: nn.Module, items: list[Record], batches: dict[str, Any], tried: str, tiny_encoder: Encoder
) -> None:
    name = type(loss).__name__
    with pytest.raises(ValueError, match=NOTHING.format(name, tried.partition(" ")[0])) as refused:
        rehearse(tiny_encoder, loss, items, **batches)
    assert f"{tried}. Most losses need" in str(refused.value)


@pytest.mark.parametrize(
    ("loss", "items", "batches"),
    [
        (InfoNCELoss(), [replace(record, negatives=("a chef",)) for record in records(3)], {"batch_size": 1}),
        (InfoNCELoss(), [*records(7), replace(records(8)[7], negatives=("a chef",))], {"batch_size": 1}),
        (InfoNCELoss(), records(3), {"batch_size": 1, "remembers": True}),
        (InfoNCELoss(), [Record("chef", f"job {i}") for i in range(8)] + records(8), {"batch_size": 8}),
        (SigLIPLoss(), records(2), {"batch_size": 1}),
        (ContrastiveLoss(margin=0.1), [replace(record, score=0.0) for record in records(4)], {"batch_size": 4}),
    ],
    ids=["own negatives", "few negatives", "queue", "one query first", "pulls only", "far apart"],
)
def test_what_can_be_learnt_from_is_not(
    loss: nn.Module, items: list[Record], batches: dict[str, Any], tiny_encoder: Encoder
) -> None:
    rehearse(tiny_encoder, loss, items, **batches)


def test_a_loss_that_does_not_look_at_the_embeddings_is_refused(tiny_encoder: Encoder) -> None:
    class Constant(nn.Module):
        def forward(self, queries: Tensor, keys: Tensor) -> Tensor:  # noqa: ARG002
            return torch.tensor(1.0)

    with pytest.raises(ValueError, match=NOTHING.format("Constant", 2)):
        rehearse(tiny_encoder, Constant(), records(), batch_size=4)


def test_a_batch_of_texts_that_are_cut_to_one_says_nothing_of_the_others(tiny_encoder: Encoder) -> None:
    tiny_encoder.max_length = 5
    items = [Record(query, f"the same beginning of a posting for a {query}") for query in ("nurse", "chef")]
    rehearse(tiny_encoder, InfoNCELoss(), items, batch_size=2)
