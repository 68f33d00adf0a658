"""Mined negatives on disk: jobs that need the same ones mine them once.

Notable decisions:

- A file is named by a digest of what decides its content: the texts, ids and known positives, the strategy's settings
  and, where it has an encoder, its weights. So no file is ever out of date, and any may be deleted at any time.
- Processes that want the same negatives at the same time wait for the first to mine them, however long that takes.
- A file gets its name once it is complete.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from contrastive.data.whole_files import whole_file
from contrastive.encoder.embedding_cache import optional, turn
from contrastive.negatives.contracts import ChosenNegatives, Moment, NegativeStrategy
from contrastive.negatives.pool import Pool

_log = logging.getLogger(__name__)


def default_folder() -> Path:
    """Return the folder of mined negatives in the user's cache folder, `$XDG_CACHE_HOME` or else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contrastive" / "negatives"


class DescribedStrategy(NegativeStrategy, Protocol):
    """A strategy that says what its choice depends on."""

    def describe(self, moment: Moment) -> Mapping[str, object]:
        """Return, as plain values, all that decides which negatives of given texts are chosen."""
        ...


class Kept:
    """A strategy whose first choice is kept on disk; what a model in training chooses is of no use to another run.

    Args:
        strategy: What chooses.
        folder: Where the files are; made when there is something to write. None takes `default_folder`.
    """

    def __init__(self, strategy: DescribedStrategy, folder: str | Path | None = None) -> None:
        self.strategy = strategy
        self.folder = Path(folder) if folder is not None else default_folder()

    def __call__(self, pool: Pool, moment: Moment = Moment()) -> Sequence[ChosenNegatives]:  # noqa: B008
        """Return the negatives of each pair, from the disk or chosen and kept there, if that can be written."""
        if moment.refresh > 0:
            return self.strategy(pool, moment)
        path = self.folder / f"{negatives_key(self.strategy, pool, moment)}.json.gz"
        with turn(path.with_suffix(".lock")) as writable:
            kept = _read(path, len(pool))
            if kept is not None:
                _log.info("negatives of %s pairs from the cache in %s", f"{len(pool):,}", self.folder)
                return kept
            started = time.perf_counter()
            chosen = self.strategy(pool, moment)
            seconds = time.perf_counter() - started
            if writable:
                with optional(self.folder):
                    _write(path, chosen)
                    what = f"{len(pool):,}"
                    _log.info("negatives of %s pairs mined in %.0f s, cached in %s", what, seconds, self.folder)
            return chosen

    def is_due(self, *, step: int, steps_an_epoch: int) -> bool:
        """Tell whether the strategy wants to be asked again after so many optimiser steps."""
        due = getattr(self.strategy, "is_due", None)
        return due is not None and bool(due(step=step, steps_an_epoch=steps_an_epoch))


def negatives_key(strategy: DescribedStrategy, pool: Pool, moment: Moment) -> str:
    """Return the name under which a choice is kept, a digest in hexadecimal digits."""
    described = {"version": 2, "strategy": strategy.describe(moment), "pool": pool.digest()}
    return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=20).hexdigest()


def _read(path: Path, pairs: int) -> list[ChosenNegatives] | None:
    """Read the negatives of so many pairs; None if there is no file or it is damaged."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found = [_chosen(json.loads(line)) for line in lines]
        if len(found) != pairs:
            raise ValueError(f"expected {pairs} lines, got {len(found)}")
    except FileNotFoundError:
        return None
    except Exception as error:  # gzip, zlib and JSON fail in many ways
        _log.warning("%s is damaged and is made again (%s: %s)", path, type(error).__name__, error)
        return None
    return found


def _chosen(fields: dict[str, object]) -> ChosenNegatives:
    return ChosenNegatives(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})  # type: ignore[arg-type]


def _write(path: Path, chosen: Sequence[ChosenNegatives]) -> None:
    with whole_file(path) as temporary, gzip.open(temporary, "wt", encoding="utf-8", compresslevel=3) as file:
        for negatives in chosen:
            print(json.dumps(asdict(negatives)), file=file)
