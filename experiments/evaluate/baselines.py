"""BM25 on a task, ranked once: every job of a sweep judges it, and so does every run on the same data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from contrastive.data import RetrievalTask
from contrastive.data.json_files import read_lines, write_lines
from contrastive.data.store import Store, key_of
from contrastive.evaluation import Rankings, bm25_rankings, self_answers
from contrastive.evaluation.bm25 import what_decides

USER_QUERY = "user-query"
"""Id of the user's own query in the rankings."""

WORD_MATCHING = {"BM25": False, "BM25+spelling": True}
"""The baselines that match words, by the names of their rows and files: whether unknown words are put right."""


def bm25_once(
    task: RetrievalTask, user_query: str, folder: Path | None, depth: int = 1000, *, spelling: bool = False
) -> Rankings:
    """Rank the corpus by BM25 for each query of a task and for one of the user's, as `USER_QUERY`.

    Args:
        task: The queries and the corpus.
        user_query: A further query.
        folder: Where rankings are kept, see `data.store`; None keeps none.
        depth: At most this many documents a query.
        spelling: Whether words of a query that no document has are put right.
    """
    asked = replace(task, queries={**task.queries, USER_QUERY: user_query})
    if folder is None:
        return bm25_rankings(asked, depth, spelling=spelling)
    store = Store(folder, ".bm25.json.gz", _read, _write)
    key = _key(asked, depth, what_decides(spelling=spelling))
    return store.find_or_make(key, lambda: bm25_rankings(asked, depth, spelling=spelling)).value


def _key(task: RetrievalTask, depth: int, scores: Mapping[str, object]) -> str:
    """Return a key of what decides the rankings, which documents are not ranked for a query that is one included."""
    itself = {query: sorted(documents) for query, documents in self_answers(task).items()}
    described = {"depth": depth, "scores": scores, "queries": len(task.queries), "itself": itself}
    return key_of(described, (text for texts in (task.queries, task.corpus) for item in texts.items() for text in item))


def _read(path: Path) -> Rankings:
    documents, scores = {}, {}
    for query, *ranked in read_lines(path):
        documents[query], scores[query] = ranked
    return Rankings(documents, scores)


def _write(path: Path, rankings: Rankings) -> None:
    def rows() -> Iterator[tuple[object, ...]]:
        for query, documents in rankings.documents.items():
            yield query, documents, rankings.scores[query]

    write_lines(path, rows())
