"""Random numbers go on where a checkpoint was written."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from contrastive.losses.core.health import Health
from contrastive.training.random_state import random_state, random_states_of_ranks, set_random_state


def drawn() -> tuple[float, float, float, list[float]]:
    return random.random(), random.gauss(0, 1), float(np.random.standard_normal()), torch.rand(3).tolist()


def test_all_generators_go_on_where_they_were(tmp_path: Path) -> None:
    drawn()  # half of a pair of normal numbers is kept for later
    torch.save(random_state(), tmp_path / "state.pt")
    first = drawn()
    assert drawn() != first
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert drawn() == first
    (state,) = random_states_of_ranks()
    assert torch.equal(state["torch"], torch.get_rng_state())


def test_what_a_loss_told_goes_on() -> None:
    health, other = Health(), Health()
    health.record("similarity", torch.tensor([0.5, 1.0]))
    other.load_state_dict(health.state_dict())
    health.clear()
    other.record("similarity", torch.tensor(3.0))
    assert other.summary() == {"similarity": 1.5}
