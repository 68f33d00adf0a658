"""Queries made from documents alone, for those who have the documents and no queries.

A pseudo-query is what somebody might have typed who should find the document: its title, a few of its keywords, both,
or one of its sentences (the inverse cloze task of Lee, Chang and Toutanova, 2019, "Latent Retrieval for Weakly
Supervised Open Domain Question Answering", section 4). Keywords come in other surface forms, with typing mistakes, with
any separator, with the years that the document asks for.

Notable decisions:

- A share of what a query says is taken out of its document ("masked"), so that the words alone do not find it and the
  encoder has to learn what goes with what. What would leave a document without a letter or digit is not taken out.
- What a query says by keywords is true of every document that has them all: these are its known positives too.
- Every document has a random generator of its own, seeded by its id: adding documents changes little about the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from contrastive.data.queries.keywords import Keywords, title_of, words_of
from contrastive.data.queries.typing_errors import mistype

_SEPARATORS = (", ", ", ", ", ", ", ", ",", " / ", "; ", " | ", " ", " ", " and ", " + ")
_YEARS = ("{} years", "{} years experience", "{}+ years", "{}+ yrs", "{} yrs exp", "exp {} years")
_ASKED_YEARS = re.compile(r"\b(\d{1,2})\s*\+?\s*(?:-|to|\u2013)?\s*\d{0,2}\s*\+?\s*(?:years|yrs)", re.IGNORECASE)
_TITLE_PART = re.compile(r"\s*(?:[-\u2013\u2014|,/:(\[]\s|\s[-\u2013\u2014|/]|[()\[\]|,])\s*")
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_SENTENCE = re.compile(r"[^.!?\n\u2022]+[.!?]?")
MIXTURE: Mapping[str, float] = {"title": 0.15, "keywords": 0.25, "title_keywords": 0.45, "cloze": 0.15}


@dataclass(frozen=True, slots=True)
class PseudoQuery:
    """A query made from a document.

    Attributes:
        text: The query.
        document: The document without what was masked in it.
        kind: How it was made.
        also: Ids of other documents that have all that the query says; none for a sentence.
    """

    text: str
    document: str
    kind: str
    also: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PseudoQueries:
    """Makes queries from documents.

    Attributes:
        mixture: Weight of each kind: "title", "keywords", "title_keywords", "cloze".
        masked: Chance of each thing that a query says to be taken out of its document.
        other_forms: Chance of a keyword that is written in several ways to be written otherwise than in the document.
        typos: Chance of a query to have typing mistakes.
        years: Chance of a query to state the years of experience that its document asks for.
        seed: Seed of every choice.

    Raises:
        ValueError: If a kind is unknown, no kind has a weight above 0, or a chance is not between 0 and 1.
    """

    mixture: Mapping[str, float] = field(default_factory=lambda: MIXTURE)
    masked: float = 0.3
    other_forms: float = 0.3
    typos: float = 0.3
    years: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            set(self.mixture) - set(MIXTURE)
            or min(self.mixture.values(), default=0) < 0
            or not any(self.mixture.values())
        ):
            raise ValueError(f"expected weights of {', '.join(MIXTURE)}, one or more above 0, got {dict(self.mixture)}")
        for name in ("masked", "other_forms", "typos", "years"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} between 0 and 1, got {getattr(self, name)}")

    def make(self, id_: str, document: str, keywords: Keywords, count: int) -> list[PseudoQuery]:
        """Make up to `count` different queries from a document; fewer where it has nothing more to say."""
        made: dict[frozenset[str], PseudoQuery] = {}
        for number in range(4 * count):
            random = Random(f"pseudo-query/{self.seed}/{id_}/{number}")
            kind = random.choices(list(self.mixture), list(self.mixture.values()))[0]
            if kind == "cloze":
                said, query = self._cloze(document, random)
            else:
                said, query = self._typed(kind, id_, document, keywords, random)
            if said:
                made.setdefault(frozenset(said), query)
            if len(made) == count:
                break
        return list(made.values())

    def _cloze(self, document: str, random: Random) -> tuple[list[str], PseudoQuery]:
        """Up to twelve words of one of the document's sentences, which is masked as a whole."""
        title, _, text = document.partition("\n")
        sentences = [s.group() for s in _SENTENCE.finditer(text) if 5 <= len(words_of(s.group())) <= 30]
        if not sentences:
            return [], PseudoQuery("", document, "cloze")
        sentence = random.choice(sentences)
        words = sentence.strip(" .!?-*").split()
        start = random.randrange(max(1, len(words) - 11))
        query = " ".join(words[start : start + 12])
        rest = f"{title}\n{text.replace(sentence, ' ', 1)}" if random.random() < self.masked else document
        rest = rest if _LETTER_OR_DIGIT.search(rest) else document
        return [sentence], PseudoQuery(query.lower() if random.random() < 0.7 else query, rest, "cloze")

    def _typed(
        self, kind: str, id_: str, document: str, keywords: Keywords, random: Random
    ) -> tuple[list[str], PseudoQuery]:
        """Title, keywords or both, as people type them; also what the query says before it is written down."""
        title = _short_title(document, random) if kind != "keywords" else ""
        count = {"title": 0, "keywords": random.choice([2, 3, 3, 4, 5]), "title_keywords": random.choice([1, 2, 2, 3])}
        terms = _draw(keywords, id_, count[kind], set(words_of(title)), random)
        said = [title] * bool(title) + terms
        if len(said) < {"title": 1, "keywords": 2, "title_keywords": 2}[kind]:
            return [], PseudoQuery("", document, kind)
        masked = [term for term in said if random.random() < self.masked]
        parts = [title] * bool(title) + [self._other_form(term, keywords, random) for term in terms]
        text = _join(parts, _years(document, random) if random.random() < self.years else None, random)
        text = random.choices([text.lower(), text, text.title()], [75, 20, 5])[0]
        text = mistype(text, random) if random.random() < self.typos else text
        return said, PseudoQuery(text, _mask(document, masked), kind, _holders(title, terms, keywords) - {id_})

    def _other_form(self, term: str, keywords: Keywords, random: Random) -> str:
        others = keywords.forms.get(term, ())
        return random.choice(others) if others and random.random() < self.other_forms else term


def _short_title(document: str, random: Random) -> str:
    """The first part of the title, or now and then another, with a word left out if it is long."""
    parts = [part for part in _TITLE_PART.split(title_of(document)) if words_of(part)]
    if not parts:
        return ""
    part = parts[0] if random.random() < 0.85 else random.choice(parts)
    words = part.split()[:7]
    if len(words) > 3 and random.random() < 0.5:
        del words[random.randrange(len(words))]
    return " ".join(words)


def _draw(keywords: Keywords, id_: str, count: int, taken: set[str], random: Random) -> list[str]:
    """Draw terms of a document by weight; none shares a word with another or what is taken, or is a form of another."""
    weights = keywords.weights[id_]
    # Sorting by random() ** (1 / weight) draws without replacement by weight (Efraimidis and Spirakis, 2006).
    order = sorted(weights, key=lambda term: random.random() ** (1 / weights[term]), reverse=True)
    drawn: list[str] = []
    taken = set(taken)
    for term in order:
        if len(drawn) == count:
            break
        if taken.isdisjoint((term, *term.split())):
            taken.update((*term.split(), *keywords.forms.get(term, ())))
            drawn.append(term)
    return drawn


def _holders(title: str, terms: Sequence[str], keywords: Keywords) -> frozenset[str]:
    """The documents that have all the words of a title in theirs, and all the terms as they were found."""
    sets = [keywords.titled[word] for word in words_of(title)] + [keywords.holders[term] for term in terms]
    return frozenset.intersection(*sets)


def _join(parts: Sequence[str], years: str | None, random: Random) -> str:
    separator = random.choice(_SEPARATORS)
    text = parts[0]
    for part in parts[1:]:
        # A fifth of the joints depart from the separator of the query: people are not consistent.
        text += (separator if random.random() < 0.8 else random.choice(_SEPARATORS)) + part
    return text if years is None else f"{text}{random.choice([' ', ', '])}{years}"


def _years(document: str, random: Random) -> str | None:
    asked = _ASKED_YEARS.search(document)
    return random.choice(_YEARS).format(asked.group(1)) if asked else None


def _mask(document: str, terms: Sequence[str]) -> str:
    """Take every occurrence of the terms out of a document, whatever their case, but for terms that are all it has."""
    for term in terms:
        pattern = r"\s+".join(re.escape(word) for word in term.split())
        rest = re.sub(rf"(?<![^\W_]){pattern}(?![^\W_])", "", document, flags=re.IGNORECASE)
        document = rest if _LETTER_OR_DIGIT.search(rest) else document
    return document
