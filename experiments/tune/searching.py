"""A study that several processes share, and the loop of each: take the next trial, try it, write down how it ended.

Storage, heartbeats and retries are Optuna's. Notable decisions:

- An SQL database, by default a file: of Optuna's storages it alone has a heartbeat, the journal has none.
- What is silent for a minute is taken for dead, and what it was at is tried again, once: what kills a process twice
  would kill it for ever. What Ctrl-C ends is queued again however often.
- Counting trials and starting the next happen under one lock, or processes would exceed what was asked for together.
- Each trial draws from a seed of its own, made of the search's and the number of trials before it. So no two processes
  draw the same, and one process alone draws the same as before, stopped on the way or not.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, Literal

import numpy as np
import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, TrialPruned
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from experiments.composing import MISTAKES, said
from experiments.interruptions import interruption

HEARTBEAT, SILENCE = 15, 60
"""Seconds from one heartbeat to the next, and without one until a process is taken for dead."""

SETTINGS = "settings"  # of the search, which must not change on the way
LOST, REASON = "lost", "reason"

Objective = Callable[[Trial], float]
"""Returns the value of a trial; raises `TrialPruned` to end it early, and anything else if it failed."""

Sampler = Callable[[int], optuna.samplers.BaseSampler]
"""Makes the sampler for the trial after so many others."""


def open_study(
    storage: str,
    name: str,
    *,
    direction: Literal["maximize", "minimize"],
    settings: Mapping[str, Any],
    pruner: optuna.pruners.BasePruner | None = None,
    heartbeat: int = HEARTBEAT,
    silence: int = SILENCE,
) -> optuna.Study:
    """Open a study, or begin it.

    Args:
        storage: A file for SQLite, or the URL of a database.
        name: Name of the study in it.
        direction: Whether higher or lower values are better.
        settings: What makes values comparable; it must be that of the study.
        pruner: Says which trials to end early.
        heartbeat: Seconds from one sign of life to the next.
        silence: Seconds without one until a process is taken for dead.

    Raises:
        ValueError: If the study was begun with other settings, or the storage is no database.
    """
    url = storage if "://" in storage else f"sqlite:///{storage}"
    patient = {"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else {}
    if patient:
        _let_readers_not_wait(url.removeprefix("sqlite:///"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the heartbeat, and what it calls
        again = RetryHeartbeatStaleTrialCallback(max_retry=1)
        try:
            database = RDBStorage(
                url,
                engine_kwargs=patient,
                heartbeat_interval=heartbeat,
                grace_period=silence,
                heartbeat_stale_trial_callback=again,
            )
        except SQLAlchemyError as error:
            raise ValueError(f"expected --storage to be a database, got {storage}: {error.args[0]}") from error
    study = optuna.create_study(
        storage=database, study_name=name, direction=direction, pruner=pruner, load_if_exists=True
    )
    _check_settings(study, dict(settings))
    return study


def search(
    study: optuna.Study,
    objective: Objective,
    *,
    target: int,
    turn: FileLock,
    sampler: Sampler,
    ended: Callable[[FrozenTrial], None],
    seconds: float | None = None,
) -> None:
    """Try until the search has its trials, those of all processes together.

    Args:
        study: The study.
        objective: Tries; a failure ends the trial and not the search.
        target: How many trials the search is to have.
        turn: A lock that all processes share.
        sampler: Draws what to try.
        ended: Is told each trial of this process at its end.
        seconds: After so long no trial is begun; the one that is running is finished.

    Raises:
        KeyboardInterrupt: If somebody interrupts it; the trial is queued again.
    """

    def attempt(trial: Trial) -> float:
        turn.release()
        return _attempt(study, trial, objective)

    started = time.monotonic()
    while seconds is None or time.monotonic() - started < seconds:
        with turn:  # until the trial has begun
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                optuna.storages.fail_stale_trials(study)
            trials = study.get_trials(deepcopy=False)
            if len(counted(trials)) >= target:
                return
            study.sampler = sampler(len(trials))
            study.optimize(attempt, n_trials=1, catch=(Exception,), callbacks=[lambda _, trial: ended(trial)])


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count: all but those that are waiting or were lost and queued again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        again = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
    lost = again | {trial.number for trial in trials if trial.user_attrs.get(LOST)}
    return [trial for trial in trials if trial.state != TrialState.WAITING and trial.number not in lost]


def why(trial: FrozenTrial) -> str:
    """Return why a trial was pruned or failed, empty if it did neither."""
    silent = "its process died" if trial.state == TrialState.FAIL else ""
    return str(trial.user_attrs.get(REASON, silent))


def make_sampler(name: str, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler `tpe` or `random` for the trial after `number` others."""
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if name == "random":
        return optuna.samplers.RandomSampler(seed=own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # group; before 5.0 multivariate and constant_liar too
        # Groups: settings that occur together are drawn together. The liar: running trials repel further ones.
        return optuna.samplers.TPESampler(seed=own, multivariate=True, group=True, constant_liar=True)


def make_pruner(name: str, stages: int) -> optuna.pruners.BasePruner:
    """Return the pruner `median`, `hyperband` or `none` for runs of some stages."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=stages, reduction_factor=2)
    return optuna.pruners.NopPruner()


def _let_readers_not_wait(path: str) -> None:
    try:
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # kept in the file; five times faster, too
    except sqlite3.Error as error:
        raise ValueError(f"expected --storage to be a database, got {path}: {error}") from error


def _attempt(study: optuna.Study, trial: Trial, objective: Objective) -> float:
    try:
        value = objective(trial)
        if not math.isfinite(value):
            raise ValueError(f"expected a finite value, got {value}")
        return value
    except Exception as error:
        trial.set_user_attr(REASON, str(error) if isinstance(error, TrialPruned) else _reason(error))
        raise
    except BaseException as error:  # Ctrl-C, or the SystemExit that Lightning makes of it and Optuna does not know
        trial.set_user_attr(REASON, "interrupted")
        trial.set_user_attr(LOST, True)
        study.enqueue_trial(trial.params)
        raise (interruption(error) or KeyboardInterrupt()) from None


def _reason(error: Exception) -> str:
    lines = (said(error) if isinstance(error, MISTAKES) else f"{type(error).__name__}: {error}").strip().splitlines()
    return lines[0].removeprefix("error: ") if lines else type(error).__name__


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
