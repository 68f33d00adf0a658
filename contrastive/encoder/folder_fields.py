"""What may stand in the files of a sentence-transformers folder: reading them, and what there is of no use to us.

Each key is used, refused where it would change embeddings, known to change none, or logged as unused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from contrastive.data.json_files import read_object, read_objects

OLD_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Settings of the Transformer module that change its output and are not implemented, with their harmless values.
HARMLESS = {
    "transformer_task": (None, "feature-extraction"),
    "module_output_name": (None, "token_embeddings"),
    "processing_kwargs": (None, {}),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
}
# Further keys of each file that are read, or that say nothing about embeddings.
KNOWN = {
    "modules.json": {"idx", "name", "path", "type"},
    "Transformer": {*HARMLESS, "modality_config", "max_seq_length", "do_lower_case", "unpad_inputs"},
    "Pooling": {
        *OLD_POOLING_KEYS,
        *("pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension"),
    },
    "Normalize": {"module_input_name", "module_output_name"},
    "config_sentence_transformers.json": {
        *("__version__", "model_type", "prompts", "default_prompt_name", "similarity_fn_name")
    },
}
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_log = logging.getLogger(__name__)


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """Read the modules of a folder, each with its type and the path of its files."""
    path = folder / "modules.json"
    modules = read_objects(path)
    for module in modules:
        for key in ("type", "path"):
            if not isinstance(module.get(key), str):
                raise ValueError(f"expected each module in {path} to have a {key}, got {module!r:.200}")
        if Path(module["path"]).is_absolute() or ".." in Path(module["path"]).parts:
            raise ValueError(f"expected the modules in {path} to be inside the folder, got {module['path']!r}")
        log_unused(path, module, KNOWN["modules.json"])
    return modules


def read_about(path: Path) -> dict[str, Any]:
    """Read what a folder says of the whole model, and log the prompts that neither side uses."""
    about = read_if_there(path)
    if about.get("model_type") not in (None, "SentenceTransformer"):
        raise ValueError(f"{path.parent} is a {about['model_type']}; supported is a SentenceTransformer")
    prompts, default = about.get("prompts") or {}, about.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ValueError(f"expected the prompts in {path} to be texts by name, got {prompts!r:.200}")
    if default is not None and (not isinstance(default, str) or default not in {*prompts, "query", "document"}):
        raise ValueError(f"expected default_prompt_name in {path} to be one of {[*prompts]}, got {default!r:.80}")
    used = {"query", next((name for name in DOCUMENT_PROMPTS if name in prompts), ""), default}
    others = [name for name, text in prompts.items() if text and name not in used]
    if others and path.with_name("modules.json").is_file():
        _log.warning(
            "%s has prompts that are not used: %s; query_prompt and document_prompt take others",
            path,
            ", ".join(others),
        )
    log_unused(path, about, KNOWN[path.name])
    return {**about, "prompts": {name: text for name, text in prompts.items() if text is not None}}


def max_length(config: Mapping[str, Any], folder: Path) -> int | None:
    """Return the tokens a text is cut to by a Transformer module, None if it does not say."""
    length = config.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise ValueError(f"expected max_seq_length of {folder} to be a number of tokens, got {length!r:.80}")
    return length


def log_unused(path: Path, config: Mapping[str, Any], known: Set[str]) -> None:
    """Say which keys of a file are not used; those without a value say nothing."""
    unused = sorted(key for key, value in config.items() if key not in known and value not in (None, {}, [], ""))
    if unused:
        _log.warning("%s sets %s, which is not used", path, ", ".join(unused))


def inner_settings(config: Mapping[str, Any], key: str, folder: Path) -> dict[str, Any]:
    """Return the settings below a key of a Transformer module, {} if there are none."""
    inner = config.get(key) or {}
    if not isinstance(inner, dict):
        raise ValueError(f"expected {key} of the Transformer in {folder} to hold settings by name, got {inner!r:.80}")
    return inner


def read_if_there(path: Path) -> dict[str, Any]:
    """Read a JSON object; {} if there is no file, which is how sentence-transformers treats it."""
    return read_object(path) if path.is_file() else {}
