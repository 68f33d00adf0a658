"""Judging a model on a task without training it."""
