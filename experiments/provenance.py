"""What the numbers of a run depend on beside its configuration."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def provenance() -> dict[str, Any]:
    """Return what the numbers depend on beside the configuration: versions, machine, state of the checkout."""
    packages = ("torch", "transformers", "lightning", "bm25s", "ir-measures")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "git": {"commit": _git("rev-parse", "HEAD"), "changed_files": _git("status", "--porcelain")},
    }


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
