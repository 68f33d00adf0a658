"""Contrastive losses: each a function of embeddings, and a thin module around it. Loads torch and nothing heavier."""

from contrastive.losses.core.options import SoftmaxOptions
from contrastive.losses.decoupled import DecoupledContrastiveLoss, decoupled_contrastive
from contrastive.losses.distill import DistillKLLoss, MarginMSELoss, distill_kl, margin_mse
from contrastive.losses.gist import GISTLoss, gist
from contrastive.losses.matryoshka import MatryoshkaLoss
from contrastive.losses.ordinal import AnglELoss, CoSENTLoss, angle, cosent
from contrastive.losses.pairwise import ContrastiveLoss, OnlineContrastiveLoss, contrastive, online_contrastive
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
    "AnglELoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "DebiasedContrastiveLoss",
    "DecoupledContrastiveLoss",
    "DistillKLLoss",
    "GISTLoss",
    "HardWeightedLoss",
    "InfoNCELoss",
    "MarginMSELoss",
    "MatryoshkaLoss",
    "MultipleNegativesRankingLoss",
    "NTXentLoss",
    "OnlineContrastiveLoss",
    "SigLIPLoss",
    "SoftmaxOptions",
    "SupConLoss",
    "TripletLoss",
    "angle",
    "contrastive",
    "cosent",
    "debiased_contrastive",
    "decoupled_contrastive",
    "distill_kl",
    "gist",
    "hard_weighted",
    "info_nce",
    "margin_mse",
    "multiple_negatives_ranking",
    "nt_xent",
    "online_contrastive",
    "siglip",
    "sup_con",
    "triplet",
]
