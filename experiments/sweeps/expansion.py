"""From the command line of a sweep to its jobs, without those that would be the same run twice.

The combinations are Hydra's: every `key=a,b,c`, range and glob, and what a named study (`+sweep=losses`, a file of
`configs/sweep`) holds under `hydra.sweeper.params`, where the command line has the last word. What differs is that a
swept key that a combination lacks is left out of it instead of ending the sweep, that combinations with the same
configuration are one job, and that everything is composed before anything runs.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from experiments.composing import check_complete, check_known, nearest
from experiments.sweeps.composer import Composer, compose_applicable, keys
from experiments.sweeps.jobs import Job, make_job

STUDY, LAUNCHER, STORE, PARAMETERS = "sweep", "launcher", "hydra.sweep.dir", "hydra.sweeper.params"


@dataclass(frozen=True, slots=True)
class Expansion:
    """A sweep, composed.

    Attributes:
        name: A folder's name: that of the study, or of what varies, with a digest of what else was typed.
        root: The store of its jobs.
        jobs: In the order of the combinations, each once.
        collapsed: A line for each key that did not apply to all combinations, and one for other repetitions.
        launcher: Who is to run the jobs, as `configs/launcher` says.
        arguments: As typed.
    """

    name: str
    root: Path
    jobs: tuple[Job, ...]
    collapsed: tuple[str, ...]
    launcher: DictConfig
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Combination:
    varied: tuple[str, ...]
    left_out: tuple[str, ...]
    job: Job


def expand(arguments: Sequence[str]) -> Expansion:
    """Compose every job of a sweep.

    Args:
        arguments: Overrides as typed, without `-m`.

    Raises:
        ValueError: If one is malformed, names what does not exist, or applies to no combination.
    """
    with Composer() as composer:
        typed = composer.parse(arguments)
        launcher, hydra = _launcher(composer, typed), _hydra(composer, typed)
        given = [*_study(composer, hydra, typed), *(each for each in typed if not _is_of_sweep(each))]
        overrides = {_target(each): each for each in given}.values()
        fixed = [each.input_line for each in overrides if not each.is_sweep_override()]
        swept = [each for each in overrides if each.is_sweep_override()]
        name, root = _name(typed, swept), Path(hydra.sweep.dir)
        products = itertools.product(*(_values(each) for each in swept))
        combinations = [_combination(composer, fixed, varied, name, root) for varied in products]
    _refuse_what_never_applies(combinations)
    jobs = {each.job.id: each.job for each in reversed(combinations)}  # of equal ones the first stays
    ordered = tuple(jobs[id_] for id_ in dict.fromkeys(each.job.id for each in combinations))
    return Expansion(name, root, ordered, tuple(_collapsed(combinations)), launcher, tuple(arguments))


def _combination(
    composer: Composer, fixed: Sequence[str], varied: Sequence[str], name: str, root: Path
) -> _Combination:
    config, left_out = compose_applicable(composer, fixed, varied)
    check_known(config)
    kept = [text for text in varied if text not in left_out]
    job = make_job(config, [*fixed, *kept], ",".join(kept or fixed) or name, root=root, group=name)
    check_complete(job.config)
    if "ddp" in str(job.config.trainer.strategy):  # Lightning starts the others with the command line, the sweep's
        raise ValueError(f"expected runs of one process in a sweep, got trainer.strategy={job.config.trainer.strategy}")
    return _Combination(tuple(varied), left_out, job)


def _hydra(composer: Composer, typed: Sequence[Override]) -> DictConfig:
    """Compose what is said to Hydra, in files and by the command line."""
    chosen = [each for each in typed if each.key_or_group in (STUDY, "experiment", STORE)]
    for each in typed:
        key = each.key_or_group
        if key == "folder" or (key.startswith("hydra") and key != STORE):
            raise ValueError(f"expected no {key} in a sweep: {STORE}=DIR says where its runs are kept")
        if key == STUDY and (each.is_sweep_override() or not each.is_add()):
            raise ValueError(f"expected one study, as +{STUDY}=NAME, got {each.input_line}")
    hydra: DictConfig = composer.compose([each.input_line for each in chosen], with_hydra=True).hydra
    return hydra


def _study(composer: Composer, hydra: DictConfig, typed: Sequence[Override]) -> list[Override]:
    """Return the parameters of a study."""
    for each in typed:
        if each.key_or_group == STUDY and composer.compose([each.input_line]) != composer.compose([]):
            raise ValueError(f"expected configs/{STUDY}/{each.value()}.yaml to set {PARAMETERS} alone")
    parameters = hydra.sweeper.get("params") or {}
    return composer.parse([f"{key}={'null' if value is None else value}" for key, value in parameters.items()])


def _launcher(composer: Composer, typed: Sequence[Override]) -> DictConfig:
    """Compose who runs the jobs, which is no part of a run's configuration."""
    chosen = "serial"
    settings = []
    for each in typed:
        if each.key_or_group == LAUNCHER:
            chosen = str(each.value())
        elif each.key_or_group.startswith(f"{LAUNCHER}."):
            settings.append(each.input_line)
    launcher: DictConfig = composer.compose([f"+{LAUNCHER}={chosen}", *settings])[LAUNCHER]
    return launcher


def _is_of_sweep(override: Override) -> bool:
    return override.key_or_group.partition(".")[0] in (STUDY, LAUNCHER, "hydra")


def _target(override: Override) -> str:
    """Return what an override is about, so that a later one replaces an earlier one."""
    return f"{override.key_or_group}@{override.package or ''}"


def _values(override: Override) -> list[str]:
    if not override.is_discrete_sweep():
        raise ValueError(f"expected values to choose from, got {override.input_line}; experiments.tune searches ranges")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _name(typed: Sequence[Override], swept: Sequence[Override]) -> str:
    study = next((str(each.value()) for each in typed if each.key_or_group == STUDY), None)
    rest = sorted(each.input_line for each in typed if not _is_of_sweep(each))
    if study and not rest:
        return study
    what = study or "-".join(each.key_or_group.replace("/", ".") for each in swept)[:60] or "runs"
    return f"{what}-{hashlib.sha256(repr(rest).encode()).hexdigest()[:6]}"


def _refuse_what_never_applies(combinations: Sequence[_Combination]) -> None:
    for text in combinations[0].left_out:
        key = _key(text)
        if all(key in map(_key, each.left_out) for each in combinations):
            known = {name for each in combinations for name in keys(each.job.config)}
            raise ValueError(f"there is no {key} to set in any combination{nearest(key, known)}")


def _collapsed(combinations: Sequence[_Combination]) -> Iterator[str]:
    """Say in plain words why there are fewer jobs than combinations."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for each in combinations:
        absent = tuple(_key(text) for text in each.left_out)
        for_what = [text for text in each.varied if any(_place(key).startswith(f"{_place(text)}.") for key in absent)]
        if absent:
            groups.setdefault((*absent, ", ".join(for_what) or each.job.label), []).append(each.job.id)
    unexplained = len(combinations) - len({each.job.id for each in combinations})
    for (*absent, for_what), ids in groups.items():
        verb = "does" if len(absent) == 1 else "do"
        became = f"{len(ids)} combinations became {len(set(ids))}" if len(set(ids)) < len(ids) else "left out there"
        unexplained -= len(ids) - len(set(ids))
        yield f"{' and '.join(absent)} {verb} not apply to {for_what}: {became}"
    if unexplained > 0:
        yield f"combinations that compose the same run as another: {unexplained}"


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+")


def _place(text: str) -> str:
    """Return where in the configuration a choice of a group goes."""
    group, _, package = _key(text).partition("@")
    return package or group.replace("/", ".")
