"""Mistakes that people make when they type, for queries that look typed."""

from __future__ import annotations

from random import Random

_ROWS_OF_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def misspell(word: str, random: Random) -> str:
    """Make one typing mistake inside a word of three letters or more: swapped, dropped, doubled or replaced letter.

    >>> misspell("experience", Random(1))
    'expreience'
    """
    place = random.randrange(1, len(word) - 1)
    before, letter, after = word[:place], word[place], word[place + 1 :]
    row = next((row for row in _ROWS_OF_KEYS if letter.lower() in row), letter)
    neighbour = row[max(row.find(letter.lower()) - 1, 0)]
    wrong = random.choice([after[0] + letter + after[1:], after, letter + letter + after, neighbour + after])
    # Swapping or replacing equal letters changes nothing; doubling always does.
    return before + (wrong if wrong != letter + after else letter + letter + after)


def mistype(text: str, random: Random) -> str:
    """Misspell one word of a text, now and then two, among those of five letters or more.

    >>> mistype("data scientist", Random(0)) != "data scientist"
    True
    """
    words = text.split(" ")
    long = [place for place, word in enumerate(words) if sum(map(str.isalpha, word)) >= 5 and word[1:-1].isalpha()]
    for place in random.sample(long, min(len(long), random.choice([1, 1, 1, 2]))):
        words[place] = misspell(words[place], random)
    return " ".join(words)
