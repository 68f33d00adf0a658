"""In which precision to train: weights stay float32, and bfloat16 pays where the hardware multiplies matrices in it.

Notable decisions:

- What keeps the weights themselves in 16 bits is refused. A step changes a weight by about the learning rate, which is
  less than half the distance to the next bfloat16 number for nearly all of them: they stay where they are, and the run
  ends as if nothing were wrong.
- On a processor both are tried, on one transformer layer of the encoder's sizes: what a processor says of itself does
  not tell. With AMX tiles bfloat16 was 1.5 to 1.7 times as fast, on a Xeon without them it took 2.5 times as long, and
  instructions for it (AVX-512 BF16) are no promise either.
"""

from __future__ import annotations

import statistics
import time
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["bf16-mixed", "32-true"]
SUPPORTED = ("32-true", "bf16-mixed", "16-mixed")
"""What keeps float32 weights, by the names that Lightning uses."""
_OTHER_NAMES = {"None": "32-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
_TEXTS, _TOKENS = 4, 64
_ROUNDS = 5
_LONGEST = 1.5
"""Seconds after which no further round begins; the first two are always done."""
_WORTH = 1.1
"""How many times as fast bfloat16 must be, since it costs precision."""


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


def precision_by_capability(device_type: str) -> Precision:
    """Return the precision in which a device should train fastest by what it says of itself, as Lightning names it.

    On a CUDA device `bf16-mixed` (a bfloat16 encoder, float32 logits) from compute capability 8.0; on a processor if it
    has AMX tiles, for who cannot measure.

    Args:
        device_type: "cpu", "cuda" or another type of torch device.

    Example:
        >>> precision_by_capability("meta")
        '32-true'
    """
    if device_type == "cpu":
        ask = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch that is supported
        gains = ask is not None and bool(ask().get("amx_bf16"))
    else:
        gains = device_type == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
    return "bf16-mixed" if gains else "32-true"


def measured_precision(width: int, heads: int, inner: int) -> tuple[Precision, str]:
    """Return the precision in which this processor trains fastest, and what was measured, in a second or two.

    A step of one transformer layer is taken in both in turn, and medians are compared.

    Args:
        width: Of the vector of a token.
        heads: Of attention.
        inner: Width between the two layers of the feed-forward part.

    Example:
        >>> precision, said = measured_precision(64, 4, 128)
    """
    with torch.random.fork_rng(devices=[]):
        layer = nn.TransformerEncoderLayer(width, heads, inner, dropout=0.0, activation="gelu", batch_first=True)
        tokens = torch.randn(_TEXTS, _TOKENS, width, requires_grad=True)
    seconds: dict[Precision, list[float]] = {"32-true": [], "bf16-mixed": []}
    began = time.perf_counter()
    for number in range(1 + _ROUNDS):
        if number > 1 and time.perf_counter() - began > _LONGEST:
            break
        for precision, taken in seconds.items():
            taken.append(_step(layer, tokens, precision))
    full, half = (statistics.median(taken[1:]) for taken in seconds.values())  # the first is warm-up
    if full >= _WORTH * half:
        return "bf16-mixed", f"32-true took {full / half:.1f} times as long here"
    return "32-true", f"bf16-mixed took {half / full:.1f} times as long here"


def _step(layer: nn.Module, tokens: Tensor, precision: Precision) -> float:
    """Return the seconds of a forward and a backward pass."""
    layer.zero_grad()
    began = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
        value = layer(tokens)
    value.float().sum().backward()
    return time.perf_counter() - began
