"""What an earlier attempt at a run has finished: read back where the run goes on, and not done again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from contrastive.data.json_files import read_object
from contrastive.evaluation import Rankings, Results
from contrastive.statistics import Interval
from experiments.results.files import write_json
from experiments.results.judgement import Judgement
from experiments.run.parts import Parts
from experiments.run.run_folder import RunFolder, read_report

log = logging.getLogger(__name__)

_AT_THE_END = ("monitored", "gain", "hybrid", "negatives")
_OF_THE_DATA = ("rows_read", "pairs", "batches")


def taken_up(
    folder: RunFolder, parts: Parts, opened: Mapping[str, Any], command: Sequence[str] | None
) -> dict[str, Any]:
    """Return the report of a run that goes on: what the earlier attempt knew, and that and where it was continued.

    Args:
        folder: Of the run.
        parts: Of the run, as built now.
        opened: What is known of the run as it is built now.
        command: That continues it.

    Raises:
        ValueError: If it is to go on with other data.
    """
    before = read_report(folder.path)
    check_data(before.get("trained_on"), parts.trained_on, folder.path)
    for name in ("git", "versions"):
        if name in before and before[name] != opened.get(name):
            log.warning("The run began with other code, %s: %s", name, before[name])
    systems = {name: known for name, known in before.get("systems", {}).items() if _path(folder, name).exists()}
    step = 0 if parts.checkpoint is None else _step(parts.checkpoint)
    log.info("Going on with the run in %s, after step %d", folder.path, step)
    if step:
        log.info("Checkpoint: %s", parts.checkpoint)
    continued = [*before.get("continued", []), {"step": step, "command": None if command is None else list(command)}]
    kept = {name: value for name, value in before.items() if name not in _AT_THE_END}
    return {**opened, **kept, "systems": systems, "status": "running", "continued": continued}


def check_data(before: Mapping[str, Any] | None, now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with other data than a run began with, as far as that can be told from their account.

    Raises:
        ValueError: If they are others.
    """
    if before is None:
        return
    now = json.loads(json.dumps(now))
    for name in _OF_THE_DATA:
        if before.get(name) != now.get(name):
            raise ValueError(
                f"expected the data that the run in {folder} began with, {name} {before.get(name)}, got {now.get(name)}"
            )


def write_judgement(folder: RunFolder, name: str, judgement: Judgement) -> None:
    """Keep a judgement until the run is finished."""
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    write_json(_path(folder, name), {field.name: _plain(getattr(judgement, field.name)) for field in fields(judgement)})


def read_judgement(folder: RunFolder, name: str) -> Judgement:
    """Read back what `write_judgement` kept."""
    kept = read_object(_path(folder, name))
    results = kept["results"]
    intervals = {metric: Interval(**interval) for metric, interval in results["intervals"].items()}
    asked, put_right = kept["asked"], kept["put_right"]
    return Judgement(
        **{
            **kept,
            "rankings": Rankings(**kept["rankings"]),
            "results": Results(results["per_query"], intervals, results["num_unjudged"]),
            "top": [(score, text) for score, text in kept["top"]],
            "asked": None if asked is None else Rankings(**asked),
            "put_right": None if put_right is None else tuple(Rankings(**each) for each in put_right),
        }
    )


def _path(folder: RunFolder, name: str) -> Path:
    return folder.checkpoints / f"judged-{name}.json"


def _plain(value: Any) -> Any:
    """Return a value whose parts a JSON file can hold, without copying what is plain."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, Results):
        return {**_fields(value), "intervals": {name: _fields(each) for name, each in value.intervals.items()}}
    return _fields(value) if isinstance(value, Rankings) else value


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _step(checkpoint: Path) -> int:
    step: int = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    return step
