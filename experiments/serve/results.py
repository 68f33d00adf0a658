"""What a search finds by each system, and why, as plain values: for the page and for its JSON alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from pydantic import BaseModel, Field

from contrastive.search import Filter, Hit, SearchIndex
from contrastive.search.contracts import Metadata, System
from contrastive.search.explaining.explanation import Explainer, Explanation
from contrastive.search.explaining.highlights import plain

MOST_CHARACTERS = 20_000
"""Characters of a query: more than any model reads, and little enough to be answered at once."""

_COMPANY = ("company", "company_name", "employer", "organization", "organisation")
_PLACE = ("place", "location", "city", "region", "country")


class Words(BaseModel):
    """Words of a posting that answer a skill: characters of its text from `start` to before `end`."""

    start: int
    end: int
    text: str
    score: float


class Skill(BaseModel):
    """What a posting says to one skill of the query."""

    skill: str = Field(description="as it was typed")
    asked: str = Field(description="as it was looked for, with typing errors put right")
    score: float | None = Field(description="how well it is answered; null where the model does not read that far")
    threshold: float | None = Field(description="what the score has to exceed to be no chance")
    missing: bool = Field(description="whether nothing in the posting answers it")
    words: list[Words]


class Found(BaseModel):
    """A posting."""

    rank: int
    id: str
    score: float
    title: str
    company: str
    place: str
    metadata: dict[str, str | float | bool]
    text: str
    skills: list[Skill]
    further_skills: int = Field(description="skills beyond those that are looked at")


class Column(BaseModel):
    """What one system finds."""

    name: str
    label: str
    about: str
    asked: str = Field(description="the query as this system was asked, with typing errors put right")
    search_ms: float
    explain_ms: float
    hits: list[Found]


class Results(BaseModel):
    """What is found for a query."""

    query: str
    filters: list[str]
    columns: list[Column]


@dataclass(frozen=True)
class Searched:
    """A system to search by: a column of the page."""

    name: str
    label: str
    about: str
    index: SearchIndex
    explainer: Explainer
    system: System


class Searching:
    """Searches by several systems, one query after another: tokenizers and models are not made for several threads.

    Args:
        systems: What to search by, in the order of the columns.
    """

    def __init__(self, systems: Sequence[Searched]) -> None:
        self.systems: Mapping[str, Searched] = {system.name: system for system in systems}
        self._lock = Lock()

    @property
    def index(self) -> SearchIndex:
        """The index whose postings and columns are shown."""
        return next(iter(self.systems.values())).index

    def search(self, query: str, k: int, filters: Sequence[Filter], names: Sequence[str] = ()) -> Results:
        """Search by the systems of these names, or by all, and explain what is found.

        Raises:
            ValueError: If the query is blank or too long, there is no such system, or no column for a filter.
        """
        if not query.strip():
            raise ValueError("expected a query with words, got none")
        if len(query) > MOST_CHARACTERS:
            raise ValueError(f"expected a query of at most {MOST_CHARACTERS:,} characters, got {len(query):,}")
        if unknown := [name for name in names if name not in self.systems]:
            raise ValueError(f"expected systems of {', '.join(self.systems)}, got {unknown[0]!r:.40}")
        chosen = [system for name, system in self.systems.items() if not names or name in names]
        with self._lock:
            columns = [_column(system, query, k, filters) for system in chosen]
        return Results(query=query, filters=[str(each) for each in filters], columns=columns)


def _column(searched: Searched, query: str, k: int, filters: Sequence[Filter]) -> Column:
    started = time.perf_counter()
    (hits,) = searched.index.search([query], k, passages=False, filters=filters, system=searched.system)
    found = time.perf_counter()
    explanations = searched.explainer.explain(query, hits, system=searched.system) if hits else []
    return Column(
        name=searched.name,
        label=searched.label,
        about=searched.about,
        asked=searched.index.asked(query, searched.system),
        search_ms=1000 * (found - started),
        explain_ms=1000 * (time.perf_counter() - found),
        hits=[_found(*each) for each in zip(hits, explanations, strict=True)],
    )


def _found(hit: Hit, explanation: Explanation) -> Found:
    return Found(
        rank=hit.rank,
        id=hit.id,
        score=hit.score,
        title=hit.title,
        company=_first(hit.metadata, _COMPANY),
        place=_first(hit.metadata, _PLACE),
        metadata=dict(hit.metadata),
        text=hit.text,
        skills=[Skill(**each) for each in plain(explanation, hit.text)],
        further_skills=explanation.further,
    )


def _first(metadata: Metadata, names: Sequence[str]) -> str:
    """Return the first of some columns that a posting has, as text; "" if it has none."""
    by_name: dict[str, Any] = {
        name.lower().replace(" ", "_").replace("-", "_"): value for name, value in metadata.items()
    }
    return next((str(by_name[name]) for name in names if by_name.get(name) not in (None, "")), "")
