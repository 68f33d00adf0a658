"""The fields of config.yaml and metrics.json that a model card is made from; the run may be somebody else's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from contrastive.data.shown import clean, short

_NUMBER = (int, float)
_OPTIONAL_TEXT = (str, type(None))
_KINDS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    _NUMBER: "a number",
    Mapping: "a mapping",
    list: "a list",
    _OPTIONAL_TEXT: "a text or null",
    object: "anything",
}
_OF_THE_CONFIG: dict[str, Any] = {
    "encoder": Mapping,
    "data": Mapping,
    "trainer": Mapping,
    "loss._target_": str,
    "judge": str,
    "seed": object,
}
_OF_THE_REPORT: dict[str, Any] = {
    **dict.fromkeys(("data.name", "data.judged_on"), str),
    **dict.fromkeys(("data.train_pairs", "data.queries", "data.documents"), int),
    "versions": Mapping,
    "git.commit": _OPTIONAL_TEXT,
    "git.changed_files": object,
    "systems.after.metrics": Mapping,
}


def check_fields(config: Any, report: Any, run: Path, metrics: tuple[str, ...]) -> None:
    """Refuse a run whose files lack what its card says.

    Args:
        config: What its config.yaml holds.
        report: What its metrics.json holds.
        run: Folder of the run, for the message.
        metrics: What each system has to have been measured by.

    Raises:
        ValueError: If a field is missing or of another type; it names the field and the file.
    """
    for name, kind in _OF_THE_CONFIG.items():
        _check(config, tuple(name.split(".")), kind, run / "config.yaml")
    for keys, kind in _fields(report, metrics):
        _check(report, keys, kind, run / "metrics.json")


def _fields(report: Any, metrics: tuple[str, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield where each field is and what it has to be; what holds others comes before them."""
    for name, kind in _OF_THE_REPORT.items():
        yield tuple(name.split(".")), kind
    for system in report["systems"]:
        yield from _intervals(("systems", system, "metrics"), metrics)
    yield from _intervals(("systems", "after", "metrics"), tuple(report["systems"]["after"]["metrics"]))
    if "gain" in report:
        yield from _intervals(("gain",), metrics, "p_value")
    if "hybrid" in report:
        yield ("hybrid", "said"), str
    if report.get("monitored"):
        yield from ((("monitored", key), kind) for key, kind in (("metric", str), ("value", _NUMBER), ("step", int)))
    for name in ("command", "base_models"):
        if report.get(name):
            yield (name,), list
    yield from ((("command", index), str) for index in range(len(report.get("command") or ())))
    for index in range(len(report.get("base_models") or ())):
        yield ("base_models", index, "name"), str
        yield from ((("base_models", index, key), _OPTIONAL_TEXT) for key in ("hub", "licence"))


def _intervals(
    place: tuple[Any, ...], metrics: tuple[str, ...], *further: str
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for metric in metrics:
        yield from (((*place, metric, key), _NUMBER) for key in ("mean", "low", "high", *further))


def _check(content: Any, keys: tuple[Any, ...], kind: Any, file: Path) -> None:
    name, value = " ".join(clean(".".join(map(str, keys))).split()), content
    for key in keys:
        if not (isinstance(value, list) if isinstance(key, int) else isinstance(value, Mapping) and key in value):
            raise ValueError(f"expected the field {name} in {file}, found none")
        value = value[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, _NUMBER)):
        raise ValueError(f"expected {name} in {file} to be {_KINDS[kind]}, got {short(value)}")
