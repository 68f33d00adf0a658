"""A text encoder: a Hugging Face backbone, pooling, optional normalization, prompts and a maximum length.

Notable decisions:

- Within a batch each distinct text is encoded once, texts of both sides are sorted by length and cut into micro-batches
  by a token budget: the same embeddings and gradients as one padded batch (with dropout off), far less padding. A text
  that is its own pair is encoded twice in training, so that its two views differ by their dropout.
- A text is tokenised once a process, see `tokens`.
- Padding is always on the right, whatever the tokenizer prefers: left padding shifts the positions of models with
  learned ones. Loading tries out whether the mask hides it; where not, texts of different lengths never meet.
- A backbone is given what its tokenizer lists: ids, mask, and token types where it takes them.
- Embeddings are float32 even under autocast: scores made of bfloat16 embeddings would be bfloat16 too.
- `from_pretrained` returns eval mode, as transformers does. Call `.train()` for dropout.

Shape letters: B texts, T tokens of the longest, D width of an embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Never, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize as to_unit_length
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from contrastive.contracts import Side
from contrastive.data.texts import check_texts
from contrastive.encoder.adapters import LoRA, add_adapters, plain
from contrastive.encoder.backbone import (
    check_max_length,
    checkpoint_activations,
    default_max_length,
    freeze_layers,
    settle_padding,
)
from contrastive.encoder.cpu_dropout import use_fast_dropout
from contrastive.encoder.heads.pooling import POOLINGS, Pooling, check_pooling
from contrastive.encoder.loading import quiet
from contrastive.encoder.micro_batches import (
    TokenCount,
    default_tokens_per_batch,
    micro_batches,
    pad_further,
    pad_right,
    positions,
    token_counts,
)
from contrastive.encoder.model_folder import open_pretrained, write_pretrained
from contrastive.encoder.sentence_transformers_format import EncoderSettings
from contrastive.encoder.tokens import Row, cached_token_ids, further_inputs, padding_id, token_rows
from contrastive.encoder.trial import freeze_unused, stands_padding, trial_rows, unchanged_random_state
from contrastive.similarity import SimilarityName, check_similarity_name

if TYPE_CHECKING:
    from peft import PeftModel

_log = logging.getLogger(__name__)
_TEXTS_PER_TOKENIZATION = 4096
"""Texts whose token ids `encode` holds at a time: a few MB, and enough for even micro-batches."""


class Encoder(nn.Module):
    """Embeds texts, [B, D], with gradients when called and without in `encode`.

    Args:
        backbone: Transformer with a `last_hidden_state` [B, T, D].
        tokenizer: Its tokenizer, which pads on the right from now on.
        pooling: How token vectors become one vector.
        normalize: Whether embeddings get length 1.
        dimension: Leading dimensions that are kept of an embedding, before it gets length 1 (Matryoshka embeddings);
            None for all.
        query_prompt: Text put before every query.
        document_prompt: Text put before every document.
        max_length: Tokens a text is cut to, special ones included.
        similarity: How embeddings are compared, "cosine", "dot" or "euclidean": in training, mining, validation, search
            and wherever else a score is made of them.
        tokens_per_batch: Most tokens of a micro-batch, padding included; a longer text goes alone. None takes what
            suits the device, see `micro_batches.default_tokens_per_batch`.
        bucketed: False encodes the batch as it comes, in one padded piece: slower, the reference.
        padding: False never encodes texts of different lengths together, for backbones in which padding changes
            embeddings; `from_pretrained` finds out.

    Raises:
        ValueError: If pooling or similarity is unknown, or `dimension`, `max_length` or `tokens_per_batch` cannot be.

    Example:
        >>> from contrastive.encoder import embedded_minilm
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
        backbone: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
        dimension: int | None = None,
        query_prompt: str = "",
        document_prompt: str = "",
        max_length: int = 256,
        similarity: SimilarityName = "cosine",
        tokens_per_batch: int | None = None,
        bucketed: bool = True,
        padding: bool = True,
    ) -> None:
        super().__init__()
        check_max_length(max_length, backbone, tokenizer)
        width = int(backbone.config.hidden_size)
        if dimension is not None and not 1 <= dimension <= width:
            raise ValueError(f"expected dimension from 1 to {width} for this model, got {dimension}")
        if tokens_per_batch is not None and tokens_per_batch < 1:
            raise ValueError(f"expected tokens_per_batch of at least 1, got {tokens_per_batch}")
        settle_padding(tokenizer, plain(backbone))
        self.backbone = backbone
        self.dimension = width if dimension is None else dimension
        self.tokenizer = tokenizer
        self.pooling: Pooling = check_pooling(pooling)
        self.normalize = normalize
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.max_length = max_length
        self.similarity: SimilarityName = check_similarity_name(similarity)
        self.tokens_per_batch = tokens_per_batch
        self.bucketed = bucketed
        self.padding = padding
        self.further_inputs = further_inputs(plain(backbone), tokenizer)
        self.tokens_seen = TokenCount()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        dimension: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
        similarity: SimilarityName | None = None,
        tokens_per_batch: int | None = None,
        bucketed: bool = True,
        lora: LoRA | None = None,
        frozen_layers: int = 0,
        gradient_checkpointing: bool = False,
        fast_dropout: bool = True,
        check: bool = True,
    ) -> Encoder:
        """Load a sentence-transformers or plain transformers model or an adapter, in float32 and eval mode.

        What is None is taken from the folder's sentence-transformers files; where these are missing or silent, pooling
        is the mean, without normalization and prompts, all dimensions are kept, the similarity is cosine, and the
        maximum length is the smaller of the model's and the tokenizer's.

        Args:
            name_or_path: A local folder, or a name on the hub ("org/name"), which is downloaded.
            pooling: "mean", "cls" or "last".
            normalize: Whether embeddings get length 1.
            dimension: Leading dimensions that are kept of an embedding.
            query_prompt: Text put before every query; "" for none.
            document_prompt: Text put before every document; "" for none.
            max_length: Tokens a text is cut to, special ones included.
            similarity: How embeddings are compared, "cosine", "dot" or "euclidean".
            tokens_per_batch: As for the class.
            bucketed: As for the class.
            lora: Low-rank adapters to train in place of the weights.
            frozen_layers: Transformer blocks, from the first, that are not trained, and the embeddings with them; they
                get no adapters either. 0 freezes nothing.
            gradient_checkpointing: Whether to compute activations again in the backward pass, rather than keep them:
                less memory for the time of one more forward pass.
            fast_dropout: Whether to replace the dropout of the model, where it runs on a processor, see `cpu_dropout`:
                faster training, with other masks for the same seed. False leaves PyTorch's and transformers' own.
            check: Try the model out on two short texts, see `trial`: where padding changes embeddings, it does without;
                weights that these do not depend on are frozen. False skips that.

        Raises:
            FileNotFoundError: If there is no such folder, hub model, or safetensors weights.
            ValueError: If the folder holds something else, or asks for something that is not implemented, or an
                argument cannot be; or if the model embeds a text otherwise each time.
        """
        opened = open_pretrained(name_or_path)
        backbone, tokenizer, settings = opened.backbone, opened.tokenizer, opened.settings
        if max_length is None:
            max_length = default_max_length(backbone, tokenizer, settings.max_length)
        encoder = cls(
            backbone,
            tokenizer,
            pooling=pooling or settings.pooling or "mean",
            normalize=bool(settings.normalize) if normalize is None else normalize,
            dimension=settings.dimension if dimension is None else dimension,
            query_prompt=(settings.query_prompt or "") if query_prompt is None else query_prompt,
            document_prompt=(settings.document_prompt or "") if document_prompt is None else document_prompt,
            max_length=max_length,
            similarity=check_similarity_name(
                similarity or settings.similarity or "cosine",
                "similarity" if similarity else f"similarity_fn_name of {name_or_path}, or else similarity,",
            ),
            tokens_per_batch=tokens_per_batch,
            bucketed=bucketed,
        ).eval()
        if check:
            encoder._try_out()
        if fast_dropout:
            use_fast_dropout(backbone)
        freeze_layers(backbone, frozen_layers)
        if lora is not None and lora.rank > 0:
            encoder.backbone = add_adapters(backbone, lora)
        if gradient_checkpointing:
            checkpoint_activations(backbone)
        return encoder.eval()

    @property
    def settings(self) -> EncoderSettings:
        """What, beside the weights, decides the embedding of a text and how it is compared, as plain values."""
        return {
            "pooling": self.pooling,
            "normalize": self.normalize,
            "dimension": self.dimension,
            "query_prompt": self.query_prompt,
            "document_prompt": self.document_prompt,
            "max_length": self.max_length,
            "similarity": self.similarity,
        }

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
        prompted = self._prompted(texts, side)
        if not self.bucketed and self.padding and len(texts) > 0:
            return self._embed(self._token_ids(prompted))
        return self._embed_in_micro_batches(prompted, prompted if deduplicate else None)

    def embed_sides(
        self, queries: Sequence[str], documents: Sequence[str], *, deduplicate: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Embed both sides of a batch, [Q, D] and [K, D], with gradients; see `forward`.

        Micro-batches are cut from both sides together: short queries do not make a pass of their own. Where a query and
        its document are one text, prompts included, they are two views of it: in training mode the text is encoded once
        a side, with dropout of its own, or both views would be the same vector, as similar as can be from the start.

        Raises:
            TypeError: As `forward`.
        """
        if not self.bucketed:
            return self(queries, side="query"), self(documents, side="document")
        for texts in (queries, documents):
            check_texts(texts)
        asked, found = self._prompted(queries, "query"), self._prompted(documents, "document")
        two_views = {text for text, own in zip(asked, found, strict=False) if text == own} if self.training else set()
        draws = [*((text, 0) for text in asked), *((text, int(text in two_views)) for text in found)]
        embeddings = self._embed_in_micro_batches([*asked, *found], draws if deduplicate else None)
        return embeddings[: len(queries)], embeddings[len(queries) :]

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
        prompted = self._prompted(texts, side)
        budget = self._budget if tokens_per_batch is None else tokens_per_batch
        distinct = list(dict.fromkeys(prompted))
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
                ids = self._token_ids([distinct[i] for i in chunk])
                for batch in micro_batches(token_counts(ids), budget, padding=self.padding):
                    rows = torch.tensor([chunk[i] for i in batch], device=self.device)
                    embeddings[rows] = self._embed([ids[i] for i in batch]).float()
                    bar.update(len(batch))
        if len(distinct) < len(texts):
            embeddings = embeddings[torch.from_numpy(positions(distinct, prompted)).to(self.device)]
        return embeddings.cpu().numpy() if as_numpy else embeddings

    def save_pretrained(self, path: str | Path) -> None:
        """Write a folder for `Encoder.from_pretrained`, `SentenceTransformer`, and `AutoModel` with `AutoTokenizer`.

        The last two know nothing of this class: plain `AutoModel` gives token vectors, to be pooled, cut and normalized
        by the caller. LoRA adapters are merged into the weights, and also written alone, in `adapter/`; this encoder
        stays as it is.
        """
        write_pretrained(Path(path), self.backbone, self.tokenizer, **self.settings)

    @property
    def _budget(self) -> int:
        return self.tokens_per_batch or default_tokens_per_batch(self.device)

    def _prompted(self, texts: Sequence[str], side: Side) -> list[str]:
        """Return the texts with the prompt of their side in front."""
        if side not in ("query", "document"):
            raise ValueError(f'expected side "query" or "document", got {side!r}')
        prompt = self.query_prompt if side == "query" else self.document_prompt
        return [prompt + text for text in texts]

    def _token_ids(self, prompted: Sequence[str]) -> list[Row]:
        return cached_token_ids(self.tokenizer, prompted, max_length=self.max_length, further=self.further_inputs)

    def _embed_in_micro_batches(self, prompted: Sequence[str], draws: Sequence[Hashable] | None) -> Tensor:
        """Embed texts that have their prompts, [B, D] in their order: those of one draw once, None for each alone."""
        if len(prompted) == 0:
            return torch.zeros(0, self.dimension, device=self.device)
        draws = range(len(prompted)) if draws is None else draws
        distinct = dict(zip(draws, prompted, strict=True))
        ids = self._token_ids(list(distinct.values()))
        batches = micro_batches(token_counts(ids), self._budget, padding=self.padding)
        embeddings = torch.cat([self._embed([ids[i] for i in batch]) for batch in batches])
        # Row r of `embeddings` is distinct text order[r]; argsort inverts that permutation.
        row_of = np.argsort([i for batch in batches for i in batch])
        if len(distinct) < len(prompted):
            row_of = row_of[positions(list(distinct), draws)]
        return embeddings.index_select(0, torch.from_numpy(row_of).to(self.device))

    def _embed(self, rows: Sequence[Row]) -> Tensor:
        """Run one batch of token ids through backbone and pooling, [B, D]."""
        input_ids, attention_mask = pad_right(rows, padding_id(self.tokenizer))
        self.tokens_seen.real += sum(token_counts(rows))
        self.tokens_seen.padded += input_ids.numel()
        attention_mask = attention_mask.to(self.device)
        further = {name: given.to(self.device) for name, given in pad_further(rows, self.further_inputs).items()}
        output = self.backbone(input_ids=input_ids.to(self.device), attention_mask=attention_mask, **further)
        hidden = output.last_hidden_state
        embeddings = POOLINGS[self.pooling](hidden, attention_mask)[:, : self.dimension]
        return to_unit_length(embeddings, dim=-1) if self.normalize else embeddings

    def _try_out(self) -> None:
        """See what this backbone does with padding, and which of its weights take part; see `trial`."""
        rows = trial_rows(partial(token_rows, self.tokenizer, max_length=self.max_length, further=self.further_inputs))
        with torch.enable_grad(), unchanged_random_state(), quiet():
            try:
                embeddings = self._embed(rows)
            except Exception as error:  # whatever impossible shapes raise
                name = type(self.backbone).__name__
                raise ValueError(f"expected a model that embeds two short texts, {name} raises {error!r}") from error
            self.padding = stands_padding(self._embed, embeddings, rows)
        freeze_unused(self.backbone, embeddings)
        self.tokens_seen = TokenCount()
        if not self.padding:
            _log.warning(
                "%s mixes padding into texts: it is given texts of one length at a time, which is slower. Libraries "
                "that pad embed them otherwise",
                type(self.backbone).__name__,
            )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True
