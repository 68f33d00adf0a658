"""Words put right by the words of a corpus."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from contrastive.evaluation.words import WORD, stop_words, words


def most_edits(word: str) -> int:
    """Return how far a word may be from the one it is put right by: short ones are too near to too many others."""
    return 0 if len(word) < 4 else 1 if len(word) < 8 else 2


class Spelling:
    """Puts a word that a corpus does not have right by the nearest that it has.

    Nearest by edits: a letter more, less or another, or two neighbours swapped (optimal string alignment). Of several
    that are as near it is the one in most documents, then the first by the alphabet. Words of letters alone are put
    right, by words of letters alone that begin with the same: few typing errors are in the first letter, and a
    search among a tenth of the words is as much faster. What is far from all (see `most_edits`) stays as it is.

    Args:
        frequencies: Of each word of the corpus, in how many documents it is.

    Example:
        >>> spelling = Spelling({"nurse": 3, "purse": 1, "nurses": 2})
        >>> [spelling.put_right(word) for word in ("nurse", "nusre", "nursess", "nruse2", "chef")]
        ['nurse', 'nurse', 'nurses', 'nruse2', 'chef']
    """

    def __init__(self, frequencies: Mapping[str, int]) -> None:
        self._frequencies = frequencies
        self._by_first_letter: dict[str, list[str]] = defaultdict(list)
        for word in frequencies:
            if word.isalpha():
                self._by_first_letter[word[0]].append(word)
        self._found: dict[str, str] = {}

    @classmethod
    def of(cls, documents: Iterable[str]) -> Spelling:
        """Return that of a corpus."""
        return cls(Counter(word for found in words(documents) for word in set(found)))

    def put_right_text(self, text: str) -> str:
        """Return a text with its words put right, and all else as it is; stop words, which no corpus has, stay too.

        Example:
            >>> Spelling({"nurse": 3}).put_right_text("Nusre, night-shifts!")
            'nurse, night-shifts!'
        """

        def right(found: re.Match[str]) -> str:
            word = found[0].lower()
            nearest = word if word in stop_words() else self.put_right(word)
            return found[0] if nearest == word else nearest

        return re.sub(f"(?i:{WORD.pattern})", right, text)

    def put_right(self, word: str) -> str:
        """Return the word itself if the corpus has it or nothing near it, or else the nearest that it has."""
        if word in self._frequencies or not word.isalpha() or not most_edits(word):
            return word
        if word not in self._found:
            self._found[word] = self._nearest(word)
        return self._found[word]

    def _nearest(self, word: str) -> str:
        from rapidfuzz import process
        from rapidfuzz.distance import OSA

        candidates = self._by_first_letter.get(word[0], [])
        near = process.extract(word, candidates, scorer=OSA.distance, score_cutoff=most_edits(word), limit=None)
        ranked = [(distance, -self._frequencies[candidate], candidate) for candidate, distance, _ in near]
        return min(ranked)[2] if ranked else word
