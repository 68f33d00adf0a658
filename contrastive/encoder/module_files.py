"""The JSON files of a sentence-transformers folder: each key is used, refused, known to change nothing, or logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from contrastive.data.json_files import read_object

_log = logging.getLogger(__name__)


def read_if_there(path: Path) -> dict[str, Any]:
    """Read a JSON object; {} if there is no file, which is how sentence-transformers treats it."""
    return read_object(path) if path.is_file() else {}


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, and the folder it stands in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def log_unused(path: Path, config: Mapping[str, Any], known: Set[str]) -> None:
    """Say which keys of a file are not used; those without a value say nothing."""
    unused = sorted(key for key, value in config.items() if key not in known and value not in (None, {}, [], ""))
    if unused:
        _log.warning("%s sets %s, which is not used", path, ", ".join(unused))


def kind_of(type_name: str, folder: Path, supported: Sequence[str]) -> str:
    """Shorten the dotted type of a module, old or new, to its class.

    Raises:
        ValueError: If it is not one of sentence-transformers' that are supported.
    """
    package, _, kind = type_name.rpartition(".")
    if package.split(".")[0] != "sentence_transformers" or kind not in supported:
        raise ValueError(
            f"{folder} contains the module {type_name}, which is not supported; supported are {', '.join(supported)} "
            "of sentence-transformers"
        )
    return kind
