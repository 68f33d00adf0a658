"""One vector a text: pooling, cut to the leading dimensions, length 1 if wanted; and how sentence-transformers says so.

Notable decisions:

- Reads both spellings of the pooling keys, and refuses by name the modes that are not implemented (max pooling, ...).
- Writes the *old* names. They load in 5.1, 5.7 and 6.2 with equal embeddings; what 6.2 writes does not load in 5.x.
- Embeddings cut to their leading dimensions are written as a Dense module that picks these. A folder cannot state the
  `truncate_dim` of sentence-transformers, which then would silently give the whole width. No other Dense is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize as to_unit_length
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from contrastive.encoder.heads.pooling import POOLINGS, Pooling, check_pooling
from contrastive.encoder.in_order import Pieces, tokens_in_order, vectors_in_order
from contrastive.encoder.loading import read_tensors
from contrastive.encoder.module_files import kind_of, log_unused, read_if_there, write_json
from contrastive.similarity import SimilarityName, TokenVectors, check_similarity_name, max_sim, of_tokens

_OLD_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_OUR_NAME: Mapping[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
# Further keys of each file that are read, or that say nothing about embeddings.
_OF_POOLING = {*_OLD_KEYS, "pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension"}
_OF_NORMALIZE = {"module_input_name", "module_output_name"}
# What newer versions say of a Dense module besides.
_OF_CUT = {
    "module_input_name": "sentence_embedding",
    "module_output_name": "sentence_embedding",
    "use_residual": False,
}


class PooledHead(nn.Module):
    """One vector a text, [B, D].

    Args:
        width: Width W of a token's vector.
        pooling: How token vectors become one vector: "mean", "cls" or "last".
        normalize: Whether embeddings get length 1.
        dimension: Leading dimensions that are kept of an embedding, before it gets length 1 (Matryoshka embeddings);
            None for all.
        similarity: How embeddings are compared, "cosine", "dot" or "euclidean": in training, mining, validation, search
            and wherever else a score is made of them.
        windows: Whether a document longer than the maximum length is read whole, as several vectors of which the
            closest counts (`max_sim`), and not cut.
        query_parts: Whether each part of a query, between commas, is a vector of its own beside that of the whole: each
            finds its own window, and a score is the mean over them. With windows only.

    Raises:
        ValueError: If pooling or similarity is unknown, or the dimension cannot be.
    """

    model_type: ClassVar[str] = "SentenceTransformer"
    transformer: ClassVar[str] = "sentence_transformers.models.Transformer"
    lexical: ClassVar[bool] = False
    reads_queries: ClassVar[bool] = True
    sides_differ: ClassVar[bool] = False
    is_weighed: ClassVar[bool] = True

    def __init__(
        self,
        width: int,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
        dimension: int | None = None,
        similarity: SimilarityName = "cosine",
        windows: bool = False,
        query_parts: bool = False,
    ) -> None:
        super().__init__()
        if dimension is not None and not 1 <= dimension <= width:
            raise ValueError(f"expected dimension from 1 to {width} for this model, got {dimension}")
        self.width = width
        self.pooling: Pooling = check_pooling(pooling)
        self.normalize = normalize
        self.dimension = width if dimension is None else dimension
        if windows and similarity not in ("cosine", max_sim.name):
            raise ValueError(f"expected similarity cosine of documents in windows, got {similarity!r}")
        if not windows and of_tokens(check_similarity_name(similarity)):
            raise ValueError(f"expected cosine, dot or euclidean similarity of one vector a text, got {similarity}")
        if query_parts and not windows:
            raise ValueError("expected windows=true with query_parts=true: each part finds a window of a document")
        self.windows = windows
        self.query_parts = query_parts
        self.similarity: SimilarityName = max_sim.name if windows else check_similarity_name(similarity)

    @property
    def similarity_in_folder(self) -> str:
        """The word for it in a folder: the closest of several windows is by cosine."""
        return "cosine" if self.windows else self.similarity

    @property
    def settings(self) -> dict[str, Any]:
        """All its options, as plain values."""
        names = ("pooling", "normalize", "dimension", "similarity", "windows")
        # Not named unless used: embeddings that were kept by settings without it are still right.
        return {name: getattr(self, name) for name in names} | ({"query_parts": True} if self.query_parts else {})

    def attach(self, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take nothing."""

    def weigh(self, documents: Iterable[Tensor], number: int) -> None:
        """Weigh nothing."""

    def fill_up(self, inputs: Mapping[str, Tensor], is_query: Tensor) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Leave everything as it is."""
        return inputs

    def forward(self, hidden: Tensor, inputs: Mapping[str, Tensor], is_query: Tensor) -> Tensor:  # noqa: ARG002
        """Embed a batch, [B, D], of token vectors [B, T, W]."""
        embeddings = POOLINGS[self.pooling](hidden, inputs["attention_mask"])[:, : self.dimension]
        return to_unit_length(embeddings, dim=-1) if self.normalize else embeddings

    def in_order(self, pieces: Pieces, rows: Tensor) -> Tensor | TokenVectors:
        """Give each text its embedding, [B, D], or those of its windows; see `Head`."""
        if self.windows:
            return tokens_in_order(((windows, vectors[:, None]) for windows, vectors in pieces), rows, self.dimension)
        return vectors_in_order(pieces, rows, self.dimension)

    def save(self, folder: Path) -> list[str]:
        """Write the files of its modules, and return their types; see `Head`."""
        modes = {key: _OUR_NAME.get(mode) == self.pooling for key, mode in _OLD_KEYS.items()}
        write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": self.width, **modes})
        if is_cut := self.dimension < self.width:
            write_json(folder / "2_Dense/config.json", _cut_config(self.dimension, self.width))
            cut = {"linear.weight": torch.eye(self.dimension, self.width)}
            save_file(cut, folder / "2_Dense/model.safetensors", metadata={"format": "pt"})
        kinds = ["Pooling"] + ["Dense"] * is_cut + ["Normalize"] * self.normalize
        return [f"sentence_transformers.models.{kind}" for kind in kinds]

    @classmethod
    def options(cls, folder: Path, modules: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Read its options from a folder with these modules.

        Raises:
            ValueError: If the folder asks for a module, a pooling mode or an option that is not implemented here.
        """
        kinds = [kind_of(module["type"], folder, _KINDS) for module in modules]
        is_cut = kinds[2:3] == ["Dense"]
        if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2 + is_cut :]) - {"Normalize"}:
            raise ValueError(
                f"{folder} chains the modules {', '.join(kinds)}; expected Transformer, Pooling and, if wanted, "
                "Normalize, with a Dense before it that only cuts"
            )
        for module in modules[2 + is_cut :]:
            _check_normalize(folder / module["path"])
        return {
            "pooling": _pooling_mode(folder / modules[1]["path"]),
            "normalize": "Normalize" in kinds,
            "dimension": _cut_dimension(folder / modules[2]["path"]) if is_cut else None,
        }

    def load(self, folder: Path, modules: Sequence[Mapping[str, Any]]) -> None:
        """Read nothing: it has no weights."""


def _pooling_mode(folder: Path) -> Pooling:
    if not (folder / "config.json").is_file():
        raise ValueError(f"expected the pooling settings in {folder / 'config.json'}, which is missing")
    config = read_if_there(folder / "config.json")
    # A single flag may also be given as a list of one; no flag at all has always meant the mean.
    modes = config.get("pooling_mode") or [mode for key, mode in _OLD_KEYS.items() if config.get(key)]
    modes = [str(mode) for mode in (modes if isinstance(modes, list) else [modes])] or ["mean"]
    if len(modes) > 1 or modes[0] not in _OUR_NAME:
        raise ValueError(
            f"{folder} pools by {' and '.join(modes)}, which is not supported; supported is one of "
            f"{', '.join(_OUR_NAME)}"
        )
    if not config.get("include_prompt", True):
        raise ValueError(f"{folder} leaves the prompt out of pooling (include_prompt: false), which is not supported")
    log_unused(folder / "config.json", config, _OF_POOLING)
    return _OUR_NAME[modes[0]]


def _cut_dimension(folder: Path) -> int:
    """Return how many leading dimensions a Dense module keeps; refuse one that does anything else."""
    config = read_if_there(folder / "config.json")
    weights = read_tensors(folder / "model.safetensors") if (folder / "model.safetensors").is_file() else {}
    matrix = weights.pop("linear.weight", torch.empty(0, 0))
    is_cut = torch.equal(matrix, torch.eye(*matrix.shape)) and not weights
    if not is_cut or {**_OF_CUT, **config} != {**_OF_CUT, **_cut_config(*matrix.shape)}:
        raise ValueError(f"{folder} is a Dense layer; supported is only one that does no more than keep dimensions")
    return len(matrix)


def _cut_config(dimension: int, width: int) -> dict[str, Any]:
    identity = "torch.nn.modules.linear.Identity"
    return {"in_features": width, "out_features": dimension, "bias": False, "activation_function": identity}


def _check_normalize(folder: Path) -> None:
    config = read_if_there(folder / "config.json")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise ValueError(f"{folder} normalizes {config[key]!r}; supported is sentence_embedding")
    log_unused(folder / "config.json", config, _OF_NORMALIZE)
