"""Training: the module and the data module under Lightning, and what they are made of."""

from contrastive.training.data_module import ContrastiveData
from contrastive.training.module import ContrastiveModule

__all__ = ["ContrastiveData", "ContrastiveModule"]
