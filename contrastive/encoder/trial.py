"""Trying out a freshly loaded encoder on two short texts, which shows what no list of architectures could.

- Some architectures (ConvBERT, FNet, ...) mix padding into a text in spite of the mask: those go without padding.
- Some have weights that no embedding depends on (BERT's pooler, XLNet's mask): these are frozen, since DDP stops at
  parameters that get no gradient, and adapters in them would be for nothing.

Shape letters: B texts, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from contrastive.encoder.tokens import Row

TEXTS = ("a short text", "another text, longer than the first one, which has to be padded beside it")

_ROUNDING = 1e-4  # of the length of an embedding; what float32 loses is a hundredth of it, padding that leaks a tenth
_CHANCE = 1e-2


def trial_rows(tokenize: Callable[[Sequence[str]], Sequence[Row]]) -> list[Row]:
    """Return two texts of different lengths as rows of `token_rows`, the shorter one first."""
    short, long = tokenize(TEXTS)
    if short.shape[-1] >= long.shape[-1] > 1:  # the maximum length is that low
        short = long[..., :-1]
    return [short, long]


def stands_padding(embed: Callable[[Sequence[Row]], Tensor], together: Tensor, rows: Sequence[Row]) -> bool:
    """Whether two texts have the same embeddings in one padded batch and each alone.

    Args:
        embed: Embeds rows, [B, D], in eval mode.
        together: What it gives for `rows`, [B, D].
        rows: Texts of different lengths.

    Raises:
        ValueError: If a text alone has no finite embedding, or not the same one every time.
    """
    with torch.no_grad():
        alone = torch.cat([embed([row]) for row in rows])
        if not alone.isfinite().all():
            raise ValueError(f"expected a model whose embeddings are finite, got {int((~alone.isfinite()).sum())} not")
        if _distance(together, alone) < _ROUNDING:
            return True
        twice = embed([rows[-1], rows[-1]])
    if not _distance(twice, alone[[-1, -1]]) < _CHANCE:
        raise ValueError(
            "expected a model that embeds a text alike every time, got embeddings that differ with chance or with what "
            "else is in the batch"
        )
    return False


def freeze_unused(backbone: nn.Module, embeddings: Tensor) -> list[str]:
    """Freeze the parameters that embeddings, [B, D] with gradients, do not depend on; return their names.

    Nothing is computed for it: the graph of the embeddings is walked, as DDP walks that of the loss. Experts stay, of
    which a router chose others for these texts.
    """
    used = _leaves(embeddings)
    unused = [
        (name, weight)
        for name, weight in backbone.named_parameters()
        if weight.requires_grad and id(weight) not in used and "expert" not in name
    ]
    for _, weight in unused:
        weight.requires_grad_(False)
    return [name for name, _ in unused]


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Put the random numbers of the CPU back at the end of the block, for models that draw some in eval mode too."""
    with torch.random.fork_rng(devices=[]):
        yield


def _distance(embeddings: Tensor, expected: Tensor) -> float:
    """Return the largest distance of a row from the one expected, as a share of its length; NaN if there is one."""
    lengths = expected.norm(dim=1).clamp(min=torch.finfo(expected.dtype).tiny)
    return float(((embeddings - expected).norm(dim=1) / lengths).max())


def _leaves(embeddings: Tensor) -> set[int]:
    """Return the ids of the tensors that embeddings get their gradients to."""
    found: set[int] = set()
    seen = set()
    waiting = [embeddings.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.add(id(getattr(node, "variable", None)))
        waiting += [following for following, _ in node.next_functions]
    return found
