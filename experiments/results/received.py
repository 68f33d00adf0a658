"""What programs take from the files of a run, which somebody else may have made: sent, downloaded, shared.

Notable decisions:

- What a person types may build anything, as Hydra does. What is read back is plain values: neither Hydra nor OmegaConf
  sees it, so nothing in it is looked up in the environment.
- Built are only the readers below, by name. Those that write queries are none of them: they ask servers, with a key
  from the environment, and write files.
- The files that a reader names are read, that is what they are named for; the program says which.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

READERS = (
    "contrastive.data.beir",
    "contrastive.data.corpus.corpus",
    "contrastive.data.documents.documents",
    "contrastive.data.files",
    "contrastive.data.hub",
    "contrastive.data.mixed",
    "contrastive.data.queries.pseudo_queries.PseudoQueries",  # a part of `corpus`
    "experiments.postings.generator.jobs",
)
"""All that the configuration of a run may name to be built."""

RENAMED = {
    "contrastive.adapters.": "contrastive.encoder.",
    "contrastive.memory.": "contrastive.training.memory.",
    "contrastive.optimization.": "contrastive.training.optimization.",
    "contrastive.query_generation.": "contrastive.data.queries.",
    "contrastive.two_towers.": "contrastive.encoder.",
    "experiments.callbacks.": "experiments.run.callbacks.",
    "experiments.jobs.": "experiments.postings.",
    "experiments.tracking.": "experiments.run.tracking.",
}
"""How names begin in the configurations of earlier runs, and how they begin now."""

_WITHOUT_EFFECT = {"_convert_"}  # values are plain whatever it says

log = logging.getLogger(__name__)


class _PlainLoader(yaml.SafeLoader):
    """Reads YAML without aliases: no run writes any, and a few lines of them stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("found an alias, which no run writes")
        return super().compose_node(parent, index)


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of a run as plain values, as they stand there; what was renamed since has its new name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not as a run writes it.
    """
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"expected {path} to be YAML as a run writes it, got {type(error).__name__}: {said}"
        ) from error
    if not isinstance(config, dict):
        raise ValueError(f"expected {path} to hold settings by name, got {config!r:.80}")
    return {key: _renamed(value) for key, value in config.items()}


def _renamed(value: Any) -> Any:
    """Return a value in which what an earlier run names to be built has the name of today."""
    if isinstance(value, list):
        return [_renamed(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _renamed(item) for key, item in value.items()}
    target = value.get("_target_")
    for old, new in RENAMED.items():
        if isinstance(target, str) and target.startswith(old):
            value["_target_"] = new + target.removeprefix(old)
    return value


def build_data(described: Any) -> Any:
    """Build the data set that the configuration of a run describes, and log what is read for it.

    Args:
        described: As `read_config` gives it.

    Raises:
        ValueError: If something is not one of `READERS`, has arguments it does not take, or refers to something outside
            the configuration.
    """
    if not isinstance(described, Mapping):
        raise ValueError(f"expected the data of a run by the name of their reader, got {described!r:.80}")
    for reader, values in _readers(described):
        log.info("reading with %s, as the run did: %s", reader, values)
    return _built(described, "data")


def _readers(described: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each reader and the plain values it is given, in words."""
    named = {key: value for key, value in described.items() if not isinstance(value, Mapping) and value is not None}
    if "_target_" in named:
        target = str(named.pop("_target_"))
        yield target, ", ".join(f"{key}={value!r:.200}" for key, value in named.items() if key not in _WITHOUT_EFFECT)
    for value in described.values():
        if isinstance(value, Mapping):
            yield from _readers(value)


def _built(value: Any, name: str) -> Any:
    """Return a value with what is described in it built, innermost first; `name` is where it stands."""
    if isinstance(value, str) and "${" in value:
        raise ValueError(f"expected {name} of the run's configuration to be a plain value, got {value!r:.200}")
    if isinstance(value, list):
        return [_built(item, f"{name}.{place}") for place, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    target = value.get("_target_")
    if "_target_" in value and target not in READERS:
        raise ValueError(
            f"expected {name} of the run's configuration to be read by one of {', '.join(READERS)}, got {target!r:.200}"
        )
    given = {key: item for key, item in value.items() if key not in {"_target_", *_WITHOUT_EFFECT}}
    for key in given:
        if not isinstance(key, str) or (key.startswith("_") and key.endswith("_")):
            raise ValueError(f"expected settings by name in {name} of the run's configuration, got {key!r:.80}")
    arguments = {key: _built(item, f"{name}.{key}") for key, item in given.items()}
    return arguments if target is None else _called(target, arguments, name)


def _called(target: str, arguments: Mapping[str, Any], name: str) -> Any:
    module, _, function = target.rpartition(".")
    reader = getattr(import_module(module), function)
    try:
        inspect.signature(reader).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"expected {name} of the run's configuration to fit {target}: {error}") from error
    return reader(**arguments)
