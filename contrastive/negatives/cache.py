"""Mined negatives on disk, in a `data.store.Store`: jobs that need the same ones mine them once.

The key has the texts, ids and known positives, the strategy's settings and, where it has an encoder, its weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from contrastive.data.json_files import read_lines, write_lines
from contrastive.data.store import Store, key_of, user_folder
from contrastive.negatives.contracts import ChosenNegatives, Moment, NegativeStrategy
from contrastive.negatives.pool import Pool

_log = logging.getLogger(__name__)


class DescribedStrategy(NegativeStrategy, Protocol):
    """A strategy that says what its choice depends on."""

    def describe(self, moment: Moment) -> Mapping[str, object]:
        """Return, as plain values, all that decides which negatives of given texts are chosen."""
        ...


class Kept:
    """A strategy whose first choice is kept on disk; what a model in training chooses is of no use to another run.

    Args:
        strategy: What chooses.
        folder: Where the files are; made when there is something to write. None takes that of the user.
        max_bytes: Size of the files beyond which those used least recently are deleted.
    """

    def __init__(
        self, strategy: DescribedStrategy, folder: str | Path | None = None, *, max_bytes: int = 8 << 30
    ) -> None:
        self.strategy = strategy
        self.folder = Path(folder) if folder is not None else user_folder("negatives")
        self._store = Store(self.folder, ".json.gz", _read, _write, max_bytes=max_bytes)

    def __call__(self, pool: Pool, moment: Moment = Moment()) -> Sequence[ChosenNegatives]:  # noqa: B008
        """Return the negatives of each pair, from the disk or chosen and kept there, if that can be written."""
        if moment.refresh > 0:
            return self.strategy(pool, moment)
        key = key_of({"version": 3, "strategy": self.strategy.describe(moment)}, pool.parts())
        found = self._store.find_or_make(key, lambda: self.strategy(pool, moment))
        if found.seconds is None:
            _log.info("negatives of %s pairs from the cache in %s", f"{len(pool):,}", self.folder)
        elif found.kept:
            what = f"{len(pool):,}"
            _log.info("negatives of %s pairs mined in %.0f s, cached in %s", what, found.seconds, self.folder)
        return found.value

    def is_due(self, *, step: int, steps_an_epoch: int) -> bool:
        """Tell whether the strategy wants to be asked again after so many optimiser steps."""
        due = getattr(self.strategy, "is_due", None)
        return due is not None and bool(due(step=step, steps_an_epoch=steps_an_epoch))


def _read(path: Path) -> Sequence[ChosenNegatives]:
    return [_chosen(fields) for fields in read_lines(path)]


def _chosen(fields: dict[str, object]) -> ChosenNegatives:
    return ChosenNegatives(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})  # type: ignore[arg-type]


def _write(path: Path, chosen: Sequence[ChosenNegatives]) -> None:
    write_lines(path, map(asdict, chosen))
