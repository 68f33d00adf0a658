"""What is relevant to what, from the latent structure alone.

The grade of a posting for a search:

- 2: the posting requires all skills of the search, and is of the family of the role that the search names, or of
  several families, that one among them;
- 1: the same with at least 60 % of the skills; or all skills, in a role that neighbours the named one;
- 0: everything else.

Notable decisions:

- A search that names no role can be answered by any family: nobody could guess the one meant, so only skills count.
- Years matter where both sides state them: a posting whose range clearly contradicts the searcher's years (they have
  more than a year less than its lowest, or over two years more than its highest) drops by one grade.
- A job that combines roles is of the family of each. So a search for skills of several fields is graded as any other:
  whoever asks for one part of it alone falls below 60 %.
- Only required skills count: those mentioned in passing or negated are as good as absent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.postings.vocabulary import roles

ENOUGH = 0.6


@dataclass(frozen=True, slots=True)
class Posting:
    """A job posting with what it means.

    Attributes:
        document_id: Its id.
        role: Name of its role.
        required: Skills it truly asks for.
        mentioned: Skills it names in passing or negates.
        low: Fewest years it asks for; `None` if it states none.
        high: Most years; `None` if open or unstated.
        named: Surface form by required skill, for the skills it names rather than describes.
        text: What a reader sees; the first line is the title.
    """

    document_id: str
    role: str
    required: frozenset[str]
    mentioned: frozenset[str]
    low: int | None
    high: int | None
    named: Mapping[str, str]
    text: str


@dataclass(frozen=True, slots=True)
class Search:
    """A query with what it means.

    Attributes:
        query_id: Its id.
        role: Name of the role it states; `None` if it states none.
        skills: Its skills, each with the surface form typed.
        years: Years of experience it states, if any.
        clean: The text before typing mistakes.
        text: What was typed.
    """

    query_id: str
    role: str | None
    skills: Mapping[str, str]
    years: int | None
    clean: str
    text: str


def contradicts(years: int | None, low: int | None, high: int | None) -> bool:
    """Whether a posting for `low` to `high` years is clearly not meant for somebody with `years`.

    >>> contradicts(2, 8, 12), contradicts(6, 0, 1), contradicts(5, 3, 6), contradicts(2, None, None)
    (True, True, False, False)
    """
    if years is None or low is None:
        return False
    return years < low - 1 or (high is not None and years > high + 2)


def grade(search: Search, posting: Posting) -> int:
    """Grade of `posting` for `search`: 2, 1 or 0 (see the module)."""
    share = len(search.skills.keys() & posting.required) / len(search.skills)
    base = 2 if share == 1 else 1 if share >= ENOUGH else 0
    if search.role is not None and not _same_family(search.role, posting.role):
        base = 1 if share == 1 and roles()[search.role].near.intersection(roles()[posting.role].parts) else 0
    return max(base - contradicts(search.years, posting.low, posting.high), 0)


def _same_family(one: str, other: str) -> bool:
    return not set(roles()[one].families).isdisjoint(roles()[other].families)


def relevant(searches: Sequence[Search], postings: Sequence[Posting]) -> dict[str, dict[str, int]]:
    """Grades above 0 of every pair, by query id and document id; a query without any has an empty entry."""
    asking: dict[str, list[Posting]] = defaultdict(list)
    for posting in postings:
        for skill in posting.required:
            asking[skill].append(posting)
    found: dict[str, dict[str, int]] = {}
    for search in searches:
        candidates = {posting.document_id: posting for skill in search.skills for posting in asking[skill]}
        graded = {key: grade(search, candidates[key]) for key in sorted(candidates)}
        found[search.query_id] = {key: value for key, value in graded.items() if value > 0}
    return found
