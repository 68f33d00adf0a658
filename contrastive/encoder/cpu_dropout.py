"""Dropout on a processor, in a fraction of the time of PyTorch's: of hidden states, and of attention.

On two cores PyTorch spends 40 % of a MiniLM training step on it: its generator makes one Bernoulli variable at a time,
and with dropout its attention leaves the fused kernel for one that takes 14 to 20 times as long.

Notable decisions:

- 16 random bits a value, four values from each draw of the generator. So the share that is dropped is a multiple of
  1 / 65,536 (0.100006 for 0.1), and what is kept is scaled by just that share, so that expectations are exact.
- Draws come from PyTorch's generator: seeds, checkpoints of its state and of activations work as ever. The masks are
  others than PyTorch's for the same seed.
- Attention keeps probabilities and mask, and multiplies them again in the backward pass: less memory, and the scaling
  is done on the small side of each product. What is needed for a moment only is written into memory that each thread
  keeps: to take it from the system anew, page by page, costs more than the arithmetic.
- A switch: `use_fast_dropout` and nothing else turns it on, `fast_dropout` of `Encoder.from_pretrained` says whether.
- Whatever is not plain attention with dropout on a processor (causal, grouped heads, a position bias, evaluation, a
  GPU) goes to transformers' own function, and so does all that `torch.compile` compiles.

Shape letters: B texts, H heads, T tokens, E width of a head.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from contrastive.similarity.differentiation import differentiable_once

_LEVELS = 1 << 16
_NAME = "contrastive_sdpa"


def use_fast_dropout(backbone: PreTrainedModel) -> None:
    """Replace the dropout of a backbone, where it runs on a processor; nothing changes elsewhere or in eval mode.

    Attention is replaced if it is PyTorch's fused one ("sdpa"), the default of transformers, and there is any dropout.

    Args:
        backbone: Changed in place.
    """
    found = [
        (module, name, child)
        for module in backbone.modules()
        for name, child in module.named_children()
        if type(child) is nn.Dropout
    ]
    for module, name, child in found:
        setattr(module, name, FastDropout(child.p).train(child.training))
    if found and backbone.config._attn_implementation == "sdpa":
        _register()
        backbone.set_attn_implementation(_NAME)


class FastDropout(nn.Dropout):
    """`torch.nn.Dropout`, faster on a processor.

    Example:
        >>> FastDropout(0.5)(torch.ones(1000, 10)).unique()
        tensor([0., 2.])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop values in train mode, and scale the others up so that the expectation stays."""
        if not self.training or self.inplace or not _is_for_us(input, self.p):
            return super().forward(input)
        dropped: Tensor = _Dropout.apply(input, self.p)  # type: ignore[no-untyped-call]
        return dropped

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the attention known that goes with it, in a process that is sent a backbone."""
        _register()
        super().__setstate__(state)  # type: ignore[no-untyped-call]


def _is_for_us(values: Tensor, dropout: float) -> bool:
    return values.device.type == "cpu" and 0 < dropout < 1 and not torch.compiler.is_compiling()


def kept_values(shape: torch.Size, dropout: float) -> tuple[Tensor, float]:
    """Draw which values are kept, a bool tensor of a shape, and return what to multiply these with."""
    count = shape.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    level = min(round(dropout * _LEVELS), _LEVELS - 1)
    kept = draws.view(torch.int16)[:count].view(shape) >= level - _LEVELS // 2
    return kept, _LEVELS / (_LEVELS - level)


_threads = threading.local()


def _room(use: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return a tensor of this thread's memory for one use; valid until the next call for the same use."""
    name, count = f"{use} {dtype}", shape.numel()
    room: Tensor | None = getattr(_threads, name, None)
    if room is None or room.numel() < count:
        room = torch.empty(count, dtype=dtype)
        setattr(_threads, name, room)
    return room[:count].view(shape)


def _factors(kept: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 1 for what is kept and 0 for the rest, in this thread's memory: faster to multiply with than booleans."""
    return _room("factors", kept.shape, dtype).copy_(kept)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, dropout: float) -> Tensor:
        """Drop values and scale the others."""
        kept, ctx.scale = kept_values(values.shape, dropout)
        ctx.save_for_backward(kept)
        return values * _factors(kept, values.dtype).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Drop the same values."""
        (kept,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted: the shared memory would change under it
            return gradient * kept * ctx.scale, None
        return gradient * _factors(kept, gradient.dtype).mul_(ctx.scale), None


class _DroppedAttention(torch.autograd.Function):
    """softmax(scale q k' + mask), values dropped, times v, for q, k and v of [B, H, T, E]."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, dropout: float
    ) -> Tensor:
        """Attend, and keep what the backward pass needs."""
        queries = queries * scale
        scores = _room("scores", queries.shape[:-1] + keys.shape[-2:-1], queries.dtype)
        torch.matmul(queries, keys.transpose(-1, -2), out=scores)
        if mask is not None:
            scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
        shares = scores.softmax(-1)
        kept, ctx.kept_scale = kept_values(shares.shape, dropout)
        ctx.scale = scale
        ctx.save_for_backward(queries, keys, values, shares, kept)
        return (_factors(kept, shares.dtype).mul_(shares) @ values).mul_(ctx.kept_scale)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through values, dropout, softmax and scores."""
        queries, keys, values, shares, kept = ctx.saved_tensors
        gradient = gradient * ctx.kept_scale
        factors = _factors(kept, shares.dtype)
        of_shares = torch.matmul(gradient, values.transpose(-1, -2), out=_room("scores", shares.shape, shares.dtype))
        of_shares.mul_(factors)
        of_values = factors.mul_(shares).transpose(-1, -2) @ gradient
        of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype)
        of_queries, of_keys = (of_scores @ keys).mul_(ctx.scale), of_scores.transpose(-1, -2) @ queries
        return of_queries, of_keys, of_values, None, None, None


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **further: Any,
) -> tuple[Tensor, None]:
    """Attend, in the form that transformers calls: [B, H, T, E] in, [B, T, H, E] out."""
    causal = further.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    plain = _is_for_us(query, dropout) and key.shape[1] == query.shape[1]
    if not plain or (causal and attention_mask is None) or further.get("position_bias") is not None:
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **further
        )
        return attended
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):  # what comes in has the precision to compute in
        output = _DroppedAttention.apply(query, key, value, attention_mask, scale, dropout)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous(), None


def _register() -> None:
    """Make this attention known to transformers in this process, under a name."""
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
