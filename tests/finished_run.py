"""The folder of a finished run without its training, for tests of what is made from such a folder."""

import json
from pathlib import Path
from typing import Any

import yaml

CONFIG: dict[str, Any] = {
    "loss": {"_target_": "contrastive.losses.InfoNCELoss", "temperature": 0.05},
    "encoder": {
        "_target_": "contrastive.encoder.encoder.Encoder.from_pretrained",
        "name_or_path": "/home/someone/models/tiny",
        "max_length": None,
        "tokens_per_batch": 32,
        "lora": {"_target_": "contrastive.encoder.LoRA", "rank": 0, "alpha": 32},
    },
    "data": {"_target_": "contrastive.data.beir", "_convert_": "all", "path": "/home/someone/my data/help-pages"},
    "trainer": {"_target_": "lightning.Trainer", "max_epochs": 3, "max_steps": -1, "precision": "bf16-mixed"},
    "folder": "/home/someone/outputs/run",
    "judge": "test",
    "seed": 7,
    "batch_size": 4,
    "query": "how do I",
}


def system(mean: float) -> dict[str, Any]:
    cell = {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}
    return {"metrics": dict.fromkeys(("ndcg@10", "mrr@10", "recall@10", "recall@100", "map"), cell)}


def finished_report() -> dict[str, Any]:
    change = {"mean": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.0123}
    return {
        "status": "finished",
        "data": {
            "name": "help-pages",
            "train_pairs": 1234,
            "judged_on": "help-pages-test",
            "queries": 56,
            "documents": 7890,
        },
        "systems": {"BM25": system(0.25), "before": system(0.3), "after": system(0.4)},
        "gain": dict.fromkeys(("ndcg@10", "mrr@10", "recall@10", "recall@100", "map"), change),
        "monitored": {"metric": "dev/ndcg@10", "value": 0.5678, "step": 9, "epoch": 0},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "git": {"commit": "abc123", "changed_files": "?? my-secret-plan.txt"},
        "command": ["python", "-m", "experiments.run", "data=beir", "data.path=/home/someone/my data/help-pages"],
    }


def finished_run(
    folder: Path, encoder: Any, *, config: dict[str, Any] | None = None, report: dict[str, Any] | None = None
) -> Path:
    """Write a run's folder; `config` and `report` replace top-level values, and those that are None are left out."""
    encoder.save_pretrained(folder / "model")
    contents = [{**default, **(changes or {})} for default, changes in ((CONFIG, config), (finished_report(), report))]
    settings, metrics = ({key: value for key, value in content.items() if value is not None} for content in contents)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return folder
