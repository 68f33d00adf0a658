"""Negatives mined again and again with the model in training.

Xiong et al. 2021 (ANCE, https://arxiv.org/abs/2007.00808, section 4): negatives are the documents that the model in
training itself confuses with the positive, so they have to follow the model. There a second machine embeds the corpus
with an earlier checkpoint while training goes on; here training waits, which is simpler and never stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contrastive.negatives.contracts import CandidateSource, ChosenNegatives, Moment
from contrastive.negatives.interval import Interval
from contrastive.negatives.mined import Mined
from contrastive.negatives.pool import Pool


class Refresh:
    """A strategy to be asked again during training, with a `Moment` of the encoder as it then is.

    Args:
        source: Ranks the documents; for ANCE `Dense` without an encoder of its own and without a cache.
        every_n_epochs: Ask again after so many epochs; 0.5 is twice an epoch.
        every_n_steps: Ask again after so many optimiser steps, instead.
        **selection: What to choose of them, as for `Mined`.

    Raises:
        ValueError: If not exactly one of the two is given, it is below 1, or a setting is out of range.

    Example:
        >>> from contrastive.negatives import Dense
        >>> refresh = Refresh(Dense(), every_n_steps=100, count=2)
        >>> [step for step in range(301) if refresh.is_due(step=step, steps_an_epoch=30)]
        [100, 200, 300]
    """

    def __init__(
        self,
        source: CandidateSource,
        *,
        every_n_epochs: float | None = None,
        every_n_steps: int | None = None,
        **selection: Any,
    ) -> None:
        if every_n_epochs is None and every_n_steps is None:
            raise ValueError("expected every_n_epochs above 0 or every_n_steps of at least 1, got neither")
        self.interval = Interval(every_n_epochs, every_n_steps)
        self.strategy = Mined(source, **selection)

    def is_due(self, *, step: int, steps_an_epoch: int) -> bool:
        """Tell whether negatives are to be chosen again after so many optimiser steps."""
        return self.interval.is_due(step=step, steps_an_epoch=steps_an_epoch)

    def __call__(self, pool: Pool, moment: Moment = Moment()) -> Sequence[ChosenNegatives]:  # noqa: B008
        """Return the negatives of each pair as of now; see `contracts.NegativeStrategy`."""
        return self.strategy(pool, moment)

    def describe(self, moment: Moment) -> Mapping[str, object]:
        """Return what decides the choice as of now."""
        return self.strategy.describe(moment)
