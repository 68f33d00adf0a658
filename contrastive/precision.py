"""Which precision trains fastest on a device: bfloat16 pays only where the hardware multiplies matrices in it."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["bf16-mixed", "32-true"]


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
