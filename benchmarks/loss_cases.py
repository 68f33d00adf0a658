"""The sizes of `benchmarks.losses` and the embeddings that all contestants are given.

Shape letters: Q queries, K = Q (1 + negatives) keys, D width.

Notable decision: positives are as close as about 1 / 4, so that the gradient is that of a loss still to be learnt;
where it all but vanishes, equality of gradients says little.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Case:
    """One size: [queries, width] against [queries (1 + negatives), width], in a precision."""

    queries: int
    width: int
    negatives: int = 0
    precision: str = "float32"

    @property
    def keys(self) -> int:
        """Number of keys."""
        return self.queries * (1 + self.negatives)

    @property
    def scores(self) -> int:
        """Number of scores, Q K."""
        return self.queries * self.keys

    @property
    def gradient_bytes(self) -> int:
        """Size of the gradient of queries and keys."""
        return (self.queries + self.keys) * self.width * getattr(torch, self.precision).itemsize

    @property
    def name(self) -> str:
        """What the case is called in the result."""
        return f"{self.queries} x {self.keys} x {self.width} {self.precision}"


class Inputs:
    """Unit vectors of a case; the columns of the keys are leaves of their own over the same memory."""

    def __init__(self, case: Case, device: str) -> None:
        generator = torch.Generator(device).manual_seed(0)

        def unit(*, near: Tensor | None = None, noise: float = 0.0) -> Tensor:
            rows = case.queries if near is None else case.keys
            vectors = F.normalize(torch.randn(rows, case.width, generator=generator, device=device), dim=1)
            if near is not None:
                vectors = vectors.mul_(noise)
                vectors[: case.queries] += near
                vectors = F.normalize(vectors, dim=1)
            return vectors.to(getattr(torch, case.precision))

        self.case = case
        queries, guides = unit(), unit()
        self.queries = queries.requires_grad_()
        self.keys = unit(near=queries.detach(), noise=4.0).requires_grad_()
        self.columns = [part.detach().requires_grad_() for part in self.keys.detach().split(case.queries)]
        self.query_guides, self.key_guides = guides, unit(near=guides, noise=10.0)  # so the guide leaves out a few %
        self.labels = torch.arange(case.queries, device=device)
        self.key_labels = torch.arange(case.keys, device=device)
        self.key_ids = torch.randint(4 * case.keys, (case.keys,), generator=generator, device=device)

    def clear(self) -> None:
        """Drop the gradients."""
        for leaf in (self.queries, self.keys, *self.columns):
            leaf.grad = None

    def gradient(self) -> Tensor:
        """Return the gradient of queries and keys, [Q + K, D]."""
        leaves = (self.queries, self.keys) if self.keys.grad is not None else (self.queries, *self.columns)
        return torch.cat([leaf.grad for leaf in leaves if leaf.grad is not None])
