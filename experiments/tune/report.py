"""What a search leaves behind and says: all trials, the best one in forms that run, what mattered, and a plot."""

from __future__ import annotations

import csv
import itertools
import shlex
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from contrastive.data.whole_files import whole_file
from experiments.tune.choosing import overrides
from experiments.tune.objective import FOLDER
from experiments.tune.searching import counted, why
from experiments.tune.space import CHOSEN, Value, is_group

STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
FEWEST_FOR_IMPORTANCE = 12

FILES = {
    "tune.csv": "every trial: how it ended, its value, its settings, its folder",
    "experiment/tuned.yaml": "the best settings",
    "history.png": "values in the order of the trials",
    "trials": "the runs, a folder each, as experiments.run writes them",
}


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Return the finished trials, the best first."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    return sorted(finished, key=lambda trial: sign * (trial.value or 0.0))


def command(kept: Sequence[str], best: FrozenTrial) -> str:
    """Return the command that trains with the best settings and judges on test."""
    return shlex.join(["python", "-m", "experiments.run", *kept, *overrides(chosen(best)), "judge=test"])


def line(study: optuna.Study, trial: FrozenTrial, target: int) -> str:
    """Return the line that says how a trial ended, and how far the search is."""
    best = ranked(study)
    done = sum(each.state.is_finished() for each in counted(study.get_trials(deepcopy=False)))
    parts = (
        f"{done:>3} of {target}: trial {trial.number:<3}",
        f"{STATES[trial.state]:8}",
        f"{'' if trial.value is None else f'{trial.value:.4f}':6}",
        f"{f'best {best[0].value:.4f} (trial {best[0].number})' if best else 'no best yet':24}",
        f"{_seconds(trial):,.0f} s",
    )
    said = f"{'  '.join(parts)}  {shown(chosen(trial))}"
    return said if trial.state != TrialState.FAIL else f"{said}\n  {why(trial)}"


def chosen(trial: FrozenTrial) -> dict[str, Value]:
    """Return the settings of a trial as they were used, empty if it did not get so far."""
    settings: dict[str, Value] = trial.user_attrs.get(CHOSEN, {})
    return settings


def shown(settings: Mapping[str, Any]) -> str:
    """Return settings for people: numbers rounded, only the last part of a name.

    >>> shown({"loss": "dcl", "loss.temperature": 0.0312345})
    'loss=dcl temperature=0.0312'
    """
    rounded = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in settings.items()}
    return " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in rounded.items())


def tally(study: optuna.Study) -> str:
    """Return how many trials there are, by how they ended."""
    states = Counter(STATES[trial.state] for trial in counted(study.get_trials(deepcopy=False)))
    return ", ".join(f"{number} {state}" for state in STATES.values() if (number := states[state]))


def importances(study: optuna.Study) -> dict[str, float]:
    """Return the share of each setting in what makes a trial good, by conditional PED-ANOVA; empty if it cannot tell.

    Watanabe, Bansal & Hutter, 2023, https://arxiv.org/abs/2304.10255. Before Optuna 5.0 settings that only some trials
    have are left out.
    """
    if len(ranked(study)) < FEWEST_FOR_IMPORTANCE:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25)))


def write_files(study: optuna.Study, folder: Path, metric: str, run: str | None) -> None:
    """Write what the search knows into its folder; `run` is the command of the best."""
    trials = study.get_trials(deepcopy=False)
    write_csv(folder / "tune.csv", trials)
    best = ranked(study)
    if best and run:
        (folder / "experiment").mkdir(exist_ok=True)
        with whole_file(folder / "experiment" / "tuned.yaml") as temporary:
            temporary.write_text(as_experiment(best[0], metric, run), encoding="utf-8")
    with whole_file(folder / "history.png") as temporary:
        history_figure(study, metric).savefig(temporary, dpi=120, format="png")


def write_csv(path: Path, trials: Sequence[FrozenTrial]) -> None:
    """Write a row a trial."""
    keys = list(dict.fromkeys(key for trial in trials for key in chosen(trial)))
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "value", "seconds", "reason", "folder", *keys])
        for trial in trials:
            known = [f"{_seconds(trial):.1f}", why(trial), trial.user_attrs.get(FOLDER, "")]
            value = "" if trial.value is None else trial.value
            settings = [chosen(trial).get(key, "") for key in keys]
            writer.writerow([trial.number, STATES[trial.state], value, *known, *settings])


def as_experiment(best: FrozenTrial, metric: str, run: str) -> str:
    """Return the best settings as a file of `configs/experiment`."""
    groups = {key: value for key, value in chosen(best).items() if is_group(key)}
    content: dict[str, Any] = {}
    parser = OverridesParser.create()
    if groups:
        content["defaults"] = [{f"override /{key}": value} for key, value in groups.items()]
    for key, value in chosen(best).items():
        if key not in groups:
            node = content
            *parents, name = key.lstrip("+").split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = parser.parse_override(f"{name}={value}").value()
    said = f"# Trial {best.number}, {metric} {best.value:.4f} on dev. With what the search held fixed:\n# {run}\n"
    return f"# @package _global_\n{said}{yaml.safe_dump(content, sort_keys=False)}"


def history_figure(study: optuna.Study, metric: str) -> Figure:
    """Draw the values of trials by number, pruned ones at the last they reached, and the best so far."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    trials = study.get_trials(deepcopy=False)
    for state, marker in ((TrialState.COMPLETE, "o"), (TrialState.PRUNED, "x")):
        points = [(trial.number, trial.value) for trial in trials if trial.state == state and trial.value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker, label=STATES[state])
    finished = sorted(ranked(study), key=lambda trial: trial.number)
    if finished:
        better = max if study.direction == StudyDirection.MAXIMIZE else min
        so_far = list(itertools.accumulate((trial.value or 0.0 for trial in finished), better))
        axes.step([trial.number for trial in finished], so_far, where="post", label="best so far")
    if trials:
        axes.set(xlabel="trial", ylabel=metric)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return figure


def print_report(study: optuna.Study, folder: Path, metric: str, run: str | None, console: Console) -> None:
    """Print the best trials, what mattered, what failed, and what to do next."""
    best = ranked(study)
    console.print(f"\n{tally(study) or 'no trials'}", highlight=False)
    trials = counted(study.get_trials(deepcopy=False))
    reasons = Counter(why(trial) for trial in trials if trial.state == TrialState.FAIL)
    for reason, number in reasons.most_common(5):
        console.print(f"  failed {number} x: {reason}", markup=False, highlight=False, soft_wrap=True)
    if best and run:
        console.print(_table(best[:10], metric))
        _print_importances(importances(study), len(best), console)
        runs = [str(trial.user_attrs.get(FOLDER)) for trial in best[:2]]
        _say(console, f"Train with the best settings and judge on test, once:\n  {run}")
        _say(console, "Values are of one training each, and the best of many is lucky: before a claim, train the first")
        _say(console, "few with seed=0, 1, 2 and compare them. The runs themselves, on dev:")
        _say(console, f"  {shlex.join(['python', '-m', 'experiments.compare', *runs])}")
    _say(console, f"\nEverything is in {folder}")
    for name, what in FILES.items():
        if (folder / name).exists():
            _say(console, f"  {name:22}{what}")
    if best:
        same = shlex.join(["python", "-m", "experiments.run", "--config-dir", str(folder), "experiment=tuned"])
        _say(console, f"The best settings on other data: {same} data=...")


def _seconds(trial: FrozenTrial) -> float:
    return trial.duration.total_seconds() if trial.duration else 0.0


def _table(trials: Sequence[FrozenTrial], metric: str) -> Table:
    table = Table(title="Best trials", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column(metric, justify="right")
    table.add_column("settings")
    for trial in trials:
        table.add_row(str(trial.number), f"{trial.value:.4f}", Text(shown(chosen(trial))))
    return table


def _print_importances(shares: dict[str, float], finished: int, console: Console) -> None:
    if shares:
        listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        _say(console, f"What tells the best quarter from the others: {listed}\n")
    else:
        _say(console, f"{finished} finished trials are too few to say which settings mattered.\n")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
