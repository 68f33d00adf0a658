"""Job postings as text: a title, then sections in order, the sentences of each following from one another.

Notable decisions:

- What a posting says of itself agrees: title, level and years; one company, place, kind of contract and pay; duties,
  trade and degree that belong to the role; a skill that is asked for is not one that nobody needs.
- Much of a posting is not about its skills, as in real ones: about 215 tokens on average, with prose, chores, qualities
  and benefits around them. Shorter postings transferred worse to real ones (experiments/LOG.md, 2026-11-26).
- Layout varies per posting: voice, sections and their order, bullets or prose or one run-on line. `dump` is the voice
  of somebody in a hurry: facts, a list of keywords, no full sentences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from experiments.jobs.vocabulary import Level, Palette

VOICES = ("corporate", "startup", "agency", "dump", "public")
BULLETS = ("- ", "* ", "• ", "", "", "· ")
ORDERS = (
    ("company", "role", "duties", "requirements", "nice", "offer", "apply"),
    ("role", "duties", "requirements", "nice", "company", "offer", "apply"),
    ("role", "company", "requirements", "duties", "nice", "offer", "apply"),
    ("company", "role", "requirements", "nice", "duties", "offer", "apply"),
)
SIZES = (25, 40, 85, 150, 300, 700, 1200, 5000, 20000)
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
    return writer.text(), writer.named


def listed(items: Sequence[str]) -> str:
    """Joins phrases as in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def upper(text: str) -> str:
    """Puts the first letter in upper case."""
    return text[0].upper() + text[1:]


class _Writer:
    """Writes one posting; holds what its sentences share."""

    def __init__(self, plan: Plan, palette: Palette, random: Random) -> None:
        self.plan, self.palette, self.random = plan, palette, random
        self.role = palette.roles[plan.role]
        self.voice = random.choice(VOICES)
        self.joint = random.choice([" ; ", "\n"])
        self.used: set[str] = set()
        self.title = self._title()
        self.facts = self._facts()
        self.named = {skill: self._form(skill) for skill in plan.required if random.random() < NAMED}

    def _title(self) -> str:
        """The title of role and level; a rank goes before no title that says one already."""

        def ranked(title: str) -> bool:
            return not self.palette.ranks.isdisjoint(title.lower().split())

        plain = [title for title in self.role.titles if not ranked(title)]
        modest = self.plan.level.name in ("intern", "junior", "lead") and plain
        title = self.random.choice(plain if modest else self.role.titles)
        return title if ranked(title) else self.random.choice(self.plan.level.titles).format(title=title)

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
            "none": "",
        }

    def _form(self, skill: str) -> str:
        if skill in self.plan.typed and self.random.random() < 0.75:
            return self.plan.typed[skill]
        return self.random.choice(self.palette.forms[skill])

    def _fill(self, template: str, **more: str) -> str:
        facts = self.facts | more
        if self.title[0] in "AEIO":
            template = template.replace("a {title}", "an {title}")
        text = template.format_map(facts).replace(" 1 years", " 1 year")
        return upper(text) if template.startswith("{") and not template.startswith("{skill") else text

    def _say(self, kind: str, **more: str) -> str:
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
            return pieces + [Piece("requirements", 2, self._say("dump.skills", skills=self._list(forms)))] * bool(forms)
        topics = random.choice([0, 0, 1, 2]) if len(shown) > 3 else 0
        together = topics + random.choice([0, 2, 3, len(shown)])
        for kind, part in (("duties.topics", shown[:topics]), ("skills", shown[topics:together])):
            if part:
                text = self._say(kind, skills=self._list([self.named[skill] for skill in part]))
                pieces.append(self._duty(text) if kind == "duties.topics" else Piece("requirements", 2, text))
        return pieces + [Piece("requirements", 3, self._need(skill)) for skill in shown[together:]]

    def _duty(self, text: str) -> Piece:
        return Piece("duties", self.random.randint(0, 9), text)

    def _need(self, skill: str) -> str:
        """A skill as a need, at the depth that the seniority can have."""
        depth = {"intern": "starter", "junior": "starter", "senior": "expert", "lead": "expert"}
        own = depth.get(self.plan.level.name)
        return self._say(f"skill.{own if own and self.random.random() < 0.4 else 'any'}", skill=self.named[skill])

    def _side_pieces(self) -> list[Piece]:
        """Sentences on the skills that are not asked for."""
        rest = self.random.sample(self.plan.mentioned, len(self.plan.mentioned))
        pieces: list[Piece] = []
        while rest:
            count = min(len(rest), self.random.randint(1, 3))
            forms, rest = [self._form(skill) for skill in rest[:count]], rest[count:]
            if self.random.random() < 0.6:
                section = self.random.choice(["role", "role", "company"]) if self.voice != "dump" else "apply"
                pieces.append(Piece(section, 8, self._say("passing", skills=listed(forms))))
            else:
                pieces += [Piece("without", 8, self._say("negated", skill=form)) for form in forms]
        return pieces

    def _pieces(self) -> dict[str, list[str]]:
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
            pieces.append(Piece(section, rank, told or self._say(kind)))
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
            pieces.append(Piece("role", 0, self._say("dump.open")))
        else:
            pieces.append(Piece("role", 0, self._say(f"role.{self.voice}", one=duties.pop(), two=duties.pop())))
            if self.random.random() < 0.85:
                pieces.append(Piece("company", 0, self._say(f"company.{self.voice}.open")))
            if len(self.role.parts) > 1:
                pieces.append(Piece("role", 1, self._say("both")))
        if plan.low is not None:
            kind = "start" if plan.low == 0 else "open" if plan.high is None else "range"
            pieces.append(Piece("requirements", 0, self._say(f"{dump}years" if dump else f"years.{kind}")))
        return pieces

    def _pool(self, duties: list[str]) -> list[tuple[str, int, str, str]]:
        """The sentences around the skills: section, rank in it, and what kind to say, or what."""
        random, level = self.random, self.plan.level.name
        hands_on = self.palette.hands_on.issuperset(self.role.families)
        degree = "intern" if level == "intern" else "hands_on" if hands_on else "any"
        place = "away" if self.facts["place"] in self.palette.lines["places"][:2] else "site"
        perks = random.sample(["leave", "health", "money", "growth", place, "extra"], random.randint(0, 5))
        wanted = [("duties", 5, "chore", random.randint(0, 5)), ("requirements", 1, f"education.{degree}", 1)]
        wanted += [("requirements", 4, "quality", random.randint(0, 4)), ("offer", 0, "offer.pay", random.randint(0, 1))]
        wanted += [("offer", 1, f"offer.{perk}", 1) for perk in perks]
        if self.voice == "dump":
            wanted.append(("apply", 0, "dump.apply", random.randint(0, 3)))
            facts = random.sample(list(enumerate(self.palette.lines["dump.facts"], start=1)), random.randint(2, 8))
            told = [("role", rank, "", self._fill(fact)) for rank, fact in facts]
        else:
            told = []
            wanted += [("company", 1, f"company.{self.voice}.more", random.randint(0, 3))]
            wanted += [("role", 2, f"level.{level}", random.randint(0, 1)), ("role", 3, "role_more", random.randint(0, 2))]
            wanted += [("nice", 0, "nice", random.choice([0, 0, 1, 2, 3]))]
            parts = enumerate(["how", "process", "equal", "legal"])
            wanted += [("apply", rank, f"apply.{part}", random.randint(0, 1)) for rank, part in parts]
        kinds = [(section, rank, kind, "") for section, rank, kind, most in wanted for _ in range(most)]
        return kinds + told + [("duties", random.randint(0, 9), "", duty) for duty in duties]

    # Layout

    def text(self) -> str:
        """The posting: its title, then the sections in the order and layout of its voice."""
        random, sections = self.random, self._pieces()
        headed = random.random() < {"startup": 0.6, "dump": 0.4}.get(self.voice, 0.8)
        loud, listing = random.random() < 0.15, random.random() < 0.7
        bullet, stop = random.choice(BULLETS), random.choice(["", "", "."])
        blocks: list[str] = []
        for name in random.choices(ORDERS, [65, 15, 10, 10])[0]:
            if self.voice == "dump":
                body = self._terse(sections[name] + (sections["without"] if name == "requirements" else []))
            elif name in ("company", "role", "apply"):
                body = " ".join(map(upper, sections[name]))
            elif listing:
                body = self._bullets(name, sections[name], bullet, stop, headed)
            else:
                body = self._prose(name, sections[name])
            if name == "requirements" and self.voice != "dump":
                body = "\n".join(filter(None, [body, " ".join(sections["without"])]))
            if body:
                header = random.choice(self.palette.lines[f"headers.{name}"]) if headed else ""
                blocks.append(f"{header.upper() if loud else header}\n{body}".strip())
        body = random.choice(["\n", "\n", "\n\n"]).join(blocks)
        headline = self._fill(random.choice(self.palette.lines["titles"]).replace("{title}", self.title))
        return f"{headline}\n{body.replace(chr(10), ' ') if random.random() < 0.12 else body}"

    def _terse(self, items: Sequence[str]) -> str:
        return self.joint.join(map(upper, items))

    def _bullets(self, name: str, items: Sequence[str], bullet: str, stop: str, headed: bool) -> str:
        """One item a line, after a lead-in where there is no header."""
        if not items:
            return ""
        lead = [self._say(f"lead.{name}")] if name != "nice" and self.random.random() < (0.25 if headed else 0.9) else []
        return "\n".join([*lead, *(f"{bullet}{upper(item)}{'' if item.endswith('.') else stop}" for item in items)])

    def _prose(self, name: str, items: Sequence[str]) -> str:
        """The items as sentences that go on from one another."""
        if name == "nice":
            return self._say("nice_lead", items=listed(items)) if items else ""
        whole = [item for item in items if item.endswith(".")]  # pay is a sentence of its own
        rest = [item for item in items if not item.endswith(".")]
        if name == "offer":
            return " ".join([*whole, *([f"{self._say('lead.offer')} {listed(rest)}."] if rest else [])])
        sentences: list[str] = []
        while rest:
            if name == "duties":
                count, kind = min(len(rest), 2), "next" if sentences else "first"
                kind = kind if count == 2 else "last" if sentences else "only"
                sentences.append(self._say(f"duties.{kind}", one=rest[0], two=rest[-1] if count < 2 else rest[1]))
            else:
                count = min(len(rest), self.random.randint(2, 3))
                sentences.append(self._say(f"needs.{'next' if sentences else 'first'}", items=listed(rest[:count])))
            rest = rest[count:]
        return " ".join(map(upper, [*sentences, *whole]))
