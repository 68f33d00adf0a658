"""The folder of an encoder: from a name or a path to a backbone, its tokenizer and their settings, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForTextEncoding,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

from contrastive.data.json_files import read_object
from contrastive.encoder.adapters import ADAPTER_CONFIG, merge_adapter, merged, write_adapter
from contrastive.encoder.backbone import check_token_ids
from contrastive.encoder.finite import check_weights
from contrastive.encoder.heads import HEADS, Head
from contrastive.encoder.language_head import has_language_head, undecode
from contrastive.encoder.loading import load_tokenizer, load_weights, quiet, read_config
from contrastive.encoder.locating import TWO_TOWERS, local_folder
from contrastive.encoder.sentence_transformers_format import FolderSettings, read_settings, write_settings
from contrastive.encoder.tokens import token_rows

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, slots=True)
class Pretrained:
    """What a model folder holds.

    Attributes:
        backbone: The transformer, in eval mode; its `name_or_path` says where it can be found again.
        tokenizer: Its tokenizer.
        settings: How to make embeddings of them, as far as the folder says.
    """

    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: FolderSettings


def open_pretrained(name_or_path: str | Path, representation: str | None = None) -> Pretrained:
    """Read a sentence-transformers or transformers model, or a LoRA adapter, merged into its base.

    Args:
        name_or_path: A local folder, or a name on the hub, which is downloaded.
        representation: Name of the head that it is for, see `heads.HEADS`; None for that of the folder.

    Raises:
        FileNotFoundError: If there is no such folder or hub model, or it lacks a file.
        ValueError: If the folder is of another kind, or asks for something that is not implemented.
    """
    folder = local_folder(name_or_path)
    if (folder / TWO_TOWERS).is_file():
        raise ValueError(
            f"{folder} holds two encoders; load both with contrastive.encoder.load_encoder, or one of "
            f"{folder / 'query'} and {folder / 'document'}"
        )
    settings = read_settings(folder)
    inner, representation = folder / settings.backbone, representation or settings.representation
    head = HEADS.get(representation or "")
    if (inner / ADAPTER_CONFIG).is_file():
        opened = _open_adapter(inner, settings if (folder / "modules.json").is_file() else None, representation)
    else:
        backbone = load_backbone(inner, lexical=head is not None and head.lexical)
        opened = Pretrained(backbone, load_tokenizer(inner), settings)
    if opened.settings.lowercase and opened.tokenizer.tokenize("A") != opened.tokenizer.tokenize("a"):
        raise ValueError(f"{folder} lower-cases texts before a cased tokenizer, which is not supported")
    check_token_ids(opened.tokenizer, opened.backbone)
    # Adapters that are added later name it as their base. A hub name means the same on every machine.
    is_local = Path(name_or_path).expanduser().is_dir()
    opened.backbone.name_or_path = str(inner.resolve()) if is_local else str(name_or_path)
    return opened


def write_pretrained(
    folder: Path,
    backbone: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    head: Head,
    *,
    query_prompt: str,
    document_prompt: str,
    max_length: int,
    query_length: int | None = None,
    compression: str | None = None,
) -> None:
    """Write a folder that sentence-transformers and transformers load too; adapters merged, and alone in `adapter/`.

    Raises:
        NotFiniteError: If a weight is NaN or infinite; nothing is written then.
    """
    check_weights(backbone.state_dict(), f"a model in {folder}")
    folders = [folder]
    with quiet():
        merged(backbone).save_pretrained(folder)
        if not isinstance(backbone, PreTrainedModel):
            folders.append(folder / "adapter")
            write_adapter(backbone, folders[-1])
    for each in folders:
        save_tokenizer(tokenizer, each, max_length=max_length)
        write_settings(
            each,
            head,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            max_length=max_length,
            query_length=query_length,
            compression=compression,
        )


def load_backbone(folder: Path, *, lexical: bool = False) -> PreTrainedModel:
    """Load the transformer of a folder in float32 and eval mode; `lexical`: with its masked-language head, if any.

    Raises:
        FileNotFoundError: If the folder has no config.json or no safetensors weights.
        ValueError: If it is not an encoder or decoder of text, complete and as its config.json says.
    """
    with quiet():
        config = read_config(folder)
    if config.is_encoder_decoder and not is_lone_encoder(config):
        raise ValueError(f"{folder} is an encoder-decoder model; expected an encoder or a decoder")
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise ValueError(f"{folder} is a {config.model_type} model of several parts; expected one text encoder")
    has_head = lexical and has_language_head(config)
    auto_class: Any = AutoModelForTextEncoding if is_lone_encoder(config) else AutoModel
    if has_head:
        auto_class = AutoModelForMaskedLM
    # BERT's pooler is never used, and not always there.
    model: PreTrainedModel = load_weights(folder, auto_class, config=config, optional="pooler")
    if model.main_input_name != "input_ids":
        raise ValueError(
            f"{folder} is a {type(model).__name__}, which takes {model.main_input_name}; expected a text encoder"
        )
    if has_head:
        undecode(model)
    return model


def is_lone_encoder(config: PreTrainedConfig) -> bool:
    """Whether the folder holds the encoder of an encoder-decoder architecture alone, as `T5EncoderModel` saves it."""
    name = str(MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type))
    return name.endswith("EncoderModel") and name in (config.architectures or ())


def _open_adapter(folder: Path, settings: FolderSettings | None, representation: str | None) -> Pretrained:
    """Read an adapter and the base it names; without settings and a tokenizer of its own it has those of the base."""
    name = read_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(f"expected {folder / ADAPTER_CONFIG} to name the base model of the adapter, it names none")
    try:
        base = open_pretrained(name, representation)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the adapter in {folder} needs its base model: {error}") from error
    except RecursionError as error:
        raise ValueError(f"expected the adapter in {folder} to name a base that is no adapter on itself") from error
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    return Pretrained(
        merge_adapter(base.backbone, folder),
        load_tokenizer(folder) if has_tokenizer else base.tokenizer,
        settings or base.settings,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, *, max_length: int) -> None:
    """Write a tokenizer that cuts texts to `max_length` tokens, special ones included."""
    tokenizer.padding_side = "right"  # as we pad; on the left the positions of a text would shift
    # Its files state the length twice more: in the truncation of the last call, and as first loaded.
    tokenizer.model_max_length = max_length
    tokenizer.init_kwargs.pop("max_length", None)
    token_rows(tokenizer, [""], max_length=max_length)
    with quiet():
        tokenizer.save_pretrained(folder)
