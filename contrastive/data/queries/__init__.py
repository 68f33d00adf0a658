"""Queries for documents that have none: made by rules (`pseudo_queries`), or written by a model (`query_writers`).

Nothing is imported here, so that the rules need neither transformers nor an HTTP client.
"""
