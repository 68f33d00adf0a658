"""What every source of negatives must do: a source is added to the roster here, and nowhere else in the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor

from contrastive.negatives import BM25, CandidateSource, CrossEncoder, Dense, Mined, Moment, Pair, Pool, Random

CONFIGS = Path(__file__).parents[2] / "configs" / "negatives"


class Letters:
    """An encoder that counts letters, and a scorer of pairs to which longer documents are better."""

    def encode(self, texts: Sequence[str], **_: Any) -> Tensor:
        return torch.tensor([[float(text.count(letter)) for letter in "0123456789 "] for text in texts]).view(-1, 11)

    def __call__(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float32]:  # noqa: ARG002
        return np.array([len(document) for document in documents], np.float32)

    def describe(self) -> dict[str, object]:
        return {}


SOURCES: list[CandidateSource] = [Random(), BM25(), Dense(Letters()), CrossEncoder(Random(), Letters())]


def pool() -> Pool:
    """Eleven documents, and queries of which one has no positive and two are one."""
    documents = {f"d{number}": f"{number} {number + 1}" for number in range(11)}
    pairs = [Pair(f"q{number}", f"{number} {number + 2}", f"d{number}") for number in range(5)]
    return Pool(documents, [*pairs, Pair("twice", "3 5", "d7"), Pair("unanswered", "9 10")])


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_it_ranks_documents_for_all_queries_in_their_order(source: CandidateSource) -> None:
    given, following = pool(), 0
    for block in source(given, 4, Moment()):
        assert block.rows.start == following
        following = block.rows.stop
        assert block.documents.shape == block.scores.shape == (following - block.rows.start, 4)
        assert block.documents.dtype == np.int64
        assert block.scores.dtype == np.float32
        for documents, scores in zip(block.documents.tolist(), block.scores.tolist(), strict=True):
            found = [place for place in documents if place >= 0]
            assert documents == found + [-1] * (4 - len(found))
            assert len(set(found)) == len(found)
            assert max(found, default=0) < len(given.documents)
            assert scores[: len(found)] == sorted(scores[: len(found)], reverse=True)
        if block.positive_scores is not None:
            answered = given.positive_of[given.pairs_of(block.rows)] >= 0
            assert (np.isfinite(block.positive_scores) == answered).all()
    assert following == len(given.query_texts)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_it_does_the_same_again_and_can_be_mined_from(source: CandidateSource) -> None:
    first, again = (Mined(source, count=2)(pool()) for _ in range(2))
    assert [chosen.ids for chosen in first] == [chosen.ids for chosen in again]
    assert {name for chosen in first for name in chosen.sources} == {source.name}
    assert Mined(source)(Pool({"d0": "0"}, [Pair("q", "0", "d0")]))[0].ids == ()
    assert Mined(source)(Pool({"d0": "0"}, [])) == []


def test_every_source_that_can_be_configured_is_in_the_roster() -> None:
    tried = {type(source).__name__ for source in SOURCES}
    configured = [OmegaConf.load(path).get("source") for path in CONFIGS.glob("*.yaml")]
    assert {source._target_.rpartition(".")[2] for source in configured if source is not None} == tried
