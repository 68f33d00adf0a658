"""Who takes part in `benchmarks.losses`: the floor, plain autograd, ours, and the losses of other libraries.

Shape letters: Q queries, K = Q (1 + negatives) keys, D width.

Notable decisions:

- Every library gets its best settings: unit vectors with a dot product, so that nobody normalises again; columns apart
  where it wants columns; keys as references where it wants labels, with index pairs made beforehand where they fit (49
  ms against 54 for SupCon at 1,024 on one thread); chunks of 1,024 rows for the cached loss of sentence-transformers
  (as fast as any of 32 to 4,096 on two cores, and about twice as fast as its default of 32).
- The floor is three matrix products of the shapes a loss and its gradient need, either whole or in blocks of 1,024
  rows; whichever is faster at that size counts.
- open_clip needs torchvision to be imported as a whole but its `loss.py` needs torch alone: that file is loaded by
  itself. Where open_clip is not installed, its arithmetic stands in, named "as open_clip".
- The GIST of sentence-transformers compares queries with documents only here, which is what ours does, and is given the
  guide's embeddings; its default of anchors and positives among each other is three times the work. It has cosine
  only, whose gradient differs from that of the dot product even at unit vectors; so has ours beside it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices
from sentence_transformers.losses import (
    CachedMultipleNegativesRankingLoss,
    GISTEmbedLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import dot_score
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from benchmarks.loss_cases import Case, Inputs
from contrastive.losses import gist, info_nce
from contrastive.masks import known_positive

TEMPERATURE = 0.05
BLOCK_ROWS = 1024
MANY_PAIRS = 2**22
"""Beyond so many scores index pairs take more memory than they save time."""

LARGE = 2**27
"""Beyond so many scores only what has something to say there takes part."""

Run = Callable[[], object]
"""Forward and backward, once."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something to be timed.

    Attributes:
        make: Sets it up for inputs, untimed, and returns the run.
        function: Which function it computes; those of the same function must have the same gradient.
        fits: Which cases it takes part in.
        tolerance: Largest relative difference of its float32 gradient from the reference.
    """

    make: Callable[[Inputs], Run]
    function: str = "one-sided"
    fits: Callable[[Case], bool] = lambda _: True
    tolerance: float = 1e-5


def whole_products(inputs: Inputs) -> Run:
    """Return three matrix products over all scores at once."""
    queries, keys = inputs.queries.detach(), inputs.keys.detach()

    def run() -> tuple[Tensor, Tensor]:
        scores = queries @ keys.T
        return scores @ keys, scores.T @ queries

    return run


def block_products(inputs: Inputs) -> Run:
    """Return three matrix products, a block of rows at a time."""
    queries, keys = inputs.queries.detach(), inputs.keys.detach()

    def run() -> tuple[Tensor, Tensor]:
        by_query, by_key = torch.empty_like(queries), torch.zeros_like(keys)
        block = queries.new_empty(min(BLOCK_ROWS, len(queries)), len(keys))
        for rows, out in zip(queries.split(BLOCK_ROWS), by_query.split(BLOCK_ROWS), strict=True):
            scores = torch.mm(rows, keys.T, out=block[: len(rows)])
            torch.mm(scores, keys, out=out)
            by_key.addmm_(scores.T, rows)
        return by_query, by_key

    return run


def plain(inputs: Inputs) -> Run:
    """Return the loss as one writes it."""
    return lambda: F.cross_entropy(inputs.queries @ inputs.keys.T / TEMPERATURE, inputs.labels).backward()


def ours(**settings: Any) -> Callable[[Inputs], Run]:
    """Return `info_nce` with settings."""

    def make(inputs: Inputs) -> Run:
        call: dict[str, Any] = {"temperature": TEMPERATURE, "similarity": "dot", **settings}
        return lambda: info_nce(inputs.queries, inputs.keys, **call).backward()

    return make


def ours_masked(**settings: Any) -> Callable[[Inputs], Run]:
    """Return `info_nce` that leaves out known positives; the mask is made anew, as in a training step."""

    def make(inputs: Inputs) -> Run:
        def run() -> None:
            mask = known_positive(inputs.key_ids[: inputs.case.queries, None], inputs.key_ids)
            ours(exclude=mask, **settings)(inputs)()

        return run

    return make


def ours_guided(inputs: Inputs) -> Run:
    """Return `gist`, queries against keys only."""
    call: dict[str, Any] = {"contrast_queries": False, "contrast_positives": False, "temperature": TEMPERATURE}
    guides = {"guide_queries": inputs.query_guides, "guide_keys": inputs.key_guides}
    return lambda: gist(inputs.queries, inputs.keys, similarity="cosine", **guides, **call).backward()


def ranking(inputs: Inputs) -> Run:
    """Return MultipleNegativesRankingLoss of sentence-transformers, given embeddings."""
    loss = MultipleNegativesRankingLoss(None, scale=1 / TEMPERATURE, similarity_fct=dot_score)
    return lambda: loss.compute_loss_from_embeddings([inputs.queries, *inputs.columns], None).backward()


def cached_ranking(inputs: Inputs) -> Run:
    """Return the loss stage of CachedMultipleNegativesRankingLoss: it goes backward chunk by chunk."""
    nobody = nn.Sequential(nn.Identity())  # its constructor looks at the first module
    loss = CachedMultipleNegativesRankingLoss(
        nobody, scale=1 / TEMPERATURE, similarity_fct=dot_score, mini_batch_size=BLOCK_ROWS
    )
    columns = [[column] for column in (inputs.queries, *inputs.columns)]
    return lambda: loss.calculate_loss(columns, with_backward=True)


def guided_ranking(inputs: Inputs) -> Run:
    """Return GISTEmbedLoss of sentence-transformers, given embeddings of model and guide."""
    loss = GISTEmbedLoss(
        GivenEmbeddings("model"),
        GivenEmbeddings("guide"),
        temperature=TEMPERATURE,
        contrast_anchors=False,
        contrast_positives=False,
    )
    embeddings = [inputs.queries, *inputs.columns]
    guides = [inputs.query_guides, *inputs.key_guides.split(inputs.case.queries)]
    features = [{"model": model, "guide": guide} for model, guide in zip(embeddings, guides, strict=True)]
    return lambda: loss(features, None).backward()


class GivenEmbeddings(nn.Module):
    """Stands in for an encoder: its embeddings are in the features already."""

    def __init__(self, field: str) -> None:
        super().__init__()
        self.field = field
        vocabulary = WordLevel({"[UNK]": 0}, unk_token="[UNK]")
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary))
        self.max_seq_length = 1

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the embeddings."""
        return {"sentence_embedding": features[self.field]}


def by_labels(kind: type[SupConLoss] | type[NTXentLoss]) -> Callable[[Inputs], Run]:
    """Return a loss of pytorch-metric-learning, queries against keys as its references, positives by label."""

    def make(inputs: Inputs) -> Run:
        loss = kind(temperature=TEMPERATURE, distance=DotProductSimilarity(normalize_embeddings=False))
        if kind is SupConLoss and inputs.case.scores <= MANY_PAIRS:
            pairs = get_all_pairs_indices(inputs.labels, inputs.key_labels)
            return lambda: loss(inputs.queries, indices_tuple=pairs, ref_emb=inputs.keys).backward()
        return lambda: loss(inputs.queries, inputs.labels, ref_emb=inputs.keys, ref_labels=inputs.key_labels).backward()

    return make


def clip(inputs: Inputs) -> Run:
    """Return ClipLoss of open_clip, which is symmetric."""
    loss = open_clip_loss()
    return lambda: loss(inputs.queries, inputs.keys, 1 / TEMPERATURE).backward()


def open_clip_loss() -> Callable[[Tensor, Tensor, float], Tensor]:
    """Return ClipLoss, from its file alone, or its arithmetic where open_clip is not installed."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        return as_open_clip
    path = Path(package.submodule_search_locations[0]) / "loss.py"
    spec = importlib.util.spec_from_file_location("open_clip_loss", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ClipLoss(cache_labels=True)


def as_open_clip(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Compute what ClipLoss does in one process: two products, two cross-entropies."""
    labels = torch.arange(len(left), device=left.device)
    forth, back = scale * left @ right.T, scale * right @ left.T
    return (F.cross_entropy(forth, labels) + F.cross_entropy(back, labels)) / 2


def inf_cl(inputs: Inputs) -> Run:
    """Return the one-process loss of Inf-CL; it computes in float32 and TF32 whatever it is given."""
    from inf_cl import cal_flash_loss

    call = {"labels": inputs.labels, "scale": 1 / TEMPERATURE, "head_dim": 128}
    return lambda: cal_flash_loss(inputs.queries, inputs.keys, **call).mean().backward()


def small(case: Case) -> bool:
    """Say whether a case is small enough for variants that add nothing beyond."""
    return case.scores <= LARGE


def up_to_16k(case: Case) -> bool:
    """Say whether a case is small enough for what is merely reported."""
    return case.scores <= 2 * LARGE


def pairs(case: Case) -> bool:
    """Say whether a case has no hard negatives, as symmetric losses want it here."""
    return case.negatives == 0 and up_to_16k(case)


FLOORS = ("three products", "three products, blocks")
PLAIN, OURS, DENSE, TILED = "plain autograd", "ours", "ours, dense", "ours, tiled"
RANKING, CACHED = "sentence-transformers MNRL", "sentence-transformers cached MNRL"
CLIP = "open_clip ClipLoss" if importlib.util.find_spec("open_clip") else "as open_clip"

CONTESTANTS = {
    FLOORS[0]: Contestant(whole_products, "products", small),
    FLOORS[1]: Contestant(block_products, "products"),
    PLAIN: Contestant(plain),
    OURS: Contestant(ours()),
    DENSE: Contestant(ours(tiled=False)),
    TILED: Contestant(ours(tiled=True), fits=small),
    RANKING: Contestant(ranking),
    CACHED: Contestant(cached_ranking, fits=lambda case: case.queries < 2**16),
    "metric-learning SupCon": Contestant(by_labels(SupConLoss)),
    "metric-learning NT-Xent": Contestant(by_labels(NTXentLoss)),
    CLIP: Contestant(clip, "symmetric", pairs),
    "ours, symmetric": Contestant(ours(symmetric=True), "symmetric", pairs),
    "sentence-transformers GIST": Contestant(guided_ranking, "guided", lambda case: case.negatives <= 1),
    "ours, guided": Contestant(ours_guided, "guided", up_to_16k),
    "ours, masked": Contestant(ours_masked(), "masked", up_to_16k),
    "ours, symmetric, masked": Contestant(ours_masked(symmetric=True), "symmetric, masked", pairs),
    "ours, as in training": Contestant(ours_masked(symmetric=True, similarity="cosine"), "as in training", pairs),
}
"""By name, in the order of every round."""

if importlib.util.find_spec("inf_cl") and torch.cuda.is_available():
    CONTESTANTS["Inf-CL"] = Contestant(inf_cl, tolerance=1e-2)  # TF32
