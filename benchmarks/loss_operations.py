"""What a loss asks of a device: operations started, and passes over the scores of a block. No clock is read.

    python -m benchmarks.loss_operations                 # all pairs in one block, as on a GPU
    python -m benchmarks.loss_operations --list          # and which operation makes how many passes

On a GPU every operation is a launch of some microseconds, and a pass, the reading or writing of one float32 number a
score, is the traffic that binds. Both are counted where operations are dispatched, so the
result is that of any machine and any number of pairs. Views are no operations. A mask of booleans is a quarter of a
pass, one of int64 ids as wide as a block two. A matrix product reads or writes its block once.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contrastive.losses import (
    debiased_contrastive,
    decoupled_contrastive,
    gist,
    hard_weighted,
    info_nce,
    multiple_negatives_ranking,
    nt_xent,
    siglip,
    sup_con,
)
from contrastive.losses.core.options import Direction
from contrastive.masks import known_positive, same_label

TEMPERATURE = 0.05


class Operations(TorchDispatchMode):
    """Counts operations, and the bytes of those of their tensors that have as many elements as a block has scores."""

    def __init__(self, scores: int) -> None:
        super().__init__()
        self.scores = scores
        self.started = Counter[str]()
        self.bytes = Counter[str]()

    @property
    def passes(self) -> float:
        """How often all scores of a block are read or written, in float32."""
        return sum(self.bytes.values()) / (4 * self.scores)

    @property
    def products(self) -> int:
        """How many matrix products there are."""
        return sum(self.started[name] for name in PRODUCTS)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not is_view(func):
            name = func.overloadpacket.__name__
            self.started[name] += 1
            self.bytes[name] += self._read(func, args, kwargs) + (0 if is_any(func, SPARSE) else self._size(result))
        return result

    def _read(self, func: Any, args: Any, kwargs: Any) -> int:
        names = [argument.name for argument in func._schema.arguments]
        outputs = {argument.name for argument in func._schema.arguments if argument.is_out}
        given = dict(zip(names, args, strict=False)) | kwargs
        unread = outputs | ({"self"} if given.get("beta") == 0 or is_any(func, OVERWRITING, SPARSE) else set())
        return sum(self._size(value) for name, value in given.items() if name not in unread)

    def _size(self, value: Any) -> int:
        """Return the bytes of tensors as large as a block; what is broadcast is as large as what it is made from."""
        if isinstance(value, (list, tuple)):
            return sum(self._size(each) for each in value)
        if not isinstance(value, Tensor):
            return 0
        sizes = [length for length, stride in zip(value.shape, value.stride(), strict=True) if stride]
        return math.prod(sizes) * value.element_size() if math.prod(sizes) >= self.scores else 0


PRODUCTS = ("mm", "addmm", "addmm_")

OVERWRITING = {"copy_", "fill_", "zero_"}
"""Operations in place that do not look at what was there."""

SPARSE = {"gather", "scatter_", "scatter_add_", "index", "index_put_", "index_select"}
"""Operations that touch as many places of the block as they are given, not all."""

ALLOCATING = {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "promote_types"}
"""Operations that start nothing."""


def is_any(func: Any, *names: set[str]) -> bool:
    """Whether an operation is one of some names."""
    return any(func.overloadpacket.__name__ in some for some in names)


def is_view(func: Any) -> bool:
    """Whether an operation only looks at memory in another way, or asks for some."""
    aliased = [each.alias_info for each in func._schema.returns]
    views = bool(aliased) and all(each is not None and not each.is_write for each in aliased)
    return views or is_any(func, ALLOCATING)


def cases(size: int, width: int) -> dict[str, Callable[[], Tensor]]:
    """Return what is counted: a forward pass of each."""
    queries, keys = (torch.randn(size, width, requires_grad=True) for _ in range(2))
    rows, weights, learnt = torch.arange(size), torch.ones(size), torch.tensor(TEMPERATURE, requires_grad=True)
    ids = rows // 2

    def plain(*, symmetric: bool = False) -> Tensor:
        scores = F.normalize(queries) @ F.normalize(keys).T / TEMPERATURE
        forth = F.cross_entropy(scores, rows)
        return (forth + F.cross_entropy(scores.T, rows)) / 2 if symmetric else forth

    def ours(function: Callable[..., Tensor] = info_nce, **options: Any) -> Callable[[], Tensor]:
        call: dict[str, Any] = {"temperature": TEMPERATURE, "tiled": False, **options}
        return lambda: function(queries, keys, **call)

    known: dict[str, Any] = {"exclude": known_positive(ids[:, None], ids)}
    step: dict[str, Any] = {"weights": weights, "temperature": learnt, **known}
    guides: dict[str, Any] = {"guide_queries": torch.randn(size, width), "guide_keys": torch.randn(size, width)}
    same = same_label(ids, ids)
    return {
        "plain autograd": plain,
        "plain autograd, both ways": partial(plain, symmetric=True),
        "one way": ours(),
        "one way, ids": ours(**known),
        "one way, ids, weights, learnt temperature": ours(**step),
        "both ways": ours(symmetric=True),
        "both ways, ids": ours(symmetric=True, **known),
        "both ways, ids, weights, learnt temperature": ours(symmetric=True, **step),
        "one way, several positives": ours(positives=same),
        "label smoothing": ours(label_smoothing=0.1),
        "four directions, ids": ours(multiple_negatives_ranking, directions=get_args(Direction), **known),
        "sup_con": ours(sup_con, positives=same),
        "nt_xent": ours(nt_xent),
        "nt_xent, several positives": ours(nt_xent, positives=same),
        "dcl": ours(decoupled_contrastive),
        "dclw": ours(decoupled_contrastive, sigma=0.5),
        "debiased": ours(debiased_contrastive),
        "hard_weighted": ours(hard_weighted),
        "siglip": ours(siglip),
        "gist": ours(gist, **guides, contrast_queries=False, contrast_positives=False),
    }


def count(loss: Callable[[], Tensor], size: int) -> Operations:
    """Return the operations of forward and backward."""
    with Operations(size * size) as operations:
        loss().backward()
    return operations


def main() -> None:
    """Print how many operations and passes each case takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="queries, and keys (%(default)s)")
    parser.add_argument("--width", type=int, default=64, help="of an embedding (%(default)s)")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--list", action="store_true", help="say what each operation does")
    options = parser.parse_args()
    print("| case | operations | products | passes |\n|---|---|---|---|")
    for name, loss in cases(options.size, options.width).items():
        if options.cases and name not in options.cases:
            continue
        found = count(loss, options.size)
        print(f"| {name} | {found.started.total()} | {found.products} | {found.passes:.2f} |")
        if options.list:
            for each, number in found.started.most_common():
                print(f"    {each:24} {number:4} {found.bytes[each] / 4 / options.size**2:8.2f}")


if __name__ == "__main__":
    main()
