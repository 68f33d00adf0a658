"""Every loss as its configuration builds it, and a batch that has all a loss may ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from contrastive.data.batch import EmbeddedBatch
from experiments.run.parts import build_loss

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "loss").glob("*.yaml"))
QUERIES, KEYS = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).unbind()
BATCH = EmbeddedBatch(
    QUERIES,
    KEYS,
    owners=torch.arange(4),
    key_ids=torch.arange(4),
    positive_ids=torch.tensor([[0, 2], [1, -1], [2, -1], [3, -1]]),
    targets=torch.tensor([1, 0, 1, 0]),
    teacher_scores=torch.rand(4, 4, generator=torch.Generator().manual_seed(1)),
    guide_queries=QUERIES[:, :3],
    guide_keys=KEYS[:, :3],
)


def configured(name: str, *overrides: str) -> Any:
    """Compose `loss=name` as the command line does, and build it."""
    dimensions = ["loss.dimensions=[6,4]"] if name == "matryoshka" else []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", [f"loss={name}", *dimensions, *overrides])
    return build_loss(config.loss, encoder=None)
