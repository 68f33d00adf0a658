"""The masked-language head of a checkpoint: vectors of tokens that a vocabulary can be read off.

Such a model is a transformer, a few layers that transform its token vectors, and a last layer that decodes these into a
logit a term, with BERT 30,522 a token. That last layer keeps its place and weights, so that the model is saved as what
it was, and here hands its input on: the head of the encoder decodes it, a few tokens at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel


class Undecoded(nn.Linear):
    """The last layer of a masked-language head, [V, W], which hands the vectors of tokens on as they are."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the vectors of tokens, [B, T, W]."""
        return input


def has_language_head(config: PreTrainedConfig) -> bool:
    """Whether a folder holds a masked-language head, as its config.json says."""
    return any(name.endswith("ForMaskedLM") for name in config.architectures or ())


def undecode(model: PreTrainedModel) -> None:
    """Let a masked-language model return the vectors that it decodes, [B, T, W], in place of its logits.

    Raises:
        ValueError: If it does not end in one linear layer.
    """
    decoder = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    name = next((name for name, module in model.named_modules() if module is decoder), None)
    if not isinstance(decoder, nn.Linear) or name is None:
        raise ValueError(
            f"expected a masked-language head that ends in a linear layer, {type(model).__name__} has none"
        )
    last = Undecoded(decoder.in_features, decoder.out_features, bias=False, device=torch.device("meta"))
    last.weight, last.bias = decoder.weight, decoder.bias
    model.set_submodule(name, last)


def decoder_of(model: nn.Module) -> Undecoded | None:
    """Return the last layer of a masked-language head, None if the model has no such head."""
    return next((module for module in model.modules() if isinstance(module, Undecoded)), None)


def tied_decoder(model: PreTrainedModel) -> nn.Linear:
    """Make a decoder of a model without one: its table of token vectors, the same weights, and a bias of 0.

    Raises:
        ValueError: If it has no such table, or one of another width than its token vectors.
    """
    table, width = model.get_input_embeddings(), model.config.hidden_size
    if not isinstance(table, nn.Embedding) or table.embedding_dim != width:
        raise ValueError(
            f"expected a model with a masked-language head, or a table of token vectors as wide as its hidden ones "
            f"({width}), {type(model).__name__} has neither"
        )
    decoder = nn.Linear(width, table.num_embeddings, bias=False, device=torch.device("meta"))
    decoder.weight, decoder.bias = table.weight, nn.Parameter(torch.zeros(table.num_embeddings))
    return decoder
