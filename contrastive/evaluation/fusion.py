"""Systems mixed: their scores put on one scale, query by query, and added with weights that are fitted on dev.

Notable decisions:

- It takes rankings, whatever made them: words, one vector a text, a vector a token.
- The scale is min-max over what a system ranked for the query: its best is 1, its last is 0, and so is what it did not
  rank, for it found nothing there, or there was more than `depth` above. Nothing but the query's own scores decides it.
- The weights are those of a grid with the best mean nDCG@10 on dev. What they gain is said of queries that they were
  not fitted on: each fifth of dev is judged by the weights of the rest, against the system that is best alone; the mean
  over many ways of cutting dev into fifths, of which one alone says little.
- Where that is no gain, the hybrid is the best system alone, and says so; where it may be luck, it says that.

Shape letters: S systems, C documents that any of them ranked for a query, W weightings tried, Q queries.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contrastive.data import RetrievalTask
from contrastive.evaluation.rankings import Rankings
from contrastive.evaluation.ties import TieBreaker
from contrastive.statistics import Difference, paired_difference

DEPTH = 1000
"""Documents of each system that are mixed for a query."""

CUTOFF = 10
"""Of the nDCG that is fitted."""

_FOLDS, _CUTS = 5, 20


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Weights of systems, and how they were found.

    Attributes:
        weights: By system, none below 0, 1 in all; a system that has 1 is the hybrid, as it is.
        tried: The best of the grid on dev, which are the weights if they gain on average.
        best_part: The system that is best alone on dev.
        gain: Of the mixture over the best part in nDCG@10, cross-fitted on dev, with its interval.
        task: Name of the task that it was fitted on.
        queries: How many queries that was.
    """

    weights: Mapping[str, float]
    tried: Mapping[str, float]
    best_part: str
    gain: Difference
    task: str
    queries: int

    def __str__(self) -> str:
        """Say what it is, and why."""
        gain = (
            f"{self.gain.mean:+.3f} [{self.gain.low:+.3f}, {self.gain.high:+.3f}] nDCG@10 over {self.best_part} alone"
        )
        where = f"on the {self.queries:,} queries of {self.task}"
        if max(self.tried.values()) == 1:
            return f"{self.best_part} alone: no mixture is better {where}"
        luck = "" if self.gain.low > 0 else ", which may be luck"
        if self.weights == self.tried:
            return f"{mixture(self.weights)}: {gain} {where}, cross-fitted{luck}"
        return f"{self.best_part} alone: {mixture(self.tried)} would bring {gain} {where}"


def mixture(weights: Mapping[str, float]) -> str:
    """Return weights in words."""
    return " + ".join(f"{weight:.2f} {name}" for name, weight in weights.items() if weight)


def fuse(systems: Mapping[str, Rankings], weights: Mapping[str, float], depth: int = DEPTH) -> Rankings:
    """Rank by the weighted mean of the systems' scores, each put on one scale, from 0 to 1 (see the module).

    Ties are broken by document id. The ranking of a system that has all the weight is returned with its own scores.

    Args:
        systems: Rankings of the same queries by system, to the same depth.
        weights: By system, none below 0, 1 in all.
        depth: At most this many documents a query.

    Raises:
        ValueError: If the weights are not of the systems, or are none.

    Example:
        >>> words = Rankings({"q": ["a", "b"]}, {"q": [9.0, 3.0]})
        >>> vectors = Rankings({"q": ["b", "c", "a"]}, {"q": [0.9, 0.5, 0.1]})
        >>> fuse({"words": words, "vectors": vectors}, {"words": 0.4, "vectors": 0.6})
        Rankings(documents={'q': ['b', 'a', 'c']}, scores={'q': [0.6, 0.4, 0.3]})
    """
    check_weights(weights, systems)
    mixed = {name: weight for name, weight in weights.items() if weight > 0}
    rankings = [systems[name] for name in mixed]
    queries = dict.fromkeys(query for ranking in rankings for query in ranking.documents)
    if len(rankings) == 1:
        alone = rankings[0]
        return Rankings(
            {query: alone.documents[query][:depth] for query in queries},
            {query: alone.scores[query][:depth] for query in queries},
        )
    of_each = torch.tensor(list(mixed.values()), dtype=torch.float64)
    found: dict[str, tuple[list[str], list[float]]] = {}
    for query in queries:
        candidates, lined_up, _ = _lined_up(rankings, query)
        ties = TieBreaker(candidates)
        found[query] = ties.unpack(ties.pack(of_each @ lined_up).sort(descending=True).values[:depth])
    return Rankings({query: ids for query, (ids, _) in found.items()}, {query: of for query, (_, of) in found.items()})


def check_weights(weights: Mapping[str, float], systems: Mapping[str, object]) -> None:
    """Refuse weights that are not those of a mixture of the systems.

    Raises:
        ValueError: If a system is unknown, a weight is below 0, or they are not 1 in all.
    """
    fits = all(weight >= 0 for weight in weights.values()) and abs(sum(weights.values()) - 1) < 1e-6
    if not fits or not weights.keys() <= systems.keys():
        raise ValueError(f"expected weights of {', '.join(systems)}, from 0 to 1 and 1 in all, got {dict(weights)}")


def fit_hybrid(systems: Mapping[str, Rankings], task: RetrievalTask) -> Hybrid:
    """Find the weights with the best mean nDCG@10 on a task, and what they gain over the best system alone.

    Args:
        systems: Rankings of the task's queries by system, two at least, to the same depth.
        task: Says what is relevant; not the one that the hybrid is to be judged on.

    Raises:
        ValueError: If there are fewer than two systems, or no query has a relevant document.
    """
    judged = sorted(query for query, grades in task.qrels.items() if max(grades.values(), default=0) > 0)
    if len(systems) < 2 or not judged:
        raise ValueError(
            f"expected two systems and a query with a relevant document, got {len(systems)} and {len(judged)}"
        )
    grid = _grid(len(systems))
    table = torch.stack([_ndcg(grid, list(systems.values()), query, task.qrels[query]) for query in judged], dim=1)
    best, part = _best(table), _best(table[: len(systems)])
    gain = paired_difference(_cross_fitted(table, part).tolist(), table[part].tolist())
    tried = dict(zip(systems, grid[best].tolist(), strict=True))
    alone = dict(zip(systems, grid[part].tolist(), strict=True))
    return Hybrid(tried if gain.mean > 0 else alone, tried, list(systems)[part], gain, task.name, len(judged))


def _grid(count: int) -> Tensor:
    """Return weightings of S systems, [W, S]: each alone, then all mixtures in steps of 0.05, of four and more 0.1."""
    steps = 20 if count <= 3 else 10
    mixtures = [row for row in itertools.product(range(steps), repeat=count) if sum(row) == steps]
    return torch.cat([torch.eye(count, dtype=torch.float64), torch.tensor(mixtures, dtype=torch.float64) / steps])


def _lined_up(rankings: Sequence[Rankings], query: str) -> tuple[list[str], Tensor, Tensor]:
    """Return the documents that any system ranked, by id, their scores on one scale, and who ranked them, [S, C]."""
    candidates = sorted({document for ranking in rankings for document in ranking.documents.get(query, ())})
    column = {document: index for index, document in enumerate(candidates)}
    scores = torch.zeros(len(rankings), len(candidates), dtype=torch.float64)
    ranked = torch.zeros(len(rankings), len(candidates), dtype=torch.bool)
    for row, ranking in enumerate(rankings):
        columns = [column[document] for document in ranking.documents.get(query, ())]
        if columns:
            scores[row, columns] = _on_one_scale(torch.tensor(ranking.scores[query], dtype=torch.float64))
            ranked[row, columns] = True
    return candidates, scores, ranked


def _on_one_scale(scores: Tensor) -> Tensor:
    """Return scores [n] from 0 to 1; equal ones are all 1: the system found these, and nothing else."""
    low, high = scores.aminmax()
    return (scores - low) / (high - low) if high > low else torch.ones_like(scores)


def _ndcg(grid: Tensor, rankings: Sequence[Rankings], query: str, grades: Mapping[str, int]) -> Tensor:
    """Return the nDCG@10 of a query under each weighting [W, S], as trec_eval has it: [W]."""
    candidates, scores, ranked = _lined_up(rankings, query)
    if not candidates:
        return torch.zeros(len(grid), dtype=torch.float64)
    packed = TieBreaker(candidates).pack(grid @ scores)
    packed[(grid > 0).double() @ ranked.double() == 0] = TieBreaker.nothing  # no system with a weight ranked it
    best = packed.topk(min(CUTOFF, len(candidates))).values
    gains = torch.tensor([float(grades.get(document, 0)) for document in reversed(candidates)], dtype=torch.float64)
    found = gains[best % len(candidates)].where(best != TieBreaker.nothing, 0.0)  # the rest is the place by id
    ideal = sorted(map(float, grades.values()), reverse=True)[:CUTOFF]
    discounts = 1 / torch.arange(2, CUTOFF + 2, dtype=torch.float64).log2()
    most = discounts[: len(ideal)] @ torch.tensor(ideal, dtype=torch.float64)
    return found @ discounts[: found.shape[1]] / most


def _best(table: Tensor) -> int:
    """Return the first row of [W, Q] with the best mean."""
    means = table.mean(dim=1).mul(1e9).round().tolist()  # equal on paper, other last bits
    return max(range(len(means)), key=means.__getitem__)


def _cross_fitted(table: Tensor, part: int) -> Tensor:
    """Return the nDCG [Q] of each query under the weights that are best on the other folds; see `fit_hybrid`."""
    number = table.shape[1]
    if number < 2:
        return table[part]
    generator, fitted = torch.Generator().manual_seed(0), torch.zeros(number, dtype=table.dtype)
    for _ in range(_CUTS):
        fold = torch.randperm(number, generator=generator) % _FOLDS
        for held_out in range(_FOLDS):
            inside = fold == held_out
            if inside.any() and not inside.all():
                fitted[inside] += table[_best(table[:, ~inside])][inside]
    return fitted / _CUTS
