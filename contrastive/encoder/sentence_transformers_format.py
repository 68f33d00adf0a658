"""What a sentence-transformers folder says about a model besides its weights: reading it, and writing it.

Notable decisions:

- Reads what sentence-transformers 2 to 6 write: both spellings of the type names. What its modules after the
  transformer say is the business of the head.
- Refuses by name whatever would change the embeddings and is not implemented here, rather than give embeddings that are
  nearly right. What is neither used nor refused, such as prompts of other names, is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contrastive.data.json_files import read_objects
from contrastive.encoder.colbert_format import KIND, OF_PYLATE, Late, of_pylate, of_stanford
from contrastive.encoder.heads import HEADS, Head
from contrastive.encoder.heads.tokens import projected_to
from contrastive.encoder.loading import read_tensors
from contrastive.encoder.module_files import log_unused, read_if_there, write_json
from contrastive.encoder.routes import unrouted, write_modules

# Settings of the Transformer module that change its output and are not implemented, with their harmless values.
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "transformer_task": (None, "feature-extraction", "fill-mask"),  # see `_check_task`
    "module_output_name": (None, "token_embeddings"),
    "processing_kwargs": (None, {}),
}
_LENGTHS = ("query_length", "document_length", "query_expansion")
# Keys that are read, or that say nothing about embeddings.
_OF_MODULES = {"idx", "name", "path", "type"}
_OF_TRANSFORMER = {*_HARMLESS, *_LENGTHS, "modality_config", "max_seq_length", "do_lower_case", "unpad_inputs"}
_OF_THE_WHOLE = {"__version__", "model_type", "prompts", "default_prompt_name", "similarity_fn_name"}
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_OWN = "contrastive.json"
"""What sentence-transformers has no word for: windows, parts and length of queries, how a corpus is kept."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FolderSettings:
    """What a model folder asks for; None where it says nothing.

    Attributes:
        backbone: Sub-folder of the transformer and its tokenizer, "" for the folder itself.
        representation: Name of the head in `HEADS`.
        head: Options of the head; its similarity in the word of the folder, which may be one that is not known here.
        query_prompt: Text put before every query.
        document_prompt: Text put before every document.
        max_length: Tokens a text is cut to, special ones included.
        lowercase: Whether texts must be lower-cased before they are tokenised.
        query_length: Tokens a query is cut to, if those are others.
        compression: How a corpus is kept, in words, see `compression`.
        load_head: Reads the weights of the head, if it has any.
    """

    backbone: str = ""
    representation: str | None = None
    head: Mapping[str, Any] = field(default_factory=dict)
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_length: int | None = None
    lowercase: bool = False
    query_length: int | None = None
    compression: str | None = None
    load_head: Callable[[Head], None] | None = field(default=None, compare=False)


def read_settings(folder: Path) -> FolderSettings:
    """Read the settings of a sentence-transformers folder; all None for a plain transformers folder.

    Raises:
        ValueError: If the folder asks for a module, a pooling mode or an option that is not implemented here, or a file
            is not as it should be.
    """
    about = _read_about(folder / "config_sentence_transformers.json")
    if (stanford := of_stanford(folder)) is not None:
        return _late_settings(stanford, "", folder)
    if not (folder / "modules.json").is_file():
        log_unused(folder / "config_sentence_transformers.json", about, {"__version__"})
        return FolderSettings()
    modules = _read_modules(folder)
    transformer = _transformer_config(folder / modules[0]["path"])
    if about.get("model_type") == KIND:
        _check_task(folder, transformer, modules)
        return _pylate_settings(folder, modules, about, transformer)
    representation, options = _read_head(folder, modules, about)
    _check_task(folder, transformer, modules)
    lengths, expansion = _lengths(transformer, folder)
    if expansion and representation != "tokens":
        raise ValueError(f"{folder} sets query_expansion, which is not supported of one vector a text")
    own = read_if_there(folder / _OWN)
    return FolderSettings(
        backbone=modules[0]["path"],
        representation=representation,
        head={
            "similarity": about.get("similarity_fn_name"),
            **options,
            **expansion,
            **{name: own[name] for name in own.keys() & {"windows", "query_parts"}},
        },
        query_prompt=_prompt(about, "query"),
        document_prompt=_prompt(about, *_DOCUMENT_PROMPTS),
        max_length=lengths["document"],
        lowercase=bool(transformer.get("do_lower_case")),
        query_length=own.get("query_length") or lengths["query"],
        compression=own.get("compression"),
        load_head=lambda head: head.load(folder, modules),
    )


def write_settings(
    folder: Path,
    head: Head,
    *,
    query_prompt: str,
    document_prompt: str,
    max_length: int,
    query_length: int | None = None,
    compression: str | None = None,
) -> None:
    """Make a transformers folder loadable by sentence-transformers too.

    Its `encode_query` and `encode_document` use the prompts; its plain `encode` uses none.
    """
    write_modules(folder, [head.transformer, *head.save(folder)])
    lengths = {"max_seq_length": max_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", lengths | _query_lengths(head, query_length))
    about = {
        "model_type": head.model_type,
        "prompts": {"query": query_prompt, "document": document_prompt},
        "default_prompt_name": None,
        "similarity_fn_name": head.similarity_in_folder,
    }
    (folder / _OWN).unlink(missing_ok=True)  # of another model that was saved here
    if head.windows or query_length is not None or compression is not None:
        further = {"query_parts": head.query_parts or None, "compression": compression}
        own = {name: value for name, value in further.items() if value is not None}
        write_json(folder / _OWN, {"windows": head.windows, "query_length": query_length, **own})
    write_json(folder / "config_sentence_transformers.json", about)


def _query_lengths(head: Head, query_length: int | None) -> dict[str, Any]:
    """Return what a Transformer module is told of queries; only where there are versions that understand it."""
    if head.model_type != "MultiVectorEncoder":
        return {}
    length = head.settings.get("query_expansion")
    if length is None:
        return {} if query_length is None else {"query_length": query_length}
    expansion = {
        "strategy": "fixed" if query_length == length else "min",
        "attend": head.settings["attend_to_expansion"],
        "token": None,
        "length": length,
    }
    return {"query_expansion": expansion, **({} if query_length in (None, length) else {"query_length": query_length})}


def _read_modules(folder: Path) -> list[dict[str, Any]]:
    """Read the modules of a folder, each with its type and the path of its files."""
    path = folder / "modules.json"
    modules = unrouted(folder, read_objects(path))
    for module in modules:
        for key in ("type", "path"):
            if not isinstance(module.get(key), str):
                raise ValueError(f"expected each module in {path} to have a {key}, got {module!r:.200}")
        if Path(module["path"]).is_absolute() or ".." in Path(module["path"]).parts:
            raise ValueError(f"expected the modules in {path} to be inside the folder, got {module['path']!r}")
        log_unused(path, module, _OF_MODULES)
    return modules


def _read_head(
    folder: Path, modules: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    """Find the head that a folder was written by, and its options."""
    for representation, head in HEADS.items():
        fits = head.model_type == (about.get("model_type") or "SentenceTransformer")
        if fits and (options := head.options(folder, modules)) is not None:
            return representation, options
    raise ValueError(f"{folder} chains modules of no known kind: {', '.join(module['type'] for module in modules)}")


def _late_settings(
    said: Late, backbone: str, projection: Path, about: Mapping[str, Any] | None = None
) -> FolderSettings:
    """Return the settings of a late-interaction model in another library's words, whose projection lies in a folder."""
    weights = projection / "model.safetensors"
    if not weights.is_file() or "linear.weight" not in (found := read_tensors(weights)):
        raise ValueError(f"expected the projection of a ColBERT, linear.weight, in {weights}, found none")
    prompts: Mapping[str, Any] = {"prompts": {}} if about is None else about
    return FolderSettings(
        backbone=backbone,
        representation="tokens",
        head={"dimension": len(found["linear.weight"]), **said.head},
        query_prompt=said.query_marker + (_prompt(prompts, "query") or "").removeprefix(said.query_marker),
        document_prompt=said.document_marker
        + (_prompt(prompts, *_DOCUMENT_PROMPTS) or "").removeprefix(said.document_marker),
        max_length=said.document_length,
        query_length=said.query_length,
        load_head=lambda head: head.load(projection, [{"type": "torch.nn.Dense", "path": ""}]),
    )


def _pylate_settings(
    folder: Path, modules: Sequence[Mapping[str, Any]], about: Mapping[str, Any], transformer: Mapping[str, Any]
) -> FolderSettings:
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds != ["Transformer", "Dense"]:
        raise ValueError(f"{folder} chains the modules {', '.join(kinds)}; expected Transformer and Dense of a ColBERT")
    projection = folder / modules[1]["path"]
    projected_to(projection, unsaid="token_embeddings")
    found = _late_settings(of_pylate(about), modules[0]["path"], projection, about)
    if found.max_length is not None:
        return found
    return replace(found, max_length=_max_length(transformer, folder))


def _lengths(config: Mapping[str, Any], folder: Path) -> tuple[dict[str, int | None], dict[str, Any]]:
    """Return the tokens a text of each side is cut to, and options of a head that fills queries up."""
    longest = _max_length(config, folder)
    found = {side: _max_length(config, folder, f"{side}_length") for side in ("query", "document")}
    expansion = config.get("query_expansion")
    if expansion is None:
        if found["document"] is not None and found["query"] is None:
            found["query"] = longest
        return {"query": found["query"], "document": found["document"] or longest}, {}
    if not isinstance(expansion, dict) or type(length := expansion.get("length")) is not int:
        raise ValueError(f"expected query_expansion of {folder} to have a length, got {expansion!r:.80}")
    if expansion.get("token") not in (None, "[MASK]"):
        raise ValueError(f"{folder} fills queries up with {expansion['token']!r}; supported is the mask token")
    if expansion.get("strategy") == "fixed":
        found["query"] = length
    options = {"query_expansion": length, "attend_to_expansion": bool(expansion.get("attend"))}
    return {"query": found["query"], "document": found["document"] or longest}, options


def _read_about(path: Path) -> dict[str, Any]:
    """Read what a folder says of the whole model, and log the prompts that neither side uses."""
    about = read_if_there(path)
    supported = sorted({head.model_type for head in HEADS.values()})
    if about.get("model_type") not in (None, KIND, *supported):
        raise ValueError(f"{path.parent} is a {about['model_type']}; supported is a {' or a '.join(supported)}")
    prompts, default = about.get("prompts") or {}, about.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ValueError(f"expected the prompts in {path} to be texts by name, got {prompts!r:.200}")
    if default is not None and (not isinstance(default, str) or default not in {*prompts, "query", "document"}):
        raise ValueError(f"expected default_prompt_name in {path} to be one of {[*prompts]}, got {default!r:.80}")
    used = {"query", next((name for name in _DOCUMENT_PROMPTS if name in prompts), ""), default}
    others = [name for name, text in prompts.items() if text and name not in used]
    if others and path.with_name("modules.json").is_file():
        _log.warning(
            "%s has prompts that are not used: %s; query_prompt and document_prompt take others",
            path,
            ", ".join(others),
        )
    if about.get("max_active_dims") is not None:
        raise ValueError(f"{path.parent} keeps {about['max_active_dims']} terms of a text, which is not supported")
    log_unused(path, about, _OF_THE_WHOLE | (OF_PYLATE if about.get("model_type") == KIND else set()))
    return {**about, "prompts": {name: text for name, text in prompts.items() if text is not None}}


def _transformer_config(folder: Path) -> dict[str, Any]:
    # Early sentence-transformers named this file after the architecture: sentence_roberta_config.json and so on.
    paths = [folder / "sentence_bert_config.json", *sorted(folder.glob("sentence_*_config.json"))]
    config = next((read_if_there(path) for path in paths if path.is_file()), {})
    for key, harmless in _HARMLESS.items():
        if config.get(key) not in harmless:
            raise ValueError(f"{folder} sets {key} to {config[key]!r}, which is not supported")
    of_text = _inner_settings(_inner_settings(config, "modality_config", folder), "text", folder)
    log_unused(next((path for path in paths if path.is_file()), folder), config, _OF_TRANSFORMER)
    return {**config, "output": of_text.get("method_output_name")}


def _check_task(folder: Path, transformer: Mapping[str, Any], modules: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a transformer that gives something else than its head takes: its last vectors, or logits to pool."""
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    is_lexical = "SpladePooling" in kinds and "Dense" not in kinds
    task, output = ("fill-mask", "logits") if is_lexical else ("feature-extraction", "last_hidden_state")
    default = "fill-mask" if kinds[0] == "MLMTransformer" else "feature-extraction"
    if (given := transformer.get("transformer_task") or default) != task:
        raise ValueError(f"{folder} sets transformer_task to {given!r}, which is not supported: its head takes {task}")
    if transformer["output"] not in (None, output):
        raise ValueError(f"{folder} embeds from the model's {transformer['output']!r}; supported is {output}")


def _inner_settings(config: Mapping[str, Any], key: str, folder: Path) -> dict[str, Any]:
    """Return the settings below a key of a Transformer module, {} if there are none."""
    inner = config.get(key) or {}
    if not isinstance(inner, dict):
        raise ValueError(f"expected {key} of the Transformer in {folder} to hold settings by name, got {inner!r:.80}")
    return inner


def _max_length(config: Mapping[str, Any], folder: Path, key: str = "max_seq_length") -> int | None:
    """Return the tokens a text is cut to by a Transformer module, None if it does not say."""
    length = config.get(key)
    if length is not None and (type(length) is not int or length < 1):
        raise ValueError(f"expected {key} of {folder} to be a number of tokens, got {length!r:.80}")
    return length


def _prompt(about: Mapping[str, Any], *names: str) -> str | None:
    """Find the prompt under the first of `names` that exists, else the folder's default prompt."""
    prompts = about["prompts"]
    return next((prompts[name] for name in (*names, about.get("default_prompt_name")) if name in prompts), None)
