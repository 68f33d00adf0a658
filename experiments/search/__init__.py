"""Searching documents with an encoder."""
