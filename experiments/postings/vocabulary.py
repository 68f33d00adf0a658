"""The words of the data set: skills, roles and sentences, read from YAML, checked, and dealt out to the splits.

Notable decisions:

- A split sees the vocabulary only through its `Palette`, and the palettes of training and test share no role, title,
  surface form, demand or sentence. Disjoint splits are therefore a property of the data handed out, not of care taken.
- Dev has roles of its own and for each skill one form that training never shows (the last of `forms`), beside the
  forms and sentences of training: close enough to tune on, and not a copy of the test.
- Latent skills are shared by all splits; the reserved forms are words that a pretrained encoder can relate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
WORDS = Path(__file__).parent / "words"


@dataclass(frozen=True, slots=True)
class Skill:
    """One latent skill: its surface forms, and sentences that demand it without naming it."""

    name: str
    forms: tuple[str, ...]
    test_forms: tuple[str, ...]
    demands: tuple[str, ...]
    test_demands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Role:
    """One occupation: where it belongs, what it is called, the skills it asks for and what one does all day.

    A mixed role, such as a developer of courses on data science, combines the roles in `parts`: their families, skills
    and neighbours are its own. The only part of a plain role is itself.
    """

    name: str
    parts: tuple[str, ...]
    families: tuple[str, ...]
    split: Split
    titles: tuple[str, ...]
    skills: tuple[str, ...]
    near: frozenset[str]
    duties: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """One seniority: the years it asks for, the titles it makes of a role's title, and its pay in thousands."""

    name: str
    low: int
    high: int
    titles: tuple[str, ...]
    pay: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Palette:
    """What one split may use.

    Attributes:
        split: Name of the split.
        roles: Its roles by name.
        forms: Surface forms by skill.
        demands: Sentences that demand a skill without naming it, by skill.
        lines: Sentence templates by kind, such as `skill.any`, `company.startup.open` or `headers.duties`.
        families: Skills asked for anywhere in a family, by family.
        general: Skills that any role may ask for.
        cities: Places of work.
        levels: Seniorities.
        ranks: Words of a title that already say its seniority.
        hands_on: Families whose postings ask for no degree.
        separators: What people type between two skills.
        years: How people state their years of experience.
    """

    split: Split
    roles: Mapping[str, Role]
    forms: Mapping[str, tuple[str, ...]]
    demands: Mapping[str, tuple[str, ...]]
    lines: Mapping[str, tuple[str, ...]]
    families: Mapping[str, tuple[str, ...]]
    general: tuple[str, ...]
    cities: tuple[str, ...]
    levels: tuple[Level, ...]
    ranks: frozenset[str]
    hands_on: frozenset[str]
    separators: tuple[str, ...]
    years: tuple[str, ...]


def read(name: str) -> Any:
    """Reads one of the files in `words`."""
    quick = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # six times as fast, where PyYAML has it
    return yaml.load((WORDS / name).read_text(encoding="utf-8"), Loader=quick)


def texts(value: object, where: str) -> tuple[str, ...]:
    """Checks a list of strings."""
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ValueError(f"expected a non-empty list of strings at {where}, got {value!r}")
    return tuple(value)


def names(text: str, form: str) -> bool:
    """Whether `text` contains `form` as whole words, whatever the case.

    >>> names("Strong C++ and SQL.", "sql"), names("MySQL", "sql")
    (True, False)
    """
    return re.search(rf"(?<![^\W_]){re.escape(form.lower())}(?![^\W_])", text.lower()) is not None


def check_skills(skills: Iterable[Skill]) -> None:
    """Refuses a surface form that two skills or two splits share, and a demand that names its skill.

    Raises:
        ValueError: With the skill, the form and the demand at fault.
    """
    owner: dict[str, str] = {}
    for skill in skills:
        forms = skill.forms + skill.test_forms
        if len(skill.forms) < 2:
            raise ValueError(f"expected at least 2 forms outside test for skill {skill.name!r}, got {skill.forms}")
        for form in forms:
            if form.lower() in owner:
                raise ValueError(f"expected form {form!r} once, got it for {owner[form.lower()]!r} and {skill.name!r}")
            owner[form.lower()] = skill.name
        for demand in skill.demands + skill.test_demands:
            named = [form for form in forms if names(demand, form)]
            if named:
                raise ValueError(f"expected a demand that does not name {skill.name!r}, got {demand!r} with {named}")


@cache
def skills() -> Mapping[str, Skill]:
    """Every skill by name, checked."""
    found: dict[str, Skill] = {}
    for path in sorted((WORDS / "skills").glob("*.yaml")):
        for name, entry in read(f"skills/{path.name}").items():
            if name in found:
                raise ValueError(f"expected skill {name!r} once, got it again in {path.name}")
            fields = [texts(entry.get(key), f"{name}.{key}") for key in ("forms", "test", "demand", "unseen")]
            found[name] = Skill(name, *fields)
    check_skills(found.values())
    return found


@cache
def roles() -> Mapping[str, Role]:
    """Every role by name, with neighbourhood made symmetric; the plain ones, then the mixed ones.

    Raises:
        ValueError: If a role names a skill, neighbour, part or split that does not exist, or two roles share a title.
    """
    plain: dict[str, dict[str, Any]] = read("roles.yaml")
    mixed: dict[str, dict[str, Any]] = read("mixed_roles.yaml")
    near: dict[str, set[str]] = {name: set(entry["near"]) for name, entry in plain.items()}
    for name, entry in plain.items():
        strange = (set(entry["skills"]) - skills().keys()) | (near[name] - plain.keys())
        if strange or entry["split"] not in SPLITS:
            raise ValueError(
                f"expected known skills, roles and split for {name!r}, got {sorted(strange)}, {entry['split']}"
            )
        for other in entry["near"]:
            near[other].add(name)
    for name, entry in mixed.items():
        strange = {part for part in entry["parts"] if plain.get(part, {}).get("split") != entry["split"]}
        if strange or len(entry["parts"]) < 2 or name in plain:
            raise ValueError(f"expected a new name and two plain roles of its split or more for {name!r}, got {entry}")
    titles = [title.lower() for entry in [*plain.values(), *mixed.values()] for title in entry["titles"]]
    if len(titles) > len(set(titles)):
        raise ValueError(
            f"expected each title once, got {sorted({title for title in titles if titles.count(title) > 1})}"
        )
    return {
        name: _role(name, entry, [plain[part] for part in parts], parts, near)
        for name, entry in [*plain.items(), *mixed.items()]
        for parts in [tuple(entry.get("parts", (name,)))]
    }


def _role(
    name: str, entry: dict[str, Any], parts: list[dict[str, Any]], names: tuple[str, ...], near: Mapping[str, set[str]]
) -> Role:
    """Makes a role of its entry and those of its parts."""
    asked = [skill for part in parts for skill in texts(part["skills"], name)]
    return Role(
        name=name,
        parts=names,
        families=tuple(dict.fromkeys(part["family"] for part in parts)),
        split=entry["split"],
        titles=texts(entry["titles"], name),
        skills=tuple(dict.fromkeys(asked)),
        near=frozenset().union(*(near[part] for part in names)),
        duties=texts(entry["duties"], name),
    )


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[str, ...]]:
    flat: dict[str, tuple[str, ...]] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = texts(value, prefix + key)
    return flat


@cache
def palette(split: Split) -> Palette:
    """What `split` may use of the vocabulary.

    >>> "machine learning" in palette("train").forms["machine_learning"]
    True
    """
    words, typing = read("postings.yaml"), read("queries.yaml")
    families: dict[str, dict[str, None]] = {}
    for role in roles().values():
        if len(role.parts) == 1:
            families.setdefault(role.families[0], {}).update(dict.fromkeys(role.skills))
    test = split == "test"
    shown = slice(None, -1) if split == "train" else slice(None)
    return Palette(
        split=split,
        roles={name: role for name, role in roles().items() if role.split == split},
        forms={name: skill.test_forms if test else skill.forms[shown] for name, skill in skills().items()},
        demands={name: skill.test_demands if test else skill.demands for name, skill in skills().items()},
        lines=_flatten(words["test" if test else "train"]),
        families={family: tuple(pool) for family, pool in families.items()},
        general=texts(read("general.yaml"), "general"),
        cities=texts(words["cities"], "cities"),
        levels=tuple(
            Level(name, *level["years"], texts(level["titles"], name), tuple(level["pay"]))
            for name, level in words["levels"].items()
        ),
        ranks=frozenset(words["ranks"]),
        hands_on=frozenset(words["hands_on"]),
        separators=texts(typing["separators"], "separators"),
        years=texts(typing["years"], "years"),
    )
