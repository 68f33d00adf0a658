"""The hybrid of a model, as a file beside its weights, `hybrid.json`, which sentence-transformers does not look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contrastive.data.json_files import read_object
from contrastive.data.whole_files import whole_file
from contrastive.evaluation.fusion import DEPTH, Hybrid, check_weights
from contrastive.statistics import Difference

HYBRID_FILE = "hybrid.json"

WORDS, ENCODER = "BM25+spelling", "encoder"
"""What is mixed: BM25 and the model of the folder, both asked with the unknown words of a query put right."""

_SCALE = {"scale": "min-max of each query's best", "depth": DEPTH}


def write_hybrid(folder: Path, hybrid: Hybrid) -> Path:
    """Write the hybrid of the model in a folder; return the file."""
    path = folder / HYBRID_FILE
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({**asdict(hybrid), **_SCALE}, indent=2) + "\n", encoding="utf-8")
    return path


def read_hybrid(folder: Path) -> Hybrid | None:
    """Read the hybrid of the model in a folder; None if it has none.

    Raises:
        ValueError: If the file is not as a run writes it.
    """
    path = folder / HYBRID_FILE
    if not path.is_file():
        return None
    content = read_object(path)
    try:
        scale = {name: content[name] for name in _SCALE}
        if scale != _SCALE:
            raise ValueError(f"expected {_SCALE}, got {scale}")
        gain = Difference(*(_number(content["gain"], name) for name in ("mean", "low", "high", "p_value")))
        weights, tried = _weights(content["weights"]), _weights(content["tried"])
        hybrid = Hybrid(weights, tried, str(content["best_part"]), gain, str(content["task"]), int(content["queries"]))
    except (KeyError, TypeError, ValueError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"expected {path} to say the hybrid of {WORDS} and {ENCODER} of a run: {said}") from error
    return hybrid


def _weights(content: Any) -> dict[str, float]:
    if not isinstance(content, Mapping):
        raise ValueError(f"expected weights by system, got {content!r:.80}")
    weights = {name: _number(content, name) for name in content}
    check_weights(weights, dict.fromkeys((WORDS, ENCODER)))
    return weights


def _number(content: Any, name: str) -> float:
    value = content[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number for {name}, got {value!r:.80}")
    return float(value)
