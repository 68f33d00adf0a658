"""What of a backbone is trained, and what its backward pass remembers: frozen layers and gradient checkpointing."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel


def freeze_layers(backbone: PreTrainedModel, frozen_layers: int) -> None:
    """Freeze the embeddings and the first `frozen_layers` transformer blocks; 0 freezes nothing.

    The blocks are found by structure, as the lists of `num_hidden_layers` modules, whatever the architecture calls
    them. What is defined before them, and embeddings anywhere outside them, is taken for the embeddings.

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
    block_of = {
        id(weight): i for blocks in lists.values() for i, block in enumerate(blocks) for weight in block.parameters()
    }
    tables = [module.weight for module in backbone.modules() if isinstance(module, nn.Embedding)]
    embeddings = {id(table) for table in tables} - block_of.keys()
    before_blocks = True
    for weight in backbone.parameters():
        block = block_of.get(id(weight))
        before_blocks = before_blocks and block is None
        if before_blocks or id(weight) in embeddings or (block is not None and block < frozen_layers):
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in backbone.parameters()):
        raise ValueError(f"frozen_layers={frozen_layers} of {num_blocks} blocks leaves nothing of {name} to train")


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
