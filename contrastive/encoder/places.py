"""Where in a text the vector of each of its tokens comes from: for showing which words of a posting answered a query.

Shape letters: N tokens of a text, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from contrastive.contracts import Side
from contrastive.encoder.encoder import Encoder
from contrastive.encoder.heads import TokensHead
from contrastive.encoder.micro_batches import default_tokens_per_batch, micro_batches, padded, token_counts
from contrastive.encoder.tokens import Row, padding_id
from contrastive.similarity import TokenVectors

VectorsOf = Callable[[Tensor, Mapping[str, Tensor], Tensor], Tensor]
"""As a head is called: vectors of tokens [B, T, W], inputs and which are queries -> vectors [B, T, D]."""


class Located(NamedTuple):
    """Vectors [N, D] of the tokens of a text, and the characters that each is of, from one to before another."""

    vectors: Tensor
    places: list[tuple[int, int]]


@torch.inference_mode()
def locate_tokens(tower: Encoder, texts: Sequence[str], side: Side, vectors_of: VectorsOf) -> list[Located]:
    """Return the vectors of the tokens of each text, as the encoder reads it: cut, or in windows.

    Tokens without a letter or digit of the text are left out: special ones, those of the prompt, punctuation; and those
    whose vector is zeros, which the head leaves out.

    Args:
        tower: In eval mode, with a fast tokenizer.
        texts: Without their prompts.
        side: Of the texts.
        vectors_of: What makes a vector a token: a head of token vectors, or something that sees what a head sees.

    Raises:
        ValueError: If the tokenizer is not a fast one, which alone knows the places.
    """
    if not tower.tokenizer.is_fast:
        raise ValueError("expected a fast tokenizer, which knows where its tokens come from, got a slow one")
    rows, offsets, owners = _windows(tower, texts, side)
    found: dict[int, Tensor] = {}
    for batch, inputs, is_query in _batches(tower, rows, side):
        found |= zip(batch, vectors_of(tower.backbone(**inputs)[0], inputs, is_query), strict=True)
    return _of_texts(tower, texts, side, [found[number] for number in range(len(rows))], offsets, owners)


@torch.inference_mode()
def locate_embedded(tower: Encoder, texts: Sequence[str], vectors: TokenVectors) -> list[Located] | None:
    """Return the same of documents from their embeddings, which takes little: the model is not run.

    Args:
        tower: In eval mode, with a fast tokenizer and a head of token vectors.
        texts: Without their prompts.
        vectors: Of their tokens, as the tower embeds them.

    Returns:
        None if they are not these, as where several have become one, or a codec keeps them (`compression`).
    """
    if vectors.codec is not None or not isinstance(tower.head, TokensHead):
        return None
    rows, offsets, owners = _windows(tower, texts, "document")
    has_vector: dict[int, Tensor] = {}
    for batch, inputs, is_query in _batches(tower, rows, "document"):
        anything = torch.ones(*inputs["input_ids"].shape, tower.head.width, device=tower.device)
        has_vector |= zip(batch, tower.head(anything, inputs, is_query).any(-1).cpu(), strict=True)
    counts = torch.tensor([int(has_vector[number].sum()) for number in range(len(rows))])
    if not torch.equal(counts.new_zeros(len(texts)).index_add_(0, torch.tensor(owners), counts), vectors.lengths.cpu()):
        return None
    found = []
    width, ends = vectors.vectors.shape[1], counts.cumsum(0).tolist()
    for number, (start, end) in enumerate(pairwise([0, *ends])):
        found.append(torch.zeros(len(has_vector[number]), width))
        found[-1][has_vector[number]] = vectors.vectors[start:end].float().cpu()
    return _of_texts(tower, texts, "document", found, offsets, owners)


def _batches(tower: Encoder, rows: Sequence[Row], side: Side) -> Iterator[tuple[list[int], dict[str, Tensor], Tensor]]:
    """Yield which windows a batch is of, the inputs of the backbone and which are queries."""
    budget = tower.tokens_per_batch or default_tokens_per_batch(tower.device)
    for batch in micro_batches(token_counts(rows), budget, padding=tower.padding):
        inputs = padded([rows[number] for number in batch], padding_id(tower.tokenizer), tower.further_inputs)
        is_query = torch.full((len(batch),), side == "query", device=tower.device)
        filled = tower.head.fill_up({name: given.to(tower.device) for name, given in inputs.items()}, is_query)
        yield list(batch), dict(filled), is_query


def _of_texts(
    tower: Encoder,
    texts: Sequence[str],
    side: Side,
    vectors: Sequence[Tensor],
    offsets: Sequence[Any],
    owners: Sequence[int],
) -> list[Located]:
    """Put the windows of each text together."""
    prompt = len(tower.prompt(side))
    windows: list[list[Located]] = [[] for _ in texts]
    for number, owner in enumerate(owners):
        windows[owner].append(_of_words(vectors[number], offsets[number] - prompt, texts[owner]))
    return [
        Located(torch.cat([each.vectors for each in parts]), [place for each in parts for place in each.places])
        for parts in windows
    ]


def _windows(tower: Encoder, texts: Sequence[str], side: Side) -> tuple[list[Row], list[Any], list[int]]:
    """Return the windows of all texts, as `tokens` makes them: ids, characters [N, 2], and which text each is of."""
    whole = side == "document" and tower.head.windows
    prompt, further = tower.prompt(side), tower.further_inputs
    encoded: Any = tower.tokenizer(
        [prompt + text.encode("utf-8", "replace").decode("utf-8") for text in texts],
        truncation=True,
        max_length=tower.length(side),
        return_attention_mask=False,
        return_token_type_ids="token_type_ids" in further,
        return_overflowing_tokens=whole,
        return_offsets_mapping=True,
        verbose=False,
    )
    ids = [values or [padding_id(tower.tokenizer)] for values in encoded["input_ids"]]
    others = zip(*(encoded[name] for name in further), strict=True) if further else ([] for _ in ids)
    rows: list[Row] = [
        np.array([one, *more] if more and len(more[0]) == len(one) else one, dtype=np.int32)
        for one, more in zip(ids, others, strict=True)
    ]
    offsets = [np.array(places or [(0, 0)]).reshape(-1, 2) for places in encoded["offset_mapping"]]
    return rows, offsets, list(encoded["overflow_to_sample_mapping"]) if whole else list(range(len(texts)))


def _of_words(vectors: Tensor, offsets: Any, text: str) -> Located:
    """Keep the tokens that stand for a letter or digit of the text, and have a vector."""
    vectors = vectors[: len(offsets)]
    has_vector = vectors.any(-1).tolist()
    places = [(max(0, int(start)), int(end)) for start, end in offsets]
    kept = [
        number
        for number, (start, end) in enumerate(places)
        if has_vector[number] and any(letter.isalnum() for letter in text[start : max(end, 0)])
    ]
    return Located(vectors[kept].float(), [places[number] for number in kept])
