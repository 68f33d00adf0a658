"""What a search holds fixed and what it varies, checked against the configuration before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from experiments.composing import check_known
from experiments.sweeps.composer import Composer
from experiments.tune.choosing import check_choices, unreachable
from experiments.tune.space import Space, check_conditions, parse_space

FIXED = {
    "judge": "dev",
    "before": "false",
    "trainer.enable_progress_bar": "false",
    "+callbacks.checkpoint.save_weights_only": "true",  # a third of the size; nobody resumes a trial
}
"""What a trial has unless the command line says otherwise, and a final run has not."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A search that can work.

    Attributes:
        space: What varies, groups first.
        fixed: Overrides that all trials have.
        kept: Those of them that a final run of the best has too.
        left_out: Settings of the space that have no place with what the command line fixes.
        monitor: The metric that a trial is valued by.
        mode: Whether it is to be high, `max`, or low, `min`.
        stages: In how many stages of its training a trial may be pruned.
    """

    space: Space
    fixed: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    monitor: str
    mode: Literal["max", "min"]
    stages: int

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the values of trials comparable."""
        varied = {f"space of {setting.key}": setting.text for setting in self.space}
        metric = f"{self.mode} {self.monitor}"
        return {**varied, "fixed values": list(self.fixed), "metric": metric, "validations": self.stages}


def make_plan(written: Mapping[str, str], words: Sequence[str], validations: int, composer: Composer) -> Plan:
    """Put a space and a command line together.

    Args:
        written: The space, as its file says.
        words: Overrides as typed. Choices and ranges are added to the space or replace those in it, one value of a
            setting of the space fixes it where it applies, and other values hold for all trials.
        validations: In a training, at least, where the trainer validates at equal distances.
        composer: In its `with` block.

    Raises:
        ValueError: If something does not exist, does not go together, or leaves nothing to search or to judge by.
    """
    given = {_name(word): override for word, override in zip(words, composer.parse(words), strict=True)}
    of_space = {name: each for name, each in given.items() if name in written or each.is_sweep_override()}
    varied = {name: override.get_value_string() for name, override in of_space.items()}
    whole, space = parse_space({**varied, **written}, composer), parse_space({**written, **varied}, composer)
    check_conditions(whole)
    typed = [word for word in words if _name(word) not in varied]
    defaults = [f"{name}={value}" for name, value in FIXED.items() if name not in given]
    config = composer.base([*defaults, *typed])
    check_known(config)
    _check(config)
    interval = _interval(config, given, validations)
    fixed = [*defaults, *interval, *typed]
    check_choices(space, composer, fixed)
    left_out = unreachable(space, composer, fixed)
    groups = [word for word in typed if composer.choices(given[_name(word)].key_or_group)]
    if left_out and (wrong := unreachable(whole, composer, groups)):
        raise ValueError(f"expected settings that the configuration has under some choice, got {', '.join(wrong)}")
    space = tuple(setting for setting in space if setting.key not in left_out)
    if all(len(setting.choices) == 1 for setting in space):
        raise ValueError("expected settings to vary, got a value for each of them on the command line")
    kept = [*interval, *(word for word in typed if _name(word) not in FIXED)]
    checkpoint = config.callbacks.checkpoint
    return Plan(space, tuple(fixed), tuple(kept), tuple(left_out), checkpoint.monitor, checkpoint.mode, validations)


def _name(override: str) -> str:
    return override.partition("=")[0]


def _interval(config: DictConfig, given: Mapping[str, Override], validations: int) -> list[str]:
    """Return the override that validates often enough, none if the command line decides or once an epoch is enough."""
    ours = {"trainer.val_check_interval", "trainer.check_val_every_n_epoch"}
    if ours & set(given) or config.trainer.max_steps != -1:
        return []
    an_epoch = math.ceil(validations / max(1, config.trainer.max_epochs))
    return [f"trainer.val_check_interval={1 / an_epoch:.4g}"] if an_epoch > 1 else []


def _check(config: DictConfig) -> None:
    trainer = config.trainer
    if config.judge != "dev":
        raise ValueError(f"expected judge=dev, got judge={config.judge}: after a search on test, test says nothing")
    if config.callbacks.get("checkpoint") is None or not trainer.get("enable_checkpointing", True):
        raise ValueError("expected callbacks.checkpoint, whose metric is what a search goes by, got none")
    if trainer.limit_val_batches == 0:
        raise ValueError("expected trials to validate, got trainer.limit_val_batches=0")
    if trainer.devices not in (1, [0]):
        raise ValueError(f"expected trainer.devices=1, got {trainer.devices}: start more processes instead")
