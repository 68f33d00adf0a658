"""Search for good settings: `python -m experiments.tune`, trial after trial, each chosen by how those before it did.

Several processes started with the same command share the trials, and a stopped search goes on with it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.composing import MISTAKES, said
from experiments.interruptions import exit_status, interruptible

if TYPE_CHECKING:
    from filelock import FileLock
    from optuna import Study
    from optuna.trial import FrozenTrial

    from experiments.sweeps.composer import Composer
    from experiments.tune.plan import Plan

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by torch on import; steps on shared cores get much faster

USAGE = """\
examples:
  python -m experiments.tune                                            the default data and space, 30 trials
  python -m experiments.tune loss=infonce --name temperature            one loss, what else its space varies
  python -m experiments.tune loss=dcl,mnrl "loss.temperature=tag(log,interval(0.02,0.1))" --name narrow
  python -m experiments.tune --space mine.yaml data=files data.path=pairs.csv --name pairs
  python -m experiments.tune trainer.max_epochs=2 --trials 100 --timeout 480 --name long

A space is a YAML file in Hydra's words for sweeps; configs/tune/default.yaml is one and says how to write them. Choices
and ranges on the command line are added to it or replace its own; one value there holds for all trials. A setting is
tried only where the configuration has it: no temperature for loss=triplet.

Trials are judged on dev, by the best validation of one training (callbacks.checkpoint.monitor); judge=test is refused.
before=false, as the untuned encoder is the same for all.

Pruning ends a trial that does worse than others did at the same share of their training, so it needs several
validations in a training. Here there are at least --validations of them: of one epoch, one each quarter. An own
trainer.val_check_interval comes first. A validation ranks the whole dev corpus: if that takes long beside training,
lower --validations, or raise trainer.max_epochs to get more training for each. median ends what is below the median of
earlier trials, from the sixth on; hyperband gives many a start and few the whole training, and wants 40 trials or more.

Start the same command in other terminals to share the work: --trials is the target of all of them together. An SQLite
file must be on a disk of this machine. After Ctrl-C, a kill or a power cut the same command goes on, and what was
running is tried again; what was killed counts as running for a minute more. With a higher --trials it goes on after its
end. For a grid, sweep: python -m experiments.run -m.

A trial of the default encoder leaves 175 MB, its model and its best weights, in the folder's trials; delete what you do
not want. A job that is finished there is read and not run again.
"""


def main(arguments: list[str] | None = None) -> None:
    """Search, and say what is wrong in one line."""
    options = parser().parse_intermixed_args(arguments)
    try:
        with interruptible():
            status = tune(options)
    except MISTAKES as error:
        sys.exit(f"error: {said(error)}")
    except KeyboardInterrupt as error:  # outside a trial
        print("interrupted", file=sys.stderr)
        sys.exit(exit_status(error))
    if status:
        sys.exit(status)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    described = argparse.ArgumentParser(
        prog="python -m experiments.tune",
        usage="%(prog)s [options] [name=value ...]",
        description="Search for the settings with the best validation, with Optuna.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = described.add_argument
    add("values", nargs="*", metavar="name=value", help="values for all trials, as for experiments.run")
    add("--space", default="default", help="a choice of configs/tune, or a YAML file (%(default)s)")
    add("--trials", type=int, default=30, metavar="N", help="how many there shall be, of all processes (%(default)s)")
    add("--name", help="of the search; its folder is multirun/tune/NAME (that of the space)")
    add("--storage", metavar="WHERE", help="SQLite file, or URL of a database (study.db in the folder)")
    add("--sampler", choices=["tpe", "random"], default="tpe", help="learns from trials, or not (%(default)s)")
    add("--pruner", choices=["median", "hyperband", "none"], default="median", help="see below (%(default)s)")
    add("--validations", type=int, default=4, metavar="N", help="in a training, for the pruner (%(default)s)")
    add("--timeout", type=float, metavar="MINUTES", help="begin no trial after so long")
    add("--seed", type=int, default=0, help="of the sampler; that of the training is seed=0 (%(default)s)")
    return described


def tune(options: argparse.Namespace) -> int:
    """Search and report; return the exit status."""
    for name, least in (("trials", 1), ("validations", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"expected --{name} of at least {least}, got {getattr(options, name)}")
    if options.timeout is not None and options.timeout <= 0:
        raise ValueError(f"expected --timeout above 0, got {options.timeout}")
    from experiments.sweeps.composer import Composer
    from experiments.tune.plan import make_plan
    from experiments.tune.space import read_space

    space = read_space(options.space)
    name = options.name or Path(options.space).stem
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"expected --name to be the name of a folder, got {name!r}")
    folder = Path("multirun") / "tune" / name
    with Composer() as composer:
        plan = make_plan(space, options.values, options.validations, composer)
        study = begin(options, name, folder, plan)
        interrupted = run_trials(options, name, folder, plan, study, composer)
    status = report(study, folder, plan)
    if interrupted is None:
        return status
    print("\ninterrupted; the same command goes on", file=sys.stderr)
    return exit_status(interrupted)


def begin(options: argparse.Namespace, name: str, folder: Path, plan: Plan) -> Study:
    """Open the study, new or begun, and say how far it is."""
    import optuna

    from experiments.tune.report import tally
    from experiments.tune.searching import make_pruner, open_study

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # failures are said in the line of the trial
    with turn(folder):
        study = open_study(
            options.storage or str(folder / "study.db"),
            name,
            direction="maximize" if plan.mode == "max" else "minimize",
            settings=plan.settings,
            pruner=make_pruner(options.pruner, plan.stages),
        )
    extreme = "high" if plan.mode == "max" else "low"
    print(f"Search {name}: {', '.join(setting.key for setting in plan.space)}; for a {extreme} {plan.monitor}")
    if plan.left_out:
        print(f"Without {', '.join(plan.left_out)}, which have no place with the values given.")
    if begun := tally(study):
        print(f"It goes on after {begun}.", flush=True)
    return study


def turn(folder: Path) -> FileLock:
    """Return the lock that keeps the other processes of a search out of what is done under it."""
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "turn.lock")


def run_trials(
    options: argparse.Namespace, name: str, folder: Path, plan: Plan, study: Study, composer: Composer
) -> KeyboardInterrupt | None:
    """Run trials until there are enough; return what interrupted that, None if nothing did."""
    from experiments.tune.objective import TrainAndJudge
    from experiments.tune.report import line
    from experiments.tune.searching import make_sampler, search

    def ended(trial: FrozenTrial) -> None:
        print(line(study, trial, options.trials), flush=True)

    objective = TrainAndJudge(
        plan.space, composer, fixed=plan.fixed, store=folder / "trials", name=name, stages=plan.stages
    )
    sampler = partial(make_sampler, options.sampler, options.seed)
    seconds = options.timeout and 60 * options.timeout
    try:
        search(
            study, objective, target=options.trials, turn=turn(folder), sampler=sampler, ended=ended, seconds=seconds
        )
    except KeyboardInterrupt as error:
        return error
    return None


def report(study: Study, folder: Path, plan: Plan) -> int:
    """Write and print what is known; return 1 if all trials failed."""
    from optuna.trial import TrialState
    from rich.console import Console

    from experiments.tune.report import command, print_report, ranked, write_files
    from experiments.tune.searching import counted

    best = ranked(study)
    run = command(plan.kept, best[0]) if best else None
    with turn(folder):
        write_files(study, folder, plan.monitor, run)
    print_report(study, folder, plan.monitor, run, Console())
    trials = counted(study.get_trials(deepcopy=False))
    return int(bool(trials) and all(trial.state == TrialState.FAIL for trial in trials))


if __name__ == "__main__":
    main()
