"""Loading any pretrained model and its tokenizer from a folder: encoders, cross-encoders, writers of queries.

Notable decisions:

- safetensors only and never remote code, so that loading a model runs nothing that came with it, and asks nobody
  whether it should; float32 whatever the checkpoint holds.
- Silent, but a checkpoint that lacks weights is an error and not a log line: transformers loads a good deal in part, or
  what is something else, without an error: weights of another shape or number of layers, a BERT without its vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from contrastive.data.json_files import read_object
from contrastive.encoder.backbone import block_lists
from contrastive.encoder.locating import TWO_TOWERS

_transformers_logging: Any = logging  # half of its functions are not annotated


def read_config(folder: Path, expected: str = "a text encoder") -> PreTrainedConfig:
    """Read the config.json of a model, and refuse a folder whose weights would not be read, before they are.

    Args:
        folder: The folder.
        expected: What the model should be, for the message of an error.

    Raises:
        FileNotFoundError: If the folder has no config.json or no safetensors weights.
        ValueError: If config.json describes no model that the installed transformers knows without code of its own.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected a model in {folder}, found no config.json{_what_it_is(folder)}")
    described = read_object(path)
    _check_weight_files(folder)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # values of the wrong type or range raise huggingface_hub's own errors
        reason = " ".join(str(error).split())
        if str(described.get("model_type")) not in CONFIG_MAPPING:
            reason = f"model_type {described.get('model_type')!r} is none that the installed transformers knows"
        if "auto_map" in described:
            reason += ", and code that comes with a model is never run"
        raise ValueError(f"expected {path} to describe {expected}: {reason}") from error
    return config


def load_weights(
    folder: Path, auto_class: Any, *, config: PreTrainedConfig | None = None, optional: str | None = None
) -> Any:
    """Load a model of any kind by the rules of this module, in float32 and eval mode.

    Args:
        folder: Where it is.
        auto_class: Of transformers, such as `AutoModel`.
        config: Its config.json, where that was read already.
        optional: Module whose weights may be missing.

    Raises:
        FileNotFoundError: If the folder has no config.json or no safetensors weights.
        ValueError: If it is no model of that kind, complete and as its config.json says.
    """
    with quiet():
        config = config or read_config(folder, "a model")
        try:
            model, report = auto_class.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                trust_remote_code=False,
            )
        except Exception as error:  # impossible values in config.json raise whatever they meet first
            said = " ".join(str(error).split())
            raise ValueError(f"could not load the weights in {folder}: {type(error).__name__}: {said}") from error
    _check_loaded(folder, model, report, optional)
    return model.eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder.

    Raises:
        FileNotFoundError: If the folder has none of its files: it would be made without a vocabulary.
        ValueError: If it cannot be loaded.
    """
    with quiet():
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # the tokenizers library raises bare exceptions
            said = " ".join(str(error).split())
            raise ValueError(f"could not load a tokenizer from {folder}: {said}") from error
    names = sorted(set(tokenizer.vocab_files_names.values()))
    if names and not any((folder / name).is_file() for name in names):
        raise FileNotFoundError(f"expected the tokenizer of the model in {folder}, found none of {', '.join(names)}")
    return tokenizer


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"expected {path} to hold weights in safetensors: {error}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and log lines inside the block, and leave its settings as they were."""
    bars = _transformers_logging.is_progress_bar_enabled()
    verbosity = _transformers_logging.get_verbosity()
    if bars:
        _transformers_logging.disable_progress_bar()
    _transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        _transformers_logging.set_verbosity(verbosity)
        if bars:
            _transformers_logging.enable_progress_bar()


def _check_loaded(folder: Path, model: PreTrainedModel, report: Mapping[str, Any], optional: str | None) -> None:
    """Refuse a model whose weights are not those that its config.json describes.

    `report` is the loading info of transformers. Weights below the module `optional` may be missing.
    """
    missing = sorted(key for key in report["missing_keys"] if key.partition(".")[0] != optional)
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} weights of {type(model).__name__}, the first is {missing[0]}")
    for key, of_file, of_config in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"{folder} does not fit its config.json: expected {key} of shape {tuple(of_config)}, got {tuple(of_file)}"
        )
    expected, got = model.config.num_hidden_layers, _count_blocks(report["unexpected_keys"], list(block_lists(model)))
    if got > expected:
        raise ValueError(f"{folder} does not fit its config.json: expected the weights of {expected} blocks, got {got}")


def _what_it_is(folder: Path) -> str:
    if any((folder / "model" / name).is_file() for name in ("config.json", TWO_TOWERS)):
        return f"; it looks like the folder of a run, whose model is {folder / 'model'}"
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")):
        return "; it holds only a tokenizer"
    return ""


def _check_weight_files(folder: Path) -> None:
    """Refuse weights in another format than safetensors, also where an index names them."""
    if not any(folder.glob("model*.safetensors")):
        raise FileNotFoundError(
            f"expected model.safetensors in {folder}, found none; other weight formats can run code and are not read. "
            "The hub often holds a conversion beside the main branch: hf download NAME --revision refs/pr/1 "
            "--local-dir FOLDER, then give FOLDER"
        )
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return
    shards = read_object(index).get("weight_map")
    for name in set(shards.values()) if isinstance(shards, dict) else [shards]:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"expected {index} to name .safetensors files beside it, got {name!r:.80}")


def _count_blocks(keys: Iterable[str], lists: Sequence[str]) -> int:
    """Return one more than the highest block that names of weights mention, where `lists` are those of the blocks."""
    pattern = rf"^(?:.*\.)?(?:{'|'.join(map(re.escape, lists))})\.(\d+)\."
    blocks = (re.match(pattern, key) for key in keys)
    return max((int(block[1]) + 1 for block in blocks if block), default=0)
