r"""A weight for each term of the vocabulary, most of them 0: SPLADE; and how sentence-transformers says so.

.. math:: w_v = \max_t \log(1 + \mathrm{relu}(h_t \cdot e_v + b_v))

over the tokens t of a text, special ones included, where h_t is what the masked-language head of the checkpoint makes
of a token's vector. Formal et al., "SPLADE v2: Sparse Lexical and Expansion Model for Information Retrieval", 2021,
https://arxiv.org/abs/2109.10086, eq. 6.

Notable decisions:

- A checkpoint without a masked-language head decodes by its own table of token vectors, with a bias that is learnt.
  That works untrained: the last vectors of MiniLM are close to the terms of a text and their kin. The bias starts where
  a hundredth of the terms of a short text is above it; at 0 most of the vocabulary would be.
- Queries may do without the model ("inference-free"): `query_weights="learnt"` gives a query its terms, each with a
  weight of its own, and no others. Special tokens weigh nothing.
- Folders are those of sentence-transformers' `SparseEncoder`, in the names that its versions 5 and 6 read. The decoder
  of a checkpoint without a masked-language head is written as a Dense module, which versions before 6 cannot read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from contrastive.encoder.heads.largest_logits import largest_logits
from contrastive.encoder.in_order import Pieces, vectors_in_order
from contrastive.encoder.language_head import decoder_of, tied_decoder
from contrastive.encoder.loading import read_tensors
from contrastive.encoder.module_files import kind_of, log_unused, read_if_there, write_json
from contrastive.encoder.trial import TEXTS
from contrastive.similarity import SimilarityName, check_similarity_name, of_tokens

QueryWeights = Literal["encoder", "learnt"]
"""Who weighs the terms of a query: the encoder, as it does those of a document, or one learnt number a term."""

_ACTIVATIONS = ("relu", "log1p_relu")
_PACKAGE = "sentence_transformers.sparse_encoder.models"
_KINDS = ("Transformer", "MLMTransformer", "Dense", "SpladePooling", "SparseStaticEmbedding")
_OF_DENSE = {
    "bias": True,
    "activation_function": "torch.nn.modules.linear.Identity",
    "module_input_name": "token_embeddings",
    "module_output_name": "token_embeddings",
}
_OF_POOLING = {"pooling_strategy", "activation_function", "embedding_dimension", "word_embedding_dimension"}
_ACTIVE = 0.01
"""Share of the vocabulary that is active in a short text where a bias is to be learnt."""


class LexicalHead(nn.Module):
    """A weight of at least 0 for each of V terms, [B, V], compared by dot product.

    Args:
        width: Width W of a token's vector.
        activation: "relu", or "log1p_relu" for one more logarithm, as OpenSearch's models have it.
        query_weights: Who weighs the terms of a query, see `QueryWeights`.
        windows: Whether a document longer than the maximum length is read whole: a term weighs what it does in the
            window in which it weighs most.
        similarity: How embeddings are compared, "dot" or, if need be, another.

    Raises:
        ValueError: If an option is unknown.
    """

    model_type: ClassVar[str] = "SparseEncoder"
    lexical: ClassVar[bool] = True
    query_parts: ClassVar[bool] = False
    normalize: ClassVar[bool] = False
    decoder: nn.Linear

    def __init__(
        self,
        width: int,
        *,
        activation: str = "relu",
        query_weights: QueryWeights = "encoder",
        windows: bool = False,
        similarity: SimilarityName = "dot",
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"expected activation to be one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
        if query_weights not in get_args(QueryWeights):
            raise ValueError(f"expected query_weights to be one of encoder, learnt, got {query_weights!r}")
        if of_tokens(check_similarity_name(similarity)):
            raise ValueError(f"expected dot, cosine or euclidean similarity of one vector a text, got {similarity}")
        self.width = width
        self.activation = activation
        self.query_weights: QueryWeights = query_weights
        self.windows = windows
        self.similarity: SimilarityName = check_similarity_name(similarity)
        self.weights: nn.Parameter | None = None

    @property
    def dimension(self) -> int:
        """Terms of the vocabulary, V."""
        return self.decoder.out_features

    @property
    def reads_queries(self) -> bool:
        """Whether queries go through the model."""
        return self.query_weights == "encoder"

    @property
    def sides_differ(self) -> bool:
        """Whether a query is embedded otherwise than a document."""
        return not self.reads_queries

    @property
    def similarity_in_folder(self) -> str:
        """Word for the similarity in a folder."""
        return self.similarity

    @property
    def transformer(self) -> str:
        """Type of the module before it: with the masked-language head, or without."""
        return f"{_PACKAGE}.MLMTransformer" if self.has_language_head else "sentence_transformers.models.Transformer"

    @property
    def settings(self) -> dict[str, Any]:
        """All its options, as plain values."""
        return {name: getattr(self, name) for name in ("activation", "query_weights", "windows", "similarity")}

    def attach(self, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take the decoder of the backbone's masked-language head, or its table of token vectors with a bias."""
        decoder = decoder_of(backbone)
        self.has_language_head = decoder is not None
        self.decoder = tied_decoder(backbone) if decoder is None else decoder
        if decoder is None:
            _settle(self.decoder, backbone, tokenizer)
        if self.query_weights == "learnt":
            special = set(tokenizer.all_special_ids)
            self._never = sorted(special - {tokenizer.unk_token_id})
            weights = torch.ones(self.dimension)
            weights[list(special)] = 0  # where relu has no gradient: so they stay
            self.weights = nn.Parameter(weights)

    @property
    def is_weighed(self) -> bool:
        """Whether there is nothing more to weigh, which is always."""
        return True

    def weigh(self, documents: Iterable[Tensor], number: int) -> None:
        """Weigh nothing: what terms of queries weigh is learnt."""

    def fill_up(self, inputs: Mapping[str, Tensor], is_query: Tensor) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Leave everything as it is."""
        return inputs

    def forward(self, hidden: Tensor, inputs: Mapping[str, Tensor], is_query: Tensor) -> Tensor:
        """Weigh the terms of a batch, [B, V], by token vectors [B, T, W]; see `Head`."""
        if self.weights is None or not is_query.any():
            return self.of_documents(hidden, inputs["attention_mask"])
        weighed = self.of_queries(inputs)
        if is_query.all():
            return weighed
        of_documents = self.of_documents(hidden, inputs["attention_mask"][~is_query])
        return weighed.index_put(((~is_query).nonzero().flatten(),), of_documents)

    def of_documents(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Weigh the terms of texts, [B, V], by their token vectors [B, T, W]."""
        logits = largest_logits(hidden, attention_mask, self.decoder.weight)
        if self.decoder.bias is not None:
            logits = logits + self.decoder.bias  # the same for all tokens, so after the maximum
        weighed = logits.relu().log1p()
        return weighed.log1p() if self.activation == "log1p_relu" else weighed

    def of_tokens(self, vectors: Tensor, terms: Tensor) -> Tensor:
        """Weigh P terms in each of N tokens, [P, N], by their vectors [N, W]; the largest of a row is the text's."""
        logits = self.decoder.weight[terms] @ vectors.T
        if self.decoder.bias is not None:
            logits = logits + self.decoder.bias[terms, None]
        weighed = logits.relu().log1p()
        return weighed.log1p() if self.activation == "log1p_relu" else weighed

    def of_queries(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Give the terms of queries their learnt weights, [B, V], without their token vectors."""
        assert self.weights is not None
        ids, is_real = inputs["input_ids"], inputs["attention_mask"] != 0
        present = torch.zeros(len(ids), self.dimension, device=ids.device)
        present.scatter_reduce_(1, ids, is_real.to(present.dtype), "amax")
        return present * self.weights.relu()

    def in_order(self, pieces: Pieces, rows: Tensor) -> Tensor:
        """Give each text its weights, [B, V], the largest of its windows; see `Head`."""
        if not self.windows:
            return vectors_in_order(pieces, rows, self.dimension)
        largest = torch.zeros(int(rows.max()) + 1 if len(rows) else 0, self.dimension, device=rows.device)
        for windows, embedded in pieces:
            owners = torch.tensor([text for text, _ in windows], device=rows.device)[:, None].expand_as(embedded)
            if torch.is_grad_enabled():
                largest = largest.scatter_reduce(0, owners, embedded, "amax")
            else:
                largest.scatter_reduce_(0, owners, embedded, "amax")
        return largest[rows]

    def save(self, folder: Path) -> list[str]:
        """Write the files of its modules, and return their types; see `Head`."""
        types = []
        if not self.has_language_head:
            types.append("sentence_transformers.base.modules.dense.Dense")
            sizes = {"in_features": self.decoder.in_features, "out_features": self.decoder.out_features}
            write_json(folder / "1_Dense/config.json", {**sizes, **_OF_DENSE})
            decoder = {f"linear.{name}": value.contiguous() for name, value in self.decoder.state_dict().items()}
            save_file(decoder, folder / "1_Dense/model.safetensors", metadata={"format": "pt"})
        types.append(f"{_PACKAGE}.SpladePooling")
        pooling = {"pooling_strategy": "max", "activation_function": self.activation}
        write_json(folder / f"{len(types)}_SpladePooling/config.json", pooling)
        if self.weights is not None:
            types.append(f"{_PACKAGE}.SparseStaticEmbedding")
            _write_query_weights(folder, folder / f"{len(types)}_SparseStaticEmbedding", self.weights)
        return types

    @classmethod
    def options(cls, folder: Path, modules: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Read its options from a folder with these modules; see `Head`.

        Raises:
            ValueError: If the folder asks for a module or an option that is not implemented here.
        """
        kinds = [kind_of(module["type"], folder, _KINDS) for module in modules]
        chain = [kind for kind in kinds if kind not in ("Dense", "SparseStaticEmbedding")]
        if chain not in (["Transformer", "SpladePooling"], ["MLMTransformer", "SpladePooling"]):
            raise ValueError(
                f"{folder} chains the modules {', '.join(kinds)}; expected a transformer, at most a Dense that "
                "decodes, and SpladePooling, of which queries may be routed past"
            )
        paths = {kind: folder / module["path"] for kind, module in zip(kinds, modules, strict=True)}
        if "Dense" in paths:
            _check_dense(paths["Dense"])
        config = read_if_there(paths["SpladePooling"] / "config.json")
        if (strategy := config.get("pooling_strategy", "max")) != "max":
            raise ValueError(f"{folder} pools by {strategy!r}, which is not supported; supported is max")
        log_unused(paths["SpladePooling"] / "config.json", config, _OF_POOLING)
        learnt = "SparseStaticEmbedding" in paths
        return {
            "activation": config.get("activation_function"),
            "query_weights": "learnt" if learnt else "encoder",
        }

    def load(self, folder: Path, modules: Sequence[Mapping[str, Any]]) -> None:
        """Read its weights from a folder with these modules; see `Head`.

        Raises:
            ValueError: If they are not those of this model.
        """
        for module in modules:
            path = folder / module["path"] / "model.safetensors"
            if module["type"].endswith(".Dense"):
                decoder = read_tensors(path)
                if not torch.equal(decoder["linear.weight"], self.decoder.weight):
                    raise ValueError(f"{path.parent} decodes by other vectors than the model has for its tokens")
                self.decoder.load_state_dict({"weight": self.decoder.weight, "bias": decoder["linear.bias"]})
            if module["type"].endswith(".SparseStaticEmbedding") and self.weights is not None:
                with torch.no_grad():
                    self.weights.copy_(read_tensors(path)["weight"])
                    self.weights[self._never] = 0  # sentence-transformers does not put these tokens into a query


@torch.no_grad()
def _settle(decoder: nn.Linear, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set a bias so that a hundredth of the terms of short texts are active."""
    given = {name: ids.to(backbone.device) for name, ids in tokenizer(TEXTS, padding=True, return_tensors="pt").items()}
    logits = largest_logits(backbone(**given)[0], given["attention_mask"], decoder.weight)
    decoder.bias.fill_(-torch.quantile(logits, 1 - _ACTIVE).item())


def _write_query_weights(folder: Path, own: Path, weights: Tensor) -> None:
    """Write the weights of query terms, and beside them the tokenizer, which the module is to have of its own."""
    write_json(own / "config.json", {"frozen": False})
    save_file({"weight": weights.detach().relu()}, own / "model.safetensors", metadata={"format": "pt"})
    for pattern in ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model"):
        for file in folder.glob(pattern):
            shutil.copy(file, own / file.name)


def _check_dense(folder: Path) -> None:
    """Refuse a Dense that does anything but decode the vectors of tokens."""
    config = read_if_there(folder / "config.json")
    sizes = {"in_features": config.get("in_features"), "out_features": config.get("out_features")}
    if {"use_residual": False, **config} != {"use_residual": False, **sizes, **_OF_DENSE}:
        raise ValueError(f"{folder} is a Dense layer; supported is only one that decodes the vectors of tokens")
