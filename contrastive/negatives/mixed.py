"""Negatives of several sources in given shares.

Notable decisions:

- The shares are exact over all pairs, by largest remainders, and each pair gets its own share rounded down or up; which
  pairs get the odd ones follows from a digest of their ids, so that it looks drawn and is not.
- A document that two sources choose counts for the one named first; the other gives its next. What a source cannot
  give, the others do, in the order in which they are named.

Shape letters: P pairs, S sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contrastive.negatives.contracts import CandidateSource, ChosenNegatives, Moment
from contrastive.negatives.interval import Interval
from contrastive.negatives.mined import mine
from contrastive.negatives.pool import Pool, seed_of
from contrastive.negatives.selection import Selection

Counts = NDArray[np.int64]


class Mixed:
    """Chooses each pair's negatives from several sources.

    Args:
        sources: The sources by name.
        mix: Share of each source, at least 0; those not named have none. They need not add up to 1.
        final_mix: Shares at the end of training. In between they move in a straight line with `Moment.progress`: from
            easy to hard, for instance, from `Random` to `Dense`. None stays with `mix`.
        every_n_epochs: Choose again after so many epochs, by the shares of then and with the model in training; without
            it and `every_n_steps` a `final_mix` takes one epoch.
        every_n_steps: Choose again after so many optimiser steps, instead.
        **selection: What to choose, as for `Mined`. Limits on scores are in the units of each source.

    Raises:
        ValueError: If a share is below 0, all are 0, one is of an unknown source, or a setting is out of range.

    Example:
        >>> from contrastive.negatives import BM25, Pair, Pool, Random
        >>> pool = Pool({"a": "nurse at night", "b": "head nurse", "c": "chef"}, [Pair("q", "nurse", "a")])
        >>> Mixed({"bm25": BM25(), "random": Random()}, mix={"bm25": 1, "random": 1}, count=2)(pool)[0].sources
        ('bm25', 'random')
    """

    def __init__(
        self,
        sources: Mapping[str, CandidateSource],
        *,
        mix: Mapping[str, float],
        final_mix: Mapping[str, float] | None = None,
        every_n_epochs: float | None = None,
        every_n_steps: int | None = None,
        **selection: Any,
    ) -> None:
        if final_mix is not None and every_n_epochs is None and every_n_steps is None:
            every_n_epochs = 1
        self.interval = Interval(every_n_epochs, every_n_steps)
        self.sources = dict(sources)
        self.mix = _checked(mix, self.sources)
        self.final_mix = self.mix if final_mix is None else _checked(final_mix, self.sources)
        self.selection = Selection(**selection)

    def shares(self, progress: float) -> dict[str, float]:
        """Return the share of each source that has any, after so much of the training; they add up to 1."""
        now = {
            name: (1 - progress) * self.mix.get(name, 0.0) + progress * self.final_mix.get(name, 0.0)
            for name in self.sources
        }
        return {name: share for name, share in now.items() if share > 0}

    def __call__(self, pool: Pool, moment: Moment = Moment()) -> list[ChosenNegatives]:  # noqa: B008
        """Return the negatives of each pair; see `contracts.NegativeStrategy`."""
        shares = self.shares(moment.progress)
        quotas = apportion(list(shares.values()), self.selection.count, self._order(pool, moment))
        mined = {name: mine(pool, self.sources[name], self.selection, moment) for name in shares}
        return [
            self._merged(pool, {name: found[pair] for name, found in mined.items()}, quotas[pair].tolist())
            for pair in range(len(pool))
        ]

    def is_due(self, *, step: int, steps_an_epoch: int) -> bool:
        """Tell whether negatives are to be chosen again after so many optimiser steps."""
        return self.interval.is_due(step=step, steps_an_epoch=steps_an_epoch)

    def describe(self, moment: Moment) -> Mapping[str, object]:
        """Return, as plain values, all that decides which negatives of given texts are chosen."""
        shares = self.shares(moment.progress)
        sources = {name: (share, self.sources[name].describe(moment)) for name, share in shares.items()}
        return {"mixed": sources, "selection": asdict(self.selection), "refresh": moment.refresh}

    def _order(self, pool: Pool, moment: Moment) -> Counts:
        seeds = [seed_of(self.selection.seed, moment.refresh, pair) for pair in pool.pairs]
        return np.argsort(np.array(seeds, np.uint64), kind="stable")

    def _merged(self, pool: Pool, found: Mapping[str, ChosenNegatives], quotas: Sequence[int]) -> ChosenNegatives:
        """Take from each source what is its share, then what is missing from any."""
        taken: dict[int, tuple[str, int]] = {}

        def take(name: str, wanted: int) -> None:
            for place, id_ in enumerate(found[name].ids):
                if wanted > 0 and taken.setdefault(int(pool.identity[pool.place[id_]]), (name, place)) == (name, place):
                    wanted -= 1

        for name, quota in zip(found, quotas, strict=True):
            take(name, quota)
        for name in found:
            take(name, self.selection.count - len(taken) + sum(source == name for source, _ in taken.values()))
        return _joined(found, list(taken.values()))


def apportion(shares: Sequence[float], count: int, order: Counts) -> Counts:
    """Deal `count` places of each of P pairs to S sources, [P, S], as exactly as whole numbers allow.

    Args:
        shares: Share of each source, [S], together 1.
        count: Places of a pair.
        order: The pairs, [P], in the order in which they are dealt the odd places.

    Example:
        >>> apportion([0.5, 0.3, 0.2], 3, np.arange(4)).sum(axis=0)
        array([6, 4, 2])
    """
    pairs = len(order)
    exact = np.array(shares) * count
    least = np.floor(exact + 1e-9).astype(np.int64)
    odd = (count - int(least.sum())) * pairs
    remainders = (exact - least).clip(min=0) * pairs
    extra = np.floor(remainders + 1e-9).astype(np.int64)
    largest = np.argsort(extra - remainders, kind="stable")[: odd - int(extra.sum())]
    extra[largest] += 1
    quotas: Counts = np.tile(least, (pairs, 1))
    # No source has more odd places than there are pairs, so dealt in turn no pair gets two of one source.
    np.add.at(quotas, (np.resize(order, odd), np.repeat(np.arange(len(shares)), extra)), 1)
    return quotas


def _joined(found: Mapping[str, ChosenNegatives], taken: Sequence[tuple[str, int]]) -> ChosenNegatives:
    """Put together what was taken from each source, sources in their order and hardest first."""
    refused = sum((Counter(negatives.refused) for negatives in found.values()), Counter[str]())
    names = list(found)
    taken = sorted(taken, key=lambda item: (names.index(item[0]), item[1]))
    return ChosenNegatives(
        ids=tuple(found[name].ids[place] for name, place in taken),
        scores=tuple(found[name].scores[place] for name, place in taken),
        ranks=tuple(found[name].ranks[place] for name, place in taken),
        refused=dict(refused),
        sources=tuple(name for name, _ in taken),
        positive_score=next(iter(found.values())).positive_score,
    )


def _checked(mix: Mapping[str, float], sources: Mapping[str, CandidateSource]) -> dict[str, float]:
    """Return the shares, made to add up to 1."""
    if unknown := sorted(set(mix) - set(sources)):
        raise ValueError(f"expected shares of the sources {', '.join(sources)}, got one of {', '.join(unknown)}")
    if not all(share >= 0 for share in mix.values()) or not sum(mix.values()) > 0:
        raise ValueError(f"expected shares of at least 0 that are not all 0, got {dict(mix)}")
    return {name: share / sum(mix.values()) for name, share in mix.items()}
