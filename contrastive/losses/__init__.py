"""Contrastive losses: each a function of embeddings, and a thin module around it. Loads torch and nothing heavier."""

from contrastive.losses._options import SoftmaxOptions
from contrastive.losses.decoupled import DecoupledContrastiveLoss, decoupled_contrastive
from contrastive.losses.gist import GISTLoss, gist
from contrastive.losses.reweighted import (
    DebiasedContrastiveLoss,
    HardWeightedLoss,
    debiased_contrastive,
    hard_weighted,
)
from contrastive.losses.sigmoid import SigLIPLoss, siglip
from contrastive.losses.softmax import (
    InfoNCELoss,
    MultipleNegativesRankingLoss,
    info_nce,
    multiple_negatives_ranking,
)
from contrastive.losses.supervised import NTXentLoss, SupConLoss, nt_xent, sup_con
from contrastive.losses.triplet import TripletLoss, triplet

__all__ = [
    "DebiasedContrastiveLoss",
    "DecoupledContrastiveLoss",
    "GISTLoss",
    "HardWeightedLoss",
    "InfoNCELoss",
    "MultipleNegativesRankingLoss",
    "NTXentLoss",
    "SigLIPLoss",
    "SoftmaxOptions",
    "SupConLoss",
    "TripletLoss",
    "debiased_contrastive",
    "decoupled_contrastive",
    "gist",
    "hard_weighted",
    "info_nce",
    "multiple_negatives_ranking",
    "nt_xent",
    "siglip",
    "sup_con",
    "triplet",
]
