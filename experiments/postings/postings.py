"""Plans of job postings: the role or roles, what is asked for and what is only mentioned, the seniority and its years.

Notable decisions:

- A required skill is either named, in one of the split's surface forms, or only described by a demand; a few are both.
- Relevant and irrelevant postings come from the same code and the same pools: nothing but the plan tells them apart.
- A mixed role asks for skills of each of its parts, so that its posting is of several families.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from experiments.postings.labels import Posting, Search
from experiments.postings.vocabulary import Level, Palette
from experiments.postings.writing import Plan, compose

MIXED_SHARE = 0.2
"""Share of postings whose job combines roles."""


def draw_role(palette: Palette, random: Random) -> str:
    """Draws a plain role, or a mixed one in `MIXED_SHARE` of the cases."""
    mixed = random.random() < MIXED_SHARE
    return random.choice(sorted(name for name, role in palette.roles.items() if (len(role.parts) > 1) == mixed))


def draw_level(palette: Palette, random: Random, around: Level | None = None) -> tuple[Level, int | None, int | None]:
    """Draws a seniority (or takes `around`) and the years stated for it: none in a quarter of the postings."""
    level = around or random.choices(palette.levels, [2, 3, 5, 3, 1])[0]
    if around is None and random.random() < 0.25:
        return level, None, None
    low = random.randint(level.low, max(level.high - 2, level.low))
    return level, low, None if low > 0 and random.random() < 0.4 else low + random.randint(1, 3)


def draw_plan(role: str, palette: Palette, random: Random, without: frozenset[str] = frozenset()) -> Plan:
    """Draws a plan for a posting of `role` that requires none of the skills in `without`."""
    entry = palette.roles[role]
    most = (3, 8) if len(entry.parts) == 1 else (2, 4) if len(entry.parts) == 2 else (1, 3)
    pools = [(palette.roles[part].skills, random.randint(*most)) for part in entry.parts]
    family = tuple(dict.fromkeys(skill for name in entry.families for skill in palette.families[name]))
    pools.append((family, random.choice([0, 0, 1, 2, 3]) if len(entry.parts) == 1 else random.choice([0, 0, 1])))
    pools.append((palette.general, random.choice([0, 0, 1, 1, 2])))
    required: dict[str, None] = {}
    for pool, count in pools:
        free = [skill for skill in pool if skill not in required and skill not in without]
        required |= dict.fromkeys(random.sample(free, min(count, len(free))))
    taken = {*required, *without, *palette.general}
    spare = [skill for skill in family if skill not in taken]
    mentioned = random.sample(spare, min(random.choice([0, 0, 0, 1, 1, 2, 3]), len(spare)))
    level, low, high = draw_level(palette, random)
    return Plan(role, tuple(required), tuple(mentioned), level, low, high)


def require(plan: Plan, skills: Sequence[str], search: Search, random: Random) -> Plan:
    """Lets a plan ask for these skills of a search and for no other of its skills, in the words of the search."""
    asked = [skill for skill in plan.required if skill not in search.skills]
    required = random.sample([*skills, *asked], len(skills) + len(asked))
    mentioned = tuple(skill for skill in plan.mentioned if skill not in search.skills)
    return replace(plan, required=tuple(required), mentioned=mentioned, typed=search.skills)


def write(document_id: str, plan: Plan, palette: Palette, random: Random) -> Posting:
    """Puts a plan into words."""
    text, named = compose(plan, palette, random)
    return Posting(
        document_id, plan.role, frozenset(plan.required), frozenset(plan.mentioned), plan.low, plan.high, named, text
    )
