"""From a pretrained folder to an encoder: the order in which a model is opened, given its head, tried out and changed.

Notable decisions:

- What the caller leaves open is what the folder says; of a head of another kind than the folder's, nothing is.
- The model is tried out as it was saved: without adapters, and before its dropout is replaced and blocks are frozen.
- Nothing here knows the class of the encoder: it is `Encoder.from_pretrained` by being given to it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from peft import PeftModel
from transformers import PreTrainedModel

from contrastive.encoder.adapters import LoRA, add_adapters
from contrastive.encoder.backbone import checkpoint_activations, default_max_length, freeze_layers
from contrastive.encoder.cpu_dropout import use_fast_dropout
from contrastive.encoder.heads import Head, make_head
from contrastive.encoder.model_folder import open_pretrained
from contrastive.encoder.reading import TrainingWindows
from contrastive.similarity import SimilarityName, check_similarity_name


class Loadable(Protocol):
    """What is changed of an encoder once it is made."""

    head: Head
    backbone: PreTrainedModel | PeftModel

    def try_out(self) -> None:
        """Settle what only embedding two texts shows; see `trial`."""
        ...

    def eval(self) -> Self:
        """Turn dropout off."""
        ...


Made = TypeVar("Made", bound=Loadable)


def load_pretrained(
    encoder_class: Callable[..., Made],
    /,
    name_or_path: str | Path,
    *,
    representation: str | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    max_length: int | None = None,
    query_length: int | None = None,
    compression: str | None = None,
    training_windows: TrainingWindows = "first",
    similarity: SimilarityName | None = None,
    tokens_per_batch: int | None = None,
    bucketed: bool = True,
    lora: LoRA | None = None,
    frozen_layers: int = 0,
    gradient_checkpointing: bool = False,
    fast_dropout: bool = True,
    check: bool = True,
    **of_head: Any,
) -> Made:
    """Load a sentence-transformers or plain transformers model or an adapter, in float32 and eval mode.

    What is None is taken from the folder's sentence-transformers files; where these are missing or silent, there
    is one vector a text, the mean, without normalization and prompts, all dimensions are kept, the similarity is
    cosine, and the maximum length is the smaller of the model's and the tokenizer's.

    Args:
        encoder_class: What makes an encoder of a backbone, its tokenizer and a head.
        name_or_path: A local folder, or a name on the hub ("org/name"), which is downloaded.
        representation: As for the class, as are those that follow here; a prompt of "" is none.
        query_prompt: Text put before every query.
        document_prompt: Text put before every document.
        max_length: Tokens a text is cut to.
        query_length: Tokens a query is cut to, if those are others.
        compression: How a corpus of several vectors a text is kept; "none" for half precision whatever the folder says.
        training_windows: Which windows of a long document a training step reads.
        similarity: How embeddings are compared, see `contrastive.similarity`.
        tokens_per_batch: Most tokens of a micro-batch.
        bucketed: Whether there are micro-batches.
        lora: Low-rank adapters to train in place of the weights.
        frozen_layers: Transformer blocks, from the first, that are not trained, and the embeddings with them; they
            get no adapters either. 0 freezes nothing.
        gradient_checkpointing: Whether to compute activations again in the backward pass, rather than keep them:
            less memory for the time of one more forward pass.
        fast_dropout: Whether to replace the dropout of the model, where it runs on a processor, see `cpu_dropout`:
            faster training, with other masks for the same seed. False leaves PyTorch's and transformers' own.
        check: Try the model out on two short texts, see `trial`: where padding changes embeddings, it does without;
            weights that these do not depend on are frozen. False skips that.
        of_head: Further options of the head: of `pooled` these are pooling, normalize, dimension, windows and
            query_parts, see `heads.PooledHead`; of `tokens` dimension, punctuation, left_out, query_expansion,
            attend_to_expansion and windows, see `heads.TokensHead`.

    Raises:
        FileNotFoundError: If there is no such folder, hub model, or safetensors weights.
        TypeError: If the head has no such option.
        ValueError: If the folder holds something else, or asks for something that is not implemented, or an
            argument cannot be; or if the model embeds a text otherwise each time.
    """
    opened = open_pretrained(name_or_path, representation)
    backbone, tokenizer, said = opened.backbone, opened.tokenizer, opened.settings
    representation = representation or said.representation or "pooled"
    of_same_head = representation == said.representation
    said_of_head = said.head if of_same_head else {}
    if similarity is None and said_of_head.get("similarity") is not None:
        check_similarity_name(said_of_head["similarity"], f"similarity_fn_name of {name_or_path}, or else similarity,")
    encoder = encoder_class(
        backbone,
        tokenizer,
        make_head(int(backbone.config.hidden_size), representation, said_of_head, similarity=similarity, **of_head),
        representation=representation,
        query_prompt=(said.query_prompt or "") if query_prompt is None else query_prompt,
        document_prompt=(said.document_prompt or "") if document_prompt is None else document_prompt,
        max_length=default_max_length(backbone, tokenizer, said.max_length) if max_length is None else max_length,
        query_length=said.query_length if query_length is None else query_length,
        compression=said.compression if compression is None and of_same_head else compression,
        training_windows=training_windows,
        tokens_per_batch=tokens_per_batch,
        bucketed=bucketed,
    ).eval()
    if said.load_head is not None and of_same_head:
        said.load_head(encoder.head)
    if check:
        encoder.try_out()
    if fast_dropout:
        use_fast_dropout(backbone)
    freeze_layers(backbone, frozen_layers)
    if lora is not None and lora.rank > 0:
        encoder.backbone = add_adapters(backbone, lora)
    if gradient_checkpointing:
        checkpoint_activations(backbone)
    return encoder.eval()
