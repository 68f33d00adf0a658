"""Searches as people type them: a role perhaps, a few skills, years perhaps, any separator, and typing mistakes."""

from __future__ import annotations

from random import Random

from contrastive.data.queries.typing_errors import mistype
from experiments.postings.labels import Posting, Search
from experiments.postings.vocabulary import Palette, roles

ROLE_SHARE, YEARS_SHARE, TYPO_SHARE = 0.4, 0.35, 0.34
SAME_FORM = 0.72
"""How often a search names a skill as its posting does; sets how much a lexical ranker can find."""
MOST_WORDS = 15


def _skills(posting: Posting, palette: Palette, most: int, random: Random) -> dict[str, str]:
    """Picks skills of a posting and the form each is typed in, often not the posting's own form."""
    core = palette.roles[posting.role].skills
    # Main skills come first to mind: those typical of the role about three times as often as the others.
    order = {skill: random.random() ** (3 if skill in core else 1) for skill in sorted(posting.required)}
    ranked = sorted(order, key=order.__getitem__)
    chosen = _across(ranked, posting.role, most)
    typed: dict[str, str] = {}
    for skill in chosen:
        shown = posting.named.get(skill)
        others = [form for form in palette.forms[skill] if form != shown] or list(palette.forms[skill])
        typed[skill] = shown if shown is not None and random.random() < SAME_FORM else random.choice(others)
    return typed


def _across(ranked: list[str], role: str, most: int) -> list[str]:
    """Takes the first skills; for a mixed role the first of each of its parts in turn, as far as there are any."""
    parts = [[skill for skill in ranked if skill in roles()[part].skills] for part in roles()[role].parts]
    if len(parts) == 1:
        return ranked[:most]
    turns = [part[turn] for turn in range(most) for part in parts if turn < len(part)]
    return list(dict.fromkeys([*turns, *ranked]))[:most]


def _years(posting: Posting, random: Random) -> int:
    """Years that suit the posting."""
    if posting.low is None:
        return random.randint(1, 9)
    return random.randint(max(posting.low, 1), max(posting.high or posting.low + 3, 1))


def _join(role: str | None, forms: list[str], years: str | None, palette: Palette, random: Random) -> str:
    separator = random.choice(palette.separators)
    parts = [role, *forms] if role else forms
    text = parts[0]
    for part in parts[1:]:
        # A quarter of the joints depart from the separator of the query: people are not consistent.
        text += (separator if random.random() < 0.75 else random.choice(palette.separators)) + part
    if years is None:
        return text
    joint = random.choice([" ", ", "]) if separator in " +" else random.choice([separator, " "])
    return f"{text}{joint}{years}" if random.random() < 0.8 else f"{years}{joint}{text}"


def _case(text: str, random: Random) -> str:
    return random.choices([text.lower(), text, text.title(), text.upper()], [70, 20, 6, 4])[0]


def _words(text: str) -> int:
    return sum(any(map(str.isalnum, word)) for word in text.replace("/", " ").replace(",", " ").split())


def draw_search(query_id: str, posting: Posting, palette: Palette, random: Random) -> Search:
    """Draws a search that `posting` answers with grade 2.

    Args:
        query_id: Id of the search.
        posting: The posting it is after.
        palette: Words of the split.
        random: Source of every choice.
    """
    role = random.choice(roles()[posting.role].parts) if random.random() < ROLE_SHARE else None
    titles = palette.roles[role or posting.role].titles
    title = titles[0] if random.random() < 0.5 else random.choice(titles)
    weights = [2, 4, 4, 1] if role else [3, 5, 4, 1]
    most = random.choices([1, 2, 3, 4] if role else [2, 3, 4, 5], weights)[0]
    most = max(most, len(roles()[posting.role].parts))
    skills = _skills(posting, palette, most, random)
    years = _years(posting, random) if random.random() < YEARS_SHARE else None
    stated = random.choice(palette.years).format(n=years) if years is not None else None
    clean = _case(_join(title if role else None, list(skills.values()), stated, palette, random), random)
    while not 2 <= _words(clean) <= MOST_WORDS:
        skills.popitem()
        clean = _case(_join(title if role else None, list(skills.values()), stated, palette, random), random)
    text = mistype(clean, random) if random.random() < TYPO_SHARE else clean
    return Search(query_id, role, skills, years, clean, text)
