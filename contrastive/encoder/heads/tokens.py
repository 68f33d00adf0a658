"""A vector a token, for late interaction (ColBERT, Khattab and Zaharia 2020); and how sentence-transformers says so.

Shape letters: B texts, T tokens of the longest, W width of a token's vector, D width of an embedding's.
"""

from __future__ import annotations

import logging
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize as to_unit_length
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from contrastive.encoder.backbone import check_max_length
from contrastive.encoder.colbert_format import left_out_options
from contrastive.encoder.heads.query_weights import WEIGHTS, QueryWeights, idf_weights, shares, word_weights
from contrastive.encoder.in_order import Pieces, tokens_in_order
from contrastive.encoder.loading import read_tensors
from contrastive.encoder.module_files import kind_of, log_unused, read_if_there, write_json
from contrastive.similarity import SimilarityName, TokenVectors, full_precision

_KINDS = ("Transformer", "Dense", "MultiVectorMask", "Normalize")
_MIDDLES: Sequence[Sequence[str]] = ([], ["Dense"], ["MultiVectorMask"], ["Dense", "MultiVectorMask"])
_IDENTITY = "torch.nn.modules.linear.Identity"
_log = logging.getLogger(__name__)


class TokensHead(nn.Module):
    """A vector of length 1 for each token, [B, T, D]; zeros for padding and what is left out.

    Args:
        width: Width W of a token's vector.
        dimension: Width D of a linear projection of them, without bias, such as 128; None for none.
        punctuation: Whether the punctuation of documents has vectors.
        left_out: Other tokens of documents that have none, such as "[CLS]" and "[SEP]".
        query_expansion: Tokens that a shorter query is filled up to with [MASK], each of which looks for a token like
            any other; None or 0 for no filling, which is needed with `query_weights`. Queries are not cut by it: that
            is the encoder's `query_length`.
        attend_to_expansion: Whether the tokens of a query see those that fill it up.
        query_weights: What the tokens of a query weigh: None all the same; "words" leaves out its punctuation and
            special tokens; "idf" does so too, and gives the others the square root of their idf in a corpus, see
            `weigh`. Then the similarity is "max_dot", of which sentence-transformers knows only the unweighted form.
        windows: Whether a document longer than the maximum length is read whole, in windows.
        similarity: How embeddings are compared: "max_sim", or "max_dot" where tokens have weights.

    Raises:
        ValueError: If the dimension cannot be, the similarity is another, or there are no such weights.
    """

    model_type: ClassVar[str] = "MultiVectorEncoder"
    transformer: ClassVar[str] = "sentence_transformers.models.Transformer"
    lexical: ClassVar[bool] = False
    query_parts: ClassVar[bool] = False
    reads_queries: ClassVar[bool] = True
    normalize: ClassVar[bool] = True
    similarity_in_folder: ClassVar[str] = "maxsim"

    def __init__(
        self,
        width: int,
        *,
        dimension: int | None = None,
        punctuation: bool = True,
        left_out: Sequence[str] = (),
        query_expansion: int | None = None,
        attend_to_expansion: bool = False,
        query_weights: QueryWeights | None = None,
        windows: bool = False,
        similarity: SimilarityName | None = None,
    ) -> None:
        super().__init__()
        if dimension is not None and not 1 <= dimension <= width:
            raise ValueError(f"expected dimension from 1 to {width} for this model, got {dimension}")
        own: SimilarityName = "max_sim" if query_weights is None else "max_dot"
        if query_weights not in (None, *get_args(QueryWeights)):
            raise ValueError(f"expected query_weights null, words or idf, got {query_weights!r}")
        if query_expansion and query_weights is not None:
            raise ValueError(
                f"expected query_expansion 0 with query_weights {query_weights}, in which [MASK] weighs nothing, got "
                f"{query_expansion}"
            )
        if similarity not in (None, own):
            raise ValueError(
                f"expected similarity {own} of token vectors with query_weights {query_weights}, got {similarity!r}"
            )
        self.width = width
        self.dimension = width if dimension is None else dimension
        self.punctuation = punctuation
        self.left_out = [*left_out]
        self.query_expansion = query_expansion or None
        self.attend_to_expansion = attend_to_expansion
        self.windows = windows
        self.query_weights: QueryWeights | None = query_weights
        self.similarity: SimilarityName = own
        self.projection: nn.Linear | None = None
        if dimension is not None:
            self.projection = nn.Linear(width, dimension, bias=False)
            nn.init.orthogonal_(self.projection.weight, generator=torch.Generator().manual_seed(0))
        self.register_buffer("ids_left_out", torch.zeros(0, dtype=torch.long), persistent=False)
        self.register_buffer("weights", torch.zeros(0))

    @property
    def sides_differ(self) -> bool:
        """Whether something is left out of documents alone, or queries are filled up or weighed."""
        return bool(self._words_left_out) or self.query_expansion is not None or self.query_weights is not None

    @property
    def settings(self) -> dict[str, Any]:
        """All its options, as plain values."""
        dimension = None if self.projection is None else self.dimension
        return {
            "dimension": dimension,
            "punctuation": self.punctuation,
            "left_out": self.left_out,
            "query_expansion": self.query_expansion,
            "attend_to_expansion": self.attend_to_expansion,
            "query_weights": self.query_weights,
            "windows": self.windows,
            "similarity": self.similarity,
        }

    def attach(self, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Look up the tokens that are left out of documents, and the one that fills queries up.

        Raises:
            ValueError: If there is none that fills up, or the model has no positions for it.
        """
        ids = {word: tokenizer.convert_tokens_to_ids(word) for word in self._words_left_out}
        unknown = {tokenizer.unk_token_id, None}
        if wrong := [word for word in self.left_out if ids[word] in unknown]:
            _log.warning("documents are to be left without %s, which the vocabulary does not have", ", ".join(wrong))
        self.ids_left_out = torch.tensor(sorted(set(ids.values()) - unknown), dtype=torch.long)
        if self.query_weights is not None:
            self.weights = word_weights(tokenizer)
        if self.query_expansion is None:
            return
        check_max_length(self.query_expansion, backbone, tokenizer, "query_expansion")
        if tokenizer.mask_token_id is None:
            raise ValueError("expected a tokenizer with a mask token to fill queries up with, got one without")
        self.mask_id = int(tokenizer.mask_token_id)

    def weigh(self, documents: Iterable[Tensor], number: int) -> None:
        """Set the weights of a query's tokens by how rare these are, once; without `query_weights="idf"` nothing.

        Args:
            documents: Token ids of each document of a corpus.
            number: How many documents there are.
        """
        if not self.is_weighed:
            self.weights = self.weights * idf_weights(documents, number, len(self.weights)).to(self.weights)

    @property
    def is_weighed(self) -> bool:
        """Whether there is nothing, or nothing more, to `weigh`."""
        return self.query_weights != "idf" or bool(((self.weights != 0) & (self.weights != 1)).any())

    def fill_up(self, inputs: Mapping[str, Tensor], is_query: Tensor) -> Mapping[str, Tensor]:
        """Fill short queries up with [MASK]; see `Head`."""
        if self.query_expansion is None or not is_query.any():
            return inputs
        missing = max(0, self.query_expansion - inputs["input_ids"].shape[1])
        filled = {name: pad(given, (0, missing)) for name, given in inputs.items()}
        added = self._may_be_filled(filled["attention_mask"], is_query) & (filled["attention_mask"] == 0)
        filled["input_ids"] = filled["input_ids"].masked_fill(added, self.mask_id)
        if self.attend_to_expansion:
            filled["attention_mask"] = filled["attention_mask"].masked_fill(added, 1)
        return filled

    def forward(self, hidden: Tensor, inputs: Mapping[str, Tensor], is_query: Tensor) -> Tensor:
        """Embed a batch, [B, T, D], of token vectors [B, T, W]."""
        with torch.autocast(hidden.device.type, enabled=False):
            vectors = full_precision(hidden)
            if self.projection is not None:
                vectors = self.projection(vectors)
            vectors = to_unit_length(vectors, dim=-1)
        present = (inputs["attention_mask"] != 0) | self._may_be_filled(inputs["attention_mask"], is_query)
        if len(self.ids_left_out):
            left_out = torch.isin(inputs["input_ids"], self.ids_left_out.to(hidden.device))
            present = present & (is_query[:, None] | ~left_out)
        if len(self.weights) and is_query.any():
            weights = shares(self.weights[inputs["input_ids"]], present)
            vectors = torch.where(is_query[:, None, None], vectors * weights[..., None], vectors)
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
                "activation_function": _IDENTITY,
                **_OF_TOKENS,
            }
            write_json(folder / "1_Dense/config.json", config)
            weights = {"linear.weight": self.projection.weight.detach().contiguous()}
            save_file(weights, folder / "1_Dense/model.safetensors", metadata={"format": "pt"})
        mask = {"skiplist_words": self._words_left_out, "skiplist_tasks": ["document"], "keep_only_token_ids": None}
        number = len(types) + 1
        write_json(folder / f"{number}_MultiVectorMask/config.json", mask)
        write_json(folder / f"{number + 1}_Normalize/config.json", _OF_TOKENS)
        (folder / WEIGHTS).unlink(missing_ok=True)  # of another model that was saved here
        if self.query_weights is not None:
            values: dict[str, Tensor] = {str(self.query_weights): self.weights.detach().cpu().contiguous()}
            save_file(values, folder / WEIGHTS, metadata={"format": "pt"})
        return [
            *types,
            "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
            "sentence_transformers.base.modules.normalize.Normalize",
        ]

    @property
    def _words_left_out(self) -> list[str]:
        return [*([] if self.punctuation else string.punctuation), *self.left_out]

    def _may_be_filled(self, attention_mask: Tensor, is_query: Tensor) -> Tensor:
        """Return which places of a batch, [B, T], count whether the query has a token there or not."""
        places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        return is_query[:, None] & (places < (self.query_expansion or 0))

    @classmethod
    def options(cls, folder: Path, modules: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """Read its options from a folder with these modules.

        Raises:
            ValueError: If the folder asks for a module or an option that is not implemented here.
        """
        kinds = [kind_of(module["type"], folder, _KINDS) for module in modules]
        if kinds not in [[*_KINDS[:1], *middle, "Normalize"] for middle in _MIDDLES]:
            raise ValueError(
                f"{folder} chains the modules {', '.join(kinds)}; expected Transformer, one Dense if wanted, one "
                "MultiVectorMask if wanted, and Normalize"
            )
        path = {kind: folder / module["path"] for kind, module in zip(kinds, modules, strict=True)}
        _check_names(path["Normalize"], read_if_there(path["Normalize"] / "config.json"), "sentence_embedding")
        mask = _read_mask(path["MultiVectorMask"]) if "MultiVectorMask" in path else []
        return {
            "dimension": projected_to(path["Dense"]) if "Dense" in path else None,
            **left_out_options(mask),
            "query_weights": next(iter(read_tensors(folder / WEIGHTS)), None) if (folder / WEIGHTS).is_file() else None,
            "similarity": None,
        }

    def load(self, folder: Path, modules: Sequence[Mapping[str, Any]]) -> None:
        """Read its weights from a folder with these modules; see `Head`."""
        if self.query_weights is not None and (folder / WEIGHTS).is_file():
            self.weights = read_tensors(folder / WEIGHTS).get(self.query_weights, self.weights)
        for module in modules:
            if self.projection is not None and module["type"].endswith(".Dense"):
                weights = read_tensors(folder / module["path"] / "model.safetensors")
                self.projection.load_state_dict({"weight": weights["linear.weight"]})


def projected_to(folder: Path, unsaid: str = "sentence_embedding") -> int:
    """Return the width that a Dense module makes of token vectors; refuse one that is more than a matrix.

    Args:
        folder: Of the module.
        unsaid: What it reads and writes if it does not say.
    """
    config = read_if_there(folder / "config.json")
    _check_names(folder, config, unsaid)
    expected = {"bias": False, "activation_function": _IDENTITY, "use_residual": False}
    for key, value in expected.items():
        if config.get(key, False if key == "use_residual" else None) != value:
            raise ValueError(f"expected {key} {value} in {folder / 'config.json'}, got {config.get(key)!r}")
    return int(config["out_features"])


def _check_names(folder: Path, config: Mapping[str, Any], unsaid: str) -> None:
    read = config.get("module_input_name") or unsaid
    if {read, config.get("module_output_name") or read} != {"token_embeddings"}:
        raise ValueError(f"expected {folder} to read and write token_embeddings, got {config or unsaid}")


def _read_mask(folder: Path) -> list[str]:
    """Return the words that a MultiVectorMask leaves out of documents."""
    config = read_if_there(folder / "config.json")
    words, sides = config.get("skiplist_words") or [], config.get("skiplist_tasks") or ["document"]
    if words and sides not in (["document"], "document"):
        raise ValueError(f"{folder} leaves tokens out of {sides}; supported is document")
    if config.get("keep_only_token_ids"):
        raise ValueError(f"{folder} keeps some tokens alone (keep_only_token_ids), which is not supported")
    log_unused(folder / "config.json", config, {"skiplist_words", "skiplist_tasks", "keep_only_token_ids"})
    return [*words]


_OF_TOKENS = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
