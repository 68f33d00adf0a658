"""Judgements in the BEIR layout: a file a split, read by what its header says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from contrastive.data.cells import clean_id
from contrastive.data.lines import lines
from contrastive.data.names import letters
from contrastive.data.shown import listed, short

_USUAL = {
    "query-id": ("queryid", "qid", "query", "topic", "topicid"),
    "corpus-id": ("corpusid", "docid", "documentid", "document", "doc", "docno", "did", "pid", "passageid"),
    "score": ("score", "grade", "relevance", "rel", "label"),
}
_INTEGER = re.compile(r"([+-]?\d+)(\.0+)?")
_TREC = (0, 2, 3)  # of: query, 0 or Q0, document, grade


class Qrels(NamedTuple):
    """Judgements that were read.

    Attributes:
        grades: Grade of each judged document by query.
        repeated: How many lines said again what an earlier one had said.
    """

    grades: dict[str, dict[str, int]]
    repeated: int


def read_qrels(path: Path, queries: Mapping[str, str], corpus: Mapping[str, str]) -> Qrels:
    """Read the grade of each judged document of each query.

    The header says which column is which; `query-id`, `corpus-id` and `score` have other usual names. Under a header of
    other words they come in this order. Without one there are the four columns of TREC, of which the second is 0 or Q0.

    Args:
        path: The file.
        queries: The queries by id.
        corpus: The documents by id.

    Raises:
        ValueError: If there is no header and the order is not clear, a line is malformed, an id is unknown, or a
            document has two grades for a query; it names the line.
    """
    qrels: dict[str, dict[str, int]] = {}
    repeated = 0
    for where, query_id, document_id, grade in _judgements(path):
        if query_id not in queries:
            raise ValueError(f"{where}: query {short(query_id)} is not in queries.jsonl")
        if document_id not in corpus:
            raise ValueError(f"{where}: document {short(document_id)} is not in corpus.jsonl")
        judged = qrels.setdefault(query_id, {})
        repeated += document_id in judged
        if judged.setdefault(document_id, grade) != grade:
            raise ValueError(f"{where}: a second grade for query {query_id!r} and document {document_id!r}")
    if not qrels:
        raise ValueError(f"{path} is empty: expected a header line and judgements")
    return Qrels(qrels, repeated)


def _judgements(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yield where each judgement is, its query, its document and its grade."""
    places: Sequence[int] | None = None
    width = 0
    tabs = False
    for number, line in enumerate(lines(path), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        tabs = tabs or (places is None and "\t" in line)
        cells = [cell.strip() for cell in line.split("\t")] if tabs else line.split()
        if places is None:
            headed = _INTEGER.fullmatch(cells[-1]) is None
            places, width = _places(where, cells, headed), len(cells)
            if headed:
                continue
        if len(cells) != width:
            separated = "with tabs" if tabs else "with blanks"
            raise ValueError(f"{where}: expected {width} columns (as before) {separated}, got {len(cells)}")
        query_id, document_id, grade = (cells[place] for place in places)
        said = _INTEGER.fullmatch(grade)
        if said is None:
            raise ValueError(f"{where}: expected an integer grade, got {short(grade)}")
        yield where, clean_id(query_id), clean_id(document_id), int(said[1])


def _places(where: str, cells: Sequence[str], headed: bool) -> Sequence[int]:
    """Return at which places a line has its query, its document and its grade."""
    if not headed:
        if len(cells) == 4 and cells[1] in ("0", "Q0"):
            return _TREC
        raise ValueError(
            f"{where}: expected a header line with {', '.join(_USUAL)}, got a judgement {short(list(cells))}"
        )
    known = [letters(name) for name in cells]
    places = {role: [i for i, name in enumerate(known) if name in usual] for role, usual in _USUAL.items()}
    if len(cells) == 3 and not any(places.values()):  # no word that is known: the usual order
        return (0, 1, 2)
    for role, found in places.items():
        if len(found) != 1:
            raise ValueError(f"{where}: expected a header line with one {role} among its columns, got {listed(cells)}")
    return [found[0] for found in places.values()]
