"""One vector from the token vectors of a text.

Shape letters: B texts, T tokens (padding included), D width. Every function takes `hidden [B, T, D]` and
`attention_mask [B, T]` (1 for a real token, 0 for padding) and gives `[B, D]` in float32 or better, whatever dtype the
backbone ran in: a mean over 256 bfloat16 vectors loses digits, and so would the scores computed from it. Padding may be
on either side. A row without any real token gives zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

Pooling = Literal["mean", "cls", "last"]


def mean_pooling(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Average the real tokens, special ones included.

    Example:
        >>> hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
        >>> mean_pooling(hidden, torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    hidden = _at_least_float32(hidden)
    # masked_fill, not a product: padding may hold inf or NaN, and 0 * inf is NaN.
    total = hidden.masked_fill(attention_mask.unsqueeze(-1) == 0, 0.0).sum(dim=1)
    return total / attention_mask.sum(dim=1, keepdim=True).clamp(min=1)


def cls_pooling(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Take the first real token: BERT's [CLS], RoBERTa's <s>.

    Example:
        >>> hidden = torch.tensor([[[9.0], [1.0], [2.0]]])
        >>> cls_pooling(hidden, torch.tensor([[0, 1, 1]]))
        tensor([[1.]])
    """
    first = (attention_mask != 0).int().argmax(dim=1)
    return _take(hidden, first, attention_mask)


def last_pooling(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Take the last real token, the only one that has seen the whole text in a causal model.

    Example:
        >>> hidden = torch.tensor([[[1.0], [2.0], [9.0]]])
        >>> last_pooling(hidden, torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    from_the_end = (attention_mask != 0).int().flip(dims=[1]).argmax(dim=1)
    return _take(hidden, attention_mask.shape[1] - 1 - from_the_end, attention_mask)


POOLINGS: Mapping[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean_pooling,
    "cls": cls_pooling,
    "last": last_pooling,
}


def check_pooling(name: str) -> Pooling:
    """Return `name` if it is a pooling we know.

    Raises:
        ValueError: If it is not.
    """
    if name not in get_args(Pooling):
        raise ValueError(f"expected pooling to be one of {', '.join(get_args(Pooling))}, got {name!r}")
    return name  # type: ignore[return-value]  # narrowed by the test above, which mypy does not follow


def _take(hidden: Tensor, position: Tensor, attention_mask: Tensor) -> Tensor:
    """Pick token `position [B]` of each row, zeros where the row has no real token."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    has_token = attention_mask.any(dim=1, keepdim=True)
    return _at_least_float32(hidden[rows, position]).masked_fill(~has_token, 0.0)


def _at_least_float32(hidden: Tensor) -> Tensor:
    return hidden.to(torch.promote_types(hidden.dtype, torch.float32))
