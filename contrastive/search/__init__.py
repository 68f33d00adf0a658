"""Search in an embedded corpus, and documents as a reader sees them."""

from contrastive.search.contracts import Engine, Filter, Hit, Posting, parse_filter
from contrastive.search.disk.building import build_index, update_index
from contrastive.search.disk.stored import open_index
from contrastive.search.engines.exact import ExactEngine
from contrastive.search.index import SearchIndex

__all__ = [
    "Engine",
    "ExactEngine",
    "Filter",
    "Hit",
    "Posting",
    "SearchIndex",
    "build_index",
    "open_index",
    "parse_filter",
    "update_index",
]
