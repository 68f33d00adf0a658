"""Hard negatives by construction: postings that look right for a search and are not (grade 0).

Kinds, hardest first: the skills only in passing or negated; one part of a mixed job with its share of the skills; the
skills in an unrelated role; most skills but the wrong seniority; the role with too few of the skills; the role with
other skills. A kind that cannot be built for a search (a part of a plain job, an unrelated role for one that names
none, a wrong seniority for one that states no years) gives way to the next.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from experiments.postings.labels import ENOUGH, Posting, Search, contradicts, grade
from experiments.postings.postings import Plan, draw_level, draw_plan, write
from experiments.postings.vocabulary import Palette, roles

KINDS = ("passing", "one_part", "other_role", "wrong_years", "too_few", "other_skills")


def _passing(search: Search, role: str, palette: Palette, random: Random) -> Plan:
    plan = draw_plan(role, palette, random, without=frozenset(search.skills))
    return replace(plan, mentioned=tuple(dict.fromkeys([*search.skills, *plan.mentioned[:1]])))


def _other_role(search: Search, palette: Palette, random: Random) -> Plan | None:
    if search.role is None:
        return None
    own = roles()[search.role]
    strangers = [
        role
        for role in palette.roles.values()
        if len(role.parts) == 1 and role.families != own.families and role.name not in own.near
    ]
    if not strangers:
        return None
    # The role that would most plausibly ask for these skills, and by chance among equals.
    likely = max(strangers, key=lambda role: (len(search.skills.keys() & set(role.skills)), random.random()))
    plan = draw_plan(likely.name, palette, random, without=frozenset(search.skills))
    return replace(plan, required=(*search.skills, *plan.required[:4]))


def _one_part(search: Search, role: str, palette: Palette, random: Random) -> Plan:
    """A plain posting of one of the combined roles, with too few of the skills of the search, all of them its own."""
    part = random.choice(roles()[role].parts)
    own = [skill for skill in search.skills if skill in roles()[part].skills]
    most = max(count for count in range(len(search.skills)) if count / len(search.skills) < ENOUGH)
    plan = draw_plan(part, palette, random, without=frozenset(search.skills))
    return replace(plan, required=(*random.sample(own, min(len(own), most)), *plan.required))


def _some(search: Search, role: str, count: int, palette: Palette, random: Random) -> Plan:
    plan = draw_plan(role, palette, random, without=frozenset(search.skills))
    return replace(plan, required=(*random.sample(list(search.skills), count), *plan.required))


def _wrong_years(search: Search, role: str, palette: Palette, random: Random) -> Plan | None:
    plan = _some(search, role, len(search.skills) - 1, palette, random)
    for level in random.sample(palette.levels, len(palette.levels)):
        _, low, high = draw_level(palette, random, around=level)
        if contradicts(search.years, low, high):
            return replace(plan, level=level, low=low, high=high)
    return None


def _allowed(search: Search, role: str) -> list[str]:
    """The kinds that make sense for a search with this role behind it."""
    most = (len(search.skills) - 1) / len(search.skills) >= ENOUGH
    fits = {
        "one_part": len(roles()[role].parts) > 1,
        "other_role": search.role is not None,
        "wrong_years": search.years is not None and most,
    }
    return [kind for kind in KINDS if fits.get(kind, True)]


def _plan(kind: str, search: Search, role: str, palette: Palette, random: Random) -> Plan | None:
    if kind == "passing":
        return _passing(search, role, palette, random)
    if kind == "one_part":
        return _one_part(search, role, palette, random)
    if kind == "other_role":
        return _other_role(search, palette, random)
    if kind == "wrong_years":
        return _wrong_years(search, role, palette, random)
    few = max(count for count in range(len(search.skills)) if count / len(search.skills) < ENOUGH)
    return _some(search, role, few if kind == "too_few" else 0, palette, random)


def draw_negative(
    document_id: str, start: int, search: Search, role: str, palette: Palette, random: Random
) -> tuple[str, Posting]:
    """Draws a hard negative of one of the kinds that the search allows.

    Args:
        document_id: Id of the posting.
        start: Which of these kinds to try first, modulo their number.
        search: The search it must not answer.
        role: The role behind the search, stated or not.
        palette: Words of the split.
        random: Source of every choice.

    Returns:
        The kind, and a posting with grade 0 for `search`.
    """
    allowed = _allowed(search, role)
    for step in range(len(allowed)):
        kind = allowed[(start + step) % len(allowed)]
        plan = _plan(kind, search, role, palette, random)
        if plan is None:
            continue
        posting = write(document_id, replace(plan, typed=search.skills), palette, random)
        if grade(search, posting) == 0:
            return kind, posting
    raise RuntimeError(f"expected a grade-0 posting for {search.text!r}, got none of the kinds {KINDS}")
