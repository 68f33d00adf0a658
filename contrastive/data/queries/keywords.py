"""The words and phrases that people would search the documents of a corpus by, from the corpus alone.

Notable decisions, each of which removed a kind of nonsense from the keywords of real job postings:

- Sentences that several documents repeat word for word are boilerplate and are not read.
- A term is a run of one to three words inside a clause whose words stick together, begins and ends with a telling word,
  and is in at least `min_documents` documents (names that one document repeats are not what people search by) and at
  most a share of them (which also does the work of a list of stop words, in any language).
- Somewhere in the corpus a term stands alone between two separators, as the item of a list ("Python, credit risk").
- Terms that go with certain titles tell more than those that go with all: a job's skills, not its benefits.
- Terms written in several ways ("front-end", "front end", "frontend"; "data pipeline", "data pipelines"; a long form
  and the acronym that some document puts in brackets behind it) are forms of each other.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+")
_NO_BREAK = r"[^.,;:!?()\[\]{}|*\"\n\t\u2022\u00b7\u2013\u2014]"
_CLAUSE = re.compile(rf"{_NO_BREAK}+(?:\.\w{_NO_BREAK}*)*")
_ITEM_END = re.compile(r"\s(?:and|or|with|in|using|as|of|&|/)\s")
_WORD = re.compile(r"\.?[^\W_]+(?:[.'\u2019&/+#-][^\W_]+)*[+#]*")
_ACRONYM = re.compile(r"\(([A-Z][A-Za-z&]{1,5}?)s?\)")

_STICKS = 0.1  # a phrase is in at least this share of the documents of its rarest word
_LISTED = 2  # documents in which a term stands alone
_REPEATED = 3  # documents that make a sentence boilerplate
_FEWEST = 4  # a document with fewer keywords gets those that never stand alone too


@dataclass(frozen=True, slots=True)
class Keywords:
    """What people would search the documents of a corpus by.

    Attributes:
        weights: For each document, its terms in lower case with their weight, higher tells more.
        holders: For each term, the documents that have it.
        titled: For each word, the documents that have it in their title.
        forms: For each term that is also written otherwise, the other forms.
    """

    weights: Mapping[str, Mapping[str, float]]
    holders: Mapping[str, frozenset[str]]
    titled: Mapping[str, frozenset[str]]
    forms: Mapping[str, tuple[str, ...]]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case: "C++", "node.js" and "front-end" are one each.

    >>> words_of("Node.js, C++ and front-end (CI/CD)")
    ['node.js', 'c++', 'and', 'front-end', 'ci/cd']
    """
    return _WORD.findall(text.lower())


def title_of(document: str) -> str:
    """Return the first line of a document, where readers put its title."""
    return document.partition("\n")[0].strip()


def extract_keywords(documents: Mapping[str, str], *, min_documents: int = 3, max_share: float = 0.15) -> Keywords:
    """Find the keywords of every document of a corpus.

    Args:
        documents: Text of each document by id, its title in the first line.
        min_documents: A term has to be in at least so many documents.
        max_share: A term may be in at most this share of the documents. A word that is in more still stands inside
            phrases, if not at their ends.

    Raises:
        ValueError: If `min_documents` is below 1, or `max_share` not in (0, 1].
    """
    if min_documents < 1 or not 0 < max_share <= 1:
        raise ValueError(f"expected min_documents >= 1 and max_share in (0, 1], got {min_documents} and {max_share}")
    texts = _without_boilerplate(documents)
    most = max(min_documents, int(max_share * len(texts)))
    frequency = Counter(word for text in texts.values() for word in set(words_of(text)))
    known = {word for word, count in frequency.items() if count >= min_documents}
    ends = {word for word in known if frequency[word] <= most and len(word) > 1 and any(map(str.isalpha, word))}
    counts = {id_: Counter(_terms(text, known, ends)) for id_, text in texts.items()}
    spread = Counter(term for terms in counts.values() for term in terms)
    holders: defaultdict[str, set[str]] = defaultdict(set)
    for id_, terms in counts.items():
        for term in terms:
            if spread[term] >= min_documents and _sticks(term, spread[term], frequency):
                holders[term].add(id_)
    listed = {term for term, count in _standing_alone(texts.values()).items() if count >= _LISTED}
    telling = _title_association(documents, holders)
    weights = {}
    for id_, terms in counts.items():
        kept = {term: count for term, count in terms.items() if term in holders}
        chosen = [term for term in kept if term in listed]
        weights[id_] = {
            term: _weight(term, kept[term], len(holders[term]), len(texts)) * telling[term]
            for term in sorted(chosen if len(chosen) >= _FEWEST else kept)
        }
    titled: defaultdict[str, set[str]] = defaultdict(set)
    for id_, text in documents.items():
        for word in words_of(title_of(text)):
            titled[word].add(id_)
    return Keywords(weights, _frozen(holders), _frozen(titled), _forms(texts, holders))


def _frozen(sets: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    return {key: frozenset(ids) for key, ids in sets.items()}


def _without_boilerplate(documents: Mapping[str, str]) -> dict[str, str]:
    """Take out the sentences of four words or more that several documents share."""
    split = {id_: [(part, " ".join(words_of(part))) for part in _SENTENCE_END.split(t)] for id_, t in documents.items()}
    seen = Counter(key for parts in split.values() for key in {key for _, key in parts})
    return {
        id_: "\n".join(part for part, key in parts if seen[key] < _REPEATED or key.count(" ") < 3)
        for id_, parts in split.items()
    }


def _terms(text: str, known: set[str], ends: set[str]) -> Iterator[str]:
    """Yield the runs of one to three known words within a clause that begin and end with a telling word."""
    for clause in _CLAUSE.findall(text):
        words = words_of(clause)
        for start, first in enumerate(words):
            if first not in ends:
                continue
            yield first
            for length in (2, 3):
                run = words[start : start + length]
                if len(run) < length or run[-1] not in known:
                    break
                if run[-1] in ends:
                    yield " ".join(run)


def _sticks(term: str, count: int, frequency: Mapping[str, int]) -> bool:
    words = term.split()
    return len(words) == 1 or count >= _STICKS * min(frequency[word] for word in words)


def _standing_alone(texts: Iterable[str]) -> Counter[str]:
    """Count the documents in which a run of words stands between two separators."""
    alone: Counter[str] = Counter()
    for text in texts:
        items = (item for clause in _CLAUSE.findall(text) for item in _ITEM_END.split(clause))
        alone.update({" ".join(words_of(item)) for item in items})
    return alone


def _title_association(documents: Mapping[str, str], holders: Mapping[str, set[str]]) -> dict[str, float]:
    """Say how much more often than by chance a term goes with its favourite word of the titles, in about sigmas."""
    titles = {id_: set(words_of(title_of(text))) for id_, text in documents.items()}
    frequency = Counter(word for words in titles.values() for word in words)
    usual = {w for w, n in frequency.items() if _REPEATED <= n <= 0.5 * len(titles) and len(w) > 2 and w.isalpha()}
    association = {}
    for term, ids in holders.items():
        together = Counter(word for id_ in ids for word in titles[id_] & usual)
        expected = {word: len(ids) * frequency[word] / len(titles) for word in together}
        best = max(((n - expected[w]) / math.sqrt(expected[w] + 1) for w, n in together.items()), default=0.0)
        association[term] = max(best, 0.2)
    return association


def _weight(term: str, count: int, holders: int, documents: int) -> float:
    """TF-IDF with a square-rooted count and a bonus for phrases."""
    return math.sqrt(count) * math.log(1 + documents / holders) * (1 + 0.5 * term.count(" "))


def _forms(texts: Mapping[str, str], holders: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    """Group the terms that are written alike but for spaces, hyphens and a plural, or are an acronym of another."""
    alike: defaultdict[str, set[str]] = defaultdict(set)
    for term in holders:
        letters = re.sub(r"[\s./'\u2019-]", "", term)
        alike[letters[:-1] if letters.endswith("s") and len(letters) > 4 else letters].add(term)
    forms: defaultdict[str, set[str]] = defaultdict(set)
    for group in alike.values():
        for term in group:
            forms[term] |= group - {term}
    for long, short in _acronyms(texts):
        if long in holders and short in holders:
            forms[long].add(short)
            forms[short].add(long)
    return {term: tuple(sorted(others)) for term, others in forms.items() if others}


def _acronyms(texts: Mapping[str, str]) -> set[tuple[str, str]]:
    """Find "long form (LF)" where the letters are the initials of the last words before the bracket."""
    found = set()
    for text in texts.values():
        for match in _ACRONYM.finditer(text):
            short = match.group(1).lower()
            long = words_of(text[max(0, match.start() - 100) : match.start()])[-len(short) :]
            if [word[0] for word in long] == list(short):
                found.add((" ".join(long), short))
    return found
