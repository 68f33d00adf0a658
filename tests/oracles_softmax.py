"""The softmax family as loops: first who is compared with whom, then one formula a paper, on the numbers of one row.

Nothing is subtracted, split or masked for the sake of floating point; float64 and moderate logits make up for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from oracles import SIMILARITIES, Pairs, cosine, negative_pairs, reduce
from torch import Tensor


@dataclass
class Row:
    """The scores of one row: those of its positives, and those of its negatives with their weights."""

    index: int
    temperature: float | Tensor
    positives: list[Tensor] = field(default_factory=list)
    negatives: list[tuple[Tensor, float]] = field(default_factory=list)

    def exp(self, score: Tensor, factor: float = 1) -> Tensor:
        return torch.exp(factor * score / self.temperature)

    def sum_of_positives(self) -> Tensor:
        return sum(self.exp(score) for score in self.positives)

    def sum_of_negatives(self, factor: float = 1) -> Tensor:
        return sum(weight * self.exp(score, factor) for score, weight in self.negatives)

    def mean_of_positives(self) -> Tensor:
        return sum(self.positives) / len(self.positives)


Formula = Callable[[Row], list[Tensor]]
Candidate = tuple[Tensor, str, float, str]
"""Score; '+', '-' or ' ' for what does not count; weight; and source."""


@dataclass
class Call:
    """What a loss is called with."""

    queries: Tensor
    keys: Tensor
    positives: Pairs | None = None
    exclude: Pairs = frozenset()
    same_texts: dict[str, Pairs] = field(default_factory=dict)
    owners: list[int] | None = None
    weights: list[float] | None = None
    key_weights: list[float] | None = None
    temperature: float | Tensor = 0.05
    similarity: str = "cosine"
    symmetric: bool = False
    same_side: bool = False
    others_negatives: bool = True
    false_negative_margin: float | None = None
    drop_hardest: float = 0.0
    merge_excluded: bool = False
    hardness: float = 0.0
    hardened: str = "all"
    reduction: str = "mean"
    guided: Callable[[str, int, int], bool] | None = None

    def row(self, directions: Sequence[str], i: int) -> Row:
        """Anchor i against all it is compared with."""
        found = [each for direction in directions for each in getattr(self, direction)(i) if each[1] != " "]
        row = Row(i, self.temperature, [score for score, kind, _, _ in found if kind == "+"])
        negatives = [each for each in found if each[1] == "-"]
        kept = negatives
        if self.drop_hardest:
            ranked = sorted((score.item() for score, *_ in negatives), reverse=True)
            dropped = int(len(ranked) * self.drop_hardest)
            kept = [each for each in kept if each[0].item() <= ranked[dropped]]
        if self.false_negative_margin is not None and row.positives:
            highest = row.mean_of_positives().item() + self.false_negative_margin
            kept = [each for each in kept if each[0].item() <= highest]
        for score, _, weight, source in kept:
            weight *= math.exp(self.hardness * score.item()) if self.hardened in ("all", source) else 1
            if weight:
                row.negatives.append((score, weight))
        return row

    def own(self, i: int, j: int) -> bool:
        """Whether key j belongs to query i."""
        return (self.owners[j] if self.owners else j % len(self.queries)) == i

    def source(self, i: int, j: int) -> str:
        """Whose key j is to query i: a hard negative of its own, or one of the batch."""
        return "in_batch" if not self.own(i, j) else "hard" if j >= len(self.queries) else "its own"

    def weight(self, j: int) -> float:
        return self.key_weights[j] if self.key_weights else 1.0

    def score(self, a: Tensor, b: Tensor) -> Tensor:
        return SIMILARITIES[self.similarity](a, b)

    def query_to_key(self, i: int) -> list[Candidate]:
        positives = self.pairs() | self.merged()
        against = negative_pairs(
            len(self.queries), len(self.keys), self.pairs(), self.exclude, self.owners, self.others_negatives
        )
        return [
            (
                self.score(self.queries[i], self.keys[j]),
                "+" if (i, j) in positives else "-" if self.counts("query_to_key", i, j, (i, j) in against) else " ",
                self.weight(j),
                self.source(i, j),
            )
            for j in range(len(self.keys))
        ]

    def key_to_query(self, j: int) -> list[Candidate]:
        positives = self.pairs() | self.merged()
        return [
            (
                self.score(self.queries[i], self.keys[j]),
                "+"
                if (i, j) in positives
                else "-"
                if self.counts("key_to_query", j, i, (i, j) not in set(self.exclude) | self.themselves())
                else " ",
                1.0,
                "in_batch",
            )
            for i in range(len(self.queries))
        ]

    def query_to_query(self, i: int) -> list[Candidate]:
        return [
            (self.score(self.queries[i], self.queries[j]), "-", 1.0, "in_batch")
            for j in range(len(self.queries))
            if j != i and self.counts("query_to_query", i, j, (i, j) not in self.exclude and (j, i) not in self.exclude)
        ]

    def key_to_key(self, i: int) -> list[Candidate]:
        against = negative_pairs(
            len(self.queries), len(self.keys), self.pairs(), self.exclude, self.owners, self.others_negatives
        )
        return [
            (self.score(self.keys[i], self.keys[j]), "-", self.weight(j), "in_batch")
            for j in range(len(self.keys))
            if j != i and not self.own(i, j) and self.counts("key_to_key", i, j, (i, j) in against)
        ]

    def counts(self, direction: str, i: int, j: int, allowed: bool) -> bool:
        allowed = allowed and (i, j) not in self.same_texts.get(direction, ())
        return allowed and not (self.guided and self.guided(direction, i, j))

    def themselves(self) -> set[tuple[int, int]]:
        """Pairs of a query with its own text."""
        return set(self.same_texts.get("query_to_key", ()))

    def merged(self) -> set[tuple[int, int]]:
        return set(self.exclude) - self.themselves() if self.merge_excluded else set()

    def pairs(self) -> set[tuple[int, int]]:
        return {(i, i) for i in range(len(self.queries))} if self.positives is None else set(self.positives)


def of_rows(formula: Formula, call: Call, partitions: Sequence[Sequence[str]] | None = None) -> Tensor:
    """The mean over partitions of the reduced formula of the rows that have a positive and a negative."""
    if partitions is None:
        forth = ["query_to_key", "query_to_query"] if call.same_side else ["query_to_key"]
        back = ["key_to_query", "key_to_key"] if call.same_side else ["key_to_query"]
        partitions = [forth, back] if call.symmetric else [forth]
    losses = []
    for directions in partitions:
        every_key = directions[0] == "key_to_query" and call.positives is not None
        terms = {}
        for i in range(len(call.keys if every_key else call.queries)):
            row = call.row(directions, i)
            if row.positives and row.negatives:
                terms[i] = formula(row)
        if every_key:  # a query counts as the mean of its positives
            means = {j: sum(of_key) / len(of_key) for j, of_key in terms.items()}
            terms = {
                i: [sum(found) / len(found)]
                for i in range(len(call.queries))
                if (found := [mean for j, mean in means.items() if (i, j) in call.positives])
            }
        losses.append(reduce_terms(terms, call))
    return sum(losses) / len(losses)


def reduce_terms(terms: dict[int, list[Tensor]], call: Call) -> Tensor:
    """A mean over all terms, or each row's own mean."""
    weights = call.weights or [1.0] * len(call.queries)
    if call.reduction == "mean":
        total = sum((weights[i] * sum(of_row) for i, of_row in terms.items()), call.queries.sum() * 0)
        return total / (sum(weights[i] * len(of_row) for i, of_row in terms.items()) or 1)
    means = {i: sum(of_row) / len(of_row) for i, of_row in terms.items()}
    return reduce(means, len(call.queries), call.weights, call.reduction, call.queries)


def info_nce(queries: Tensor, keys: Tensor, *, label_smoothing: float = 0.0, **said: Any) -> Tensor:
    """Van den Oord et al. 2018, eq. 4; with several positives Khosla et al. 2020, eq. 2 (L_out)."""
    return of_rows(partial(cross_entropy, label_smoothing), Call(queries, keys, **said))


def cross_entropy(smoothing: float, row: Row) -> list[Tensor]:
    """With smoothing, Szegedy et al. 2016, section 7: its share of the target is spread over all candidates."""
    partition = row.sum_of_positives() + row.sum_of_negatives()
    found = -sum(torch.log(row.exp(score) / partition) for score in row.positives) / len(row.positives)
    everyone = [*row.positives, *(score for score, _ in row.negatives)]
    spread = -sum(torch.log(row.exp(score) / partition) for score in everyone) / len(everyone)
    return [(1 - smoothing) * found + smoothing * spread]


def multiple_negatives_ranking(
    queries: Tensor,
    keys: Tensor,
    *,
    scale: float | None = None,
    directions: Sequence[str] = ("query_to_key",),
    partition: str = "joint",
    label_smoothing: float = 0.0,
    **said: Any,
) -> Tensor:
    """Henderson et al. 2017; with all directions in one partition Li et al. 2023, eq. 3."""
    if scale:
        said["temperature"] = 1 / scale
    partitions = [directions] if partition == "joint" else [[direction] for direction in directions]
    return of_rows(partial(cross_entropy, label_smoothing), Call(queries, keys, **said), partitions)


def sup_con(queries: Tensor, keys: Tensor, **said: Any) -> Tensor:
    return info_nce(queries, keys, **{"temperature": 0.1, **said})


def nt_xent(queries: Tensor, keys: Tensor, **said: Any) -> Tensor:
    """Chen et al. 2020, eq. 1: each positive pair on its own; two views are held against both views of all others."""

    def formula(row: Row) -> list[Tensor]:
        negatives = row.sum_of_negatives()
        return [-torch.log(row.exp(score) / (row.exp(score) + negatives)) for score in row.positives]

    views = said.get("positives") is None
    return of_rows(formula, Call(queries, keys, **{"temperature": 0.5, "symmetric": views, "same_side": views, **said}))


def decoupled_contrastive(queries: Tensor, keys: Tensor, *, sigma: float | None = None, **said: Any) -> Tensor:
    """Yeh et al. 2021, eq. 6, and the weights of section 3.3, which have no gradient."""
    weights = [1.0] * len(queries)
    if sigma:
        alike = SIMILARITIES["max_sim"] if said.get("similarity") == "max_sim" else cosine
        agreement = [math.exp(alike(query, key).item() / sigma) for query, key in zip(queries, keys, strict=False)]
        weights = [2 - each * len(agreement) / sum(agreement) for each in agreement]

    def formula(row: Row) -> list[Tensor]:
        weight = weights[row.index] if sigma else 1
        return [-weight * row.mean_of_positives() / row.temperature + torch.log(row.sum_of_negatives())]

    return of_rows(formula, Call(queries, keys, **said))


def hard_weighted(
    queries: Tensor,
    keys: Tensor,
    *,
    concentration: float = 1.0,
    positive_prior: float = 0.1,
    lowest_score: float = -1.0,
    **said: Any,
) -> Tensor:
    """Robinson et al. 2021, as in the authors' code: importance e^(beta s / t), divided by its mean."""

    def formula(row: Row) -> list[Tensor]:
        count = len(row.negatives)
        weights = [weight * row.exp(score, concentration) for score, weight in row.negatives]
        if concentration:
            mean = sum(weights) / count
            total = (
                sum(weight * row.exp(score) for weight, (score, _) in zip(weights, row.negatives, strict=True)) / mean
            )
        else:
            total = row.sum_of_negatives()
        positive = row.sum_of_positives() / len(row.positives)
        true = (total - count * positive_prior * positive) / (1 - positive_prior)
        temperature = row.temperature.item() if isinstance(row.temperature, Tensor) else row.temperature
        lowest = count * math.exp(lowest_score / temperature)
        partition = row.sum_of_positives() + torch.clamp(true, min=lowest)
        return [-sum(torch.log(row.exp(score) / partition) for score in row.positives) / len(row.positives)]

    return of_rows(formula, Call(queries, keys, **said))


def debiased_contrastive(queries: Tensor, keys: Tensor, **said: Any) -> Tensor:
    """Chuang et al. 2020, eq. 7 and 8."""
    return hard_weighted(queries, keys, concentration=0.0, **said)


def gist(
    queries: Tensor,
    keys: Tensor,
    *,
    guide_queries: Tensor,
    guide_keys: Tensor,
    margin: float = 0.0,
    relative_margin: bool = False,
    contrast_queries: bool = True,
    contrast_positives: bool = True,
    symmetric: bool = False,
    guide_similarity: str = "cosine",
    **said: Any,
) -> Tensor:
    """Solatorio 2024, section 3, with the margins of Moreira et al. 2024; a tie with the positive is left out too."""

    def guided(direction: str, i: int, j: int) -> bool:
        alike = SIMILARITIES[guide_similarity]
        least = alike(guide_queries[i], guide_keys[i]).item()
        least -= margin * abs(least) if relative_margin else margin
        sides = {"query": guide_queries, "key": guide_keys}
        anchor, _, other = direction.split("_")
        if direction == "key_to_key" and j >= len(queries):
            return True
        return alike(sides[anchor][i], sides[other][j]).item() >= least - 1e-9

    directions = ["query_to_key"]
    directions += ["query_to_query"] if contrast_queries else []
    directions += ["key_to_key"] if contrast_positives else []
    partitions = [directions, ["key_to_query"]] if symmetric else [directions]
    return of_rows(partial(cross_entropy, 0.0), Call(queries, keys, guided=guided, **said), partitions)


def siglip(queries: Tensor, keys: Tensor, *, bias: float | Tensor = -10.0, **said: Any) -> Tensor:
    """Zhai et al. 2023, eq. 1: minus log sigmoid(z (s / t + b)) of every pair, over the number of queries."""
    call = Call(queries, keys, **{"temperature": 0.1, **said})
    terms = {}
    for i in range(len(queries)):
        row = call.row(["query_to_key"], i)
        if row.positives:
            terms[i] = [
                -sum(torch.log(torch.sigmoid(score / call.temperature + bias)) for score in row.positives)
                - sum(
                    weight * torch.log(torch.sigmoid(-(score / call.temperature + bias)))
                    for score, weight in row.negatives
                )
            ]
    return reduce_terms(terms, call)
