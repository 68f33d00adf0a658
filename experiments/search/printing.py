"""Hits, printed for a person or for a program."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contrastive.search import Hit
    from contrastive.search.explaining.explanation import Explanation

log = logging.getLogger("experiments.search")


def print_json(query: str, hits: Sequence[Hit], why: Sequence[Explanation] | None = None) -> None:
    """Print one line with all there is but the whole texts; with `why`, what answers each skill."""
    from contrastive.search.explaining.highlights import plain

    fields = ("rank", "id", "score", "title", "passage", "passage_score")
    shown = [{name: getattr(hit, name) for name in fields} for hit in hits]
    for row, hit, explanation in zip(shown, hits, why or (), strict=False):
        row["skills"] = plain(explanation, hit.text)
    print(json.dumps({"query": query, "hits": shown}))


def print_hits(hits: Sequence[Hit], *, heading: str | None, why: Sequence[Explanation] | None = None) -> None:
    """Print rank, score, title and id of each hit, and its passage below."""
    from rich.console import Console
    from rich.text import Text

    from contrastive.search.passages import one_line
    from experiments.search.explaining import explained_lines

    console = Console()
    if heading is not None:
        console.print(Text(one_line(heading), "underline"), soft_wrap=True)
    if not hits:  # of BM25 alone: an encoder finds something near everything
        log.warning("no document has a word of the query, or passes the filters")
    for number, hit in enumerate(hits):
        place = f"{hit.rank:2}. {hit.score:.3f}  "
        title, id_ = one_line(hit.title), one_line(hit.id)
        console.print(Text.assemble(place, (title, "bold"), "  ", (id_, "dim")), soft_wrap=True)
        lines = []
        if why is not None:
            lines = explained_lines(why[number], hit.text)
        elif hit.passage and hit.passage != hit.title:
            lines = [Text(one_line(hit.passage))]
        width = max(20, console.width - len(place))
        for wrapped in (part for line in lines for part in line.wrap(console, width)):
            wrapped.rstrip()
            console.print(Text(" " * len(place)) + wrapped, soft_wrap=True)
    console.print()
