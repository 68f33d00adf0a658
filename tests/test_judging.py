"""Judging one system: what is read off the embeddings beside the ranking."""

import math

import pytest
import torch

from contrastive.data import RetrievalTask
from contrastive.evaluation import Rankings, TaskEmbeddings
from experiments.judging import embedding_health, judge_bm25

TASK = RetrievalTask(
    "test",
    {"q": "python", "r": "nursing"},
    {"a": "python developer", "b": "chef", "c": "nursing home"},
    {"q": {"a": 2, "b": 0}, "r": {"c": 1}},
)
NORTH, EAST = [0.0, 1.0], [1.0, 0.0]


def test_alignment_is_over_relevant_pairs_and_uniformity_over_documents() -> None:
    queries, documents = torch.tensor([NORTH, EAST]), torch.tensor([NORTH, EAST, NORTH])
    embeddings = TaskEmbeddings(("q", "r"), queries, ("a", "b", "c"), documents)
    health = embedding_health(embeddings, TASK, Rankings({"q": ["a", "b"], "r": []}, {"q": [1, 0.5], "r": []}))
    assert health["alignment"] == pytest.approx((0 + 2) / 2)  # q stands on a; r and c are at right angles
    assert health["uniformity"] == pytest.approx(math.log((1 + 2 * math.exp(-4)) / 3))
    assert health["triplet_accuracy/bm25_hard"] == 1  # q is closer to a than to b; r has no negative


def test_the_users_query_is_answered_from_the_corpus() -> None:
    judgement = judge_bm25(TASK, "a nursing job", num_top=2)
    assert [text for _, text in judgement.top] == ["nursing home"]
    assert set(judgement.summary()) == {"metrics", "embedding_health"}
