"""Search in an embedded corpus, and documents as a reader sees them."""

from contrastive.search.index import Hit, SearchIndex

__all__ = ["Hit", "SearchIndex"]
