"""What a trial does: choose, compose, train and judge on dev, unless the store has that job finished already."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from optuna.exceptions import TrialPruned
from optuna.trial import Trial

from experiments.run.callbacks import NotWorthFinishing
from experiments.sweeps.composer import Composer, compose_applicable
from experiments.sweeps.jobs import make_job, run_job
from experiments.tune.choosing import choose, overrides
from experiments.tune.pruning import ReportToTrial
from experiments.tune.space import Space

FOLDER = "folder"


class TrainAndJudge:
    """Returns the best validation of one training.

    Args:
        space: What to choose from.
        composer: In its `with` block.
        fixed: Overrides that all trials have.
        store: Folder of the jobs; one that is finished there is read and not run again.
        name: Of the search; groups its runs in a tracker.
        stages: See `pruning`.
    """

    def __init__(
        self,
        space: Space,
        composer: Composer,
        *,
        fixed: Sequence[str],
        store: Path,
        name: str,
        stages: int,
    ) -> None:
        self.space, self.composer, self.fixed = space, composer, list(fixed)
        self.store, self.name, self.stages = store, name, stages

    def __call__(self, trial: Trial) -> float:
        """Run a trial.

        Raises:
            TrialPruned: If it was not worth finishing.
            Exception: Whatever the training raises.
        """
        chosen = overrides(choose(trial, self.space, self.composer, self.fixed))
        config, _ = compose_applicable(self.composer, self.fixed, chosen)
        label = f"trial {trial.number}"
        job = make_job(config, [*self.fixed, *chosen], label, root=self.store, group=self.name)
        trial.set_user_attr(FOLDER, str(self.store / job.folder.name))
        callback = ReportToTrial(trial, config.callbacks.checkpoint.monitor, self.stages)
        with _silence():
            try:
                return run_job(job, [callback], wait=True)
            except NotWorthFinishing as error:
                raise TrialPruned(str(error)) from error


class _Nowhere(io.TextIOBase):
    """Takes text and keeps none; log handlers may hold on to it."""

    def write(self, text: str) -> int:
        """Take a text."""
        return len(text)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what is written inside the block out of the terminal."""
    with contextlib.redirect_stdout(_Nowhere()), contextlib.redirect_stderr(_Nowhere()):
        yield
