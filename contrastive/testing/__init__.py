"""Checks to run on a loss of your own: against its formula, against finite differences, and in several processes.

Each raises AssertionError saying what differs and by how much, under any test runner. They need torch only, run on the
CPU in float64, and leave the loss as it was.
"""

from contrastive.testing.formula import assert_gradients, assert_matches_oracle
from contrastive.testing.world_size import WorldSizeCase, assert_world_size_invariant

__all__ = ["WorldSizeCase", "assert_gradients", "assert_matches_oracle", "assert_world_size_invariant"]
