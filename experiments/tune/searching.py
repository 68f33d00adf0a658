"""The loop of one process of a search: take the next trial, try it, write down how it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from optuna.exceptions import TrialPruned
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.composing import MISTAKES, said
from experiments.tune.storage import REASON, SECONDS, SharedStudy

Objective = Callable[[Trial], float]
"""Returns the value of a trial; raises `TrialPruned` to end it early, and anything else if it failed."""


def search(
    shared: SharedStudy,
    objective: Objective,
    *,
    target: int,
    ended: Callable[[FrozenTrial], None],
    seconds: float | None = None,
) -> None:
    """Try until the search has its trials, those of all processes together.

    Args:
        shared: The study.
        objective: Tries; a failure ends the trial and not the search.
        target: How many trials the search is to have.
        ended: Is told each trial of this process at its end.
        seconds: After so long no trial is begun; the one that is running is finished.

    Raises:
        BaseException: What is no `Exception`, such as `KeyboardInterrupt`; the trial is queued again.
    """
    started = time.monotonic()
    with shared.working():
        while seconds is None or time.monotonic() - started < seconds:
            trial = shared.next_trial(target)
            if trial is None:
                return
            _attempt(shared, trial, objective)
            ended(shared.study.trials[trial.number])


def _attempt(shared: SharedStudy, trial: Trial, objective: Objective) -> None:
    started = time.monotonic()
    value: float | None
    state = TrialState.COMPLETE
    try:
        value = objective(trial)
        if not math.isfinite(value):
            raise ValueError(f"expected a finite value, got {value}")
    except TrialPruned as pruned:
        trial.set_user_attr(REASON, str(pruned))
        value, state = None, TrialState.PRUNED
    except Exception as error:
        trial.set_user_attr(REASON, _reason(error))
        value, state = None, TrialState.FAIL
    except BaseException:
        shared.lose(trial.number, "interrupted")
        raise
    trial.set_user_attr(SECONDS, round(time.monotonic() - started, 1))
    shared.study.tell(trial, value, state=state)


def _reason(error: Exception) -> str:
    lines = (said(error) if isinstance(error, MISTAKES) else f"{type(error).__name__}: {error}").strip().splitlines()
    return lines[0].removeprefix("error: ") if lines else type(error).__name__
