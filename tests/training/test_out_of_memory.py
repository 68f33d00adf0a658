"""Running out of memory says which settings need less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import fit
from torch import Tensor, nn

from contrastive.encoder import Encoder, load_encoder
from contrastive.losses import InfoNCELoss
from contrastive.training.out_of_memory import OutOfMemoryError, advising

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nFurther lines"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError("Unable to allocate 9 GiB for an array"),
]


class Full(nn.Module):
    """A loss that runs out of memory, in the forward or in the backward pass."""

    def __init__(self, error: Exception, *, backward: bool) -> None:
        super().__init__()
        self.error, self.backward = error, backward

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        if not self.backward:
            raise self.error
        loss = InfoNCELoss()(queries, keys)
        loss.register_hook(self.fail)
        return loss

    def fail(self, _gradient: Tensor) -> None:
        raise self.error


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_either_pass_says_what_helps(error: Any, backward: bool, tiny_encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError, match=r"out of memory at step 0 of epoch 0 \(.*\)") as stopped:
        fit(tiny_encoder, Full(error, backward=backward), tmp_path)
    said = str(stopped.value)
    assert "What helps: trainer.cached=true, " in said
    assert "; then encoder.tokens_per_batch=16 (half of now)" in said
    assert "Further lines" not in said
    assert stopped.value.__cause__ is error


def test_a_cached_step_is_not_told_to_be_one(tiny_encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError, match=r"helps: encoder.tokens_per_batch=16 \(half of now\); then a smaller"):
        fit(tiny_encoder, Full(MemoryError(), backward=True), tmp_path, cached=True)


def test_the_budget_of_the_device_is_halved_where_none_is_set(tiny_model_folder: Path) -> None:
    towers = load_encoder(tiny_model_folder, two_towers=True)
    with pytest.raises(OutOfMemoryError, match="tokens_per_batch=2048 "), advising(towers, "now", cached=True):
        raise ERRORS[0]


def test_another_error_stays_what_it_is(tiny_encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"):
        fit(tiny_encoder, Full(RuntimeError("shapes do not fit"), backward=False), tmp_path)
