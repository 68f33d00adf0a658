"""Searches for good settings; `python -m experiments.tune` is their command line."""
