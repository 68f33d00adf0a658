"""Building and changing an index of postings on disk."""
