"""What data say in messages and on a terminal."""

import pytest

from contrastive.data.shown import clean, listed, short


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Chef\x1b[1;31m!\x1b[0m", "Chef!"),
        ("\x1b]0;mine\x07cook \x1b]8;;http://x\x1b\\here\x1b]8;;\x1b\\", "cook here"),
        ("\x1bc\x1b(0reset\x9b2J", "reset2J"),
        ("bell\x07 back\x08 nul\x00 turn\u202eed", "bell back nul turned"),
        ("a\rb\x0cc\r\nd\te", "a b c\nd\te"),
        ("👩‍⚕️ Köln", "👩‍⚕️ Köln"),
    ],
)
def test_a_terminal_is_not_controlled(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_values_and_names_are_shortened() -> None:
    assert short("x" * 61) == "'" + "x" * 58 + "…"
    assert len(short([{"a": "x" * 10_000}] * 1000)) == 60
    assert short(7) == "7"
    assert listed(["a" * 100, "b\x1b[1m", 3], most=2) == "a" * 59 + "…, b and 1 more"
    assert listed([]) == ""
