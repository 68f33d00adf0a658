"""What a measurement depends on: the processor and the versions."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return processor, threads, the GPU if that is the device, and versions, for the head of a result."""
    packages = ("torch", "transformers", "lightning", "bm25s")
    gpu = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {
        "machine": {"processor": processor(), "threads": torch.get_num_threads(), **gpu},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def processor() -> str:
    """Return the model of the processor where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()
