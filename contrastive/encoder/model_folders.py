"""Refusing what is no folder of a text encoder, with one error that says what was expected and what came.

transformers loads a good deal of what cannot embed text, or loads it in part, without an error: vision models, weights
of another shape or number of layers, a BERT without its vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

from contrastive.data.json_files import read_object
from contrastive.encoder.freezing import block_lists

TWO_TOWERS = "two_towers.json"
"""File that marks a folder of two encoders."""


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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"expected {path} to hold weights in safetensors: {error}") from error


def is_lone_encoder(config: PreTrainedConfig) -> bool:
    """Whether the folder holds the encoder of an encoder-decoder architecture alone, as `T5EncoderModel` saves it."""
    name = str(MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type))
    return name.endswith("EncoderModel") and name in (config.architectures or ())


def check_text_model(folder: Path, config: PreTrainedConfig) -> None:
    """Refuse a config.json that rules out a text encoder, before weights are read.

    Raises:
        ValueError: If it is not that of an encoder or decoder of text.
    """
    if config.is_encoder_decoder and not is_lone_encoder(config):
        raise ValueError(f"{folder} is an encoder-decoder model; expected an encoder or a decoder")
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise ValueError(f"{folder} is a {config.model_type} model of several parts; expected one text encoder")


def check_weights(folder: Path, model: PreTrainedModel, report: Mapping[str, Any], optional: str | None = None) -> None:
    """Refuse a model whose weights are not those that its config.json describes.

    `report` is the loading info of transformers. Weights below the module `optional` may be missing.

    Raises:
        ValueError: If the model is refused.
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


def check_takes_tokens(folder: Path, model: PreTrainedModel) -> None:
    """Refuse a model of images or of sound.

    Raises:
        ValueError: If its main input is not token ids.
    """
    if model.main_input_name != "input_ids":
        raise ValueError(
            f"{folder} is a {type(model).__name__}, which takes {model.main_input_name}; expected a text encoder"
        )


def check_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that was made without a vocabulary.

    Raises:
        FileNotFoundError: If none of its files is there.
    """
    names = sorted(set(tokenizer.vocab_files_names.values()))
    if names and not any((folder / name).is_file() for name in names):
        raise FileNotFoundError(f"expected the tokenizer of the model in {folder}, found none of {', '.join(names)}")


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
