"""The papers as plain loops over scalars, to be read beside them and to know nothing of the library.

Everything takes and gives float64 tensors with a graph, so that gradients can be compared too. Pairs are Python sets.
Here what all share, and triplets; the softmax family is in oracles_softmax.py, pairs and teachers in oracles_pairs.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

Pairs = set[tuple[int, int]]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return dot(a, b) / torch.sqrt(dot(a, a) * dot(b, b))


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    return -torch.sqrt(((a - b) ** 2).sum())


def max_sim(a: Tensor, b: Tensor) -> Tensor:
    """Of token vectors [T, D], zeros for absent tokens: the mean over a's of the largest cosine with one of b's."""
    asking, answering = ([token for token in text if token.any()] for text in (a, b))
    if not asking or not answering:
        return a.sum() * 0 + b.sum() * 0
    found = [max((cosine(one, other) for other in answering), key=lambda score: score.item()) for one in asking]
    return sum(found) / len(found)


SIMILARITIES = {"cosine": cosine, "dot": dot, "euclidean": euclidean, "max_sim": max_sim}


def negative_pairs(
    num_queries: int,
    num_keys: int,
    positives: Pairs,
    exclude: Pairs = frozenset(),
    owners: list[int] | None = None,
    others_negatives: bool = True,
) -> Pairs:
    """Who counts against whom."""
    if owners is None:
        owners = [j % num_queries if num_queries else 0 for j in range(num_keys)]
    anyones = {j for _, j in positives}
    return {
        (i, j)
        for i in range(num_queries)
        for j in range(num_keys)
        if (i, j) not in positives
        and (i, j) not in exclude
        and (others_negatives or j in anyones or owners[j] in (i, -1))
    }


def reduce(
    rows: dict[int, Tensor], num_queries: int, weights: list[float] | None, reduction: str, queries: Tensor
) -> Tensor:
    weights = weights or [1.0] * num_queries
    zero = queries.sum() * 0
    if reduction == "none":
        return torch.stack([weights[i] * rows.get(i, zero) for i in range(num_queries)])
    total = sum((weights[i] * row for i, row in rows.items()), zero)
    return total / sum(weights[i] for i in rows) if reduction == "mean" and rows else total


def chances(chords: list[float], dimension: int) -> list[float]:
    """Wu et al. 2017, section 4: min(lambda, 1 / q(d)) with lambda = 1 / q(0.5), none beyond 1.4, normalised."""

    def density(chord: float) -> float:
        return chord ** (dimension - 2) * (1 - chord**2 / 4) ** ((dimension - 3) / 2)

    weights = [0.0 if chord >= 1.4 else 1 / density(max(chord, 0.5)) for chord in chords]
    return [weight / sum(weights) if sum(weights) else 1 / len(weights) for weight in weights]


def triplets(
    distances: list[list[Tensor]],
    positives: Pairs,
    negatives: Pairs,
    mining: str,
    chords: list[list[float]],
    width: int,
) -> list[tuple[int, int, int, float]]:
    """The (query, positive, negative) that a way of mining chooses, first of equals, and with what probability."""
    chosen = []
    for i in range(len(distances)):
        own = [j for j in range(len(distances[i])) if (i, j) in positives]
        others = [j for j in range(len(distances[i])) if (i, j) in negatives]
        if not own or not others:
            continue
        if mining == "hardest":
            chosen.append((i, max(own, key=lambda j: distances[i][j]), min(others, key=lambda j: distances[i][j]), 1))
        if mining == "easy_positive":
            chosen.append((i, min(own, key=lambda j: distances[i][j]), min(others, key=lambda j: distances[i][j]), 1))
        for p in own:
            if mining == "semi_hard":
                farther = [j for j in others if distances[i][j] > distances[i][p]]
                nearest = min(farther, key=lambda j: distances[i][j]) if farther else None
                chosen.append((i, p, max(others, key=lambda j: distances[i][j]) if nearest is None else nearest, 1))
            if mining in ("all", "explicit"):
                chosen.extend((i, p, j, 1) for j in others)
            if mining == "distance_weighted":
                likely = chances([chords[i][j] for j in others], width)
                chosen.extend((i, p, j, chance) for j, chance in zip(others, likely, strict=True))
    return chosen


def triplet(
    queries: Tensor,
    keys: Tensor,
    *,
    positives: Pairs | None = None,
    exclude: Pairs = frozenset(),
    owners: list[int] | None = None,
    weights: list[float] | None = None,
    distance: str = "cosine",
    mining: str = "hardest",
    margin: float | None = None,
    soft_margin: bool = False,
    average: str = "all",
    normalize: bool = True,
    reduction: str = "mean",
) -> Tensor:
    num_queries, num_keys = len(queries), len(keys)
    if positives is None:
        positives = {(i, i) for i in range(num_queries)}
    if margin is None:
        margin = 0.0 if soft_margin else 0.2 if distance == "cosine" or normalize else 1.0
    if distance != "euclidean":
        distances = [[1 - SIMILARITIES[distance](query, key) for key in keys] for query in queries]
    else:
        if normalize:
            queries = torch.stack([query / torch.sqrt(dot(query, query)) for query in queries])
            keys = torch.stack([key / torch.sqrt(dot(key, key)) for key in keys])
        distances = [[-euclidean(query, key) for key in keys] for query in queries]

    negatives = negative_pairs(num_queries, num_keys, positives, exclude)
    if mining == "explicit":
        owners = owners or [j % num_queries for j in range(num_keys)]
        negatives = {(i, j) for i, j in negatives if j >= num_queries and owners[j] == i}
    chords = []
    if mining == "distance_weighted":
        chords = [[max(0.0, 2 - 2 * cosine(query, key).item()) ** 0.5 for key in keys] for query in queries]
    losses: list[tuple[int, Tensor, float]] = []
    for i, p, n, share in triplets(distances, positives, negatives, mining, chords, queries.shape[1]):
        gap = distances[i][p] - distances[i][n] + margin
        losses.append((i, torch.log(1 + torch.exp(gap)) if soft_margin else torch.clamp(gap, min=0), share))
    if average == "active":
        losses = [(i, loss, share) for i, loss, share in losses if loss > 0]

    weights = weights or [1.0] * num_queries
    zero = queries.sum() * 0
    if reduction == "mean":
        total = sum((weights[i] * share * loss for i, loss, share in losses), zero)
        return total / sum(weights[i] * share for i, _, share in losses) if losses else total
    own = [[(loss, share) for j, loss, share in losses if j == i] for i in range(num_queries)]
    means = [
        sum(loss * share for loss, share in mine) / sum(share for _, share in mine) if mine else zero for mine in own
    ]
    rows = torch.stack([weight * mean for weight, mean in zip(weights, means, strict=True)])
    return rows.sum() if reduction == "sum" else rows
