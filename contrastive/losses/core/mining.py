"""Which triplets a batch is made into: explicit ones, all, or one negative chosen, or expected, for a positive.

Shape letters: Q queries, K >= Q keys, D width, P positive pairs (query, positive), C candidates of a pair: K, or 1 when
one negative is chosen. The triplets of a pair are its distance [P, 1] against [P, C] distances: never [P, P, K].

Notable decisions: ties share the gradient, so their order changes nothing; and nothing is drawn at random, so that
every rank and every repetition sees the same triplets.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Mining = Literal["explicit", "hardest", "easy_positive", "semi_hard", "distance_weighted", "all"]

_NEAREST, _FARTHEST = 0.5, 1.4
"""Where Wu et al. stop telling near negatives apart, and beyond which they draw none (Euclidean, unit vectors)."""


class Triplets(NamedTuple):
    """Triplets by positive pair.

    Attributes:
        anchors: The query of each pair, [P].
        positives: The distance of each pair, [P, 1].
        negatives: The distances of the negatives it is held against, [P, C].
        shares: How much of a triplet each of those is, [P, C]: 0 if it is none; probabilities if one is expected.
    """

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    shares: Tensor


def mine(
    distances: Tensor,
    positive: Tensor,
    negative: Tensor,
    mining: Mining,
    *,
    one_positive_each: bool,
    log_weights: Tensor | None = None,
) -> Triplets:
    """Choose the triplets.

    Args:
        distances: Of every query from every key, [Q, K].
        positive: Which pairs are positive, bool [Q, K].
        negative: Which pairs are negative, bool [Q, K].
        mining: How.
        one_positive_each: Whether key `i` is the one positive of query `i`; if not, pairs are listed.
        log_weights: Of the negatives for "distance_weighted", [Q, K], see `log_inverse_density`.
    """
    queries = torch.arange(len(distances), device=distances.device)
    if distances.numel() == 0:
        return Triplets(queries, distances, distances, negative.to(distances.dtype))
    if mining in ("hardest", "easy_positive"):
        valid = (positive.any(1) & negative.any(1))[:, None]
        chosen = (_farthest if mining == "hardest" else _nearest)(distances, positive)
        return Triplets(queries, chosen, _nearest(distances, negative), valid.to(distances.dtype))

    anchors, places = (queries, queries) if one_positive_each else positive.nonzero(as_tuple=True)
    of_positives = distances[anchors, places][:, None]
    of_keys, against = distances[anchors], negative[anchors]
    if mining == "semi_hard":
        farther = against & (of_keys > of_positives)
        semi_hard = torch.where(farther.any(1, keepdim=True), _nearest(of_keys, farther), _farthest(of_keys, against))
        return Triplets(anchors, of_positives, semi_hard, against.any(1, keepdim=True).to(distances.dtype))
    if log_weights is not None:
        return Triplets(anchors, of_positives, of_keys, _probabilities(log_weights, negative)[anchors])
    return Triplets(anchors, of_positives, of_keys, against.to(distances.dtype))


def log_inverse_density(distances: Tensor, dimension: int) -> Tensor:
    r"""Return how rare each Euclidean distance is between random points on a sphere in R^n, as log weights.

    .. math:: -\log q(d) = (2 - n) \log d - \tfrac{n - 3}{2} \log(1 - d^2 / 4)

    Wu et al. 2017, section 4. Distances below 0.5 weigh what 0.5 does, which is the paper's clipping by lambda; beyond
    1.4 negatives weigh nothing, as in the authors' code: towards 2 distances are rare again, but of no use.
    """
    clipped = distances.clamp(_NEAREST, _FARTHEST)
    log_weights = (2 - dimension) * clipped.log() - (dimension - 3) / 2 * (1 - clipped.square() / 4).log()
    return log_weights.masked_fill(distances >= _FARTHEST, -torch.inf)


def _probabilities(log_weights: Tensor, negative: Tensor) -> Tensor:
    """Return each negative's probability, rows of [Q, K] summing to 1, uniform if all weigh 0; 0 if there is none."""
    weighed = negative & (log_weights > -torch.inf)
    log_weights = torch.where(weighed.any(1, keepdim=True), log_weights, 0)
    lowest = torch.finfo(log_weights.dtype).min
    probabilities = torch.where(negative, log_weights.clamp_min(lowest), lowest).softmax(1)
    return torch.where(negative, probabilities, 0)


def _nearest(distances: Tensor, selected: Tensor) -> Tensor:
    """Return the least selected distance of each row, [.., 1], infinity if there is none; ties share the gradient."""
    return torch.where(selected, distances, torch.inf).amin(1, keepdim=True)


def _farthest(distances: Tensor, selected: Tensor) -> Tensor:
    """Return the greatest selected distance of each row, [.., 1], minus infinity if none; ties share the gradient."""
    return torch.where(selected, distances, -torch.inf).amax(1, keepdim=True)
