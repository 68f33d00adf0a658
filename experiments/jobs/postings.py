"""Job postings as text: from a plan (role, required and mentioned skills, years) to the mess people publish.

Notable decisions:

- A required skill is either named, in one of the split's surface forms, or only described by a demand; a few are both.
- Relevant and irrelevant postings come from the same code and the same pools: nothing but the plan tells them apart.
- Much of a posting is not about its skills, as in real ones: about 215 tokens on average, with prose, chores, qualities
  and benefits around them. Shorter postings transferred worse to real ones (experiments/LOG.md, 2026-11-26).
- Layout varies per posting: voice, sections and their order, bullets or paragraphs or one run-on line, lists or lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from experiments.jobs.labels import Posting
from experiments.jobs.vocabulary import Level, Palette

VOICES = ("corporate", "startup", "agency", "dump", "public")
BULLETS = ("- ", "* ", "• ", "", "", "· ")
NAMED = 0.86
"""Share of required skills that are named rather than described."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a posting is to mean, before it is put into words.

    Attributes:
        role: Name of the role.
        required: Skills it truly asks for.
        mentioned: Skills it names in passing or negates.
        level: Seniority.
        low: Fewest years, or `None` to state none.
        high: Most years, or `None` if open.
        typed: Surface forms to prefer, so that a hard negative looks like its query.
    """

    role: str
    required: tuple[str, ...]
    mentioned: tuple[str, ...]
    level: Level
    low: int | None
    high: int | None
    typed: Mapping[str, str] = field(default_factory=dict)


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
    pools = [(entry.skills, random.randint(3, 8)), (palette.families[entry.family], random.choice([0, 0, 1, 2, 3]))]
    pools.append((palette.general, random.choice([0, 0, 1, 1, 2])))
    required: dict[str, None] = {}
    for pool, count in pools:
        free = [skill for skill in pool if skill not in required and skill not in without]
        required |= dict.fromkeys(random.sample(free, min(count, len(free))))
    spare = [skill for skill in palette.families[entry.family] if skill not in required]
    mentioned = random.sample(spare, min(random.choice([0, 0, 0, 1, 1, 2, 3]), len(spare)))
    level, low, high = draw_level(palette, random)
    return Plan(role, tuple(required), tuple(mentioned), level, low, high)


def write(document_id: str, plan: Plan, palette: Palette, random: Random) -> Posting:
    """Puts a plan into words."""
    writer = _Writer(plan, palette, random)
    text = writer.text()
    return Posting(
        document_id, plan.role, frozenset(plan.required), frozenset(plan.mentioned), plan.low, plan.high,
        writer.named, text,
    )  # fmt: skip


class _Writer:
    """Writes one posting; holds what its sentences share."""

    def __init__(self, plan: Plan, palette: Palette, random: Random) -> None:
        self.plan, self.palette, self.random = plan, palette, random
        self.voice = random.choice(VOICES)
        self.used: set[str] = set()
        self.facts = self._facts()
        named = [skill for skill in plan.required if random.random() < NAMED]
        self.named = {skill: self._form(skill) for skill in named}

    def _facts(self) -> dict[str, str]:
        random, lines = self.random, self.palette.lines
        head, tail = random.choice(lines["company_heads"]), random.choice(lines["company_tails"])
        pay = random.randrange(18, 160, 2)
        return {
            "company": head + (" " if tail[0].isupper() else "") + tail,
            "city": random.choice(self.palette.cities),
            "title": random.choice(self.palette.roles[self.plan.role].titles),
            "mode": random.choice(lines["modes"]),
            "founded": str(random.randint(1921, 2021)),
            "count": str(random.choice([12, 25, 40, 85, 150, 300, 700, 1200, 5000, 20000])),
            "openings": str(random.randint(1, 40)),
            "pay": str(pay),
            "pay_high": str(pay + random.randrange(4, 40, 2)),
            "low": str(self.plan.low),
            "years": f"{self.plan.low}{random.choice(['-', ' - ', ' to '])}{self.plan.high}",
        }

    def _form(self, skill: str) -> str:
        if skill in self.plan.typed and self.random.random() < 0.75:
            return self.plan.typed[skill]
        return self.random.choice(self.palette.forms[skill])

    def _say(self, kind: str, **more: str) -> str:
        """Fills a template of this kind; one that this posting has not used yet, as long as there is any."""
        lines = self.palette.lines[kind]
        template = self.random.choice([line for line in lines if line not in self.used] or lines)
        self.used.add(template)
        return self._fill(template, **more)

    def _fill(self, template: str, **more: str) -> str:
        if self.facts["title"][0] in "AEIO":
            template = template.replace("a {title}", "an {title}")
        text = template.format_map(self.facts | more)
        return text[0].upper() + text[1:] if self.random.random() < 0.8 else text

    def _several(self, kind: str, most: int) -> list[str]:
        pool = self.palette.lines[kind]
        return [self._fill(template) for template in self.random.sample(pool, min(most, len(pool)))]

    def _list(self, forms: Sequence[str]) -> str:
        style = self.random.randrange(4)
        if style == 0 and len(forms) > 1:
            return f"{', '.join(forms[:-1])} and {forms[-1]}"
        return (", ", ", ", " , ", " / ")[style].join(forms)

    def _demand(self, skill: str) -> str:
        demand = self.random.choice(self.palette.demands[skill])
        return self._say("demand", demand=demand, Demand=demand[0].upper() + demand[1:])

    def _skill_lines(self) -> list[str]:
        """Sentences on every required skill: some in a list, some alone, some described, some twice."""
        random = self.random
        shown = random.sample(list(self.named), len(self.named))
        listed = random.choice([0, 2, 3, len(shown)]) if self.voice != "dump" else len(shown)
        lines = [self._say("skill", skill=self.named[skill]) for skill in shown[listed:]]
        if shown[:listed]:
            lines.append(self._say("skills", skills=self._list([self.named[skill] for skill in shown[:listed]])))
        for skill in self.plan.required:
            if skill not in self.named or random.random() < 0.45:
                lines.append(self._demand(skill))
        return random.sample(lines, len(lines))

    def _side_lines(self) -> list[str]:
        """Sentences on the skills that are not asked for."""
        rest = self.random.sample(self.plan.mentioned, len(self.plan.mentioned))
        lines: list[str] = []
        while rest:
            count = min(len(rest), self.random.randint(1, 3))
            forms, rest = [self._form(skill) for skill in rest[:count]], rest[count:]
            if self.random.random() < 0.6:
                lines.append(self._say("passing", skills=self._list(forms)))
            else:
                lines += [self._say("negated", skill=form) for form in forms]
        return lines

    def _sections(self) -> dict[str, list[str]]:
        random, skill_lines = self.random, self._skill_lines()
        cut = random.randint(0, len(skill_lines) // 2)
        needs = skill_lines[cut:]
        if self.plan.low is not None:
            template = [
                line for line in self.palette.lines["years"] if ("{years}" in line) == (self.plan.high is not None)
            ]
            needs.insert(random.randint(0, len(needs)), self._fill(random.choice(template)))
        sections = {"about": [], "duties": skill_lines[:cut], "requirements": needs, "extras": []}
        for line in self._side_lines():
            sections[random.choice(["about", "duties", "requirements", "extras"])].append(line)
        self._pad(sections)
        random.shuffle(sections["duties"])
        random.shuffle(sections["requirements"])
        return sections

    def _pad(self, sections: dict[str, list[str]]) -> None:
        """Adds the sentences around the skills until the posting is as long as it wants to be."""
        random, target = self.random, self.random.triangular(60, 300, 160)
        duties = [
            self._say("duty", duty=duty, Duty=duty[0].upper() + duty[1:])
            for duty in random.sample(
                self.palette.roles[self.plan.role].duties, len(self.palette.roles[self.plan.role].duties)
            )
        ]
        pool = [("about", line) for line in self._several(f"about.{self.voice}", random.randint(1, 8))]
        pool += [("duties", line) for line in duties[: random.randint(0, 3)]]
        pool += [("duties", line) for line in self._several("chore", random.randint(0, 6))]
        pool += [("requirements", line) for line in self._several("quality", random.randint(0, 4))]
        pool += [("requirements", line) for line in self._several("education", random.randint(0, 2))]
        pool += [("extras", line) for line in self._several("extras", random.randint(0, 8))]
        pool += [("extras", line) for line in self._several("closing", random.randint(0, 5))]
        random.shuffle(pool)
        length = sum(len(line.split()) for lines in sections.values() for line in lines)
        for section, line in pool:
            if length >= target:
                break
            sections[section].append(line)
            length += len(line.split())

    def _title(self) -> str:
        word = self.random.choice(self.plan.level.words) if self.random.random() < 0.5 else ""
        title = f"{word} {self.facts['title']}".strip()
        return self.random.choice(self.palette.lines["titles"]).format_map(self.facts | {"title": title})

    def text(self) -> str:
        """The posting: its title, then the sections in the order and layout of its voice."""
        random, sections = self.random, self._sections()
        order = ["about", "duties", "requirements", "extras"]
        if random.random() < 0.35:
            random.shuffle(order)
        headed = random.random() < {"startup": 0.6, "dump": 0.4}.get(self.voice, 0.8)
        bullet = random.choice(BULLETS)
        joint = (
            " ; " if self.voice == "dump" and random.random() < 0.5 else random.choice(["\n", "\n", "\n", " ", ". "])
        )
        blocks: list[str] = []
        for name in order:
            if not sections[name]:
                continue
            prefix = bullet if joint == "\n" and name != "about" else ""
            body = joint.join(prefix + (line.rstrip(".") if joint == ". " else line) for line in sections[name])
            header = random.choice(self.palette.lines[f"headers.{name}"]) if headed else ""
            blocks.append(f"{header.upper() if random.random() < 0.15 else header}\n{body}".strip())
        between = random.choice(["\n", "\n", "\n\n", " "])
        body = between.join(blocks)
        return f"{self._title()}\n{body.replace(chr(10), ' ') if random.random() < 0.15 else body}"
