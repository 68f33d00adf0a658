"""Which run a configuration describes: what decides its result, and nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf


def identity(config: DictConfig) -> str:
    """Return a digest of a configuration without what does not change the result: where it goes and who watches."""
    plain = resolved(config, "FOLDER")
    for name in ("folder", "logger", "hydra", "cache", "resume"):
        plain.pop(name, None)
    (plain.get("trainer") or {}).pop("enable_progress_bar", None)
    callbacks = plain.get("callbacks") or {}
    for name in ("progress", "continuation"):
        callbacks.pop(name, None)
    for callback in callbacks.values():
        (callback or {}).pop("dirpath", None)
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def resolved(config: DictConfig, folder: str) -> dict[str, Any]:
    """Return a configuration as plain values, as it is for a run in a folder."""
    copied = config.copy()
    copied.folder = folder
    plain = OmegaConf.to_container(copied, resolve=True)
    if not isinstance(plain, dict):
        raise TypeError(f"expected a mapping, got {type(plain).__name__}")
    return plain  # type: ignore[return-value]


def moved(value: Any, before: str, now: str) -> Any:
    """Return a value in which every path in one folder is in another.

    Example:
        >>> moved({"dirpath": "/a/run/checkpoints", "paths": ["/a/b"]}, "/a/run", "/c")
        {'dirpath': '/c/checkpoints', 'paths': ['/a/b']}
    """
    if isinstance(value, dict):
        return {moved(name, before, now): moved(inner, before, now) for name, inner in value.items()}
    if isinstance(value, list):
        return [moved(inner, before, now) for inner in value]
    if isinstance(value, str) and (value == before or value.startswith(f"{before}/")):
        return now + value.removeprefix(before)
    return value
