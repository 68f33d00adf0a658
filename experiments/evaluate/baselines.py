"""BM25 on a task, ranked once: every job of a sweep judges it, and so does every run on the same data."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from contrastive.data import RetrievalTask
from contrastive.encoder.embedding_cache import optional
from contrastive.evaluation import Rankings, bm25_rankings, self_answers
from experiments.results.files import write_json

log = logging.getLogger(__name__)

USER_QUERY = "user-query"
"""Id of the user's own query in the rankings."""


def bm25_once(task: RetrievalTask, user_query: str, folder: Path | None, depth: int = 1000) -> Rankings:
    """Rank the corpus by BM25 for each query of a task and for one of the user's, as `USER_QUERY`.

    Args:
        task: The queries and the corpus.
        user_query: A further query.
        folder: Where rankings are kept; None keeps none.
        depth: At most this many documents a query.
    """
    asked = replace(task, queries={**task.queries, USER_QUERY: user_query})
    if folder is None:
        return bm25_rankings(asked, depth)
    path = folder / f"bm25-{_digest(asked, depth)}.json"
    try:
        return Rankings(**json.loads(path.read_text(encoding="utf-8")))
    except OSError:  # there is none, or none that may be read
        pass
    except (ValueError, TypeError) as error:
        log.warning("%s is damaged and is computed again (%s)", path, error)
    rankings = bm25_rankings(asked, depth)
    with optional(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"documents": dict(rankings.documents), "scores": dict(rankings.scores)})
    return rankings


def _digest(task: RetrievalTask, depth: int) -> str:
    """Name the rankings by what decides them, which documents are not ranked for a query that is one included."""

    def parts() -> Iterable[str]:
        yield f"{depth} {version('bm25s')}"
        for texts in (task.queries, task.corpus):
            yield str(len(texts))
            for name, text in texts.items():
                yield from (name, text)
        yield json.dumps({query: sorted(documents) for query, documents in self_answers(task).items()}, sort_keys=True)

    digest = hashlib.blake2b(digest_size=20)
    for part in parts():
        content = part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
