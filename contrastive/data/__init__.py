"""Text data: the records, the readers that make them, and the batches made of them.

What needs torch is imported when it is first asked for, so that a program which reads a JSON file, says what is wrong
with a command line or lists the runs of a sweep does not wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from contrastive.data.documents import documents
from contrastive.data.records import Account, Record, RetrievalTask, TextData
from contrastive.data.rows import rows

if TYPE_CHECKING:
    from contrastive.data.batch import Batch
    from contrastive.data.collation import Collator
    from contrastive.data.file_reader import files
    from contrastive.data.hub_reader import hub
    from contrastive.data.identities import Identities
    from contrastive.data.mixing import mixed
    from contrastive.data.readers import beir, check_disjoint
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

_HOMES = {
    "Batch": "contrastive.data.batch",
    "Collator": "contrastive.data.collation",
    "Identities": "contrastive.data.identities",
    "beir": "contrastive.data.readers",
    "check_disjoint": "contrastive.data.readers",
    "files": "contrastive.data.file_reader",
    "hub": "contrastive.data.hub_reader",
    "mixed": "contrastive.data.mixing",
    "normalise_text": "contrastive.masks",
}


def __getattr__(name: str) -> Any:
    """Import a name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value
