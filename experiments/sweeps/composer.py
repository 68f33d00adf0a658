"""Configurations of many runs, composed quickly, and mistakes in them said in plain words.

Hydra reads its files again for every configuration. Here what stems from files, the choices of groups, is composed once
and kept; single values are then set in a copy, as Hydra itself sets them, last. A value whose key is not there is left
out if it was only one of many to try, because that is what a sweep over losses with different settings needs: Hydra
would refuse the whole sweep.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple, Self

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from experiments.composing import CONFIGS, nearest, said, takes


class AbsentError(ValueError):
    """An override names a key or a group that the configuration does not have."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class Applicable(NamedTuple):
    """A configuration, and those of the varied overrides that have no place in it."""

    config: DictConfig
    left_out: tuple[str, ...]


class Composer:
    """Hydra, set up once for many configurations: `with Composer() as composer: composer.compose(["seed=1"])`."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._choices: dict[str, list[str]] = {}

    def __enter__(self) -> Self:
        """Set Hydra up."""
        self._stack.enter_context(initialize_config_dir(str(CONFIGS), version_base="1.3"))
        self._parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        return self

    def __exit__(self, *_: object) -> None:
        """Put back what was set up before."""
        self._stack.close()

    def parse(self, arguments: Sequence[str]) -> list[Override]:
        """Read overrides as Hydra does, sweeps over a glob of choices included.

        Raises:
            ValueError: If one is malformed.
        """
        try:
            return self._parser.parse_overrides(list(arguments))
        except HydraException as error:
            raise ValueError(said(error)) from error

    def choices(self, group: str) -> list[str]:
        """Return the choices of a group of configurations; none if there is no such group."""
        if group not in self._choices:
            self._choices[group] = GlobalHydra.instance().config_loader().get_group_options(group)
        return self._choices[group]

    def compose(self, overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
        """Compose the configuration of a run, and Hydra's own under `hydra` if that is wanted.

        Raises:
            AbsentError: If a key does not exist; it names the nearest that does.
            ValueError: If a choice does not exist, or an override is malformed.
        """
        try:
            return compose("config", overrides=list(overrides), return_hydra_config=with_hydra)
        except (HydraException, OmegaConfBaseException) as error:
            raise self._explained(error, overrides) from error

    def base(self, overrides: Sequence[str]) -> DictConfig:
        """Compose, or copy what was composed from the same overrides before."""
        key = tuple(overrides)
        if key not in self._bases:
            self._bases[key] = self.compose(overrides)
        return self._bases[key].copy()

    def _explained(self, error: Exception, overrides: Sequence[str]) -> ValueError:
        if isinstance(error, MissingConfigException):
            group, _, choice = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
            known = self.choices(group)
            return ValueError(f"expected {group} to be one of {', '.join(known)}, got {choice}{nearest(choice, known)}")
        absent = re.match(r"Could not override '([^']+)'", str(error))
        if absent is None:
            return ValueError(said(error))
        chosen = [each.input_line for each in self.parse(overrides) if self.choices(each.key_or_group)]
        known = list(self.choices(""))
        with suppress(HydraException):  # it is a choice that cannot be made
            known += keys(compose("config", overrides=chosen))
        where = f" with {', '.join(chosen)}" if chosen else ""
        return AbsentError(f"there is no {absent[1]} to set{where}{nearest(absent[1], known)}", absent[1])


def compose_applicable(composer: Composer, fixed: Sequence[str], varied: Sequence[str]) -> Applicable:
    """Compose a configuration with those varied overrides that have a place in it.

    A choice of a group has a place if the group is there; a value if its key is; one that adds a key, such as
    `+loss.hardness=5`, if what is built there takes it.

    Args:
        composer: In its `with` block.
        fixed: Overrides that must have a place.
        varied: Overrides that need not, such as `loss=triplet`, `loss.temperature=0.1`.

    Raises:
        ValueError: If a fixed key or a choice does not exist.
    """
    groups, values = [], []
    for text, override in zip(varied, composer.parse(varied), strict=True):
        (groups if composer.choices(override.key_or_group) else values).append((text, override))
    config, left_out = _with_groups(composer, fixed, [text for text, _ in groups])
    left_out += [text for text, override in values if not _set(config, override)]
    return Applicable(config, tuple(left_out))


def keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all there is in a configuration."""
    plain = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
    for key, inner in plain.items():
        yield f"{prefix}{key}"
        if isinstance(inner, dict):
            yield from keys(inner, f"{prefix}{key}.")


def _with_groups(composer: Composer, fixed: Sequence[str], groups: list[str]) -> tuple[DictConfig, list[str]]:
    """Compose with those choices of which the group is there."""
    left_out: list[str] = []
    while True:
        try:
            return composer.base([*fixed, *groups]), left_out
        except AbsentError as error:
            absent = [text for text in groups if text.partition("=")[0].lstrip("+") == error.key]
            if not absent and groups and "did you mean" not in str(error):
                raise ValueError(f"{error}; {error.key}=choice(VALUE) would set it where it applies") from error
            if not absent:
                raise
            left_out += absent
            groups = [text for text in groups if text not in absent]


def _set(config: DictConfig, override: Override) -> bool:
    """Set one value as Hydra would; return whether it has a place.

    Raises:
        ValueError: If it adds a key that is there.
    """
    key = override.key_or_group
    if override.is_add() and OmegaConf.select(config, key) is not None:
        raise ValueError(f"{key} is there already: write ++{key}=... to set it where it is and add it where it is not")
    adds = override.is_add() or override.is_force_add()
    parent, _, name = key.rpartition(".")
    if adds and parent and not takes(OmegaConf.select(config, parent), name):
        return False
    try:
        OmegaConf.update(config, key, override.value(), merge=True, force_add=adds)
    except (ConfigAttributeError, ConfigKeyError):
        return False
    return True
