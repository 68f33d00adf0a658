from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from small_training import fit

from contrastive.encoder import Encoder
from contrastive.losses import InfoNCELoss
from contrastive.training import precision
from contrastive.training.precision import check_precision, measured_precision, precision_by_capability
from experiments.run.precision import settle_precision


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, "bf16-mixed"), ({"avx512_bf16": True, "amx_bf16": False}, "32-true"), ({}, "32-true")],
)
def test_a_processor_gains_with_tiles_only(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert precision_by_capability("cpu") == expected


def test_an_older_torch_knows_no_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision_by_capability("cpu") == "32-true"


@pytest.mark.parametrize(("capability", "expected"), [((8, 0), "bf16-mixed"), ((7, 5), "32-true")])
def test_a_cuda_device_gains_from_ampere_on(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert precision_by_capability("cuda") == expected


@pytest.mark.parametrize(
    ("half", "expected"),
    [
        (2.5, ("32-true", "bf16-mixed took 2.5 times as long here")),
        (0.95, ("32-true", "bf16-mixed took 0.9 times as long here")),
        (0.5, ("bf16-mixed", "32-true took 2.0 times as long here")),
    ],
)
def test_a_processor_takes_bfloat16_where_that_is_clearly_faster(
    half: float, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {"32-true": iter([9.0, 1.0, 7.0, 1.0, 1.0, 1.0]), "bf16-mixed": iter([0.1, *[half] * 5])}
    monkeypatch.setattr(precision, "_LONGEST", 60)
    monkeypatch.setattr(precision, "_step", lambda *call: next(taken[call[-1]]))
    assert measured_precision(32, 2, 64) == expected


def test_measuring_ends_soon_computes_in_both_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[torch.dtype] = []
    linear = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda *call: (out := linear(*call), kinds.append(out.dtype))[0])
    monkeypatch.setattr(precision, "_LONGEST", 0)
    state = torch.get_rng_state()
    assert measured_precision(32, 2, 64)[0] in ("32-true", "bf16-mixed")
    assert kinds == [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16] * 2
    assert torch.equal(torch.get_rng_state(), state)


def test_all_processes_of_a_run_take_what_the_first_measured(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settled(rank: int) -> str:
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        trainer = OmegaConf.create({"precision": "auto", "accelerator": "cpu"})
        settle_precision(trainer, tiny_encoder)
        return str(trainer.precision)

    monkeypatch.delenv("CONTRASTIVE_PRECISION", raising=False)
    monkeypatch.setattr("experiments.run.precision.precision_by_capability", lambda _: "32-true")
    monkeypatch.setattr("experiments.run.precision.measured_precision", lambda *_: ("bf16-mixed", "said"))
    assert [settled(0), settled(1)] == ["bf16-mixed", "bf16-mixed"]
    # Started by torchrun, none has heard of another.
    monkeypatch.delenv("CONTRASTIVE_PRECISION")
    monkeypatch.setattr("experiments.run.precision.started_from_outside", lambda: True)
    assert [settled(0), settled(1)] == ["32-true", "32-true"]


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
