"""What a search may try: settings with their choices and ranges, in Hydra's words for sweeps.

    loss: choice(infonce,triplet)
    loss.temperature: tag(log,interval(0.01,0.2))
    loss.margin: tag(loss:triplet,interval(0.1,0.6))

- A file lists them, and the command line adds or replaces some: `loss=dcl,mnrl`, `batch_size=range(8,65,8)`.
- Hydra leaves the meaning of tags to who sweeps. Here `log` makes an interval logarithmic, and `loss:triplet` has a
  setting tried with that choice of an earlier one only; two tags of one name are alternatives.
- A choice is kept as the text that is typed for it, so that whatever Hydra can read may be one.
- A number is used with four digits, so that commands stay short; on a grid exactly.
- Settings that make values incomparable, such as another data set, or a matter of luck, the seed, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import IntervalSweep, Override, ParsedElementType, RangeSweep, Transformer
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial
from yaml import YAMLError

from experiments.composing import CONFIGS
from experiments.sweeps.composer import Composer

SPACES = CONFIGS / "tune"
REFUSED = {
    "judge": "trials are judged on dev",
    "folder": "each trial has its own",
    "before": "it changes no result",
    "seed": "the best seed is luck",
    "data": "values on different data cannot be compared",
    "experiment": "name its settings one by one",
}

Value = str | int | float
"""A number of a range, or a choice as it is typed."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the configuration and what it may be.

    Attributes:
        key: Its dotted name, with a `+` in front if the configuration does not list it; or a group.
        text: What it may be, as typed.
        values: The same for Optuna.
        when: The choices of other settings under which it is set at all.
    """

    key: str
    text: str
    values: BaseDistribution
    when: Mapping[str, tuple[str, ...]]

    @property
    def is_group(self) -> bool:
        """Whether it chooses a file of `configs`."""
        return is_group(self.key)

    @property
    def choices(self) -> tuple[str, ...]:
        """What there is to choose from, nothing if it is a range."""
        return tuple(map(str, self.values.choices)) if isinstance(self.values, CategoricalDistribution) else ()

    @property
    def example(self) -> Value:
        """A value that it may have."""
        values = self.values
        return values.low if isinstance(values, IntDistribution | FloatDistribution) else self.choices[0]

    def wanted(self, chosen: Mapping[str, Value]) -> bool:
        """Whether its conditions hold for what is chosen so far."""
        return all(key in chosen and str(chosen[key]) in values for key, values in self.when.items())

    def suggest(self, trial: Trial) -> Value:
        """Let a trial choose."""
        match self.values:
            case IntDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_int(self.key, low, high, step=step, log=log)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                value = trial.suggest_float(self.key, low, high, step=step, log=log)
                return float(f"{value:.4g}" if step is None else f"{value:.12g}")  # what people can read and type
        return str(trial.suggest_categorical(self.key, self.choices))


Space = tuple[Setting, ...]
"""Settings in the order in which they are chosen: groups first."""

CHOSEN = "chosen"
"""Attribute of a trial: what it chose, its numbers as rounded as they are used."""


def read_space(name: str) -> dict[str, str]:
    """Read what a file says of each setting.

    Args:
        name: A file of `configs/tune` without its ending, or the path of a YAML file.

    Raises:
        ValueError: If there is no such file, or it is not of names and values.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else SPACES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in SPACES.glob("*.yaml")))
        raise ValueError(f"expected --space to be a YAML file or one of {known}, got {name}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"expected {path.name} to be YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping) or any(isinstance(value, list | dict) for value in content.values()):
        raise ValueError(f"expected {path.name} to hold lines as `batch_size: choice(16,32)`, got {content!r}")
    return {str(key): "null" if value is None else str(value) for key, value in content.items()}


def parse_space(written: Mapping[str, str], composer: Composer) -> Space:
    """Read choices and ranges, check them and put groups first; one value is a choice without an alternative.

    Args:
        written: What Hydra's command line has after each name.
        composer: In its `with` block.

    Raises:
        ValueError: If something is not as expected; it says where.
    """
    overrides = composer.parse([f"{key}={text}" for key, text in written.items()])
    settings = [_setting(*entry, override) for entry, override in zip(written.items(), overrides, strict=True)]
    return tuple(sorted(settings, key=lambda setting: not setting.is_group))


def check_conditions(space: Space) -> None:
    """Refuse conditions on what is not chosen before, or on a value that is not among its choices.

    Raises:
        ValueError: If there is one.
    """
    choices: dict[str, tuple[str, ...]] = {}
    for setting in space:
        for name, values in setting.when.items():
            if name not in choices:
                known = ", ".join(choices) or "there are none"
                raise ValueError(f"expected the tags of {setting.key} to name choices above it ({known}), got {name}")
            if unknown := set(values) - set(choices[name]):
                listed, got = ", ".join(choices[name]), ", ".join(sorted(unknown))
                raise ValueError(f"expected the tags of {setting.key} to be among the {name} of {listed}, got {got}")
        if setting.choices:
            choices[setting.key] = setting.choices


def is_group(key: str) -> bool:
    """Whether a name is that of a configuration group, such as `loss`, or `loss@loss.loss` for one inside."""
    return "." not in (group := key.partition("@")[0]) and (CONFIGS / group).is_dir()


def _setting(key: str, text: str, override: Override) -> Setting:
    reason = REFUSED.get(key.lstrip("+").partition("@")[0])
    if reason is not None:
        raise ValueError(f"expected settings that make a model better, got {key}: {reason}")
    tags = sorted(getattr(override.value(), "tags", ()))
    if unknown := [tag for tag in tags if tag != "log" and ":" not in tag]:
        raise ValueError(f"expected the tags of {key} to be log or NAME:CHOICE, got {', '.join(unknown)}")
    try:
        values = _values(override, log="log" in tags)
    except ValueError as error:
        raise ValueError(f"{override.input_line}: {error}") from error
    if is_group(key) and not isinstance(values, CategoricalDistribution):
        raise ValueError(f"expected choices for the group {key}, got {text}")
    when: dict[str, tuple[str, ...]] = {}
    for name, _, choice in (tag.rpartition(":") for tag in tags if ":" in tag):
        when[name] = (*when.get(name, ()), choice)
    return Setting(key, text, values, when)


def _values(override: Override, *, log: bool) -> BaseDistribution:
    match override.value():
        case IntervalSweep(start=int(low), end=int(high)):
            return IntDistribution(low, high, log=log)
        case IntervalSweep(start=float(low), end=float(high)):
            return FloatDistribution(low, high, log=log)
        case _ if log:
            raise ValueError("expected the tag log on an interval")
        case RangeSweep(start=int(), stop=int(), step=int(step)):
            whole = [int(number) for number in override.sweep_string_iterator()]
            return IntDistribution(min(whole, default=0), max(whole, default=-1), step=abs(step))
        case RangeSweep(step=step):
            grid = [float(f"{float(number):.12g}") for number in override.sweep_string_iterator()]
            return FloatDistribution(min(grid, default=0.0), max(grid, default=-1.0), step=abs(step))
    listed = override.sweep_iterator(_typed) if override.is_sweep_override() else [_typed(override.value())]
    return CategoricalDistribution(list(dict.fromkeys(listed)))


def _typed(value: ParsedElementType) -> str:
    return str(value).lower() if isinstance(value, bool) else Transformer.str(value)
