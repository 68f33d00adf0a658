"""Encoders of text: a backbone and what makes a vector of its output; loading, saving and embedding."""

from contrastive.encoder.adapters import LoRA
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.encoder.encoder import Encoder
from contrastive.encoder.locating import embedded_minilm
from contrastive.encoder.micro_batches import TokenCount
from contrastive.encoder.two_towers import TwoTowers, load_encoder

__all__ = ["EmbeddingCache", "Encoder", "LoRA", "TokenCount", "TwoTowers", "embedded_minilm", "load_encoder"]
