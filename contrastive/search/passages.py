"""A document as a reader sees it: its title, and passages short enough to show and to embed on their own."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import chain

from contrastive.contracts import TextEncoder
from contrastive.data.shown import clean
from contrastive.similarity import Embeddings, score_texts, similarity_of

_TITLE = 160
"""Characters of the longest first line that counts as a title."""

_BULLET = re.compile(r"^[-*+•·▪◦‣\u2013\u2014] ")


def title_and_body(document: str) -> tuple[str, str]:
    r"""Return the first line of a document, and the text to look for passages in.

    The body leaves the title out, which would be repeated, unless there is nothing else. A first line above 160
    characters is no title but text: its beginning is returned, and it stays in the body.

    Example:
        >>> title_and_body("Nurse\nNight shifts in a children's ward.")
        ('Nurse', "Night shifts in a children's ward.")
    """
    first, _, rest = document.strip().partition("\n")
    title = " ".join(first.split())
    if len(title) > _TITLE:
        return title[: _TITLE - 1].rstrip() + "…", document
    return title, rest if rest.strip() else title


def split_passages(text: str, *, size: int = 300) -> list[str]:
    r"""Cut a text into passages of at most `size` characters, that is about 40 words, without overlap.

    Sentences and lines are kept together where they fit; a longer one is cut between words, a longer word anywhere.
    Runs of whitespace become one space, or one newline where a line ends. Nothing else is lost; a text of whitespace
    has no passage.

    Args:
        text: Any text, with or without punctuation.
        size: Characters of a passage at most.

    Raises:
        ValueError: If `size` is below 1.

    Example:
        >>> split_passages("Night shifts. Good pay!\n- no weekends", size=24)
        ['Night shifts. Good pay!', '- no weekends']
    """
    if size < 1:
        raise ValueError(f"expected passages of at least 1 character, got size {size}")
    passages: list[str] = []
    for line in text.splitlines():
        separator = "\n"
        for sentence in re.split(r"(?<=[.!?…;])\s+", line):
            words = " ".join(sentence.split())
            for piece in map(str.strip, textwrap.wrap(words, size, break_on_hyphens=False)):
                if passages and len(passages[-1]) + 1 + len(piece) <= size:
                    passages[-1] += separator + piece
                else:
                    passages.append(piece)
                separator = " "
    return passages


def closest_passages(
    encoder: TextEncoder, queries: Embeddings, documents: Sequence[Sequence[str]]
) -> list[list[tuple[str | None, float | None]]]:
    """Return the passage closest to each query in each of its documents, with its score; none of one without text.

    Args:
        encoder: Embeds the passages, all that differ at once.
        queries: Embeddings of Q queries.
        documents: Texts of the documents of each query.
    """
    passages = {text: split_passages(title_and_body(text)[1]) for of_query in documents for text in of_query}
    row = {passage: number for number, passage in enumerate(dict.fromkeys(chain.from_iterable(passages.values())))}
    embedded = encoder.encode(list(row), side="document", show_progress=False, as_numpy=False)
    best: list[list[tuple[str | None, float | None]]] = []
    for place, of_query in enumerate(documents):
        best.append([])
        for text in of_query:
            parts = embedded[[row[passage] for passage in passages[text]]]
            scores = score_texts(similarity_of(encoder), queries[place : place + 1], parts)[0].tolist()
            scored = zip(passages[text], scores, strict=True)
            best[-1].append(max(scored, key=lambda each: each[1], default=(None, None)))
    return best


def one_line(text: str) -> str:
    r"""Return a text for one line of a terminal, without the characters that would control it.

    Lines are joined by a dot, and lose their bullet points.

    Example:
        >>> one_line("Skills:\n- SQL\n- charts")
        'Skills: · SQL · charts'
    """
    lines = (" ".join(clean(line).split()) for line in text.splitlines())
    return " · ".join(_BULLET.sub("", line) for line in lines if line)
