"""What a sentence-transformers folder says about a model besides its weights: reading it, and writing it.

Notable decisions:

- Reads what sentence-transformers 2 to 6 write: both spellings of the type names and of the pooling keys.
- Refuses by name whatever would change the embeddings and is not implemented here (max pooling, ...), rather than give
  embeddings that are nearly right. What is neither used nor refused, such as prompts of other names, is logged.
- Writes the *old* names. They load in 5.1, 5.7 and 6.2 with equal embeddings; what 6.2 writes does not load in 5.x.
- Embeddings cut to their leading dimensions are written as a Dense module that picks these. A folder cannot state the
  `truncate_dim` of sentence-transformers, which then would silently give the whole width. No other Dense is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from safetensors.torch import save_file

from contrastive.encoder.folder_fields import (
    DOCUMENT_PROMPTS,
    HARMLESS,
    KNOWN,
    OLD_POOLING_KEYS,
    inner_settings,
    log_unused,
    max_length,
    read_about,
    read_if_there,
    read_modules,
)
from contrastive.encoder.heads.pooling import Pooling
from contrastive.encoder.loading import read_tensors
from contrastive.similarity import SimilarityName

_OUR_NAME: Mapping[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_OLD_KEY: Mapping[Pooling, str] = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "last": "pooling_mode_lasttoken",
}
_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
# What newer versions say of a Dense module besides.
_CUT_DEFAULTS = {
    "module_input_name": "sentence_embedding",
    "module_output_name": "sentence_embedding",
    "use_residual": False,
}


@dataclass(frozen=True, slots=True)
class FolderSettings:
    """What a model folder asks for; None where it says nothing.

    Attributes:
        backbone: Sub-folder of the transformer and its tokenizer, "" for the folder itself.
        pooling: How token vectors become one vector.
        normalize: Whether embeddings get length 1.
        query_prompt: Text put before every query.
        document_prompt: Text put before every document.
        max_length: Tokens a text is cut to, special ones included.
        lowercase: Whether texts must be lower-cased before they are tokenised.
        dimension: Leading dimensions that embeddings are cut to.
        similarity: How embeddings are compared, in the word of the folder, which may be one that is not known here.
    """

    backbone: str = ""
    pooling: Pooling | None = None
    normalize: bool | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_length: int | None = None
    lowercase: bool = False
    dimension: int | None = None
    similarity: str | None = None


class EncoderSettings(TypedDict):
    """What, beside the weights, decides the embedding of a text and its scores; all given, see `FolderSettings`."""

    pooling: Pooling
    normalize: bool
    dimension: int
    query_prompt: str
    document_prompt: str
    max_length: int
    similarity: SimilarityName


def read_settings(folder: Path) -> FolderSettings:
    """Read the settings of a sentence-transformers folder; all None for a plain transformers folder.

    Raises:
        ValueError: If the folder asks for a module, a pooling mode or an option that is not implemented here, or a file
            is not as it should be.
    """
    about = read_about(folder / "config_sentence_transformers.json")
    if not (folder / "modules.json").is_file():
        log_unused(folder / "config_sentence_transformers.json", about, {"__version__"})
        return FolderSettings()
    modules = read_modules(folder)
    kinds = [_module_kind(module["type"], folder) for module in modules]
    is_cut = kinds[2:3] == ["Dense"]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2 + is_cut :]) - {"Normalize"}:
        raise ValueError(
            f"{folder} chains the modules {', '.join(kinds)}; expected Transformer, Pooling and, if wanted, Normalize, "
            "with a Dense before it that only cuts"
        )
    for module in modules[2 + is_cut :]:
        _check_normalize(folder / module["path"])
    transformer = _transformer_config(folder / modules[0]["path"])
    return FolderSettings(
        backbone=modules[0]["path"],
        pooling=_pooling_mode(folder / modules[1]["path"]),
        normalize="Normalize" in kinds,
        query_prompt=_prompt(about, "query"),
        document_prompt=_prompt(about, *DOCUMENT_PROMPTS),
        max_length=max_length(transformer, folder),
        lowercase=bool(transformer.get("do_lower_case")),
        dimension=_cut_dimension(folder / modules[2]["path"]) if is_cut else None,
        similarity=about.get("similarity_fn_name"),
    )


def write_settings(folder: Path, *, width: int | None = None, **settings: Unpack[EncoderSettings]) -> None:
    """Make a transformers folder loadable by `SentenceTransformer(folder)` too.

    `width` is that of a token's vector, where it is larger than the dimension of an embedding, which then keeps the
    first so many. Its `encode_query` and `encode_document` use the prompts; its plain `encode` uses none.
    """
    dimension = settings["dimension"]
    width = dimension if width is None else width
    kinds = ["Transformer", "Pooling"] + ["Dense"] * (dimension < width) + ["Normalize"] * settings["normalize"]
    paths = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds[1:], start=1))]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    _write_json(folder / "modules.json", modules)
    _write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": settings["max_length"], "do_lower_case": False}
    )
    modes = {key: key == _OLD_KEY[settings["pooling"]] for key in OLD_POOLING_KEYS}
    _write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": width, **modes})
    if dimension < width:
        _write_cut(folder / "2_Dense", dimension, width)
    about = {
        "prompts": {"query": settings["query_prompt"], "document": settings["document_prompt"]},
        "default_prompt_name": None,
        "similarity_fn_name": settings["similarity"],
    }
    _write_json(folder / "config_sentence_transformers.json", about)


def _module_kind(type_name: str, folder: Path) -> str:
    """Shorten a dotted type name, old or new, to the class; refuse what we cannot run."""
    package, _, kind = type_name.rpartition(".")
    if package.split(".")[0] != "sentence_transformers" or kind not in _KINDS:
        raise ValueError(
            f"{folder} contains the module {type_name}, which is not supported; supported are {', '.join(_KINDS)} of "
            "sentence-transformers"
        )
    return kind


def _transformer_config(folder: Path) -> dict[str, Any]:
    # Early sentence-transformers named this file after the architecture: sentence_roberta_config.json and so on.
    paths = [folder / "sentence_bert_config.json", *sorted(folder.glob("sentence_*_config.json"))]
    config = next((read_if_there(path) for path in paths if path.is_file()), {})
    for key, harmless in HARMLESS.items():
        if config.get(key) not in harmless:
            raise ValueError(f"{folder} sets {key} to {config[key]!r}, which is not supported")
    of_text = inner_settings(inner_settings(config, "modality_config", folder), "text", folder)
    output = of_text.get("method_output_name", "last_hidden_state")
    if output != "last_hidden_state":
        raise ValueError(f"{folder} embeds from the model's {output!r}; supported is last_hidden_state")
    log_unused(next((path for path in paths if path.is_file()), folder), config, KNOWN["Transformer"])
    return config


def _pooling_mode(folder: Path) -> Pooling:
    if not (folder / "config.json").is_file():
        raise ValueError(f"expected the pooling settings in {folder / 'config.json'}, which is missing")
    config = read_if_there(folder / "config.json")
    # A single flag may also be given as a list of one; no flag at all has always meant the mean.
    modes = config.get("pooling_mode") or [mode for key, mode in OLD_POOLING_KEYS.items() if config.get(key)]
    modes = [str(mode) for mode in (modes if isinstance(modes, list) else [modes])] or ["mean"]
    if len(modes) > 1 or modes[0] not in _OUR_NAME:
        raise ValueError(
            f"{folder} pools by {' and '.join(modes)}, which is not supported; supported is one of "
            f"{', '.join(_OUR_NAME)}"
        )
    if not config.get("include_prompt", True):
        raise ValueError(f"{folder} leaves the prompt out of pooling (include_prompt: false), which is not supported")
    log_unused(folder / "config.json", config, KNOWN["Pooling"])
    return _OUR_NAME[modes[0]]


def _cut_dimension(folder: Path) -> int:
    """Return how many leading dimensions a Dense module keeps; refuse one that does anything else."""
    config = read_if_there(folder / "config.json")
    weights = read_tensors(folder / "model.safetensors") if (folder / "model.safetensors").is_file() else {}
    matrix = weights.pop("linear.weight", torch.empty(0, 0))
    is_cut = torch.equal(matrix, torch.eye(*matrix.shape)) and not weights
    if not is_cut or {**_CUT_DEFAULTS, **config} != {**_CUT_DEFAULTS, **_cut_config(*matrix.shape)}:
        raise ValueError(f"{folder} is a Dense layer; supported is only one that does no more than keep dimensions")
    return len(matrix)


def _write_cut(folder: Path, dimension: int, width: int) -> None:
    _write_json(folder / "config.json", _cut_config(dimension, width))
    save_file({"linear.weight": torch.eye(dimension, width)}, folder / "model.safetensors", metadata={"format": "pt"})


def _cut_config(dimension: int, width: int) -> dict[str, Any]:
    identity = "torch.nn.modules.linear.Identity"
    return {"in_features": width, "out_features": dimension, "bias": False, "activation_function": identity}


def _check_normalize(folder: Path) -> None:
    config = read_if_there(folder / "config.json")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise ValueError(f"{folder} normalizes {config[key]!r}; supported is sentence_embedding")
    log_unused(folder / "config.json", config, KNOWN["Normalize"])


def _prompt(about: Mapping[str, Any], *names: str) -> str | None:
    """Find the prompt under the first of `names` that exists, else the folder's default prompt."""
    prompts = about["prompts"]
    return next((prompts[name] for name in (*names, about.get("default_prompt_name")) if name in prompts), None)


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
