"""The words that answered a query, marked in what is shown of a posting: the same for a terminal, JSON and a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from contrastive.search.explaining.explanation import Answer, Explanation, Span

_SENTENCE = re.compile(r"[^\n]+?(?:[.!?;](?=\s)|$)", re.MULTILINE)


def pieces(text: str, spans: Sequence[Span], start: int = 0, end: int | None = None) -> list[tuple[str, bool]]:
    """Cut a part of a text at its spans; say of each piece whether it is marked.

    Args:
        text: The text.
        spans: In their order, apart from each other.
        start: Where the part starts.
        end: Where it ends; None for the end of the text.

    Example:
        >>> pieces("Python and SQL", [Span(0, 6, 1.0), Span(11, 14, 0.5)], start=3)
        [('hon', True), (' and ', False), ('SQL', True)]
    """
    end = len(text) if end is None else end
    found, at = [], start
    for span in spans:
        first, last = max(span.start, at), min(span.end, end)
        if first < last:
            found += [(text[at:first], False), (text[first:last], True)]
            at = last
    return [(piece, marked) for piece, marked in [*found, (text[at:end], False)] if piece]


def excerpt(text: str, spans: Sequence[Span], *, size: int = 280) -> list[list[tuple[str, bool]]]:
    r"""Return the sentences that answer best, in their order and marked, without the first line, the title.

    At least one, up to `size` characters in all; the first ones of a text in which nothing is marked.

    Example:
        >>> excerpt("Nurse\nNights. Good pay. Python!", [Span(24, 30, 1.0)], size=10)
        [[('Python', True), ('!', False)]]
    """
    title = len(text) - len(text.lstrip())
    body = text.find("\n", title)
    sentences = [found.span() for found in _SENTENCE.finditer(text, max(body, 0)) if found[0].strip()]
    worth = [
        max((span.score for span in spans if span.start < end and start < span.end), default=None)
        for start, end in sentences
    ]
    order = sorted(range(len(sentences)), key=lambda n: (worth[n] is None, -(worth[n] or 0.0), n))
    chosen: list[int] = []
    room = size
    for number in order:
        start, end = sentences[number]
        if chosen and (end - start > room or (worth[number] is None and worth[chosen[0]] is not None)):
            break
        chosen.append(number)
        room -= end - start
    return [pieces(text, spans, *_without_blanks(text, *sentences[number])) for number in sorted(chosen)]


def plain(explanation: Explanation, text: str) -> list[dict[str, Any]]:
    """Return what a posting says to each skill as plain values, with the words themselves."""
    return [_plain(answer, text) for answer in explanation.answers]


def _plain(answer: Answer, text: str) -> dict[str, Any]:
    words = [{"start": s.start, "end": s.end, "text": text[s.start : s.end], "score": s.score} for s in answer.spans]
    return {
        "skill": answer.skill.text,
        "asked": answer.skill.asked,
        "score": answer.score,
        "threshold": answer.threshold,
        "missing": answer.is_missing,
        "words": words,
    }


def _without_blanks(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
