"""Run a sweep: python -m experiments.run -m loss=infonce,triplet seed=0,1,2, or +sweep=losses.

Every combination is composed before the first one runs. What is finished is not run again, whichever sweep ran it, and
one job that fails does not stop the others.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from rich.console import Console

from experiments.composing import MISTAKES, said
from experiments.interruptions import exit_status, interruptible
from experiments.run.wandb_server import has_wandb_key, is_reachable, wandb_url
from experiments.sweeps import table
from experiments.sweeps.expansion import Expansion, expand
from experiments.sweeps.jobs import Job, record_end, state
from experiments.sweeps.progress import Progress
from experiments.sweeps.worker import ELSEWHERE, attempt

HELP = """\
Many runs from one command line, each of them once.

  python -m experiments.run -m loss=infonce,triplet,mnrl loss.temperature=0.02,0.05,0.1 seed=0,1,2
  python -m experiments.run +sweep=losses                         a named study; also temperature, batch_size, negatives
  python -m experiments.run +sweep=losses seed=0 data=files data.path=pairs.csv       and what to change in it
  python -m experiments.run -m 'loss=glob(*ntxent)' 'seed=range(0,5)'
  python -m experiments.run -m loss=infonce +loss.hardness=1,5    an option that the files do not list

A value that does not apply to a combination, as loss.temperature to loss=triplet, is left out of it, and what is then
the same run is run once; what was left out is listed. A single value that is to be set only where it applies is
key=choice(VALUE).

Runs are kept in hydra.sweep.dir (multirun), by their configuration alone: the same command again, or another that wants
some of the same runs, runs only what is missing, failed or interrupted; what was interrupted goes on from its last
checkpoint. After a change of the code, or inside a data file, choose another folder. Two terminals may share one.

  --dry-run                                  list the runs and how far each is, and run none
  launcher=serial                            one process for all runs: the default
  launcher=joblib launcher.workers=2         several processes
  launcher=ray launcher.address=auto         Ray, here or on a cluster: pip install ".[ray]"
  launcher=submitit                          Slurm: pip install ".[slurm]"
  hydra.sweep.dir=DIR                        where the runs are kept

The exit status is 0 if all runs are finished, 1 if some failed, 2 if the command is wrong, 130 after Ctrl-C,
143 after SIGTERM, 129 after SIGHUP. The processes that run jobs end with the one that you started, however it ends.
"""


def main(arguments: Sequence[str], work: Callable[..., str | None] = attempt) -> int:
    """Run a sweep; return the exit status.

    Args:
        arguments: As typed, with or without `-m`.
        work: What to do with one job, with `directory` and `wait` as keywords.
    """
    console = Console()
    if not console.is_terminal:
        console.width = 140  # a file has no width of its own, and 80 is little for a table
    typed = [text for text in arguments if text not in ("-m", "--multirun")]
    if any(text in ("-h", "--help") for text in typed):
        print(HELP, end="")
        return 0
    try:
        overrides = [text for text in typed if text != "--dry-run"]
        for text in overrides:
            if text.startswith("-"):
                raise ValueError(f"expected name=value, --dry-run or --help in a sweep, got {text}")
            if text.startswith("resume="):
                raise ValueError(f"expected no {text} in a sweep: what was interrupted goes on by itself")
        expansion = expand(overrides)
        launch = instantiate(expansion.launcher)
        if "--dry-run" in typed:
            _list(expansion, console)
            return 0
        with interruptible():
            return _run(expansion, launch, work, console)
    except MISTAKES as error:
        print(f"error: {said(error)}", file=sys.stderr)
        return 2


def _list(expansion: Expansion, console: Console) -> None:
    """Print every job and how far it is."""
    for job in expansion.jobs:
        console.print(f"{state(job.folder):12}{job.label}", markup=False, highlight=False, soft_wrap=True)
    for line in (*expansion.collapsed, f"{len(expansion.jobs)} runs in {expansion.root}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _run(expansion: Expansion, launch: Callable[..., object], work: Callable[..., str | None], console: Console) -> int:
    logging.getLogger("filelock").setLevel(logging.WARNING)
    finished = [job for job in expansion.jobs if state(job.folder) == "finished"]
    done = {job.id for job in finished}
    wanted = [job for job in expansion.jobs if job.id not in done]
    for line in (*expansion.collapsed, f"{len(expansion.jobs)} runs: {len(finished)} finished before"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    _ask_wandb(wanted)
    interrupted: KeyboardInterrupt | None = None
    here = partial(work, directory=Path.cwd())
    with Progress(wanted, finished, console) as progress:
        try:
            elsewhere = _go(launch, wanted, here, progress)
            _go(launch, elsewhere, partial(here, wait=True), progress)  # now there is nothing better to do
        except KeyboardInterrupt as error:
            interrupted = error
    folder = table.write(expansion, progress.failures, interrupted is not None)
    table.show(expansion, progress.failures, folder, console)
    if interrupted is not None:
        console.print("Interrupted: the same command again goes on with what is left.")
        return exit_status(interrupted)
    return 1 if progress.failures else 0


def _ask_wandb(jobs: Sequence[Job]) -> None:
    """Find out once for all jobs whether W&B's server answers, if any would ask it."""
    modes = {(job.config.logger or {}).get("mode") for job in jobs}
    if modes & {"auto", "online"} and has_wandb_key():
        is_reachable(wandb_url())


def _go(
    launch: Callable[..., object], jobs: Sequence[Job], work: Callable[[Job], str | None], progress: Progress
) -> list[Job]:
    """Run jobs, count them as they end; return those that other processes are running."""
    elsewhere = []
    if not jobs:
        return []
    with closing(launch(jobs, work)) as ended:  # type: ignore[type-var]
        for job, error in ended:
            if error == ELSEWHERE:
                elsewhere.append(job)
                continue
            if error is not None and state(job.folder) == "interrupted":  # killed before it could say so itself
                record_end(job.folder, f"failed: {error}")
            progress.ended(job, error)
    return elsewhere
