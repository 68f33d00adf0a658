"""What answers each skill of a query, as lines for a terminal."""

from __future__ import annotations

from rich.text import Text

from contrastive.data.shown import clean
from contrastive.search.explaining.explanation import Explanation
from contrastive.search.explaining.highlights import excerpt
from contrastive.search.passages import one_line

_MARKED = "bold yellow"


def explained_lines(explanation: Explanation, text: str) -> list[Text]:
    """Return a line for each skill, with the words that answer it, and the sentences in which they stand."""
    lines = []
    for answer in explanation.answers:
        typed, asked = one_line(answer.skill.text), one_line(answer.skill.asked)
        skill = typed if typed == asked else f"{typed} (put right: {asked})"
        if answer.is_missing:
            reason = "missing" if answer.score is not None else "not read: the query is too long"
            lines.append(Text.assemble(("- ", "red"), f"{skill}: ", (reason, "red")))
            continue
        words = ", ".join(one_line(text[span.start : span.end]) for span in answer.spans)
        score = f"  {answer.score:.2f}" if answer.score is not None else ""
        lines.append(Text.assemble(("+ ", "green"), f"{skill}: ", (words, _MARKED), (score, "dim")))
    if explanation.further:
        lines.append(Text(f"- {explanation.further} further skills are not looked at"))
    for sentence in excerpt(text, explanation.spans):
        lines.append(Text.assemble(*((clean_piece(piece), _MARKED if marked else "") for piece, marked in sentence)))
    return lines


def clean_piece(text: str) -> str:
    """Return a piece of a line without what would control a terminal; the blanks at its ends stay."""
    return clean(text).replace("\n", " ").replace("\t", " ")
