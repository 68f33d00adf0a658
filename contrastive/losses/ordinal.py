"""Losses of pairs with graded targets, of which only the order matters: CoSENT and AnglE.

Shape letters: B pairs, D width.

Notable decisions: both are one number for a batch, the logarithm of a sum over B^2 comparisons, and have no rows that
could be averaged. With the pairs sorted by target, the sum is one pass of a running log-sum-exp: O(B log B) time, O(B)
memory, exact, and stable at any temperature, because neither value nor gradient takes the exponential of a sum that
could overflow. The gradient is formed in the forward pass, from the same two running sums.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from contrastive.contracts import Health
from contrastive.losses.core.module import LossModule
from contrastive.losses.core.pairs import check_pairs
from contrastive.losses.core.temperature import check_temperature
from contrastive.similarity import ProductSimilarity, SimilarityName, cosine, product_similarity, unit
from contrastive.similarity.differentiation import differentiable_once


def cosent(
    left: Tensor,
    right: Tensor,
    targets: Tensor,
    *,
    similarity: SimilarityName = "cosine",
    temperature: float | Tensor = 0.05,
    weights: Tensor | None = None,
    health: Health | None = None,
) -> Tensor:
    r"""Compute CoSENT: of two pairs, the one with the higher target is to have the higher score.

    .. math:: l = \log\Bigl(1 + \sum_{y_i > y_j} w_i w_j \exp\frac{s_j - s_i}{t}\Bigr),
        \qquad s = \cos(left, right)

    Su 2022 (https://kexue.fm/archives/8847), which has no paper; here also by other similarities. Pairs with equal
    targets are not compared. The temperature is 1 over its customary `scale`: 0.05 is a scale of 20. By cosine equal to
    CoSENTLoss of sentence-transformers.

    The comparisons are within the batch: with larger batches the value grows, as the logarithm of their number.

    Args:
        left: Embeddings [B, D].
        right: Embeddings [B, D].
        targets: How similar each pair is, higher is closer, [B]; on any scale, as only their order matters.
        similarity: The scores of pairs: "cosine", "dot", "euclidean", or "max_sim" of token vectors, where left asks.
        temperature: Divides the difference of two scores, a number or a tensor of no dimensions that may be learnt.
        weights: Weight of each pair, [B], at least 0: a pair of weight 2 counts as if it were there twice, of weight 0
            as if it were not there.
        health: Filled with positive_similarity and negative_similarity (pairs with a target above and below the mean of
            the batch), unanswered (share of pairs that are compared with none) and temperature.

    Returns:
        The loss in nats, a scalar; 0, with a graph, if no two targets differ.

    Raises:
        ValueError: If shapes do not match, the temperature is not above 0, or there is no such similarity.

    Example:
        >>> import torch
        >>> left, right = torch.eye(2), torch.tensor([[0.6, 0.8], [0.6, 0.8]])  # cosines 0.6 and 0.8
        >>> cosent(left, right, torch.tensor([0.9, 0.2]), temperature=1.0)  # log(1 + exp(0.8 - 0.6))
        tensor(0.7981)
    """
    compare = product_similarity(similarity)
    check_pairs(left, right, targets, weights, compare)
    return _in_order(compare.of_pairs(left, right), targets, temperature, weights, health)


def angle(
    left: Tensor,
    right: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 0.05,
    weights: Tensor | None = None,
    health: Health | None = None,
) -> Tensor:
    r"""Compute AnglE's angle objective: CoSENT with a score that does not saturate where the cosine does.

    With the halves of each vector as the real and the imaginary parts of D/2 complex numbers,

    .. math:: s = \Bigl|\sum_k (\mathrm{Re} + \mathrm{Im})\; \frac{l_k\, \bar r_k}{|l|\,|r|}\Bigr|

    Li and Li 2023 (https://arxiv.org/abs/2309.12871, section 3.2.3), as their code has it, whose order of subtraction
    is the opposite of the paper's eq. 3, and equal to AnglELoss of sentence-transformers. The paper adds CoSENT and an
    in-batch loss to this objective; here each is a loss of its own.

    The score is not an angle: it is the cosine plus a sum of sines, hence 1 for equal vectors but up to the square root
    of 2 for others, and the absolute value makes opposite vectors as close as equal ones. It suits fine-tuning, where
    few pairs are that far apart. A vector of odd width gets a 0 appended, as in sentence-transformers.

    Args:
        left: Embeddings [B, D].
        right: Embeddings [B, D].
        targets: How similar each pair is, higher is closer, [B]; on any scale, as only their order matters.
        temperature: Divides the difference of two scores, a number or a tensor of no dimensions that may be learnt.
        weights: Weight of each pair, [B], at least 0, as in `cosent`.
        health: Filled as by `cosent`, with scores as similarities.

    Returns:
        The loss in nats, a scalar; 0, with a graph, if no two targets differ.

    Raises:
        ValueError: If shapes do not match or the temperature is not above 0.

    Example:
        >>> import torch
        >>> left, right = torch.eye(2), torch.tensor([[0.6, 0.8], [0.6, 0.8]])  # scores 0.6 - 0.8 and 0.8 + 0.6
        >>> angle(left, right, torch.tensor([0.9, 0.2]), temperature=1.0)  # log(1 + exp(1.4 - 0.2))
        tensor(1.4633)
    """
    check_pairs(left, right, targets, weights)
    odd = left.shape[1] % 2
    left, right = (pad(unit(embeddings), (0, odd)) for embeddings in (left, right))
    (left_real, left_imaginary), (right_real, right_imaginary) = left.chunk(2, dim=1), right.chunk(2, dim=1)
    sines = (left_imaginary * right_real - left_real * right_imaginary).sum(-1)
    scores = ((left * right).sum(-1) + sines).abs()
    return _in_order(scores, targets, temperature, weights, health)


class CoSENTLoss(LossModule, function=cosent):
    """`cosent` as a module.

    Raises:
        ValueError: If the temperature is not above 0, or there is no such similarity.

    Example:
        >>> CoSENTLoss(temperature=0.1)
        CoSENTLoss(temperature=0.1, similarity=cosine)
    """


class AnglELoss(LossModule, function=angle):
    """`angle` as a module.

    Raises:
        ValueError: If the temperature is not above 0.

    Example:
        >>> AnglELoss(temperature=0.1)
        AnglELoss(temperature=0.1)
    """

    similarity: ClassVar[ProductSimilarity] = cosine


def _in_order(
    scores: Tensor, targets: Tensor, temperature: float | Tensor, weights: Tensor | None, health: Health | None
) -> Tensor:
    """Return log(1 + sum over y_i > y_j of w_i w_j exp((s_j - s_i) / t)) for scores s [B] and targets y [B]."""
    check_temperature(temperature)
    targets, order = (targets.byte() if targets.dtype == torch.bool else targets.detach()).sort()
    scores = scores[order]
    log_weights = torch.zeros_like(scores) if weights is None else weights.detach()[order].to(scores).log()
    # Below pair i are the first `below[i]`, above it those from `above[i]` on; between the two are its ties.
    below, above = (torch.searchsorted(targets, targets, right=right) for right in (False, True))
    loss: Tensor = _InOrder.apply(scores / temperature, log_weights, below, above)  # type: ignore[no-untyped-call]
    if health is not None:
        numbers = targets.to(scores)
        health.record("positive_similarity", scores, numbers > numbers.mean())
        health.record("negative_similarity", scores, numbers < numbers.mean())
        health.record("unanswered", (below == 0) & (above == len(targets)))
        health.record("temperature", temperature)
    return loss


class _InOrder(torch.autograd.Function):
    """The loss of logits [B] in ascending order of their targets, and its gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, log_weights: Tensor, below: Tensor, above: Tensor) -> Tensor:
        """Return log(1 + sum of exp(logits[j] + log sum of exp(-logits[i]) over the i above j))."""
        lifts, drags = logits + log_weights, log_weights - logits
        of_lower = pad(lifts.logcumsumexp(0), (1, 0), value=-torch.inf)[below]
        of_higher = pad(drags.flip(0).logcumsumexp(0).flip(0), (0, 1), value=-torch.inf)[above]
        loss = pad(lifts + of_higher, (0, 1)).logsumexp(0)
        # Each exponent is a part of the loss, so none is above 0.
        ctx.save_for_backward((lifts + of_higher - loss).exp() - (drags + of_lower - loss).exp())
        return loss

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits."""
        (of_logits,) = ctx.saved_tensors
        return gradient * of_logits, None, None, None
