"""Comparing runs: which system is better, by how much, and is it luck."""
