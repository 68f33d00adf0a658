"""A text encoder: the order of a text from its prompt to its embedding.

A text gets the prompt of its side, becomes token ids (`tokens`), goes with others of its length (`micro_batches`)
through the `backbone`, gets its embedding from a head (`heads`), and is put back in its place.

Notable decisions:

- Within a batch each distinct text is encoded once, texts of both sides are sorted by length and cut into micro-batches
  by a token budget: the same embeddings and gradients as one padded batch (with dropout off), far less padding. A text
  that is its own pair is encoded twice in training, so that its two views differ by their dropout.
- Padding is always on the right, whatever the tokenizer prefers: left padding shifts the positions of models with
  learned ones. Loading tries out whether the mask hides it; where not, texts of different lengths never meet.
- `cached` keeps of a micro-batch only its token ids and its embeddings, and computes it again, with its dropout, when
  the backward pass comes to it: the memory of one micro-batch, for the time of one more forward pass. The graph is that
  of the plain step, so that gradients are the same, under DistributedDataParallel too, which sees one backward pass.
- A backbone is given what its tokenizer lists: ids, mask, and token types where it takes them.
- Embeddings are float32 even under autocast: scores made of bfloat16 embeddings would be bfloat16 too.
- `from_pretrained` returns eval mode, as transformers does. Call `.train()` for dropout.

Shape letters: B texts, D width of an embedding. Where a head gives something else than a vector a text, [B, D] is that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Literal, Never, ParamSpec, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from contrastive.contracts import Side
from contrastive.data.texts import check_texts, parts_of
from contrastive.encoder.adapters import plain
from contrastive.encoder.backbone import check_max_length, keep_markers_whole, settle_padding
from contrastive.encoder.compression import Compression, check_compressible
from contrastive.encoder.heads import Head
from contrastive.encoder.in_order import Window
from contrastive.encoder.micro_batches import (
    TokenCount,
    default_tokens_per_batch,
    padded,
    positions,
    token_counts,
    tokens_of_a_pass,
)
from contrastive.encoder.model_folder import write_pretrained
from contrastive.encoder.pretrained import load_pretrained
from contrastive.encoder.reading import Reading, Text, TrainingWindows
from contrastive.encoder.tokens import Row, cached_windows, further_inputs, padding_id, token_rows
from contrastive.encoder.trial import trial_rows, try_out
from contrastive.similarity import SimilarityName, TokenVectors, product_similarity

if TYPE_CHECKING:
    from peft import PeftModel

Options = ParamSpec("Options")

_PARTS = 32
"""Parts of a query that are embedded: more than a person types, and few enough for any text to be a query."""


def _of_class(load: Callable[Concatenate[type[Encoder], Options], Encoder]) -> classmethod[Encoder, Options, Encoder]:
    """Make a method of the class of a function; `classmethod` alone would leave its arguments unchecked."""
    return classmethod(load)


class Encoder(nn.Module):
    """Embeds texts, [B, D], with gradients when called and without in `encode`.

    Args:
        backbone: Transformer whose first output is its `last_hidden_state` [B, T, W], or what it made of that.
        tokenizer: Its tokenizer, which pads on the right from now on.
        head: What makes embeddings of the vectors of tokens.
        representation: Name of the head, see `heads.HEADS`.
        query_prompt: Text put before every query. A word of the vocabulary in square brackets at its beginning, such as
            "[unused0] ", is one token: a marker.
        document_prompt: Text put before every document.
        max_length: Tokens a text is cut to, special ones included; of a document whose head reads `windows`, tokens of
            a window.
        query_length: The same for queries; None for `max_length`.
        compression: How a corpus of several vectors a text is kept, in words such as "pool2-pca128-1bit", see
            `compression.Compression`; None, or "none", for half precision. `encode` does not know of it.
        training_windows: Which windows of a long document a training step reads: the "first", a "random" one, or "all".
        tokens_per_batch: Most tokens of a micro-batch, padding included; a longer text goes alone. None takes what
            suits the device, see `micro_batches.default_tokens_per_batch`.
        bucketed: False encodes the batch as it comes, in one padded piece: slower, the reference.

    Raises:
        ValueError: If `max_length`, `tokens_per_batch` or `compression` cannot be.

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
        head: Head,
        *,
        representation: str = "pooled",
        query_prompt: str = "",
        document_prompt: str = "",
        max_length: int = 256,
        query_length: int | None = None,
        compression: str | None = None,
        training_windows: TrainingWindows = "first",
        tokens_per_batch: int | None = None,
        bucketed: bool = True,
    ) -> None:
        super().__init__()
        check_max_length(max_length, backbone, tokenizer)
        if query_length is not None:
            check_max_length(query_length, backbone, tokenizer, "query_length")
        if training_windows not in get_args(TrainingWindows):
            raise ValueError(
                f"expected training_windows to be one of {', '.join(get_args(TrainingWindows))}, got "
                f"{training_windows!r}"
            )
        if head.windows and not tokenizer.is_fast:
            raise ValueError("expected a fast tokenizer to read documents in windows, got a slow one")
        if tokens_per_batch is not None and tokens_per_batch < 1:
            raise ValueError(f"expected tokens_per_batch of at least 1, got {tokens_per_batch}")
        settle_padding(tokenizer, plain(backbone))
        keep_markers_whole(tokenizer, (query_prompt, document_prompt))
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.head = head
        self.representation = representation
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.max_length = max_length
        self.query_length = query_length
        self.compression = None if compression in (None, "none") else Compression.of(compression)
        if self.compression is not None:
            check_compressible(self.compression, product_similarity(head.similarity))
        self.training_windows: TrainingWindows = training_windows
        self.tokens_per_batch = tokens_per_batch
        self.bucketed = bucketed
        self.padding = True
        self.further_inputs = further_inputs(plain(backbone), tokenizer)
        self.tokens_seen = TokenCount()
        head.attach(plain(backbone), tokenizer)

    from_pretrained = _of_class(load_pretrained)

    def try_out(self) -> None:
        """Find out whether texts may be padded, and freeze the weights that no embedding depends on; see `trial`."""
        tokenize = partial(token_rows, self.tokenizer, max_length=self.max_length, further=self.further_inputs)
        self.padding = try_out(plain(self.backbone), self._embed_documents, trial_rows(tokenize))
        self.tokens_seen = TokenCount()

    @property
    def dimension(self) -> int:
        """Width D of an embedding."""
        return self.head.dimension

    @property
    def normalize(self) -> bool:
        """Whether embeddings have length 1."""
        return self.head.normalize

    @property
    def similarity(self) -> SimilarityName:
        """How embeddings are compared."""
        return self.head.similarity

    @property
    def lexical(self) -> bool:
        """Whether embeddings weigh the terms of the vocabulary."""
        return self.head.lexical

    @property
    def settings(self) -> dict[str, object]:
        """What, beside the weights, decides the embedding of a text and how it is compared, as plain values."""
        return {
            "representation": self.representation,
            **self.head.settings,
            "query_prompt": self.query_prompt,
            "document_prompt": self.document_prompt,
            "max_length": self.max_length,
            "query_length": self.query_length,
            **({} if self.compression is None else {"compression": str(self.compression)}),
        }

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.device

    def tower(self, side: Side) -> Encoder:  # noqa: ARG002
        """Return the encoder of a side, which is this one; see `TwoTowers`."""
        return self

    def length(self, side: Side) -> int:
        """Return the tokens that a text of a side is cut to, or that a window of a document has."""
        return self.query_length or self.max_length if side == "query" else self.max_length

    def prompt(self, side: Side) -> str:
        """Return the text put before every text of a side.

        Raises:
            ValueError: If `side` is unknown.
        """
        if side not in ("query", "document"):
            raise ValueError(f'expected side "query" or "document", got {side!r}')
        return self.query_prompt if side == "query" else self.document_prompt

    def forward(
        self, texts: Sequence[str], *, side: Side = "query", deduplicate: bool = True, cached: bool = False
    ) -> Tensor:
        """Embed texts, [B, D], in their order and with gradients.

        Args:
            texts: Texts; "" is embedded from its special tokens, a long one is cut to `max_length` tokens.
            side: Which prompt to use.
            deduplicate: Encode equal texts once. False gives each its own dropout, which losses on two views of one
                text need.
            cached: Compute each micro-batch again in the backward pass, rather than keep what that needs.

        Raises:
            TypeError: If `texts` is one string, or holds something other than strings.
            ValueError: If `side` is unknown.
        """
        prompted = self._prompted(texts, side)
        draws = prompted if deduplicate and self.bucketed else range(len(prompted))
        budget = self._budget if self.bucketed or not self.padding else None
        return _batch(self._embed_in_order(prompted, draws, budget, cached=cached))

    def embed_sides(
        self, queries: Sequence[str], documents: Sequence[str], *, deduplicate: bool = True, cached: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Embed both sides of a batch, [Q, D] and [K, D], with gradients; see `forward`.

        Micro-batches are cut from both sides together: short queries do not make a pass of their own. Where a query and
        its document are one text, prompts included, they are two views of it: in training mode the text is encoded once
        a side, with dropout of its own, or both views would be the same vector, as similar as can be from the start.

        Raises:
            TypeError: As `forward`.
        """
        if not self.bucketed:
            return self(queries, side="query", cached=cached), self(documents, side="document", cached=cached)
        asked, found = self._prompted(queries, "query"), self._prompted(documents, "document")
        own = {text.words for text, own in zip(asked, found, strict=False) if text.words == own.words}
        two_views = own if self.training else set()
        draws = [*((text, 0) for text in asked), *((text, int(text.words in two_views)) for text in found)]
        drawn = draws if deduplicate else range(len(draws))
        embeddings = self._embed_in_order([*asked, *found], drawn, self._budget, cached=cached)
        return _batch(embeddings[: len(queries)]), _batch(embeddings[len(queries) :])

    def weigh_queries(self, documents: Sequence[str]) -> None:
        """Let the head weigh the tokens of queries by how rare they are in documents, if it does and has not yet."""
        if not self.head.is_weighed:
            windows = cached_windows(
                self.tokenizer,
                documents,
                max_length=self.max_length,
                further=self.further_inputs,
                whole=self.head.windows,
            )
            rows = (np.concatenate([row.reshape(-1, row.shape[-1])[0] for row in each]) for each in windows)
            self.head.weigh((torch.from_numpy(row).long() for row in rows), len(windows))

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
    ) -> NDArray[np.float32] | TokenVectors: ...

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
    ) -> Tensor | TokenVectors: ...

    def encode(
        self,
        texts: Sequence[str],
        *,
        side: Side = "query",
        tokens_per_batch: int | None = None,
        show_progress: bool = False,
        as_numpy: bool = True,
        autocast: torch.dtype | None = None,
    ) -> NDArray[np.float32] | Tensor | TokenVectors:
        """Embed texts, [B, D] in float32 and in their order, in eval mode and without gradients.

        The mode of every module is put back afterwards. Equal texts are encoded once. Of several vectors a text, those
        of its tokens or windows, the embeddings are `TokenVectors` where the encoder is, whatever `as_numpy`.

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
        prompted = self._prompted(texts, side)
        budget = self._budget if tokens_per_batch is None else tokens_per_batch
        precision = torch.autocast(self.device.type, dtype=autocast, enabled=autocast is not None)
        bar: tqdm[Never] = tqdm(
            total=len(set(prompted)), desc="encoding", unit=" texts", disable=not show_progress, leave=False
        )
        with self._evaluating(), torch.inference_mode(), precision, bar:
            embeddings = self._embed_in_order(prompted, prompted, budget, tell=bar.update)
        if isinstance(embeddings, TokenVectors):
            return embeddings.to(torch.float32)
        # An inference tensor could not meet autograd later, as a teacher's must: a copy is none.
        return embeddings.float().cpu().numpy() if as_numpy else embeddings.float().clone()

    def save_pretrained(self, path: str | Path) -> None:
        """Write a folder for `Encoder.from_pretrained`, `SentenceTransformer`, and `AutoModel` with `AutoTokenizer`.

        The last two know nothing of this class: plain `AutoModel` gives token vectors, to be pooled, cut and normalized
        by the caller. LoRA adapters are merged into the weights, and also written alone, in `adapter/`; this encoder
        stays as it is.
        """
        write_pretrained(
            Path(path),
            self.backbone,
            self.tokenizer,
            self.head,
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            max_length=self.max_length,
            query_length=self.query_length,
            compression=None if self.compression is None else str(self.compression),
        )

    @property
    def _budget(self) -> int:
        return self.tokens_per_batch or default_tokens_per_batch(self.device)

    def _prompted(self, texts: Sequence[str], side: Side) -> list[Text]:
        """Return the texts with the prompt of their side in front; of which side they are, if it makes a difference."""
        check_texts(texts)
        prompt = self.prompt(side)
        is_query = side == "query" and self._sides_differ
        parts = is_query and self.head.query_parts
        return [Text(prompt + text, is_query, _parts(text, prompt) if parts else ()) for text in texts]

    @property
    def _sides_differ(self) -> bool:
        """Whether a query is embedded otherwise than a document of the same words."""
        return self.head.windows or self.head.sides_differ or self.query_length is not None

    def _embed_in_order(
        self,
        prompted: Sequence[Text],
        draws: Sequence[Hashable],
        budget: int | None,
        tell: Callable[[int], object] = lambda _: None,
        *,
        cached: bool = False,
    ) -> Tensor | TokenVectors:
        """Embed texts that have their prompts, [B, D] in their order, those of one draw once."""
        distinct = dict(zip(draws, prompted, strict=True))
        pieces = self._pieces(list(distinct.values()), budget, tell, cached=cached and torch.is_grad_enabled())
        return self.head.in_order(pieces, torch.from_numpy(positions(list(distinct), draws)).to(self.device))

    def _pieces(
        self, texts: Sequence[Text], budget: int | None, tell: Callable[[int], object], *, cached: bool
    ) -> Iterator[tuple[Sequence[Window], Tensor]]:
        """Embed texts in micro-batches; yield which windows each is of and their embeddings, and tell how many."""
        reading = Reading(
            self.tokenizer,
            self.further_inputs,
            self.length("query"),
            self.length("document"),
            "first" if not self.head.windows else self.training_windows if self.training else "all",
            tokens_of_a_pass(self.device),
        )
        for windows, rows, is_query, is_last in reading.batches(texts, budget, padding=self.padding):
            inputs, of_queries = self._inputs(rows, is_query)
            # The backward pass begins with the last one, which it would compute again at once.
            embed = partial(checkpoint, self._embed, use_reentrant=False) if cached and not is_last else self._embed
            yield windows, embed(inputs, of_queries)
            tell(sum(number == 0 for _, number in windows))

    def _inputs(self, rows: Sequence[Row], is_query: Sequence[bool]) -> tuple[dict[str, Tensor], Tensor]:
        """Return what the backbone is given for one batch of token ids, and which are of queries; count the tokens."""
        of_queries = torch.tensor(is_query, dtype=torch.bool, device=self.device)
        inputs = padded(rows, padding_id(self.tokenizer), self.further_inputs)
        self.tokens_seen.real += sum(token_counts(rows))
        filled = self.head.fill_up({name: given.to(self.device) for name, given in inputs.items()}, of_queries)
        self.tokens_seen.padded += filled["input_ids"].numel()
        return dict(filled), of_queries

    def _embed(self, inputs: dict[str, Tensor], is_query: Tensor) -> Tensor:
        """Run one batch through backbone and head, [B, D] or [B, T, D]."""
        if self.head.reads_queries or not is_query.any():
            return self.head(self.backbone(**inputs)[0], inputs, is_query)
        if is_query.all():
            return self.head(torch.zeros(0, 0, 0, device=self.device), inputs, is_query)
        documents = {name: given[~is_query] for name, given in inputs.items()}
        return self.head(self.backbone(**documents)[0], inputs, is_query)

    def _embed_documents(self, rows: Sequence[Row]) -> Tensor:
        """Embed one batch of documents, [B, D]: of several vectors a text the mean."""
        embeddings = self._embed(*self._inputs(rows, [False] * len(rows)))
        return embeddings if embeddings.ndim == 2 else embeddings.sum(1) / embeddings.any(-1).sum(1, keepdim=True)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def _parts(query: str, prompt: str) -> tuple[str, ...]:
    """Return the first parts of a query with its prompt; none of a query that is one."""
    parts = [prompt + query[start:end] for start, end in parts_of(query)[:_PARTS]]
    return tuple(parts) if len(parts) > 1 else ()


def _batch(embeddings: Tensor | TokenVectors) -> Tensor:
    """Return embeddings as a loss takes them: those of tokens padded, [B, T, D]."""
    return embeddings.padded() if isinstance(embeddings, TokenVectors) else embeddings
