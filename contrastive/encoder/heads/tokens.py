"""A vector a token, for late interaction (ColBERT, Khattab and Zaharia 2020); and how sentence-transformers says so.

Shape letters: B texts, T tokens of the longest, W width of a token's vector, D width of an embedding's.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize as to_unit_length
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from contrastive.encoder.in_order import Pieces, tokens_in_order
from contrastive.encoder.loading import read_tensors
from contrastive.encoder.module_files import kind_of, read_if_there, write_json
from contrastive.similarity import SimilarityName, TokenVectors, full_precision

_KINDS = ("Transformer", "Dense", "MultiVectorMask", "Normalize")


class TokensHead(nn.Module):
    """A vector of length 1 for each token, [B, T, D]; zeros for padding and what is left out.

    Args:
        width: Width W of a token's vector.
        dimension: Width D of a linear projection of them, without bias, such as 128; None for none.
        punctuation: Whether the punctuation of documents has vectors.
        windows: Whether a document longer than the maximum length is read whole, in windows.
        similarity: How embeddings are compared: "max_sim".

    Raises:
        ValueError: If the dimension cannot be, or the similarity is another.
    """

    model_type: ClassVar[str] = "MultiVectorEncoder"
    transformer: ClassVar[str] = "sentence_transformers.models.Transformer"
    lexical: ClassVar[bool] = False
    reads_queries: ClassVar[bool] = True
    normalize: ClassVar[bool] = True
    similarity_in_folder: ClassVar[str] = "maxsim"

    def __init__(
        self,
        width: int,
        *,
        dimension: int | None = None,
        punctuation: bool = True,
        windows: bool = False,
        similarity: SimilarityName = "max_sim",
    ) -> None:
        super().__init__()
        if dimension is not None and not 1 <= dimension <= width:
            raise ValueError(f"expected dimension from 1 to {width} for this model, got {dimension}")
        if similarity != "max_sim":
            raise ValueError(f"expected similarity max_sim of token vectors, got {similarity!r}")
        self.width = width
        self.dimension = width if dimension is None else dimension
        self.punctuation = punctuation
        self.windows = windows
        self.similarity: SimilarityName = similarity
        self.projection: nn.Linear | None = None
        if dimension is not None:
            self.projection = nn.Linear(width, dimension, bias=False)
            nn.init.orthogonal_(self.projection.weight, generator=torch.Generator().manual_seed(0))
        self.register_buffer("left_out", torch.zeros(0, dtype=torch.long), persistent=False)

    @property
    def sides_differ(self) -> bool:
        """Whether something is left out of documents alone."""
        return not self.punctuation

    @property
    def settings(self) -> dict[str, Any]:
        """All its options, as plain values."""
        dimension = None if self.projection is None else self.dimension
        return {
            "dimension": dimension,
            "punctuation": self.punctuation,
            "windows": self.windows,
            "similarity": self.similarity,
        }

    def attach(self, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:  # noqa: ARG002
        """Look up the tokens that are left out of documents."""
        words = [] if self.punctuation else [*string.punctuation]
        ids = {tokenizer.convert_tokens_to_ids(word) for word in words} - {tokenizer.unk_token_id, None}
        self.left_out = torch.tensor(sorted(ids), dtype=torch.long)

    def forward(self, hidden: Tensor, inputs: Mapping[str, Tensor], is_query: Tensor) -> Tensor:
        """Embed a batch, [B, T, D], of token vectors [B, T, W]."""
        with torch.autocast(hidden.device.type, enabled=False):
            vectors = full_precision(hidden)
            if self.projection is not None:
                vectors = self.projection(vectors)
            vectors = to_unit_length(vectors, dim=-1)
        present = inputs["attention_mask"] != 0
        if len(self.left_out):
            left_out = torch.isin(inputs["input_ids"], self.left_out.to(hidden.device))
            present = present & (is_query[:, None] | ~left_out)
        return vectors.masked_fill(~present[..., None], 0.0)

    def in_order(self, pieces: Pieces, rows: Tensor) -> TokenVectors:
        """Give each text its vectors; see `Head`."""
        return tokens_in_order(pieces, rows, self.dimension)

    def save(self, folder: Path) -> list[str]:
        """Write the files of its modules, and return their types; see `Head`."""
        types = []
        if self.projection is not None:
            types.append("sentence_transformers.base.modules.dense.Dense")
            config = {
                "in_features": self.width,
                "out_features": self.dimension,
                "bias": False,
                "activation_function": "torch.nn.modules.linear.Identity",
                **_OF_TOKENS,
            }
            write_json(folder / "1_Dense/config.json", config)
            weights = {"linear.weight": self.projection.weight.detach().contiguous()}
            save_file(weights, folder / "1_Dense/model.safetensors", metadata={"format": "pt"})
        words = [] if self.punctuation else [*string.punctuation]
        mask = {"skiplist_words": words, "skiplist_tasks": ["document"], "keep_only_token_ids": None}
        number = len(types) + 1
        write_json(folder / f"{number}_MultiVectorMask/config.json", mask)
        write_json(folder / f"{number + 1}_Normalize/config.json", _OF_TOKENS)
        return [
            *types,
            "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
            "sentence_transformers.base.modules.normalize.Normalize",
        ]

    @classmethod
    def options(cls, folder: Path, modules: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """Read its options from a folder with these modules; see `Head`."""
        kinds = [kind_of(module["type"], folder, _KINDS) for module in modules]
        path = {kind: folder / module["path"] for kind, module in zip(kinds, modules, strict=True)}
        dense = read_if_there(path["Dense"] / "config.json") if "Dense" in path else {}
        mask = read_if_there(path["MultiVectorMask"] / "config.json") if "MultiVectorMask" in path else {}
        return {
            "dimension": dense.get("out_features"),
            "punctuation": not mask.get("skiplist_words"),
            "similarity": "max_sim",
        }

    def load(self, folder: Path, modules: Sequence[Mapping[str, Any]]) -> None:
        """Read its weights from a folder with these modules; see `Head`."""
        for module in modules:
            if self.projection is not None and module["type"].endswith(".Dense"):
                weights = read_tensors(folder / module["path"] / "model.safetensors")
                self.projection.load_state_dict({"weight": weights["linear.weight"]})


_OF_TOKENS = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
