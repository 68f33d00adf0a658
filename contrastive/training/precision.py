"""In which precision to train: weights stay float32, and bfloat16 pays where the hardware multiplies matrices in it.

Notable decision: what keeps the weights themselves in 16 bits is refused. A step changes a weight by about the learning
rate, which is less than half the distance to the next bfloat16 number for nearly all of them: they stay where they are,
and the run ends as if nothing were wrong.
"""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["bf16-mixed", "32-true"]
SUPPORTED = ("32-true", "bf16-mixed", "16-mixed")
"""What keeps float32 weights, by the names that Lightning uses."""
_OTHER_NAMES = {"None": "32-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def check_precision(precision: str | int | None) -> None:
    """Refuse a precision of Lightning's in which the weights are not float32.

    Raises:
        ValueError: If it is one, or no precision at all.

    Example:
        >>> check_precision("bf16-mixed")
    """
    if _OTHER_NAMES.get(str(precision), precision) not in SUPPORTED:
        raise ValueError(
            f"expected trainer.precision to be {', '.join(SUPPORTED)} or auto, got {precision}: the weights are "
            "trained in float32, since the small steps of training are lost in 16 bits and gain nothing from 64"
        )


def fastest_precision(device_type: str) -> Precision:
    """Return the precision in which a device trains fastest, by the names that Lightning uses.

    On a processor `bf16-mixed` (a bfloat16 encoder, float32 logits) if it has AMX tiles for it: measured with MiniLM on
    two cores, it is 1.5 to 1.7 times as fast there, and slower with AVX-512 instructions alone. On a CUDA device from
    compute capability 8.0.

    Args:
        device_type: "cpu", "cuda" or another type of torch device.

    Example:
        >>> fastest_precision("meta")
        '32-true'
    """
    if device_type == "cpu":
        ask = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch that is supported
        gains = ask is not None and bool(ask().get("amx_bf16"))
    else:
        gains = device_type == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
    return "bf16-mixed" if gains else "32-true"
