"""Refusing what is no folder of a text encoder, with one error that says what was expected and what came.

transformers loads a good deal of what cannot embed text, or loads it in part, without an error: vision models, weights
of another shape or number of layers, a BERT without its vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from contrastive.freezing import block_lists

TWO_TOWERS = "two_towers.json"
"""File that marks a folder of two encoders."""


def check_text_model(folder: Path) -> None:
    """Refuse a folder whose files or config.json rule out a text encoder, before its weights are read.

    Raises:
        FileNotFoundError: If the folder has no config.json or no safetensors weights.
        ValueError: If config.json is not that of an encoder or decoder of text.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected a model in {folder}, found no config.json{_what_it_is(folder)}")
    if not any(folder.glob("model*.safetensors")):
        raise FileNotFoundError(
            f"expected model.safetensors in {folder}, found none; other weight formats can run code and are not read"
        )
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"expected {path} to be JSON: {error}") from error
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # values of the wrong type or range raise huggingface_hub's own errors
        reason = str(error)
        if described.get("model_type") not in CONFIG_MAPPING:
            reason = f"model_type {described.get('model_type')!r} is none that the installed transformers knows"
        if "auto_map" in described:
            reason += ", and code that comes with a model is never run"
        raise ValueError(f"expected {path} to describe a text encoder: {reason}") from error
    if config.is_encoder_decoder:
        raise ValueError(f"{folder} is an encoder-decoder model; expected an encoder or a decoder")
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise ValueError(f"{folder} is a {config.model_type} model of several parts; expected one text encoder")


def check_weights(folder: Path, model: PreTrainedModel, report: Mapping[str, Any]) -> None:
    """Refuse a model that takes no token ids, or whose weights are not those that its config.json describes.

    `report` is the loading info of transformers. BERT's pooler may be missing, and heads may be left over.

    Raises:
        ValueError: If the model is refused.
    """
    name = type(model).__name__
    if model.main_input_name != "input_ids":
        raise ValueError(f"{folder} is a {name}, which takes {model.main_input_name}; expected a text encoder")
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} weights of {name}, the first is {missing[0]}")
    for key, of_file, of_config in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"{folder} does not fit its config.json: expected {key} of shape {tuple(of_config)}, got {tuple(of_file)}"
        )
    expected, got = model.config.num_hidden_layers, _count_blocks(report["unexpected_keys"], list(block_lists(model)))
    if got > expected:
        raise ValueError(f"{folder} does not fit its config.json: expected the weights of {expected} blocks, got {got}")


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


def _count_blocks(keys: Iterable[str], lists: Sequence[str]) -> int:
    """Return one more than the highest block that names of weights mention, where `lists` are those of the blocks."""
    pattern = rf"^(?:.*\.)?(?:{'|'.join(map(re.escape, lists))})\.(\d+)\."
    blocks = (re.match(pattern, key) for key in keys)
    return max((int(block[1]) + 1 for block in blocks if block), default=0)
