"""A query taken apart into the skills it asks for, its typing errors put right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from contrastive.data.texts import parts_of

MOST_SKILLS = 24
"""Skills of a query that are looked at: more than anybody types, and few enough to be shown."""


@dataclass(frozen=True, slots=True)
class Skill:
    """A part of a query.

    Attributes:
        text: As it was typed.
        asked: As it is looked for, with typing errors put right.
        start: Where `asked` starts in the whole query, put right.
        end: Where it ends.
    """

    text: str
    asked: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A query as it is looked for, and its skills: at most `MOST_SKILLS`, each once."""

    text: str
    skills: tuple[Skill, ...]
    further: int = 0


def skills_of(query: str, put_right: Callable[[str], str] | None = None) -> Asked:
    """Cut a query at its commas, semicolons, line ends and every "and".

    Args:
        query: What a person typed.
        put_right: Puts the words of a text right and leaves all between them as it is; None leaves words alone too.

    Example:
        >>> [skill.text for skill in skills_of("Python, SQL and 3 years; Python").skills]
        ['Python', 'SQL', '3 years']
    """
    typed = [query[start:end] for start, end in parts_of(query)]
    asked = query if put_right is None else put_right(query)
    places = parts_of(asked)
    if len(places) != len(typed):  # a word was put right by one that cuts, which no corpus should have
        asked, places = query, parts_of(query)
    found: dict[str, Skill] = {}
    for text, (start, end) in zip(typed, places, strict=True):
        found.setdefault(asked[start:end].lower(), Skill(text, asked[start:end], start, end))
    skills = tuple(found.values())
    return Asked(asked, skills[:MOST_SKILLS], max(0, len(skills) - MOST_SKILLS))
