"""Where the numbers of a run come from: versions, checkout and command, base model, data."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCard, try_to_load_from_cache

import contrastive

MINILM: dict[str, str | None] = {
    "name": "all-MiniLM-L6-v2",
    "hub": "sentence-transformers/all-MiniLM-L6-v2",
    "licence": "apache-2.0",
}

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PATH_INSIDE = re.compile(r"(?<![^\s=\[,'\"({:])~?/(?:[^\s,'\"\]})/]+/)+([^\s,'\"\]})/]+)")


def provenance(command: Sequence[str] | None) -> dict[str, Any]:
    """Return what the numbers depend on beside the configuration: versions, machine, state of the checkout, command."""
    packages = ("torch", "transformers", "lightning", "bm25s", "ir-measures")
    return {
        "versions": {
            "contrastive": contrastive.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "machine": {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "git": {"commit": _git("rev-parse", "HEAD"), "changed_files": _git("status", "--porcelain")},
        "command": None if command is None else list(command),
    }


def base_models(encoder: Mapping[str, Any]) -> list[dict[str, str | None]]:
    """Return name, name on the hub and licence of each model that an encoder's configuration starts from.

    None stands for what there is not or is not known. Nothing is asked of the hub.
    """
    found: list[dict[str, str | None]] = []
    for key, value in leaves(encoder):
        if str(value).endswith("embedded_minilm"):
            found.append(dict(MINILM))
        elif key.rpartition(".")[2] == "name_or_path":
            found.append(_base_model(str(value)))
    return [base for index, base in enumerate(found) if base not in found[:index]]


def generated(data: Mapping[str, Any]) -> bool:
    """Whether some of the data comes from the generator of job postings."""
    return any("experiments.postings" in t or "experiments.jobs" in t for t in _targets(data))  # the name before


def query_author(data: Mapping[str, Any]) -> str | None:
    """Return what made some of the training queries from documents; None if nothing did."""
    targets = _targets(data)
    if not any("data.corpus" in target for target in targets):
        return None
    return "a language model" if any(t.endswith("Writer") for t in targets) else "a program"


def hub_data_sets(data: Any) -> list[str]:
    """Return the names of the data sets that a configuration takes from the hub."""
    if not isinstance(data, Mapping):
        return []
    names = [name for value in data.values() for name in hub_data_sets(value)]
    name = str(data.get("name", ""))
    if str(data.get("_target_", "")).endswith("hub") and _HUB_NAME.fullmatch(name) and not Path(name).exists():
        names.append(name)
    return names


def portable(value: Any) -> Any:
    """Return a value, and all there is in it, with the last name of each absolute path in place of the path.

    >>> portable(["data.path='/home/me/my data'", "paths=[/a/b/c,d]", "https://example.org/a/b"])
    ['data.path=my data', 'paths=[c,d]', 'https://example.org/a/b']
    """
    if isinstance(value, Mapping):
        return {key: portable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [portable(inner) for inner in value]
    if not isinstance(value, str):
        return value
    name, equals, rest = value.partition("=")
    if equals and re.fullmatch(r"[+~]*[\w.@/]+", name):  # an override of the command line
        return f"{name}={portable(rest)}"
    bare = value.strip("'\"")
    if bare.startswith("~/") or Path(bare).is_absolute():
        return Path(bare).name
    return _PATH_INSIDE.sub(r"\1", value)


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings by their dotted names."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _targets(config: Mapping[str, Any]) -> list[str]:
    return [str(value) for key, value in leaves(config) if key.endswith("_target_")]


def _base_model(name_or_path: str) -> dict[str, str | None]:
    folder = Path(name_or_path).expanduser()
    if folder.is_dir() or not _HUB_NAME.fullmatch(name_or_path):
        folder = folder.resolve()
        name = folder.parent.name if folder.name == "model" else folder.name  # the model of a run
        return {"name": name, "hub": None, "licence": _licence(folder / "README.md")}
    cached = try_to_load_from_cache(name_or_path, "README.md")
    licence = _licence(Path(cached)) if isinstance(cached, str) else None
    return {"name": name_or_path.rpartition("/")[2], "hub": name_or_path, "licence": licence}


def _licence(card: Path) -> str | None:
    if not card.is_file():
        return None
    try:
        licence = ModelCard.load(card, ignore_metadata_errors=True).data.license
    except (ValueError, yaml.YAMLError):  # somebody wrote it by hand
        return None
    return licence if isinstance(licence, str) else None


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
