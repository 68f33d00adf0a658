"""Losses of pairs and of teachers as plain loops over scalars; as oracles.py, they know nothing of the library."""

from __future__ import annotations

import math

import torch
from oracles import SIMILARITIES, Pairs, dot, euclidean, reduce
from torch import Tensor


def pair_distances(left: Tensor, right: Tensor, distance: str, normalize: bool) -> list[Tensor]:
    if distance != "euclidean":
        return [1 - SIMILARITIES[distance](a, b) for a, b in zip(left, right, strict=True)]
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
    margin = (1.0 if distance == "euclidean" else 0.5) if margin is None else margin
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
    margin = (1.0 if distance == "euclidean" else 0.5) if margin is None else margin
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
    similarity: str = "cosine",
    temperature: float = 0.05,
    weights: list[float] | None = None,
) -> Tensor:
    scores = [SIMILARITIES[similarity](a, b) for a, b in zip(left, right, strict=True)]
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


def taught(
    num_queries: int, num_keys: int, owners: list[int] | None, teacher_scores: list[list[float]]
) -> dict[tuple[int, int], float]:
    """The teacher's score of each (query, key) that it knows."""
    if len(teacher_scores[0]) == num_keys:
        known = {(i, j): teacher_scores[i][j] for i in range(num_queries) for j in range(num_keys)}
    else:
        owners = owners or [j % num_queries for j in range(num_keys)]
        known = {}
        for i, row in enumerate(teacher_scores):
            own = [i] + [j for j in range(num_queries, num_keys) if owners[j] == i]
            known |= {(i, j): score for j, score in zip(own, row, strict=False)}
    return {pair: score for pair, score in known.items() if not math.isnan(score)}


def margin_mse(
    queries: Tensor,
    keys: Tensor,
    *,
    teacher_scores: list[list[float]],
    positives: Pairs,
    exclude: Pairs = frozenset(),
    owners: list[int] | None = None,
    weights: list[float] | None = None,
    similarity: str = "dot",
    temperature: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Hofstaetter et al. 2020, eq. 7, for every positive and negative that the teacher knows."""
    known = taught(len(queries), len(keys), owners, teacher_scores)
    scores = {(i, j): SIMILARITIES[similarity](queries[i], keys[j]) / temperature for i, j in known}
    losses = [
        (i, (scores[i, p] - scores[i, n] - (known[i, p] - known[i, n])) ** 2)
        for i, p in sorted(known)
        for k, n in sorted(known)
        if i == k and (i, p) in positives and (i, n) not in positives and (i, n) not in exclude
    ]
    weights = weights or [1.0] * len(queries)
    zero = queries.sum() * 0
    if reduction == "mean":
        total = sum((weights[i] * loss for i, loss in losses), zero)
        return total / sum(weights[i] for i, _ in losses) if losses else total
    own = [[loss for j, loss in losses if j == i] for i in range(len(queries))]
    rows = torch.stack([weights[i] * sum(mine) / len(mine) if mine else zero for i, mine in enumerate(own)])
    return rows.sum() if reduction == "sum" else rows


def distill_kl(
    queries: Tensor,
    keys: Tensor,
    *,
    teacher_scores: list[list[float]],
    positives: Pairs,
    exclude: Pairs = frozenset(),
    owners: list[int] | None = None,
    weights: list[float] | None = None,
    similarity: str = "cosine",
    temperature: float = 0.05,
    teacher_temperature: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    known = taught(len(queries), len(keys), owners, teacher_scores)
    rows = {}
    for i in range(len(queries)):
        candidates = [j for k, j in known if k == i and ((i, j) in positives or (i, j) not in exclude)]
        if len(candidates) < 2:
            continue
        student = [torch.exp(SIMILARITIES[similarity](queries[i], keys[j]) / temperature) for j in candidates]
        teacher = [math.exp(known[i, j] / teacher_temperature) for j in candidates]
        terms = [
            t / sum(teacher) * torch.log(t / sum(teacher) / (s / sum(student)))
            for t, s in zip(teacher, student, strict=True)
            if t > 0
        ]
        rows[i] = sum(terms)
    return reduce(rows, len(queries), weights, reduction, queries)
