"""Contrastive losses for text embeddings, and what it takes to train and judge with them.

Nothing is imported here: `from contrastive.losses import InfoNCELoss` loads torch and nothing heavier.
"""

__version__ = "0.1.0"
