r"""What keeps the vectors of a lexical encoder sparse: a penalty on the products that comparing them takes.

.. math:: \ell_\mathrm{FLOPS} = \sum_v \Bigl(\frac{1}{B} \sum_i w_{iv}\Bigr)^2

over the terms v, w_iv at least 0: a term that is active in all texts costs more than one that a few have. Paria et
al., "Minimizing FLOPs to Learn Efficient Sparse Representations", 2020, https://arxiv.org/abs/2004.05665, as Formal et
al. use it for SPLADE: queries and documents with a weight of their own, both rising with the square of the step.

It is no part of a loss, which compares queries with keys, but is added to one by the training module. It is of the
batch of all ranks, and never of keys that a memory adds: these have no gradient.

Shape letters: B texts, V terms.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


def flops(embeddings: Tensor) -> Tensor:
    """Return the FLOPS penalty of embeddings [B, V]; 0 of none.

    Example:
        >>> import torch
        >>> flops(torch.tensor([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0]]))
        tensor(2.)
    """
    # Not the mean: of no rows that is NaN.
    return (embeddings.sum(0) / max(1, len(embeddings))).square().sum()


def active_terms(embeddings: Tensor) -> Tensor:
    """Return how many terms of embeddings [B, V] are not 0, on average; 0 of none."""
    return (embeddings != 0).sum() / max(1, len(embeddings))


@dataclass(frozen=True, slots=True)
class Sparsity:
    """How much the FLOPS penalty counts beside the loss.

    Attributes:
        queries: Its weight for queries, in the end.
        documents: Its weight for documents, in the end.
        warmup_ratio: Share of the steps in which the weights rise from 0, with the square of the step.

    Raises:
        ValueError: If a weight is negative, or the ratio is not in [0, 1].

    Example:
        >>> Sparsity(queries=0.1, warmup_ratio=0.5).share(1, 4)
        0.25
    """

    queries: float = 1e-3
    documents: float = 1e-3
    warmup_ratio: float = 1 / 3

    def __post_init__(self) -> None:
        if not min(self.queries, self.documents) >= 0:
            raise ValueError(f"expected weights of at least 0 for sparsity, got {self.queries} and {self.documents}")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"expected a warmup_ratio from 0 to 1 for sparsity, got {self.warmup_ratio}")

    def share(self, step: int, total_steps: int) -> float:
        """Return how much of the weights counts at a step, from 0 to 1."""
        warmup = self.warmup_ratio * total_steps
        return 1.0 if step >= warmup else float((step / warmup) ** 2)

    def __call__(self, queries: Tensor, documents: Tensor, share: float) -> Tensor:
        """Return the penalty of queries [Q, V] and documents [K, V], of which a share of the weights counts."""
        return share * (self.queries * flops(queries) + self.documents * flops(documents))
