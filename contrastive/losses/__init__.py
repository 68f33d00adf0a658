"""Contrastive losses: each a function of embeddings, and a thin module around it. Loads torch and nothing heavier."""

from contrastive.losses.softmax import (
    InfoNCELoss,
    MultipleNegativesRankingLoss,
    info_nce,
    multiple_negatives_ranking,
)
from contrastive.losses.triplet import TripletLoss, triplet

__all__ = [
    "InfoNCELoss",
    "MultipleNegativesRankingLoss",
    "TripletLoss",
    "info_nce",
    "multiple_negatives_ranking",
    "triplet",
]
