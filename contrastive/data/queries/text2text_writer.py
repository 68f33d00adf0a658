"""Queries written by a text-to-text model on this machine, such as a T5 trained to write queries (doc2query).

Notable decisions:

- Loaded by the rules of `contrastive.encoder.loading`, as encoders are: safetensors only and never remote code.
- Sampling gives the same queries for a document whatever else is in its batch: each token is picked by a random number
  that comes from the seed and the document's text, not from a generator that the whole batch shares.
- The encoder sees a document once, however many queries it gets.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_outputs import BaseModelOutput

from contrastive.data.queries.query_writers import check_at_least_one, check_prompt, clean_queries
from contrastive.data.texts import check_texts
from contrastive.encoder.loading import load_tokenizer, load_weights, quiet, read_config
from contrastive.encoder.locating import local_folder


class Text2TextWriter:
    """Samples the queries of each document from an encoder-decoder model.

    The model is loaded when it is first needed. Its name is part of the settings, its weights are not: after training
    a folder anew, use a new cache file.

    Args:
        name_or_path: A local folder, or a name on the hub ("org/name"), which is downloaded.
        queries_per_document: Samples of each document; equal ones are dropped.
        prompt: Text the model sees, ending in `{document}`; models that follow instructions (FLAN-T5) want one,
            those trained to write queries do not.
        input_tokens: Tokens the prompt with the document is cut to.
        query_tokens: Most tokens of a query.
        temperature: Sampling temperature; higher is more varied.
        top_p: Sample from the likeliest tokens that together have this probability.
        top_k: Sample from so many of the likeliest tokens; `None` for any number.
        seed: Seed of the samples.
        batch_size: Documents in a batch.
        device: Where to run, such as "cuda:1"; `None` takes the GPU if there is one.

    Raises:
        ValueError: If an argument cannot be.

    Example:
        >>> writer = Text2TextWriter("google/flan-t5-small", prompt="Write a search query for this text: {document}")
        >>> queries = writer(["Night nurse, intensive care, Leeds"])  # doctest: +SKIP
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        queries_per_document: int = 3,
        prompt: str = "{document}",
        input_tokens: int = 384,
        query_tokens: int = 64,
        temperature: float = 1.0,
        top_p: float = 0.95,
        top_k: int | None = None,
        seed: int = 0,
        batch_size: int = 16,
        device: str | None = None,
    ) -> None:
        check_prompt(prompt, {"document"})
        if not prompt.endswith("{document}"):
            raise ValueError(f"expected a prompt that ends in {{document}}, for long texts lose their end: {prompt!r}")
        check_at_least_one(
            queries_per_document=queries_per_document,
            input_tokens=input_tokens,
            query_tokens=query_tokens,
            top_k=top_k,
            batch_size=batch_size,
        )
        if temperature <= 0 or not 0 < top_p <= 1:
            raise ValueError(f"expected temperature above 0 and top_p in (0, 1], got {temperature} and {top_p}")
        self.name_or_path = str(name_or_path)
        self.queries_per_document = queries_per_document
        self.prompt = prompt
        self.input_tokens = input_tokens
        self.query_tokens = query_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.seed = seed
        self.batch_size = batch_size
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the queries of a document, as plain values."""
        return {
            "model": self.name_or_path,
            "queries_per_document": self.queries_per_document,
            "prompt": self.prompt,
            "input_tokens": self.input_tokens,
            "query_tokens": self.query_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": self.seed,
        }

    def __call__(self, documents: Sequence[str]) -> list[list[str]]:
        """Write the queries of each document, in order.

        Raises:
            FileNotFoundError: If there is no such model, or it has no safetensors weights.
            ValueError: If the model is not an encoder-decoder, or lacks weights.
        """
        return [queries for _, queries in sorted(self.stream(documents))]

    def stream(self, documents: Sequence[str]) -> Generator[tuple[int, list[str]], None, None]:
        """Yield the index of each document and its queries, a batch at a time and the longest documents first.

        Raises:
            FileNotFoundError: As a call does.
            ValueError: As a call does.
        """
        check_texts(documents)
        order = sorted(range(len(documents)), key=lambda i: len(documents[i]), reverse=True)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            samples = self._sample([documents[i] for i in batch])
            for row, i in enumerate(batch):
                own = samples[row * self.queries_per_document : (row + 1) * self.queries_per_document]
                yield i, clean_queries(own, self.queries_per_document)

    @torch.inference_mode()
    def _sample(self, documents: list[str]) -> list[str]:
        """Sample texts, those of the first document first."""
        model, tokenizer = self._loaded
        texts = [self.prompt.replace("{document}", document) for document in documents]
        inputs = tokenizer(texts, truncation=True, max_length=self.input_tokens, padding=True, return_tensors="pt")
        inputs = inputs.to(self.device)
        hidden = model.get_encoder()(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)[0]
        repeats = self.queries_per_document
        uniforms = torch.cat([self._uniforms(document) for document in documents]).to(self.device)
        with quiet():
            tokens = model.generate(
                encoder_outputs=BaseModelOutput(hidden.repeat_interleave(repeats, dim=0)),
                attention_mask=inputs.attention_mask.repeat_interleave(repeats, dim=0),
                # To transformers this is greedy search: the last processor leaves one token to choose.
                do_sample=False,
                num_beams=1,
                max_new_tokens=self.query_tokens,
                logits_processor=self._processors(uniforms),
            )
        return [str(text) for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def _uniforms(self, document: str) -> Tensor:
        """Draw a number in [0, 1) for each sample and token of a document, out of the seed and its text."""
        digest = hashlib.sha256(f"{self.seed} {document}".encode("utf-8", "replace")).digest()
        # On the CPU whatever the device: the same numbers everywhere.
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
        return torch.rand(self.queries_per_document, self.query_tokens, generator=generator)

    def _processors(self, uniforms: Tensor) -> LogitsProcessorList:
        processors = LogitsProcessorList([TemperatureLogitsWarper(self.temperature)])
        if self.top_k is not None:
            processors.append(TopKLogitsWarper(self.top_k))
        processors.append(TopPLogitsWarper(self.top_p))
        processors.append(_PickByNumber(uniforms))
        return processors

    @cached_property
    def _loaded(self) -> tuple[Any, PreTrainedTokenizerBase]:
        folder = local_folder(self.name_or_path)
        return _load_model(folder).to(self.device), _load_tokenizer(folder)


class _PickByNumber(LogitsProcessor):
    """Leaves each row the one token that its number of this step picks: inverse transform sampling.

    Args:
        uniforms: Numbers in [0, 1), [rows, steps].
    """

    def __init__(self, uniforms: Tensor) -> None:
        # Kept off 1, lest rounding pushes a threshold to the very end, where there is no token.
        self._uniforms = uniforms * (1 - 1e-6)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Map scores [rows, vocabulary] to 0 for the picked tokens and -inf for the others."""
        step = input_ids.shape[1] - 1  # a decoder starts from one token
        cumulative = scores.float().softmax(dim=-1).cumsum(dim=-1)
        thresholds = self._uniforms[:, step : step + 1] * cumulative[:, -1:]
        # From the right: a token of probability 0 ends where the one before it does, and is never first.
        picked = torch.searchsorted(cumulative, thresholds, right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, picked, 0.0)


def _load_model(folder: Path) -> Any:
    with quiet():
        config = read_config(folder, "an encoder-decoder model")
    if not config.is_encoder_decoder:
        raise ValueError(
            f"{folder} is not an encoder-decoder model such as T5; for others run a server and use EndpointWriter"
        )
    return load_weights(folder, AutoModelForSeq2SeqLM, config=config)


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not (folder / "tokenizer.json").is_file() and importlib.util.find_spec("sentencepiece") is None:
        raise ImportError(f"{folder} has no tokenizer.json; its spiece.model needs: pip install sentencepiece")
    return load_tokenizer(folder)
