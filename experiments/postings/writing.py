"""What a job posting says: its title, and the parts of each of its sections in order; `layout` makes a text of them.

Notable decisions:

- What a posting says of itself agrees: title, level and years; one company, place, kind of contract and pay; duties,
  trade and degree that belong to the role; a skill that is asked for is not one that nobody needs.
- Much of a posting is not about its skills, as in real ones: about 215 tokens on average, with prose, chores, qualities
  and benefits around them. Shorter postings transferred worse to real ones (experiments/LOG.md, 2026-11-26).
- Most training postings are shuffled, as many were before sections had an order: a model that saw orderly ones alone
  ranked real postings worse (experiments/LOG.md, 2026-11-28). Dev and test are as a person would write them.
- The voice varies per posting; `dump` is that of somebody in a hurry: facts and keywords in place of sentences.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from experiments.postings.layout import lay_out, listed, upper
from experiments.postings.vocabulary import Level, Palette

VOICES = ("corporate", "startup", "agency", "dump", "public")
VOWEL_SOUND = re.compile(r"[FHLMNRSX][A-Z]+\b")
"""Abbreviations that take "an", such as HR and ML."""
SIZES = (25, 40, 85, 150, 300, 700, 1200, 5000, 20000)
SHUFFLED = 0.8
"""Share of the training postings whose parts are shuffled."""
NAMED = 0.86
"""Share of required skills that are named rather than described."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a posting is to mean, before it is put into words.

    Attributes:
        role: Name of the role, plain or mixed.
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


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a section: a sentence, a duty (verb phrase) or a need or an offer (noun phrase), and its rank in it."""

    section: str
    rank: int
    text: str


def compose(plan: Plan, palette: Palette, random: Random) -> tuple[str, Mapping[str, str]]:
    """Writes a posting; returns it with the surface form of each skill that it names."""
    writer = _Writer(plan, palette, random)
    sections = writer.sections()
    shuffled = palette.split == "train" and random.random() < SHUFFLED
    body = lay_out(sections, writer.voice, writer.say, random, shuffled=shuffled)
    return f"{writer.headline()}\n{body}", writer.named


class _Writer:
    """Writes one posting; holds what its sentences share."""

    def __init__(self, plan: Plan, palette: Palette, random: Random) -> None:
        self.plan, self.palette, self.random = plan, palette, random
        self.role = palette.roles[plan.role]
        self.voice = random.choice(VOICES)
        self.used: set[str] = set()
        self.title = self._title()
        self.facts = self._facts()
        self.named = {skill: self._form(skill) for skill in plan.required if random.random() < NAMED}

    def _title(self) -> str:
        """The title of role and level; a rank goes before no title that says one already."""

        def ranked(title: str) -> bool:
            return not self.palette.ranks.isdisjoint(title.lower().split())

        plain = [title for title in self.role.titles if not ranked(title)]
        title = self.random.choice(plain if plain and self.plan.level.name != "middle" else self.role.titles)
        return title if ranked(title) else self.random.choice(self.plan.level.titles).format(title=title)

    def headline(self) -> str:
        """The first line: the title, and perhaps where, for whom or how."""
        template = self.random.choice(self.palette.lines["titles"])
        return self._fill(template.replace("{title}", self.title))

    def _facts(self) -> dict[str, str]:
        random, lines, plan = self.random, self.palette.lines, self.plan
        tail = random.choice(lines["public_tails" if self.voice == "public" else "company_tails"])
        pay = random.randrange(plan.level.pay[0], plan.level.pay[1], 2)
        return {
            "company": random.choice(lines["company_heads"]) + (" " if tail[0].isupper() else "") + tail,
            "city": random.choice(self.palette.cities),
            "title": self.title.partition(" - ")[0],
            "place": random.choice(lines["places"]),
            "contract": (contract := random.choice(lines["contracts"])),
            "terms": contract.lower(),
            "sector": random.choice(lines[f"sectors.{random.choice(self.role.families)}"]),
            "fields": listed([lines[f"fields.{family}"][0] for family in self.role.families]),
            "founded": str(random.randint(1921, 2021)),
            "count": str(random.choice(SIZES[:4] if self.voice == "startup" else SIZES)),
            "team": str(random.randint(3, 14)),
            "pay": str(pay),
            "pay_high": str(pay + random.randrange(4, 30, 2)),
            "low": str(plan.low),
            "high": str(plan.high),
            "years": f"{plan.low}{random.choice(['-', ' - ', ' to ']) + str(plan.high) if plan.high else '+'}",
        }

    def _form(self, skill: str) -> str:
        if skill in self.plan.typed and self.random.random() < 0.75:
            return self.plan.typed[skill]
        return self.random.choice(self.palette.forms[skill])

    def _fill(self, template: str, **more: str) -> str:
        facts = self.facts | more
        if self.title[0] in "AEIO" or VOWEL_SOUND.match(self.title):
            template = template.replace("a {title}", "an {title}")
        text = template.format_map(facts).replace(" 1 years", " 1 year")
        return upper(text) if template.startswith("{") and not template.startswith("{skill") else text

    def say(self, kind: str, **more: str) -> str:
        """Fills a template of this kind; one that this posting has not used yet, as long as there is any."""
        lines = self.palette.lines[kind]
        template = self.random.choice([line for line in lines if line not in self.used] or lines)
        self.used.add(template)
        return self._fill(template, **more)

    def _list(self, forms: Sequence[str]) -> str:
        style = self.random.randrange(4)
        return listed(forms) if style == 0 else (", ", ", ", " , ", " / ")[style].join(forms)

    def _skill_pieces(self) -> list[Piece]:
        """Every required skill: some in a list, some alone, some as a duty, some described, some twice."""
        random, shown = self.random, self.random.sample(list(self.named), len(self.named))
        described = [skill for skill in self.plan.required if skill not in self.named or random.random() < 0.45]
        pieces = [self._duty(random.choice(self.palette.demands[skill])) for skill in described]
        if self.voice == "dump":
            forms = [self.named[skill] for skill in shown]
            return pieces + [Piece("requirements", 2, self.say("dump.skills", skills=self._list(forms)))] * bool(forms)
        topics = random.choice([0, 0, 1, 2]) if len(shown) > 3 else 0
        together = topics + random.choice([0, 2, 3, len(shown)])
        for kind, part in (("duties.topics", shown[:topics]), ("skills", shown[topics:together])):
            if part:
                text = self.say(kind, skills=self._list([self.named[skill] for skill in part]))
                pieces.append(self._duty(text) if kind == "duties.topics" else Piece("requirements", 2, text))
        return pieces + [Piece("requirements", 3, self._need(skill)) for skill in shown[together:]]

    def _duty(self, text: str) -> Piece:
        return Piece("duties", self.random.randint(0, 9), text)

    def _need(self, skill: str) -> str:
        """A skill as a need, at the depth that the seniority can have."""
        depth = {"intern": "starter", "junior": "starter", "senior": "expert", "lead": "expert"}
        own = depth.get(self.plan.level.name)
        return self.say(f"skill.{own if own and self.random.random() < 0.4 else 'any'}", skill=self.named[skill])

    def _side_pieces(self) -> list[Piece]:
        """Sentences on the skills that are not asked for."""
        rest = self.random.sample(self.plan.mentioned, len(self.plan.mentioned))
        pieces: list[Piece] = []
        while rest:
            count = min(len(rest), self.random.randint(1, 3))
            forms, rest = [self._form(skill) for skill in rest[:count]], rest[count:]
            if self.random.random() < 0.6:
                section = self.random.choice(["role", "role", "company"]) if self.voice != "dump" else "apply"
                pieces.append(Piece(section, 8, self.say("passing", skills=listed(forms))))
            else:
                pieces += [Piece("without", 8, self.say("negated", skill=form)) for form in forms]
        return pieces

    def sections(self) -> dict[str, list[str]]:
        """The sections: first what is meant, then the sentences around it until the posting is as long as it wants."""
        duties = self.random.sample(self.role.duties, len(self.role.duties))
        pieces = self._skill_pieces() + self._side_pieces() + self._opening(duties)
        target = self.random.triangular(60, 280, 140)
        length = sum(len(piece.text.split()) for piece in pieces)
        pool = self._pool(duties)
        self.random.shuffle(pool)
        for section, rank, kind, told in pool:
            if length >= target:
                break
            pieces.append(Piece(section, rank, told or self.say(kind)))
            length += len(pieces[-1].text.split())
        sections: dict[str, list[str]] = defaultdict(list)
        for piece in sorted(pieces, key=lambda piece: piece.rank):
            sections[piece.section].append(piece.text)
        return sections

    def _opening(self, duties: list[str]) -> list[Piece]:
        """What no posting goes without: who it is, what the job is and for how many years of experience."""
        pieces = []
        plan, dump = self.plan, "dump." if self.voice == "dump" else ""
        if dump:
            pieces.append(Piece("role", 0, self.say("dump.open")))
        else:
            pieces.append(Piece("role", 0, self.say(f"role.{self.voice}", one=duties.pop(), two=duties.pop())))
            if self.random.random() < 0.85:
                pieces.append(Piece("company", 0, self.say(f"company.{self.voice}.open")))
            if len(self.role.parts) > 1:
                pieces.append(Piece("role", 1, self.say("both")))
        if plan.low is not None:
            kind = "start" if plan.low == 0 else "open" if plan.high is None else "range"
            pieces.append(Piece("requirements", 0, self.say(f"{dump}years" if dump else f"years.{kind}")))
        return pieces

    def _pool(self, duties: list[str]) -> list[tuple[str, int, str, str]]:
        """The sentences around the skills: section, rank in it, and what kind to say, or what."""
        random, level = self.random, self.plan.level.name
        hands_on = self.palette.hands_on.issuperset(self.role.families)
        degree = "intern" if level == "intern" else "hands_on" if hands_on else "any"
        place = "away" if self.facts["place"] in self.palette.lines["places"][:2] else "site"
        perks = random.sample(["leave", "health", "money", "growth", place, "extra"], random.randint(0, 5))
        wanted = [("duties", 5, "chore", random.randint(0, 5)), ("requirements", 1, f"education.{degree}", 1)]
        wanted += [
            ("requirements", 4, "quality", random.randint(0, 4)),
            ("offer", 0, "offer.pay", random.randint(0, 1)),
        ]
        wanted += [("offer", 1, f"offer.{perk}", 1) for perk in perks]
        if self.voice == "dump":
            wanted.append(("apply", 0, "dump.apply", random.randint(0, 3)))
            facts = random.sample(list(enumerate(self.palette.lines["dump.facts"], start=1)), random.randint(2, 8))
            told = [("role", rank, "", self._fill(fact)) for rank, fact in facts]
        else:
            told = []
            wanted += [("company", 1, f"company.{self.voice}.more", random.randint(0, 3))]
            wanted += [
                ("role", 2, f"level.{level}", random.randint(0, 1)),
                ("role", 3, "role_more", random.randint(0, 2)),
            ]
            wanted += [("nice", 0, "nice", random.choice([0, 0, 1, 2, 3]))]
            parts = enumerate(["how", "process", "equal", "legal"])
            wanted += [("apply", rank, f"apply.{part}", random.randint(0, 1)) for rank, part in parts]
        kinds = [(section, rank, kind, "") for section, rank, kind, most in wanted for _ in range(most)]
        return kinds + told + [("duties", random.randint(0, 9), "", duty) for duty in duties]
