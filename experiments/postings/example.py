"""The example query of the project, which the test split holds, and the postings planted around it.

Its text is that of `query` in configs/config.yaml. It asks for skills of several roles, as people do, so its answers
are jobs that combine roles. What it means stands in words/example.yaml; whether a posting answers it, `labels` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from experiments.postings.labels import Posting, Search, grade
from experiments.postings.vocabulary import Level, read, texts


@dataclass(frozen=True, slots=True)
class Planted:
    """A posting that the test split holds in any case: its role, the skills it asks for, the grade it must have."""

    role: str
    skills: tuple[str, ...]
    grade: int

    def is_as_meant(self, posting: Posting, level: Level) -> bool:
        """Whether the rule gives this grade, at a seniority that a reader would give the years of the query, too."""
        search = example_search()
        return grade(search, posting) == self.grade and level.low <= (search.years or 0) <= level.high


@cache
def example_search() -> Search:
    """The query with what it means, as the first of the test split."""
    entry = read("example.yaml")
    return Search("test-q0000", entry["role"], entry["skills"], entry["years"], entry["clean"], entry["text"])


@cache
def planted() -> tuple[Planted, ...]:
    """The postings that the first queries of the test split are after; the first answers the example itself."""
    entries = read("example.yaml")["planted"]
    return tuple(Planted(entry["role"], texts(entry["skills"], "planted"), entry["grade"]) for entry in entries)
