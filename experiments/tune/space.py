"""What a search may try: a YAML file with the choices or the range of each setting.

    loss: {choices: [infonce, triplet]}
    loss.temperature: {low: 0.01, high: 0.2, log: true}
    loss.margin: {low: 0.1, high: 0.6, when: {loss: triplet}}

- The file is read by OmegaConf, for which `1e-5` is a number; for plain YAML 1.1 it is a word.
- A range is of whole numbers if both ends and the step are written as such.
- A number is used with four digits, so that commands stay short; on a grid exactly.
- Settings that make values incomparable, such as another data set, or a matter of luck, the seed, are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.composing import CONFIGS

if TYPE_CHECKING:
    from optuna.trial import Trial

SPACES = CONFIGS / "tune"
REFUSED = {
    "judge": "trials are judged on dev",
    "folder": "each trial has its own",
    "before": "it changes no result",
    "seed": "the best seed is luck",
    "data": "values on different data cannot be compared",
    "experiment": "name its settings one by one",
}

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Choices:
    """One of some values."""

    values: tuple[Value, ...]

    @property
    def example(self) -> Value:
        """A value that is in it."""
        return self.values[0]

    def suggest(self, trial: Trial, key: str) -> Value:
        """Let the trial choose."""
        chosen: Value = trial.suggest_categorical(key, self.values)
        return chosen


@dataclass(frozen=True, slots=True)
class Range:
    """A number from `low` to `high`, both included; a whole one if they are."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def example(self) -> Value:
        """A value that is in it."""
        return self.low

    def suggest(self, trial: Trial, key: str) -> Value:
        """Let the trial choose."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, step=int(self.step or 1), log=self.log)
        value = trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)
        return float(f"{value:.4g}" if self.step is None else f"{value:.12g}")  # what people can read and type


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the configuration and what it may be.

    Attributes:
        key: Its dotted name, with a `+` in front if the configuration does not list it; or a group.
        values: What it may be.
        when: The choices of other settings under which it is set at all.
    """

    key: str
    values: Choices | Range
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def is_group(self) -> bool:
        """Whether it chooses a file of `configs`."""
        return is_group(self.key)

    def wanted(self, chosen: Mapping[str, Value]) -> bool:
        """Whether its conditions hold for what is chosen so far."""
        return all(key in chosen and chosen[key] in values for key, values in self.when.items())


Space = tuple[Setting, ...]
"""Settings in the order in which they are chosen: groups first."""

CHOSEN = "chosen"
"""Attribute of a trial: what it chose, its numbers as rounded as they are used."""


def read_space(name: str) -> Space:
    """Read a search space.

    Args:
        name: A file of `configs/tune` without its ending, or the path of a YAML file.

    Raises:
        ValueError: If there is no such file, or something in it is not as expected.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else SPACES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in SPACES.glob("*.yaml")))
        raise ValueError(f"expected --space to be a YAML file or one of {known}, got {name}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"expected {path.name} to be YAML, got {' '.join(str(error).split())}") from error
    try:
        return parse_space(content)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def parse_space(content: Any) -> Space:
    """Check the content of a search space and put groups first.

    >>> content = {"batch_size": {"low": 8, "high": 64}, "loss": {"choices": ["infonce", "triplet"]}}
    >>> [setting.key for setting in parse_space(content)]
    ['loss', 'batch_size']

    Raises:
        ValueError: If something is not as expected; it says where.
    """
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"expected settings, as in `batch_size: {{choices: [16, 32]}}`, got {content!r}")
    settings = [_setting(str(key), entry) for key, entry in content.items()]
    ordered = tuple(sorted(settings, key=lambda setting: not setting.is_group))
    for index, setting in enumerate(ordered):
        _check_conditions(setting, ordered[:index])
    return ordered


def is_group(key: str) -> bool:
    """Whether a name is that of a configuration group, such as `loss`, or `loss@loss.loss` for one inside."""
    return "." not in (group := key.partition("@")[0]) and (CONFIGS / group).is_dir()


def _setting(key: str, entry: Any) -> Setting:
    reason = REFUSED.get(key.lstrip("+").partition("@")[0])
    if reason is not None:
        raise ValueError(f"expected settings that make a model better, got {key}: {reason}")
    if not isinstance(entry, Mapping):
        raise ValueError(f"expected {key} to have choices, or low and high, got {entry!r}")
    allowed = {"choices", "when"} if "choices" in entry else {"low", "high", "step", "log", "when"}
    if unknown := [str(name) for name in entry if name not in allowed]:
        expected = "choices and when" if "choices" in entry else "choices, or low, high, step or log, and when"
        raise ValueError(f"expected {key} to have {expected}, got {', '.join(unknown)}")
    values = _choices(key, entry["choices"]) if "choices" in entry else _range(key, entry)
    if is_group(key):
        _check_group(key, values)
    return Setting(key, values, _conditions(key, entry.get("when", {})))


def _choices(key: str, listed: Any) -> Choices:
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"expected the choices of {key} to be a list, as in [16, 32], got {listed!r}")
    for value in listed:
        if not isinstance(value, str | int | float | bool | None):
            raise ValueError(f"expected the choices of {key} to be numbers, words, true, false or null, got {value!r}")
    if len(set(listed)) < len(listed):
        raise ValueError(f"expected the choices of {key} to differ, got {listed}")
    return Choices(tuple(listed))


def _range(key: str, entry: Mapping[str, Any]) -> Range:
    for name in ("low", "high"):
        if name not in entry:
            raise ValueError(f"expected {key} to have choices, or low and high, got no {name}")
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), entry.get("log", False)
    for name, value in (("low", low), ("high", high), *([("step", step)] if step is not None else [])):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"expected {name} of {key} to be a number, got {value!r}")
    if not low < high:
        raise ValueError(f"expected low of {key} to be below high, got {low} and {high}")
    if not isinstance(log, bool):
        raise ValueError(f"expected log of {key} to be true or false, got {log!r}")
    if log and step is not None:
        raise ValueError(f"expected step or log for {key}, got both")
    if log and low <= 0:
        raise ValueError(f"expected low of {key} above 0 on a logarithmic scale, got {low}")
    if step is not None and (step <= 0 or (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step))):
        raise ValueError(f"expected step of {key} to divide {high} - {low}, got {step}")
    if any(isinstance(value, float) for value in (low, high, step)):
        low, high = float(low), float(high)
    return Range(low, high, step, log)


def _check_group(key: str, values: Choices | Range) -> None:
    group = key.partition("@")[0]
    known = sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))
    if not isinstance(values, Choices):
        raise ValueError(f"expected choices for the group {key}, got a range")
    for value in values.values:
        if value is not None and value not in known:
            raise ValueError(f"expected the choices of {key} to be among {', '.join(known)}, got {value!r}")


def _conditions(key: str, when: Any) -> dict[str, tuple[Value, ...]]:
    if not isinstance(when, Mapping):
        raise ValueError(f"expected when of {key} to name choices, as in {{loss: triplet}}, got {when!r}")
    return {str(name): tuple(value) if isinstance(value, list) else (value,) for name, value in when.items()}


def _check_conditions(setting: Setting, earlier: Sequence[Setting]) -> None:
    """Refuse a condition on what is not chosen before, or on a value that is not among its choices."""
    choices = {other.key: other.values.values for other in earlier if isinstance(other.values, Choices)}
    for name, values in setting.when.items():
        if name not in choices:
            known = ", ".join(choices) or "there are none"
            raise ValueError(f"expected when of {setting.key} to name choices above it ({known}), got {name}")
        for value in values:
            if value not in choices[name]:
                listed = ", ".join(map(str, choices[name]))
                raise ValueError(f"expected when of {setting.key} to be among the {name} of {listed}, got {value!r}")
