"""Text data: the records, the readers that make them, and the batches made of them."""

from contrastive.batch import Batch
from contrastive.data.collation import Collator
from contrastive.data.documents import documents
from contrastive.data.file_reader import files
from contrastive.data.hub_reader import hub
from contrastive.data.identities import Identities
from contrastive.data.mixing import mixed
from contrastive.data.readers import beir, check_disjoint
from contrastive.data.records import Account, Record, RetrievalTask, TextData
from contrastive.data.rows import rows
from contrastive.masks import normalise_text

__all__ = [
    "Account",
    "Batch",
    "Collator",
    "Identities",
    "Record",
    "RetrievalTask",
    "TextData",
    "beir",
    "check_disjoint",
    "documents",
    "files",
    "hub",
    "mixed",
    "normalise_text",
    "rows",
]
