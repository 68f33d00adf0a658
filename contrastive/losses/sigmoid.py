"""SigLIP: every pair of a query and a key judged on its own, by a sigmoid.

Shape letters: Q queries, K >= Q keys, D width.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from contrastive.losses.core.choice import Rows
from contrastive.losses.core.module import LossModule
from contrastive.losses.core.options import SoftmaxOptions
from contrastive.losses.core.ranking import ranking_loss


def siglip(queries: Tensor, keys: Tensor, *, bias: float | Tensor = -10.0, **options: Unpack[SoftmaxOptions]) -> Tensor:
    r"""Compute the sigmoid loss: is this key the query's positive or not, for every pair.

    .. math:: l_i = \sum_j w_{ij} \log(1 + \exp(-z_{ij} (s_{ij} / t + b))), \quad
        z_{ij} = 1 \text{ for positives, } -1 \text{ for negatives}

    Zhai et al. 2023 (https://arxiv.org/abs/2303.15343, eq. 1), who start at t = 0.1 and b = -10 and learn both: at
    first nearly all pairs are negatives, and the bias makes up for that. The mean is over the queries, as the paper's
    1 / |B|. There is nothing to normalise, so the two directions are one and the same.

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D].
        bias: What is added to the logits, b; a number or a 0-dim tensor, which gets a gradient.
        options: See `SoftmaxOptions`, at temperature 0.1; neither `symmetric` nor `same_side`.

    Returns:
        The loss in nats, a scalar or [Q]. Queries without a positive contribute 0.

    Raises:
        ValueError: As `info_nce`.

    Example:
        >>> import torch
        >>> siglip(torch.eye(2), torch.eye(2), temperature=1.0, bias=0.0)
        tensor(1.0064)
    """
    for name in ("symmetric", "same_side"):
        if options.get(name):
            raise ValueError(f"expected pairs of a query and a key, each judged once, got {name}=True")
    if not isinstance(bias, Tensor) and not math.isfinite(bias):
        raise ValueError(f"expected a finite bias, got {bias}")

    def formula(rows: Rows) -> tuple[Tensor, Tensor]:
        positive, biased = rows.is_positive(), rows.logits + bias
        losses = softplus(torch.where(positive, -biased, biased))
        if rows.log_weights is not None:
            losses = losses * torch.where(positive, 1, rows.log_weights.exp())
        if rows.left_out is not None:
            losses = losses.masked_fill(rows.left_out & ~positive, 0)
        return losses.sum(1), positive.any(1)

    parameters = [bias] if isinstance(bias, Tensor) else []
    return ranking_loss(formula, queries, keys, {"temperature": 0.1, **options}, parameters=parameters)


class SigLIPLoss(LossModule, function=siglip, temperature=0.1, learnable_temperature=True):
    """`siglip` as a module; temperature and bias are learnt, as in the paper, unless they are said not to be.

    Raises:
        TypeError: If there is no such option.
        ValueError: As `siglip`.

    Example:
        >>> SigLIPLoss(learnable_temperature=False, learnable_bias=False)
        SigLIPLoss(temperature=0.1, bias=-10.0)
    """

    bias: nn.Parameter | float

    def __init__(self, *settings: Any, learnable_bias: bool = True, **named: Any) -> None:
        super().__init__(*settings, **named)
        bias = self.options.pop("bias")
        self.bias = nn.Parameter(torch.tensor(float(bias))) if learnable_bias else bias

    def arguments(self) -> dict[str, Any]:
        """The settings, with the bias as it is now."""
        return {**super().arguments(), "bias": self.bias}

    def extra_repr(self) -> str:
        """Describe the settings."""
        learnt = " (learnt)" if isinstance(self.bias, nn.Parameter) else ""
        return f"{super().extra_repr()}, bias={torch.as_tensor(self.bias).item()}{learnt}"
