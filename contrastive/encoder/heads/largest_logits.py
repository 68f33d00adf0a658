"""The largest logit of each term of a vocabulary over the tokens of a text, without the logits of all tokens at once.

Of 32 texts of 256 tokens these are a gigabyte with BERT's vocabulary. Here the tokens of all texts stand in one row,
padding left out, and are decoded a few at a time; the backward pass goes to the one token of each (text, term) that was
the largest, and only where a gradient comes back: of a sparse vector for a few hundred of 30,000 terms.

Shape letters: B texts, T tokens of the longest, N tokens of all texts, W width of a token's vector, V terms, P pairs of
a text and a term.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from contrastive.similarity import full_precision

_LOGITS_AT_A_TIME = 1 << 24
"""64 MiB in float32, 550 tokens with BERT's vocabulary."""


def largest_logits(
    hidden: Tensor, attention_mask: Tensor, weight: Tensor, *, at_a_time: int = _LOGITS_AT_A_TIME
) -> Tensor:
    """Return the largest logit of each term over the real tokens of each text, [B, V] in float32 or better.

    Equal logits share no gradient: the first of them gets it. A text without tokens has minus infinity.

    Args:
        hidden: Token vectors, [B, T, W].
        attention_mask: 1 for a real token, [B, T].
        weight: What decodes them, a row a term, [V, W].
        at_a_time: Most logits that are held at once.

    Example:
        >>> hidden = torch.tensor([[[1.0], [3.0], [-2.0]]])
        >>> largest_logits(hidden, torch.tensor([[1, 1, 0]]), torch.tensor([[1.0], [-1.0]]))
        tensor([[ 3., -1.]])
    """
    is_real = attention_mask != 0
    step = max(1, at_a_time // len(weight))
    largest: Tensor = _LargestLogits.apply(hidden[is_real], is_real.sum(1), weight, step)  # type: ignore[no-untyped-call]
    return largest


class _LargestLogits(torch.autograd.Function):
    """Tokens [N, W] of texts with `counts` [B] tokens and weight [V, W] -> [B, V], `step` tokens at a time."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, counts: Tensor, weight: Tensor, step: int) -> Tensor:
        shape = len(counts), len(weight)
        largest = tokens.new_full(shape, -torch.inf, dtype=full_precision(tokens[:0]).dtype)
        places = torch.zeros(shape, dtype=torch.long, device=tokens.device)  # of the largest, among all tokens
        ends = counts.cumsum(0).tolist()
        if torch.is_autocast_enabled(tokens.device.type):  # once, not once a step
            dtype = torch.get_autocast_dtype(tokens.device.type)
            tokens, decoder = tokens.to(dtype), weight.to(dtype)
        else:
            decoder = weight
        for start in range(0, len(tokens), step):
            stop = min(start + step, len(tokens))
            logits = decoder @ tokens[start:stop].T  # this way round a maximum reads what lies together
            for text, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
                begin, end = max(first, start), min(end, stop)
                if begin >= end:
                    continue
                here, place = logits[:, begin - start : end - start].max(1)
                is_larger = here > largest[text]
                torch.where(is_larger, here, largest[text], out=largest[text])
                torch.where(is_larger, place + begin, places[text], out=places[text])
        ctx.save_for_backward(tokens, weight, places)
        return largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_largest: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        tokens, weight, places = ctx.saved_tensors
        texts, terms = of_largest.nonzero(as_tuple=True)
        size = len(tokens), len(weight)
        pairs = torch.stack([places[texts, terms], terms])
        # As a sparse matrix: no [P, W] tensor, and the products are those of libraries that make them in parallel.
        of_logits = torch.sparse_coo_tensor(pairs, of_largest[texts, terms], size, check_invariants=False)
        of_tokens = torch.sparse.mm(of_logits, weight) if ctx.needs_input_grad[0] else None
        of_weight = torch.sparse.mm(of_logits.t(), tokens.to(weight.dtype)) if ctx.needs_input_grad[2] else None
        return of_tokens, None, of_weight, None
