"""A study that several processes share in one SQLite file, and that outlives each of them.

- A process holds a lock file for as long as it lives, and its trials name it: whoever can take the lock knows that the
  process is dead, at once and without a clock. Killed processes lose their locks too.
- What a dead process was trying is tried again, once: what kills a process twice would kill it for ever.
- Each trial draws from a seed of its own, made of the search's and the number of trials before it. So no two processes
  draw the same, and one process alone draws the same as before, stopped on the way or not.
- Counting trials and starting the next is one transaction, or processes would exceed what was asked for together.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, Trial, TrialState

SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "hyperband", "none")
SETTINGS = "settings"  # of the search, which must not change on the way
WORKER, DEATHS, LOST, REASON, SECONDS = "worker", "deaths", "lost", "reason", "seconds"


def database(storage: str | None, folder: Path) -> Path:
    """Return the SQLite file of a search: the path or `sqlite:///path` given, else `study.db` in its folder.

    Raises:
        ValueError: If another kind of storage is given.
    """
    if storage is None:
        return folder / "study.db"
    path = storage.removeprefix("sqlite:///")
    if "://" in path or not path:
        raise ValueError(f"expected --storage to be a file or sqlite:///FILE, got {storage}")
    return Path(path)


class SharedStudy:
    """A study in an SQLite file, as one of the processes that work on it sees it.

    Args:
        path: The file; it is made if it is not there.
        name: Name of the study in it.
        direction: Whether higher or lower values are better.
        settings: What makes values comparable; it must be that of the study.
        sampler: `tpe` or `random`.
        pruner: `median`, `hyperband` or `none`.
        stages: Stages of a run; see `pruning`.
        seed: Of the sampler.

    Attributes:
        study: The study.
        turn: A lock that keeps the other processes out of what is done under it.

    Raises:
        ValueError: If the study was begun with other settings, or the file is no database of Optuna's.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        direction: Literal["maximize", "minimize"],
        settings: Mapping[str, Any],
        sampler: str = "tpe",
        pruner: str = "median",
        stages: int = 4,
        seed: int = 0,
    ) -> None:
        self.path, self.sampler, self.seed = path, sampler, seed
        self.locks = path.with_name(f"{path.name}.locks")
        self.locks.mkdir(parents=True, exist_ok=True)
        self.worker = uuid.uuid4().hex
        self._alive = FileLock(self.locks / f"{self.worker}.lock")
        self.turn = FileLock(self.locks / "turn.lock")
        with self.turn:
            self.study = optuna.create_study(
                storage=_open(path),
                study_name=name,
                direction=direction,
                pruner=make_pruner(pruner, stages),
                load_if_exists=True,
            )
            _check_settings(self.study, dict(settings))

    @contextmanager
    def working(self) -> Iterator[None]:
        """Be known as alive to the other processes inside the block."""
        try:
            with self._alive:
                yield
        finally:
            Path(self._alive.lock_file).unlink(missing_ok=True)

    def next_trial(self, target: int) -> Trial | None:
        """Start the next trial, or return None if `target` are done or running somewhere."""
        with self.turn:
            self._recover()
            trials = self.study.get_trials(deepcopy=False)
            if len(counted(trials)) >= target:
                return None
            self.study.sampler = make_sampler(self.sampler, self.seed, len(trials))
            trial = self.study.ask()
            trial.set_user_attr(WORKER, self.worker)
            return trial

    def lose(self, number: int, reason: str, *, deaths: int = 0) -> None:
        """Give up a trial for a reason that is not its own, and queue what it tried.

        Args:
            number: Of the trial.
            reason: Why it is given up.
            deaths: How many more processes it has cost; what has cost two is not queued.
        """
        trial = self.study.trials[number]
        deaths += trial.user_attrs.get(DEATHS, 0)
        again = deaths < 2
        for name, value in ((REASON, reason if again else f"{reason}, twice"), (LOST, again)):
            # A trial of another process has no public way to be written to.
            self.study._storage.set_trial_user_attr(trial._trial_id, name, value)
        self.study.tell(number, state=TrialState.FAIL)
        if again:
            self.study.enqueue_trial(trial.params, user_attrs={DEATHS: deaths})

    def _recover(self) -> None:
        """Give up the trials of processes that are dead."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._lives(trial.user_attrs.get(WORKER)):
                self.lose(trial.number, "its process died", deaths=1)

    def _lives(self, worker: str | None) -> bool:
        if worker == self.worker:
            return True
        path = self.locks / f"{worker}.lock"
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return True
        path.unlink(missing_ok=True)
        return False


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count: all but those that are waiting or were lost and queued again."""
    return [trial for trial in trials if trial.state != TrialState.WAITING and not trial.user_attrs.get(LOST)]


def make_sampler(name: str, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Return a sampler for the trial after `number` others."""
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if name == "random":
        return optuna.samplers.RandomSampler(seed=own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # group; before 5.0 multivariate and constant_liar too
        # Groups: settings that occur together are drawn together. The liar: running trials repel further ones.
        return optuna.samplers.TPESampler(seed=own, multivariate=True, group=True, constant_liar=True)


def make_pruner(name: str, stages: int) -> optuna.pruners.BasePruner:
    """Return a pruner for runs of some stages."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=stages, reduction_factor=2)
    return optuna.pruners.NopPruner()


def _open(path: Path) -> optuna.storages.RDBStorage:
    """Open or make the file, for processes that write at the same time."""
    try:
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for a writer; kept in the file
    except sqlite3.Error as error:
        raise ValueError(f"expected {path} to be an SQLite file, got {error}") from error
    return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})


def _check_settings(study: optuna.Study, settings: dict[str, Any]) -> None:
    settings = json.loads(json.dumps(settings))  # as they come back
    begun = study.user_attrs.get(SETTINGS)
    if begun is None:
        study.set_user_attr(SETTINGS, settings)
        return
    for name in begun | settings:
        if begun.get(name) != settings.get(name):
            raise ValueError(
                f"expected {name} of search {study.study_name!r} to stay {begun.get(name)}, got {settings.get(name)}; "
                "another search wants another --name"
            )
