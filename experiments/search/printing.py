"""Hits, printed for a person or for a program."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contrastive.search import Hit

log = logging.getLogger("experiments.search")


def print_json(query: str, hits: Sequence[Hit]) -> None:
    """Print one line with all there is but the whole texts."""
    fields = ("rank", "id", "score", "title", "passage", "passage_score")
    print(json.dumps({"query": query, "hits": [{name: getattr(hit, name) for name in fields} for hit in hits]}))


def print_hits(hits: Sequence[Hit], *, heading: str | None) -> None:
    """Print rank, score, title and id of each hit, and its passage below."""
    from rich.console import Console
    from rich.text import Text

    from contrastive.search.passages import one_line

    console = Console()
    if heading is not None:
        console.print(Text(one_line(heading), "underline"), soft_wrap=True)
    if not hits:  # of BM25 alone: an encoder finds something near everything
        log.warning("no document has a word of the query, or passes the filters")
    for hit in hits:
        place = f"{hit.rank:2}. {hit.score:.3f}  "
        title, id_ = one_line(hit.title), one_line(hit.id)
        console.print(Text.assemble(place, (title, "bold"), "  ", (id_, "dim")), soft_wrap=True)
        if hit.passage and hit.passage != hit.title:
            width = max(20, console.width - len(place))
            for line in Text(one_line(hit.passage)).wrap(console, width):
                console.print(Text(" " * len(place) + line.plain.rstrip()), soft_wrap=True)
    console.print()
