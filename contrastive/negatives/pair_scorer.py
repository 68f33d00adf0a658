"""Cross-encoders as `transformers` and `sentence-transformers` save them: sequence classifiers of text pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contrastive.encoder.embedding_cache import add_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_pair_scorer(
    name_or_path: str | Path, *, max_length: int = 512, batch_size: int = 32, device: str | None = None
) -> SequenceClassifier:
    """Load a cross-encoder, by the rules of `encoder.loading`: safetensors only, and no code that comes with it.

    Args:
        name_or_path: A folder, or a name on the hub.
        max_length: Tokens of query and document together; the longer of them is cut.
        batch_size: Pairs in a forward pass.
        device: Where to compute; None takes the GPU if there is one.

    Raises:
        FileNotFoundError: If there is no such folder or hub model, or it lacks a file.
        ValueError: If it is no sequence classifier, lacks weights of one, or has more than two labels.
    """
    from transformers import AutoModelForSequenceClassification

    from contrastive.encoder.loading import load_tokenizer, load_weights
    from contrastive.encoder.locating import local_folder

    folder = local_folder(name_or_path)
    model = load_weights(folder, AutoModelForSequenceClassification)
    model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer = load_tokenizer(folder)
    return SequenceClassifier(model, tokenizer, max_length=max_length, batch_size=batch_size)


class SequenceClassifier:
    """Scores pairs of texts with the probability that the document is relevant.

    That is the sigmoid of the only logit, or the softmax of the second of two. Both grow with the logit, so that the
    ranking is the model's, and 0.5 is where it changes its mind.

    Args:
        model: A sequence classifier with one or two labels; put in eval mode.
        tokenizer: Its tokenizer.
        max_length: Tokens of query and document together; at most what the tokenizer knows the model to take.
        batch_size: Pairs in a forward pass.

    Raises:
        ValueError: If the model has more than two labels.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_length: int = 512, batch_size: int = 32
    ) -> None:
        if model.config.num_labels not in (1, 2):
            raise ValueError(f"expected a cross-encoder with one label or two, got {model.config.num_labels}")
        self.model = model.train(False)
        self.tokenizer = tokenizer
        self.max_length = min(max_length, tokenizer.model_max_length)
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float32]:
        """Return a probability for each pair, [B]."""
        # Neighbours in length share a batch, and so little padding.
        order = np.argsort([len(query) + len(document) for query, document in zip(queries, documents, strict=True)])
        scores = np.empty(len(order), np.float32)
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            scores[places] = self._scores([queries[i] for i in places], [documents[i] for i in places]).cpu().numpy()
        return scores

    def describe(self) -> Mapping[str, object]:
        """Return what decides the scores."""
        digest = hashlib.blake2b(digest_size=20)
        add_weights(digest, self.model.state_dict())
        return {"weights": digest.hexdigest(), "max_length": self.max_length, "labels": self.model.config.num_labels}

    def _scores(self, queries: list[str], documents: list[str]) -> Tensor:
        encoded: Any = self.tokenizer(
            queries, documents, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt"
        )
        logits: Tensor = self.model(**encoded.to(self.model.device)).logits.float()
        return logits[:, 0].sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)[:, 1]
