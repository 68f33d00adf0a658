"""What the tokens of a query weigh: rare ones more than common ones, punctuation and special tokens nothing.

Late interaction asks every token of a query alike, so that a comma and [SEP], which find something close in any
document, count as much as the name of a skill. Leaving them out, and weighing the others by the square root of their
idf, was worth more than fine-tuning on real postings: experiments/LOG.md, 2026-11-29.

Shape letters: B texts, T tokens of the longest, V tokens of the vocabulary.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

QueryWeights = Literal["words", "idf"]

WEIGHTS = "query_weights.safetensors"
"""File of a model's folder that holds them."""


def word_weights(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return 1 for every token of a vocabulary but punctuation and special tokens, which get 0, [V]."""
    weights = torch.ones(len(tokenizer))
    marks = [tokenizer.convert_tokens_to_ids(mark) for mark in string.punctuation]
    known = [number for number in marks if number is not None and number != tokenizer.unk_token_id]
    weights[[*known, *(number for number in tokenizer.all_special_ids if number != tokenizer.unk_token_id)]] = 0
    return weights


def idf_weights(documents: Iterable[Tensor], number: int, size: int) -> Tensor:
    """Return the square root of the inverse document frequency, that of BM25, of each token, [V].

    Args:
        documents: Token ids of each document.
        number: How many documents there are.
        size: Number V of tokens.

    Example:
        >>> idf_weights([torch.tensor([0, 1]), torch.tensor([1])], 2, 3).square()
        tensor([0.6931, 0.1823, 1.7918])
    """
    found = torch.zeros(size)
    for ids in documents:
        found[torch.unique(ids)] += 1
    return ((number - found + 0.5) / (found + 0.5) + 1).log().sqrt()


def shares(weights: Tensor, present: Tensor) -> Tensor:
    """Return what each token of a text counts for, [B, T], summing up to 1; all the same where none weighs anything.

    Args:
        weights: Of each token, [B, T].
        present: Which tokens there are, bool [B, T].
    """
    weights = weights * present
    weights = torch.where((weights > 0).any(1, keepdim=True), weights, present.to(weights.dtype))
    return weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
