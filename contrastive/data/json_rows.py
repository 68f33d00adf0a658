"""Rows of JSON: an object a line, or an array of objects; other shapes are refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contrastive.data.lines import lines, text
from contrastive.data.shown import listed, short

Rows = Iterator[tuple[str, dict[str, Any]]]


def object_a_line(file: Path, encoding: str | None, *, strict: bool = True) -> Rows:
    """Read an object a line; unless `strict`, even one with half an emoji, which can be neither written nor tokenised.

    Raises:
        ValueError: If a line holds no object, or the first one a whole table.
    """
    first = True
    for number, line in enumerate(lines(file, encoding), 1):
        if line.strip():
            where = f"{file}, line {number}"
            value = _json_object(where, _parse(where, line, strict=strict))
            if first and _is_table(value):
                raise ValueError(f"{where}: {_one_object(value)}")
            first = False
            yield where, value


def array_or_lines(file: Path, encoding: str | None) -> Rows:
    """Read an array of objects, which is loaded whole, or an object a line.

    Raises:
        ValueError: If the file holds anything else; it says what.
    """
    start = next((piece.lstrip()[:1] for piece in text(file, encoding) if piece.strip()), "")
    if start == "[":
        for number, value in enumerate(_parse(str(file), "".join(text(file, encoding))), 1):
            where = f"{file}, item {number}"
            yield where, _json_object(where, value)
        return
    found = object_a_line(file, encoding)
    try:
        first = next(found, None)
    except ValueError:
        if start == "{":
            _refuse_object(file, "".join(text(file, encoding)))
        raise
    if first is not None:
        yield first
    yield from found


def _refuse_object(file: Path, whole: str) -> None:
    """Refuse one object, or several, that stand on many lines each."""
    try:
        value, end = json.JSONDecoder().raw_decode(whole.strip())
    except (ValueError, RecursionError):
        return  # malformed, as has been said
    if whole.strip()[end:].lstrip()[:1] == "{":
        raise ValueError(
            f"{file}: several objects on more lines than one each: expected an array of them, or one a line"
        )
    raise ValueError(f"{file}: {_one_object(value)}")


def _is_table(value: dict[str, Any]) -> bool:
    """Whether an object holds rows instead of being one: a list or an object for each column, or lists of objects."""
    values = list(value.values())
    if not values or any(isinstance(one, str) for one in values):
        return False
    objects = any(isinstance(one, list) and one and all(isinstance(item, dict) for item in one) for one in values)
    return objects or all(isinstance(one, dict) for one in values) or all(isinstance(one, list) for one in values)


def _one_object(value: dict[str, Any]) -> str:
    return (
        f"one JSON object that is no row, with the keys {listed(map(repr, value))}: expected an array of objects, or "
        "an object a line (pandas writes them with orient='records')"
    )


def _parse(where: str, line: str, *, strict: bool = True) -> Any:
    try:
        value = json.loads(line)
        if strict and ("\\ud" in line or "\\uD" in line):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        whole = line.rstrip()  # else what is cut short is said to go wrong on the next line
        wrong = json.JSONDecodeError(error.msg, whole, min(error.pos, len(whole)))
        place = f"line {wrong.lineno}, column {wrong.colno}" if "\n" in whole else f"column {wrong.colno}"
        raise ValueError(f"{where}: malformed JSON: {error.msg} ({place})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: malformed JSON: {error}") from error
    return value


def _json_object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {short(str(value))}")
    return value
