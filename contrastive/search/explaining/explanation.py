"""Why a posting was found: which of its words answer each skill of a query, and which skills nothing answers.

A score says little by itself: token vectors of one model are all alike, those of another hardly ever. So a skill counts
as answered where it scores above what it usually does by chance: above the 95th percentile of its scores with postings
of the corpus, drawn at random, that share no word with it. Where each of them shares one, it is above the lowest. A
posting that has all words of a skill answers it in any case. `bm25` knows no chance: a word is there or not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from random import Random
from typing import NamedTuple

import numpy as np

from contrastive.evaluation.hybrid_file import ENCODER
from contrastive.evaluation.words import stop_words
from contrastive.evaluation.words import words as words_of
from contrastive.search.contracts import Hit, System
from contrastive.search.explaining.matching import Matcher, Parts, Place, Units, WordMatcher, matcher_of
from contrastive.search.explaining.skills import Skill, skills_of
from contrastive.search.index import SearchIndex
from contrastive.similarity import Embeddings

CHANCE_POSTINGS = 100
"""Postings that are drawn to see what a skill scores by chance."""

PERCENTILE = 95
"""Of those scores, which a posting has to exceed: one in twenty without any word of a skill is said to answer it."""

_KEPT = 200
"""Postings whose vectors are kept in memory: with 250 tokens of 384 numbers, 77 MB."""

_BESIDE = "+#"
"""What is of a word where it ends: C++, C#."""

_ALL_WORDS = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Span:
    """Whole words of a posting, from a character to before another, and how well they answer."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a posting says to one skill.

    Attributes:
        skill: The skill.
        score: How well it is answered, higher is better: a mean of similarities, or by `bm25` the share of its words
            that the posting has; None if the model does not read that far into the query.
        threshold: What it has to exceed to be no chance; None if nothing was there to compare with.
        spans: The words that answered it, in their order and apart from each other; none if it is missing.
        is_missing: Whether nothing answers it.
    """

    skill: Skill
    score: float | None
    threshold: float | None
    spans: tuple[Span, ...]
    is_missing: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a posting says to each skill of a query, in the order of the query; `further` ones are not looked at."""

    answers: tuple[Answer, ...]
    further: int = 0

    @property
    def missing(self) -> tuple[Skill, ...]:
        """Skills that nothing answers."""
        return tuple(answer.skill for answer in self.answers if answer.is_missing)

    @property
    def spans(self) -> tuple[Span, ...]:
        """The words that answered any skill, in their order and apart from each other."""
        return joined(span for answer in self.answers for span in answer.spans)


class Explainer:
    r"""Says why the postings of an index were found.

    Args:
        index: What finds them; some of its postings are drawn to see what is chance, when first asked.
        seed: Of the draw.

    Example:
        >>> from contrastive.encoder import Encoder, embedded_minilm
        >>> documents = {"a": "Nurse\nNight shifts at a hospital.", "b": "Data analyst\nPython and charts."}
        >>> index = SearchIndex(Encoder.from_pretrained(embedded_minilm()), documents)
        >>> (hits,) = index.search(["Pyhton, SQL"], system="bm25")
        >>> (found,) = Explainer(index).explain("Pyhton, SQL", hits, system="bm25")
        >>> [hits[0].text[span.start : span.end] for span in found.spans], [skill.text for skill in found.missing]
        (['Python'], ['SQL'])
    """

    def __init__(self, index: SearchIndex, *, seed: int = 0) -> None:
        self._index = index
        self._matcher = matcher_of(index.encoder)
        self._words = WordMatcher()
        self._seed = seed
        self._chance: list[tuple[Units, set[str]]] | None = None
        self._read: OrderedDict[str, Units] = OrderedDict()

    def explain(self, query: str, hits: Sequence[Hit], *, system: System | None = None) -> list[Explanation]:
        """Explain why each hit answers a query.

        Args:
            query: As it was typed.
            hits: What the index found for it, or anything else with a text.
            system: What ranked them, as for `SearchIndex.search`.
        """
        system = system or self._index.default
        asked = skills_of(query, lambda text: self._index.asked(text, system))
        texts = [hit.text for hit in hits]
        words = self._words.ask(asked)
        same = [[_best(self._words, part, units, 0.0) for part in words] for units in self._words.read(texts)]
        if system == "bm25" or (system == "hybrid" and not (self._index.weights or {}).get(ENCODER)):
            return [
                Explanation(
                    tuple(_by_words(text, *each) for each in zip(asked.skills, found, strict=True)), asked.further
                )
                for text, found in zip(texts, same, strict=True)
            ]
        parts = self._matcher.ask(asked)
        thresholds = [self._threshold(*each) for each in zip(asked.skills, parts, strict=True)]
        explanations = []
        for text, units, of_words in zip(texts, self._units(hits), same, strict=True):
            found = [_best(self._matcher, *each) for each in zip(parts, repeat(units), thresholds)]
            answers = zip(repeat(text), asked.skills, found, thresholds, of_words)
            explanations.append(Explanation(tuple(_by_encoder(*each) for each in answers), asked.further))
        return explanations

    def _threshold(self, skill: Skill, parts: Parts) -> float | None:
        """Return what a skill scores by chance at most; see the module."""
        if self._chance is None:
            ids = self._index.postings.ids
            drawn = sorted(Random(self._seed).sample(range(len(ids)), min(CHANCE_POSTINGS, len(ids))))
            chosen = [ids[number] for number in drawn]
            texts = [self._index.postings[id_].text for id_ in chosen]
            self._chance = list(zip(self._anew(chosen, texts), map(set, words_of(texts)), strict=True))
        (own,) = words_of([skill.asked])
        scored = [(_best(self._matcher, parts, units, None).score, words) for units, words in self._chance]
        scores = [score for score, words in scored if score is not None and words.isdisjoint(own)]
        if scores:
            return float(np.percentile(scores, PERCENTILE))
        return min((score for score, _ in scored if score is not None), default=None)

    def _units(self, hits: Sequence[Hit]) -> list[Units]:
        """Read postings, those that were read a moment ago not again."""
        texts = [hit.text for hit in hits]
        missing = {hit.text: hit.id for hit in hits if hit.text not in self._read}
        fresh = dict(zip(missing, self._anew(list(missing.values()), list(missing)), strict=True)) if missing else {}
        found = [fresh[text] if text in fresh else self._read[text] for text in texts]
        for text, units in zip(texts, found, strict=True):
            self._read[text] = units
            self._read.move_to_end(text)
        while len(self._read) > _KEPT:
            self._read.popitem(last=False)
        return found

    def _anew(self, ids: Sequence[str], texts: Sequence[str]) -> list[Units]:
        """Read postings, by the embeddings of the index if these are its own and it can."""
        postings = self._index.postings

        def embedded() -> Embeddings | None:
            found = postings.embeddings_of(ids)
            same = found is not None and [postings[id_].text for id_ in ids] == list(texts)
            return found if same else None

        return self._matcher.read(texts, embedded)


class _Best(NamedTuple):
    """The score of a skill in a posting, None if there is nothing to compare, and the places that made it."""

    score: float | None
    places: list[tuple[Place, float]]


def _best(matcher: Matcher, parts: Parts, units: Units, least: float | None) -> _Best:
    """Return how well units answer a skill, and the best unit of each part that is above what chance gives a skill.

    The score is the weighted mean of what each part is most similar to.
    """
    if not len(parts.weights):
        return _Best(None, [])
    if not units.places:
        return _Best(0.0, [])
    closest, where = matcher.compare(parts, units).max(1)
    best = zip(closest.tolist(), where.tolist(), strict=True)
    places = [(units.places[unit], value) for value, unit in best if least is None or value > least]
    return _Best(float(closest @ parts.weights), places)


def _by_words(text: str, skill: Skill, found: _Best) -> Answer:
    """Return what a posting says to a skill by its words alone."""
    return Answer(skill, found.score or 0.0, 0.0, _spans(text, found.places), not found.score)


def _by_encoder(text: str, skill: Skill, found: _Best, threshold: float | None, same: _Best) -> Answer:
    """Return what a posting says to a skill by an encoder, or else by having all its words."""
    literal = same.score is not None and same.score > _ALL_WORDS
    above = found.score is not None and (threshold is None or found.score > threshold)
    places = [*(found.places if above else []), *(same.places if literal else [])]
    return Answer(skill, found.score, threshold, _spans(text, places), not (above or literal))


def _spans(text: str, places: Iterable[tuple[Place, float]]) -> tuple[Span, ...]:
    """Widen places to whole words, and join those that meet; words such as "of" only where there are no others."""
    widened = []
    for (start, end), score in places:
        while start > 0 and _is_of_word(text[start - 1]):
            start -= 1
        while end < len(text) and (_is_of_word(text[end]) or text[end] in _BESIDE):
            end += 1
        widened.append(Span(start, end, score))
    telling = [span for span in widened if text[span.start : span.end].lower() not in stop_words()]
    return joined(telling or widened)


def _is_of_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return spans in their order, those that overlap or are a blank apart as one, which has the highest score.

    Example:
        >>> joined([Span(9, 12, 0.5), Span(0, 4, 0.2), Span(5, 8, 0.7), Span(11, 15, 0.4)])
        (Span(start=0, end=15, score=0.7),)
    """
    found: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if found and span.start <= found[-1].end + 1:
            last = found.pop()
            span = Span(last.start, max(last.end, span.end), max(last.score, span.score))
        found.append(span)
    return tuple(found)
