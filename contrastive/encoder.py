"""A text encoder: a Hugging Face backbone, pooling, optional normalization, prompts and a maximum length.

Notable decisions:

- Within a batch each distinct text is encoded once, texts are sorted by length and cut into micro-batches by a token
  budget: the same embeddings and gradients as one padded batch (with dropout off), far less padding.
- Padding is always on the right, whatever the tokenizer prefers. With the mask that is exact for every architecture,
  where left padding shifts the positions of models with learned ones.
- Embeddings are float32 even under autocast: scores made of bfloat16 embeddings would be bfloat16 too.
- `from_pretrained` returns eval mode, as transformers does. Call `.train()` for dropout.

Shape letters: B texts, T tokens of the longest, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Never, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize as to_unit_length
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from contrastive.checkpoints import (
    check_max_length,
    default_max_length,
    embedded_minilm,
    load_backbone,
    load_tokenizer,
    local_folder,
    quiet,
)
from contrastive.contracts import Side
from contrastive.micro_batches import check_texts, micro_batches, pad_right, positions
from contrastive.pooling import POOLINGS, Pooling, check_pooling
from contrastive.sentence_transformers_format import read_settings, write_settings

__all__ = ["Encoder", "TokenCount", "embedded_minilm"]

_TEXTS_PER_TOKENIZATION = 4096
"""Texts whose token ids `encode` holds at a time: a few MB, and enough for even micro-batches."""


@dataclass(slots=True)
class TokenCount:
    """Tokens that went through an encoder since it was made; take differences for tokens a second.

    Attributes:
        real: Tokens of the texts, special ones included, duplicates not.
        padded: Tokens computed: longest times rows of each micro-batch.
    """

    real: int = 0
    padded: int = 0


class Encoder(nn.Module):
    """Embeds texts, [B, D], with gradients when called and without in `encode`.

    Args:
        backbone: Transformer with a `last_hidden_state` [B, T, D].
        tokenizer: Its tokenizer.
        pooling: How token vectors become one vector.
        normalize: Whether embeddings get length 1.
        query_prompt: Text put before every query.
        document_prompt: Text put before every document.
        max_length: Tokens a text is cut to, special ones included.
        tokens_per_batch: Most tokens of a micro-batch, padding included; a longer text goes alone. MiniLM on two
            CPU cores is as fast from 512 to 2,048 and slower above; a GPU wants as much as its memory holds.
        bucketed: False encodes the batch as it comes, in one padded piece: slower, the reference.

    Raises:
        ValueError: If the pooling is unknown, or `max_length` or `tokens_per_batch` cannot be.

    Example:
        >>> encoder = Encoder.from_pretrained(embedded_minilm(), max_length=256)
        >>> query = encoder.encode(["python developer"])
        >>> documents = encoder.encode(["backend engineer, Python", "pastry chef"], side="document")
        >>> documents.shape
        (2, 384)
        >>> int((query @ documents.T).argmax())
        0
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
        query_prompt: str = "",
        document_prompt: str = "",
        max_length: int = 256,
        tokens_per_batch: int = 2048,
        bucketed: bool = True,
    ) -> None:
        super().__init__()
        check_max_length(max_length, backbone, tokenizer)
        if tokens_per_batch < 1:
            raise ValueError(f"expected tokens_per_batch of at least 1, got {tokens_per_batch}")
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.pooling: Pooling = check_pooling(pooling)
        self.normalize = normalize
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.max_length = max_length
        self.tokens_per_batch = tokens_per_batch
        self.bucketed = bucketed
        self.tokens_seen = TokenCount()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
        tokens_per_batch: int = 2048,
        bucketed: bool = True,
    ) -> Encoder:
        """Load a sentence-transformers or plain transformers model, in float32 and eval mode.

        What is None is taken from the folder's sentence-transformers files; where these are missing or silent, pooling
        is the mean, without normalization and prompts, and the maximum length is the smaller of the model's and the
        tokenizer's.

        Args:
            name_or_path: A local folder, or a name on the hub ("org/name"), which is downloaded.
            pooling: "mean", "cls" or "last".
            normalize: Whether embeddings get length 1.
            query_prompt: Text put before every query; "" for none.
            document_prompt: Text put before every document; "" for none.
            max_length: Tokens a text is cut to, special ones included.
            tokens_per_batch: As for the class.
            bucketed: As for the class.

        Raises:
            FileNotFoundError: If there is no such folder, hub model, or safetensors weights.
            ValueError: If the folder asks for something that is not implemented, or an argument cannot be.
        """
        folder = local_folder(name_or_path)
        settings = read_settings(folder)
        backbone = load_backbone(folder / settings.backbone)
        tokenizer = load_tokenizer(folder / settings.backbone)
        if settings.lowercase and tokenizer.tokenize("A") != tokenizer.tokenize("a"):
            raise ValueError(f"{folder} lower-cases texts before a cased tokenizer, which is not supported")
        if max_length is None:
            max_length = default_max_length(backbone, tokenizer, settings.max_length)
        return cls(
            backbone,
            tokenizer,
            pooling=pooling or settings.pooling or "mean",
            normalize=bool(settings.normalize) if normalize is None else normalize,
            query_prompt=(settings.query_prompt or "") if query_prompt is None else query_prompt,
            document_prompt=(settings.document_prompt or "") if document_prompt is None else document_prompt,
            max_length=max_length,
            tokens_per_batch=tokens_per_batch,
            bucketed=bucketed,
        ).eval()

    @property
    def dimension(self) -> int:
        """Width D of an embedding."""
        return int(self.backbone.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.device

    def forward(self, texts: Sequence[str], *, side: Side = "query", deduplicate: bool = True) -> Tensor:
        """Embed texts, [B, D], in their order and with gradients.

        Args:
            texts: Texts; "" is embedded from its special tokens, a long one is cut to `max_length` tokens.
            side: Which prompt to use.
            deduplicate: Encode equal texts once. False gives each its own dropout, which losses on two views of one
                text need.

        Raises:
            TypeError: If `texts` is one string, or holds something other than strings.
            ValueError: If `side` is unknown.
        """
        check_texts(texts)
        prompt = self._prompt(side)
        if len(texts) == 0:
            return torch.zeros(0, self.dimension, device=self.device)
        if not self.bucketed:
            return self._embed(self._tokenize([prompt + text for text in texts]))
        distinct = list(dict.fromkeys(texts)) if deduplicate else list(texts)
        token_ids = self._tokenize([prompt + text for text in distinct])
        batches = micro_batches([len(ids) for ids in token_ids], self.tokens_per_batch)
        embeddings = torch.cat([self._embed([token_ids[i] for i in batch]) for batch in batches])
        # Row r of `embeddings` is distinct text order[r]; argsort inverts that permutation.
        row_of = np.argsort([i for batch in batches for i in batch])
        if deduplicate:
            row_of = row_of[positions(distinct, texts)]
        return embeddings.index_select(0, torch.from_numpy(row_of).to(self.device))

    @overload
    def encode(
        self,
        texts: Sequence[str],
        *,
        side: Side = ...,
        tokens_per_batch: int | None = ...,
        show_progress: bool = ...,
        as_numpy: Literal[True] = ...,
        autocast: torch.dtype | None = ...,
    ) -> NDArray[np.float32]: ...

    @overload
    def encode(
        self,
        texts: Sequence[str],
        *,
        side: Side = ...,
        tokens_per_batch: int | None = ...,
        show_progress: bool = ...,
        as_numpy: Literal[False],
        autocast: torch.dtype | None = ...,
    ) -> Tensor: ...

    def encode(
        self,
        texts: Sequence[str],
        *,
        side: Side = "query",
        tokens_per_batch: int | None = None,
        show_progress: bool = False,
        as_numpy: bool = True,
        autocast: torch.dtype | None = None,
    ) -> NDArray[np.float32] | Tensor:
        """Embed texts, [B, D] in float32 and in their order, in eval mode and without gradients.

        The mode of every module is put back afterwards. Equal texts are encoded once.

        Args:
            texts: Any number of texts.
            side: Which prompt to use.
            tokens_per_batch: Most tokens of a micro-batch; None for the encoder's own.
            show_progress: Show a progress bar that counts distinct texts.
            as_numpy: Return an array; False for a tensor on the encoder's device.
            autocast: Lower precision to compute in, such as `torch.bfloat16`; None computes in the weights' own, also
                under somebody else's autocast.

        Raises:
            TypeError: If `texts` is one string, or holds something other than strings.
            ValueError: If `side` is unknown.
        """
        check_texts(texts)
        prompt = self._prompt(side)
        budget = self.tokens_per_batch if tokens_per_batch is None else tokens_per_batch
        distinct = list(dict.fromkeys(texts))
        # Longest first: running out of memory shows at once. Characters are a good guess at tokens, so that chunks hold
        # texts of similar length; within a chunk the order is by tokens.
        order = sorted(range(len(distinct)), key=lambda i: len(distinct[i]), reverse=True)
        # Made outside inference mode: an inference tensor could not meet autograd later, as a teacher's must.
        embeddings = torch.empty(len(distinct), self.dimension, device=self.device)
        precision = torch.autocast(self.device.type, dtype=autocast, enabled=autocast is not None)
        bar: tqdm[Never] = tqdm(
            total=len(distinct), desc="encoding", unit=" texts", disable=not show_progress, leave=False
        )
        with self._evaluating(), torch.inference_mode(), precision, bar:
            for start in range(0, len(order), _TEXTS_PER_TOKENIZATION):
                chunk = order[start : start + _TEXTS_PER_TOKENIZATION]
                token_ids = self._tokenize([prompt + distinct[i] for i in chunk])
                for batch in micro_batches([len(ids) for ids in token_ids], budget):
                    rows = torch.tensor([chunk[i] for i in batch], device=self.device)
                    embeddings[rows] = self._embed([token_ids[i] for i in batch]).float()
                    bar.update(len(batch))
        if len(distinct) < len(texts):
            embeddings = embeddings[torch.from_numpy(positions(distinct, texts)).to(self.device)]
        return embeddings.cpu().numpy() if as_numpy else embeddings

    def save_pretrained(self, path: str | Path) -> None:
        """Write a folder for `Encoder.from_pretrained`, `SentenceTransformer`, and `AutoModel` with `AutoTokenizer`.

        The last two know nothing of this class: plain `AutoModel` gives token vectors, to be pooled and normalized by
        the caller.
        """
        folder = Path(path)
        # The tokenizer's files state the length twice more: in the truncation of the last call, and as first loaded.
        self.tokenizer.model_max_length = self.max_length
        self.tokenizer.init_kwargs.pop("max_length", None)
        self._tokenize([""])
        with quiet():
            self.backbone.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        write_settings(
            folder,
            dimension=self.dimension,
            pooling=self.pooling,
            normalize=self.normalize,
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            max_length=self.max_length,
        )

    def _prompt(self, side: Side) -> str:
        if side not in ("query", "document"):
            raise ValueError(f'expected side "query" or "document", got {side!r}')
        return self.query_prompt if side == "query" else self.document_prompt

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        encoded = self.tokenizer(
            # Tokenizers refuse a lone surrogate (half an emoji, out of JSON that was cut); it becomes "?".
            [text.encode("utf-8", "replace").decode("utf-8") for text in texts],
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        token_ids: list[list[int]] = encoded["input_ids"]
        # Without special tokens "" has no token at all, and attention over nothing is NaN.
        return [ids or [self._padding_id()] for ids in token_ids]

    def _padding_id(self) -> int:
        # Masked, so any id will do for a tokenizer that has no padding token.
        return 0 if self.tokenizer.pad_token_id is None else int(self.tokenizer.pad_token_id)

    def _embed(self, token_ids: list[list[int]]) -> Tensor:
        """Run one padded batch through backbone and pooling, [B, D]."""
        input_ids, attention_mask = pad_right(token_ids, self._padding_id())
        self.tokens_seen.real += sum(len(ids) for ids in token_ids)
        self.tokens_seen.padded += input_ids.numel()
        attention_mask = attention_mask.to(self.device)
        hidden = self.backbone(input_ids=input_ids.to(self.device), attention_mask=attention_mask).last_hidden_state
        embeddings = POOLINGS[self.pooling](hidden, attention_mask)
        return to_unit_length(embeddings, dim=-1) if self.normalize else embeddings

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True
