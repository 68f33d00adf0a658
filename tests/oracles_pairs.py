"""Losses of pairs and of teachers as plain loops over scalars; as oracles.py, they know nothing of the library."""

from __future__ import annotations

import math

import torch
from oracles import cosine, dot, euclidean, reduce
from torch import Tensor


def pair_distances(left: Tensor, right: Tensor, distance: str, normalize: bool) -> list[Tensor]:
    if distance == "cosine":
        return [1 - cosine(a, b) for a, b in zip(left, right, strict=True)]
    if normalize:
        left, right = (torch.stack([row / torch.sqrt(dot(row, row)) for row in rows]) for rows in (left, right))
    return [-euclidean(a, b) for a, b in zip(left, right, strict=True)]


def contrastive(
    left: Tensor,
    right: Tensor,
    targets: list[float],
    *,
    distance: str = "cosine",
    margin: float | None = None,
    normalize: bool = True,
    weights: list[float] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Hadsell et al. 2006, eq. 4."""
    margin = (0.5 if distance == "cosine" else 1.0) if margin is None else margin
    rows = {
        i: target * 0.5 * d**2 + (1 - target) * 0.5 * torch.clamp(margin - d, min=0) ** 2
        for i, (d, target) in enumerate(zip(pair_distances(left, right, distance, normalize), targets, strict=True))
    }
    return reduce(rows, len(left), weights, reduction, left)


def online_contrastive(
    left: Tensor,
    right: Tensor,
    targets: list[float],
    *,
    distance: str = "cosine",
    margin: float | None = None,
    normalize: bool = True,
    weights: list[float] | None = None,
    reduction: str = "mean",
) -> Tensor:
    margin = (0.5 if distance == "cosine" else 1.0) if margin is None else margin
    apart = pair_distances(left, right, distance, normalize)
    similar = [i for i, target in enumerate(targets) if target >= 0.5]
    others = [i for i, target in enumerate(targets) if target < 0.5]
    mean = sum(d.item() for d in apart) / len(apart)
    farthest = max((apart[i].item() for i in similar), default=mean)
    nearest = min((apart[i].item() for i in others), default=mean)
    rows = {i: apart[i] ** 2 for i in similar if apart[i].item() > nearest}
    rows |= {i: torch.clamp(margin - apart[i], min=0) ** 2 for i in others if apart[i].item() < farthest}
    return reduce(rows, len(left), weights, reduction, left)


def in_order(scores: list[Tensor], targets: list[float], temperature: float, weights: list[float] | None) -> Tensor:
    weights = weights or [1.0] * len(scores)
    total = 1 + sum(scores, torch.zeros((), dtype=torch.float64)) * 0
    for i in range(len(scores)):
        for j in range(len(scores)):
            if targets[i] > targets[j]:
                total = total + weights[i] * weights[j] * torch.exp((scores[j] - scores[i]) / temperature)
    return torch.log(total)


def cosent(
    left: Tensor,
    right: Tensor,
    targets: list[float],
    *,
    temperature: float = 0.05,
    weights: list[float] | None = None,
) -> Tensor:
    scores = [cosine(a, b) for a, b in zip(left, right, strict=True)]
    return in_order(scores, targets, temperature, weights)


def angle(
    left: Tensor,
    right: Tensor,
    targets: list[float],
    *,
    temperature: float = 0.05,
    weights: list[float] | None = None,
) -> Tensor:
    """Li and Li 2023: the quotient of complex numbers, over the quotient of their lengths."""
    scores = []
    for a, b in zip(left, right, strict=True):
        half = math.ceil(len(a) / 2)
        a, b = (torch.cat([row, row.new_zeros(2 * half - len(row))]) for row in (a, b))
        length = torch.sqrt(dot(b, b))
        parts = []
        for k in range(half):
            quotient = torch.complex(a[k], a[k + half]) / torch.complex(b[k], b[k + half])
            share = (b[k] ** 2 + b[k + half] ** 2) / length**2
            parts.append(share * (quotient.real + quotient.imag))
        scores.append(abs(sum(parts)) * length / torch.sqrt(dot(a, a)))
    return in_order(scores, targets, temperature, weights)
