"""What happens beside the step: choosing negatives, clustering, embedding by a guide, filling the memory, logging, ...

Each is a callback of Lightning's for a `ContrastiveModule`.
"""

from contrastive.training.callbacks.averaging import AverageWeights
from contrastive.training.callbacks.clusters import ClusterQueries
from contrastive.training.callbacks.guide import EmbedByGuide
from contrastive.training.callbacks.log import LogTraining
from contrastive.training.callbacks.memory import FillMemory
from contrastive.training.callbacks.negatives import MineNegatives

__all__ = ["AverageWeights", "ClusterQueries", "EmbedByGuide", "FillMemory", "LogTraining", "MineNegatives"]
