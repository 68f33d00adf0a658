"""Where hard negatives come from: sources that rank documents, filters they all share, and what is chosen."""

from contrastive.negatives.bm25 import BM25
from contrastive.negatives.cache import Kept
from contrastive.negatives.contracts import Candidates, CandidateSource, ChosenNegatives, Moment, NegativeStrategy
from contrastive.negatives.cross_encoder import CrossEncoder, PairScorer
from contrastive.negatives.dense import Dense
from contrastive.negatives.filters import REASONS, Filters
from contrastive.negatives.in_batch import in_batch
from contrastive.negatives.mined import Mined
from contrastive.negatives.mixed import Mixed
from contrastive.negatives.pair_scorer import SequenceClassifier, load_pair_scorer
from contrastive.negatives.pool import Pair, Pool
from contrastive.negatives.random import Random
from contrastive.negatives.refresh import Refresh
from contrastive.negatives.selection import Selection

__all__ = [
    "BM25",
    "REASONS",
    "CandidateSource",
    "Candidates",
    "ChosenNegatives",
    "CrossEncoder",
    "Dense",
    "Filters",
    "Kept",
    "Mined",
    "Mixed",
    "Moment",
    "NegativeStrategy",
    "Pair",
    "PairScorer",
    "Pool",
    "Random",
    "Refresh",
    "Selection",
    "SequenceClassifier",
    "in_batch",
    "load_pair_scorer",
]
