"""What one trial tries: the settings of the space that apply to what is chosen before them, and their overrides.

A setting applies if it has a place in the configuration composed with the groups chosen so far: `loss.temperature` is
not drawn, and teaches the sampler nothing, where the loss has none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from experiments.sweeps.composer import Composer, compose_applicable
from experiments.tune.space import CHOSEN, Setting, Space, Value, is_group

if TYPE_CHECKING:
    from optuna.trial import Trial

MOST_COMBINATIONS = 300  # of groups, at a tenth of a second each


def choose(trial: Trial, space: Space, composer: Composer, fixed: Sequence[str]) -> dict[str, Value]:
    """Let a trial choose a value for each setting that applies.

    Args:
        trial: Draws the values.
        space: In its order, groups first.
        composer: In its `with` block.
        fixed: Overrides that all trials have.
    """
    chosen: dict[str, Value] = {}
    for setting in space:
        if setting.is_group and setting.wanted(chosen) and applicable([setting], chosen, composer, fixed):
            chosen[setting.key] = setting.suggest(trial)
    for setting in applicable([setting for setting in space if not setting.is_group], chosen, composer, fixed):
        if setting.wanted(chosen):
            chosen[setting.key] = setting.suggest(trial)
    trial.set_user_attr(CHOSEN, chosen)
    return chosen


def applicable(
    settings: Sequence[Setting], chosen: Mapping[str, Value], composer: Composer, fixed: Sequence[str]
) -> list[Setting]:
    """Return the settings that have a place in the configuration beside what is chosen."""
    examples = overrides({setting.key: setting.example for setting in settings})
    left_out = compose_applicable(composer, fixed, [*overrides(chosen), *examples]).left_out
    return [setting for setting, example in zip(settings, examples, strict=True) if example not in left_out]


def unreachable(space: Space, composer: Composer, fixed: Sequence[str]) -> list[str]:
    """Return the settings that have a place under no choice of the groups.

    Raises:
        ValueError: If there are too many combinations of choices to try.
    """
    groups = [setting for setting in space if setting.is_group]
    waiting = {setting.key: setting for setting in space}
    for number, chosen in enumerate(_combinations(groups)):
        if not waiting:
            break
        if number == MOST_COMBINATIONS:
            raise ValueError(f"expected settings of the configuration, found no {', '.join(waiting)} in {number} of it")
        found = applicable([each for each in waiting.values() if not each.is_group], chosen, composer, fixed)
        left_out = compose_applicable(composer, fixed, overrides(chosen)).left_out
        placed = [key for key, text in zip(chosen, overrides(chosen), strict=True) if text not in left_out]
        for key in [*placed, *(setting.key for setting in found if _may(setting, chosen))]:
            waiting.pop(key, None)
    return list(waiting)


def check_choices(space: Space, composer: Composer, fixed: Sequence[str]) -> None:
    """Refuse a choice of a group that does not go with the values that all trials have.

    Raises:
        ValueError: If there is one; it says why.
    """
    for setting in space:
        if setting.is_group and "@" not in setting.key:
            for choice in setting.choices:
                composer.base([*fixed, f"{setting.key}={choice}"])


def overrides(chosen: Mapping[str, Value]) -> list[str]:
    """Write choices as overrides of Hydra's command line.

    >>> overrides({"loss": "dcl", "optimizer.learning_rate": 1e-05, "encoder.query_prompt": "'query: '"})
    ['loss=dcl', 'optimizer.learning_rate=1e-05', "encoder.query_prompt='query: '"]
    """
    return [f"{key}={value}" for key, value in chosen.items()]


def _combinations(groups: Sequence[Setting]) -> Iterable[dict[str, Value]]:
    """Yield what the groups may be together, without those whose conditions do not hold."""
    seen: list[dict[str, Value]] = []
    for values in itertools.product(*(setting.choices for setting in groups)):
        chosen: dict[str, Value] = {}
        for setting, value in zip(groups, values, strict=True):
            if setting.wanted(chosen):
                chosen[setting.key] = value
        if chosen not in seen:
            seen.append(chosen)
            yield chosen


def _may(setting: Setting, chosen: Mapping[str, Value]) -> bool:
    """Whether the conditions of a setting may hold with these groups, whatever the other settings are."""
    return all(key in chosen and chosen[key] in values for key, values in setting.when.items() if is_group(key))
