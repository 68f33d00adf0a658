from pathlib import Path

import pytest
import torch
from small_training import fit

from contrastive.encoder import Encoder
from contrastive.losses import InfoNCELoss
from contrastive.training.precision import check_precision, fastest_precision


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, "bf16-mixed"), ({"avx512_bf16": True, "amx_bf16": False}, "32-true"), ({}, "32-true")],
)
def test_a_processor_gains_with_tiles_only(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert fastest_precision("cpu") == expected


def test_an_older_torch_knows_no_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fastest_precision("cpu") == "32-true"


@pytest.mark.parametrize(("capability", "expected"), [((8, 0), "bf16-mixed"), ((7, 5), "32-true")])
def test_a_cuda_device_gains_from_ampere_on(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert fastest_precision("cuda") == expected


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true", "transformer-engine", 64, "float8"])
def test_a_precision_that_loses_small_steps_is_refused_by_name(precision: str | int) -> None:
    with pytest.raises(ValueError, match=f"expected trainer.precision to be .*bf16-mixed.* or auto, got {precision}: "):
        check_precision(precision)


@pytest.mark.parametrize("precision", [None, 32, "32", "32-true", "bf16", "bf16-mixed", 16, "16-mixed"])
def test_a_precision_with_float32_weights_is_taken(precision: str | int | None) -> None:
    check_precision(precision)


def test_a_trainer_with_16_bit_weights_is_refused_before_any_step(tiny_encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected trainer\.precision to be .*, got bf16-true"):
        fit(tiny_encoder, InfoNCELoss(), tmp_path, precision="bf16-true")
