"""Text data: the records, the readers that make them, and the batches made of them."""

from contrastive.data.collation import Batch, Collator, Identities
from contrastive.data.readers import beir, check_disjoint
from contrastive.data.records import Record, RetrievalTask, TextData, normalise_text

__all__ = [
    "Batch",
    "Collator",
    "Identities",
    "Record",
    "RetrievalTask",
    "TextData",
    "beir",
    "check_disjoint",
    "normalise_text",
]
