"""Judging embeddings by full-corpus retrieval, and what else can be read off them."""

from contrastive.evaluation.bm25 import bm25_rankings
from contrastive.evaluation.fusion import Hybrid, fit_hybrid, fuse
from contrastive.evaluation.geometry import (
    alignment,
    hard_negatives,
    random_negatives,
    triplet_accuracy,
    uniformity,
)
from contrastive.evaluation.hybrid_file import read_hybrid, write_hybrid
from contrastive.evaluation.metrics import METRICS, Results, evaluate_rankings
from contrastive.evaluation.rankings import Rankings
from contrastive.evaluation.retrieval import TaskEmbeddings, embed, rank, rank_embedded, retrieve, self_answers

__all__ = [
    "METRICS",
    "Hybrid",
    "Rankings",
    "Results",
    "TaskEmbeddings",
    "alignment",
    "bm25_rankings",
    "embed",
    "evaluate_rankings",
    "fit_hybrid",
    "fuse",
    "hard_negatives",
    "random_negatives",
    "rank",
    "rank_embedded",
    "read_hybrid",
    "retrieve",
    "self_answers",
    "triplet_accuracy",
    "uniformity",
    "write_hybrid",
]
