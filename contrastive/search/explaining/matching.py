"""What of a posting answers a skill, as each kind of encoder sees it; and as word matching does.

All have one form. A skill is P parts with weights, a posting is U units, each of which stands somewhere in its text; a
part is answered by the unit it is most similar to, and a skill scores the weighted mean of that:

    tokens   parts: tokens of the skill, read within the whole query     units: tokens
    lexical  parts: terms that the skill weighs                          units: tokens, by what they weigh a term
    pooled   parts: the skill itself                                     units: phrases
    words    parts: words of the skill                                   units: words; the same one or not

Tokens and terms are thus compared as in the ranking itself; the one vector of a `pooled` text says nothing of its
parts, so that these are embedded on their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.contracts import Side
from contrastive.encoder.embedding_cache import KeyedEncoder
from contrastive.encoder.encoder import Encoder
from contrastive.encoder.heads import LexicalHead, TokensHead
from contrastive.encoder.places import locate_embedded, locate_tokens
from contrastive.encoder.truncation import tower_of
from contrastive.evaluation.words import WORD, stop_words
from contrastive.search.explaining.skills import Asked
from contrastive.similarity import Embeddings, TokenVectors, score_texts, similarity_of

Place = tuple[int, int]

Known = Callable[[], Embeddings | None]
"""Returns the embeddings that postings have in an index, None if they are not at hand."""

_PHRASE_WORDS = 8
"""Words of a phrase at most: few enough to be highlighted, enough to say something."""

_BETWEEN_PHRASES = re.compile(r"[.!?:;,)]+(?=\s|$)|[\n(|•·▪]|\s[-\u2013\u2014/+*]\s|\s(?:and|or)\s", re.IGNORECASE)
_MOST_TERMS = 8
"""Terms of a skill that are looked at, the heaviest: an untrained model weighs hundreds, most next to nothing."""


class Parts(NamedTuple):
    """A skill: P parts, in whatever form its matcher compares them, and their weights [P], which sum up to 1."""

    values: Embeddings | list[str]
    weights: Tensor


class Units(NamedTuple):
    """A posting: U units, in whatever form its matcher compares them, and the characters that each is of."""

    values: Embeddings | list[str]
    places: list[Place]


class Matcher(Protocol):
    """Compares skills with postings."""

    def ask(self, asked: Asked) -> list[Parts]:
        """Return the parts of each skill; none of a skill that is not read, as where a long query is cut."""
        ...

    def read(self, texts: Sequence[str], embedded: Known | None = None) -> list[Units]:
        """Return the units of each posting; `embedded` may have their embeddings, which saves the work."""
        ...

    def compare(self, parts: Parts, units: Units) -> Tensor:
        """Compare all parts with all units, [P, U]; higher is closer."""
        ...


def matcher_of(encoder: KeyedEncoder) -> Matcher:
    """Return the matcher for the representation of an encoder; that of phrases serves any."""
    query, document = tower_of(encoder, "query"), tower_of(encoder, "document")
    if query is None or document is None or not (query.tokenizer.is_fast and document.tokenizer.is_fast):
        return PhraseMatcher(encoder)
    if isinstance(query.head, TokensHead):
        return TokenMatcher(query, document)
    if isinstance(document.head, LexicalHead):
        return TermMatcher(query, document)
    return PhraseMatcher(encoder)


class WordMatcher:
    """By the words that BM25 counts; of a skill each counts the same.

    Example:
        >>> from contrastive.search.explaining.skills import skills_of
        >>> matcher = WordMatcher()
        >>> (parts,), (units,) = matcher.ask(skills_of("data analyst")), matcher.read(["Analyst for Data"])
        >>> matcher.compare(parts, units), units.places
        (tensor([[0., 1.],
                [1., 0.]]), [(0, 7), (12, 16)])
    """

    def ask(self, asked: Asked) -> list[Parts]:
        """Return the words of each skill."""
        found = [list(dict.fromkeys(word for word, _ in _words(skill.asked))) for skill in asked.skills]
        return [Parts(words, torch.full((len(words),), 1 / max(1, len(words)))) for words in found]

    def read(self, texts: Sequence[str], embedded: Known | None = None) -> list[Units]:  # noqa: ARG002
        """Return the words of each posting."""
        found = [_words(text) for text in texts]
        return [Units([word for word, _ in words], [place for _, place in words]) for words in found]

    def compare(self, parts: Parts, units: Units) -> Tensor:
        """Return 1 where two words are the same, [P, U]."""
        assert isinstance(parts.values, list)
        assert isinstance(units.values, list)
        return torch.tensor([[float(word == other) for other in units.values] for word in parts.values]).reshape(
            len(parts.weights), len(units.places)
        )


class PhraseMatcher:
    """By the similarity of a skill, as a query of its own, and the phrases of a posting."""

    def __init__(self, encoder: KeyedEncoder) -> None:
        self._encoder = encoder
        self._similarity = similarity_of(encoder)

    def ask(self, asked: Asked) -> list[Parts]:
        """Embed each skill."""
        embedded = self._embed([skill.asked for skill in asked.skills], "query")
        return [Parts(embedded[number : number + 1], torch.ones(1)) for number in range(len(asked.skills))]

    def read(self, texts: Sequence[str], embedded: Known | None = None) -> list[Units]:  # noqa: ARG002
        """Embed the phrases of each posting."""
        places = [phrases(text) for text in texts]
        vectors = self._embed([text[a:b] for text, of in zip(texts, places, strict=True) for a, b in of], "document")
        units, start = [], 0
        for of in places:
            units.append(Units(vectors[start : start + len(of)], of))
            start += len(of)
        return units

    def compare(self, parts: Parts, units: Units) -> Tensor:
        """Return similarities, [1, U]."""
        assert not isinstance(parts.values, list)
        assert not isinstance(units.values, list)
        return score_texts(self._similarity, parts.values, units.values).float().cpu()

    def _embed(self, texts: Sequence[str], side: Side) -> Embeddings:
        embedded: Embeddings = self._encoder.encode(texts, side=side, show_progress=False, as_numpy=False)
        return embedded


class TokenMatcher:
    """By late interaction, as the ranking itself: the cosine of each token of a skill with those of a posting."""

    def __init__(self, query: Encoder, document: Encoder) -> None:
        self._query, self._document = query, document

    def ask(self, asked: Asked) -> list[Parts]:
        """Embed the whole query, and give each skill its tokens, weighed as the model weighs them."""
        (located,) = locate_tokens(self._query, [asked.text], "query", self._query.head)
        lengths = located.vectors.norm(dim=-1).cpu()
        parts = []
        for skill in asked.skills:
            kept = [i for i, (start, end) in enumerate(located.places) if start >= skill.start and end <= skill.end]
            weights = lengths[kept]
            parts.append(Parts(normalize(located.vectors[kept], dim=-1), weights / weights.sum().clamp_min(1e-12)))
        return parts

    def read(self, texts: Sequence[str], embedded: Known | None = None) -> list[Units]:
        """Return the tokens of each posting, embedded unless they are."""
        known = None if embedded is None else embedded()
        found = locate_embedded(self._document, texts, known) if isinstance(known, TokenVectors) else None
        if found is not None:
            return [Units(*each) for each in found]
        return [Units(*each) for each in locate_tokens(self._document, texts, "document", self._document.head)]

    def compare(self, parts: Parts, units: Units) -> Tensor:
        """Return cosines, [P, U]."""
        assert isinstance(parts.values, Tensor)
        assert isinstance(units.values, Tensor)
        return (parts.values @ units.values.to(parts.values.device).T).cpu()


class TermMatcher:
    """By the terms of the vocabulary that a skill weighs: what they weigh in each token of a posting."""

    def __init__(self, query: Encoder, document: Encoder) -> None:
        self._query, self._document = query, document
        assert isinstance(document.head, LexicalHead)
        self._head: LexicalHead = document.head

    def ask(self, asked: Asked) -> list[Parts]:
        """Return the heaviest terms of each skill."""
        embedded = self._query.encode([skill.asked for skill in asked.skills], side="query", as_numpy=False)
        assert isinstance(embedded, Tensor)
        parts = []
        for weights in embedded:
            terms = weights.topk(min(_MOST_TERMS, int((weights > 0).sum()))).indices
            parts.append(Parts(terms, (weights[terms] / weights[terms].sum().clamp_min(1e-12)).cpu()))
        return parts

    def read(self, texts: Sequence[str], embedded: Known | None = None) -> list[Units]:  # noqa: ARG002
        """Return the vectors of the tokens of each posting, from which the head weighs terms."""
        return [Units(*each) for each in locate_tokens(self._document, texts, "document", lambda hidden, *_: hidden)]

    @torch.inference_mode()
    def compare(self, parts: Parts, units: Units) -> Tensor:
        """Return what each term weighs in each token, [P, U]."""
        assert isinstance(parts.values, Tensor)
        assert isinstance(units.values, Tensor)
        return self._head.of_tokens(units.values, parts.values).cpu()


def phrases(text: str) -> list[Place]:
    """Return where the phrases of a text stand: what its marks, line ends, "and" and "or" leave whole, in short pieces.

    Example:
        >>> text = "Skills: Python, SQL and 3 years of Node.js."
        >>> [text[start:end] for start, end in phrases(text)]
        ['Skills', 'Python', 'SQL', '3 years of Node.js']
    """
    cuts = [(found.start(), found.end()) for found in _BETWEEN_PHRASES.finditer(text)]
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)]
    found = []
    for start, end in zip(starts, ends, strict=True):
        words = [(start + word.start(), start + word.end()) for word in re.finditer(r"[^\s]*\w[+#]*", text[start:end])]
        pieces = -(-len(words) // _PHRASE_WORDS)
        for piece in range(pieces):
            here = words[piece * len(words) // pieces : (piece + 1) * len(words) // pieces]
            found.append((here[0][0], here[-1][1]))
    return found


def _words(text: str) -> list[tuple[str, Place]]:
    """Return the words of a text as `evaluation.words` does, and where they stand in it."""
    found = ((word[0].lower(), word.span()) for word in re.finditer(WORD.pattern, text, re.IGNORECASE))
    return [(word, place) for word, place in found if word not in stop_words()]
