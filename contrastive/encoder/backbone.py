"""What an encoder asks of a transformer: its positions and padding, what of it is trained and kept for the backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from peft import PeftModel

_UNBOUNDED = 1_000_000
_IF_UNKNOWN = 512


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


def keep_markers_whole(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> None:
    """Have a tokenizer take a marker that a prompt begins with, such as "[unused0] ", for the one token that it is.

    A marker is a word in square brackets that is in the vocabulary; some have a space at their end there. A tokenizer
    that splits at punctuation would make many tokens of it.
    """
    for prompt in prompts:
        word, space, _ = prompt.partition(" ")
        if not (word.startswith("[") and word.endswith("]")):
            continue
        vocabulary = tokenizer.get_vocab()
        marker = next((each for each in (word + space, word) if each in vocabulary), None)
        if marker is not None and tokenizer.tokenize(marker) != [marker]:
            tokenizer.add_tokens([AddedToken(marker, normalized=False, special=True)], special_tokens=True)


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
    max_length: int,
    backbone: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str = "max_length",
) -> None:
    """Refuse a maximum length of some name, in tokens, that leaves no room for a token or has no positions.

    Raises:
        ValueError: If it is out of range.
    """
    least = tokenizer.num_special_tokens_to_add() + 1
    most = positions_of(backbone)
    if max_length < least or (most is not None and max_length > most):
        raise ValueError(f"expected {name} from {least} to {most or 'any'} for this model, got {max_length}")


def freeze_layers(backbone: PreTrainedModel, frozen_layers: int) -> None:
    """Freeze the embeddings and the first `frozen_layers` transformer blocks; 0 freezes nothing.

    The blocks are found by structure, see `block_places`.

    Raises:
        ValueError: If there are fewer blocks, they cannot be found, or nothing would be left to train.
    """
    if frozen_layers == 0:
        return
    name = type(backbone).__name__
    lists = block_lists(backbone)
    if not lists:
        raise ValueError(f"expected frozen_layers 0, got {frozen_layers}: {name} has no list of its transformer blocks")
    num_blocks = backbone.config.num_hidden_layers
    if not 0 < frozen_layers <= num_blocks:
        raise ValueError(f"expected frozen_layers from 0 to {num_blocks}, the blocks of {name}, got {frozen_layers}")
    places = block_places(backbone)
    for weight in backbone.parameters():
        if places[id(weight)] < frozen_layers:
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in backbone.parameters()):
        raise ValueError(f"frozen_layers={frozen_layers} of {num_blocks} blocks leaves nothing of {name} to train")


def block_places(backbone: PreTrainedModel) -> dict[int, int]:
    """Return, by the id of each weight, the number of its transformer block; -1 for embeddings, else that of blocks.

    The blocks are found by structure, as the lists of `num_hidden_layers` modules, whatever the architecture calls
    them. What is defined before them, and embeddings anywhere outside them, is taken for the embeddings.
    """
    num_blocks = int(backbone.config.num_hidden_layers)
    lists = block_lists(backbone).values()
    places = {id(weight): i for blocks in lists for i, block in enumerate(blocks) for weight in block.parameters()}
    tables = [module.weight for module in backbone.modules() if isinstance(module, nn.Embedding)]
    embeddings = {id(table) for table in tables} - places.keys()
    before_blocks = True
    for weight in backbone.parameters():
        before_blocks = before_blocks and id(weight) not in places
        if id(weight) not in places:
            places[id(weight)] = -1 if before_blocks or id(weight) in embeddings else num_blocks
    return places


def block_lists(backbone: PreTrainedModel) -> dict[str, nn.ModuleList]:
    """Find the lists whose item i is a part of transformer block i, by name; most models have one, XLM has four."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in backbone.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) == backbone.config.num_hidden_layers and not is_inside:
            found[name] = module
    return found


def checkpoint_activations(backbone: PreTrainedModel) -> None:
    """Keep only the input of each block for the backward pass, which computes the rest again; for train mode only.

    Raises:
        ValueError: If the architecture cannot do it.
    """
    if not backbone.supports_gradient_checkpointing:
        raise ValueError(
            f"{type(backbone).__name__} cannot checkpoint its activations; turn gradient_checkpointing off and lower "
            "tokens_per_batch to save memory"
        )
    model: Any = backbone  # has the one method or the other
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    # Only re-entrant checkpoints need it, and with it the backward pass would go through frozen layers too.
    model.disable_input_require_grads()
    if getattr(backbone.config, "use_cache", False):
        backbone.config.use_cache = False  # or transformers does so in every step, and says so
