"""How the parts of a posting become a text: sections in a sensible order, as bullets, prose or a list of keywords.

Order, headers, bullets and line breaks vary from posting to posting, as in real ones; a few are one run-on line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

Say = Callable[..., str]
"""Fills a template of a kind, such as `lead.duties`."""

ORDERS = (
    ("company", "role", "duties", "requirements", "nice", "offer", "apply"),
    ("role", "duties", "requirements", "nice", "company", "offer", "apply"),
    ("role", "company", "requirements", "duties", "nice", "offer", "apply"),
    ("company", "role", "requirements", "nice", "duties", "offer", "apply"),
)
BULLETS = ("- ", "* ", "• ", "", "", "· ")


def listed(items: Sequence[str]) -> str:
    """Joins phrases as in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def upper(text: str) -> str:
    """Puts the first letter in upper case."""
    return text[0].upper() + text[1:]


def lay_out(
    sections: Mapping[str, Sequence[str]], voice: str, say: Say, random: Random, *, shuffled: bool = False
) -> str:
    """Writes the sections; one without parts is left out.

    Args:
        sections: The parts by section: sentences, or phrases for duties, requirements, nice and offer. Those of
            `without`, what nobody needs, end the requirements.
        voice: Who speaks.
        say: Fills a template.
        random: Source of every choice.
        shuffled: Whether sections come in any order, and duties, requirements and wishes mixed.
    """
    headed = random.random() < {"startup": 0.6, "dump": 0.4}.get(voice, 0.8)
    loud, listing, joint = random.random() < 0.15, random.random() < 0.7, random.choice([" ; ", "\n"])
    bullet, stop = random.choice(BULLETS), random.choice(["", "", "."])
    blocks: list[str] = []
    order = random.choices(ORDERS, [65, 15, 10, 10])[0]
    if shuffled:
        order = tuple(random.sample(order, len(order)))
        asked = [part for name in ("duties", "requirements", "nice") for part in sections.get(name, ())]
        random.shuffle(asked)
        half = len(asked) // 2
        sections = {**sections, "duties": asked[:half], "requirements": asked[half:], "nice": ()}
    for name in order:
        parts, ending = sections.get(name, ()), sections.get("without", ()) if name == "requirements" else ()
        if voice == "dump":
            body = joint.join(map(upper, [*parts, *ending]))
        elif name in ("company", "role", "apply"):
            body = " ".join(map(upper, parts))
        else:
            lead = say(f"lead.{name}") if name != "nice" and random.random() < (0.25 if headed else 0.9) else ""
            body = _bullets(parts, bullet, stop, lead) if listing else _prose(name, parts, say, random)
            body = "\n".join(filter(None, [body, " ".join(ending)]))
        if body:
            header = say(f"headers.{name}") if headed else ""
            blocks.append(f"{header.upper() if loud else header}\n{body}".strip())
    text = random.choice(["\n", "\n", "\n\n"]).join(blocks)
    return " ".join(text.split()) if random.random() < 0.12 else text


def _bullets(parts: Sequence[str], bullet: str, stop: str, lead: str) -> str:
    """One part a line, after the lead-in."""
    lines = [f"{bullet}{upper(part)}{'' if part.endswith('.') else stop}" for part in parts]
    return "\n".join([lead, *lines] if lead and lines else lines)


def _prose(name: str, parts: Sequence[str], say: Say, random: Random) -> str:
    """The parts as sentences that go on from one another; one that is a sentence already stays as it is."""
    whole = [part for part in parts if part.endswith(".")]
    rest = [part for part in parts if not part.endswith(".")]
    if name in ("nice", "offer"):
        kind = {"nice": "nice_lead", "offer": "offer_lead"}[name]
        return " ".join([*whole, *([say(kind, items=listed(rest))] if rest else [])])
    sentences: list[str] = []
    while rest:
        if name == "duties":
            count, kind = min(len(rest), 2), "next" if sentences else "first"
            kind = kind if count == 2 else "last" if sentences else "only"
            sentences.append(say(f"duties.{kind}", one=rest[0], two=rest[count - 1]))
        else:
            count = min(len(rest), random.randint(2, 3))
            sentences.append(say(f"needs.{'next' if sentences else 'first'}", items=listed(rest[:count])))
        rest = rest[count:]
    return " ".join(map(upper, [*sentences, *whole]))
