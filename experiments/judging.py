"""Judge one system on one task: rankings, metrics, and the postings it finds for one query of the user's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from contrastive.data import RetrievalTask
from contrastive.encoder import Encoder
from contrastive.evaluation import (
    Rankings,
    Results,
    TaskEmbeddings,
    alignment,
    bm25_rankings,
    embed,
    evaluate_rankings,
    hard_negatives,
    random_negatives,
    rank_embedded,
    retrieve,
    triplet_accuracy,
    uniformity,
)

USER_QUERY = "user-query"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of one system on one task.

    Attributes:
        rankings: The ranking of every query.
        results: Metrics per query and their means.
        top: Best documents for the user's query, as (score, text).
        embedding_health: Numbers about the embeddings themselves: the weak triplet accuracies, alignment, uniformity.
    """

    rankings: Rankings
    results: Results
    top: list[tuple[float, str]]
    embedding_health: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return means, 95 % intervals and health as plain values for a JSON file."""
        metrics = {
            name: {"mean": cell.mean, "low": cell.low, "high": cell.high}
            for name, cell in self.results.intervals.items()
        }
        return {"metrics": metrics, "embedding_health": self.embedding_health}


def judge_bm25(task: RetrievalTask, user_query: str, num_top: int = 3) -> Judgement:
    """Judge BM25 on a task."""
    rankings = bm25_rankings(task)
    asked = replace(task, queries={USER_QUERY: user_query}, qrels={})
    return Judgement(rankings, evaluate_rankings(rankings, task), _top(bm25_rankings(asked, num_top), task))


def judge_encoder(
    encoder: Encoder,
    task: RetrievalTask,
    bm25: Rankings,
    user_query: str,
    num_top: int = 3,
    *,
    show_progress: bool = True,
) -> Judgement:
    """Judge an encoder on a task, embedding its corpus once; `bm25` supplies the hard negatives."""
    embeddings = embed(encoder, task, show_progress=show_progress)
    rankings = rank_embedded(embeddings, task)
    asked = retrieve(
        encoder.encode([user_query], side="query", as_numpy=False),
        embeddings.documents,
        [USER_QUERY],
        embeddings.document_ids,
        depth=num_top,
    )
    health = embedding_health(embeddings, task, bm25)
    return Judgement(rankings, evaluate_rankings(rankings, task), _top(asked, task), health)


def embedding_health(embeddings: TaskEmbeddings, task: RetrievalTask, bm25: Rankings) -> dict[str, float]:
    """Return triplet accuracies (share, higher is better), alignment and uniformity (lower is better).

    An accuracy that no triplet supports is left out: every document may be relevant, or BM25 may find nothing.
    """
    negatives = {"random": random_negatives(task), "bm25_hard": hard_negatives(task, bm25)}
    health = {
        f"triplet_accuracy/{name}": triplet_accuracy(embeddings, task, chosen)
        for name, chosen in negatives.items()
        if any(task.qrels.get(query_id) for query_id in chosen)
    }
    row = {id_: index for index, id_ in enumerate(embeddings.query_ids)}
    column = {id_: index for index, id_ in enumerate(embeddings.document_ids)}
    pairs = [
        (row[query], column[id_]) for query, grades in task.qrels.items() for id_, grade in grades.items() if grade > 0
    ]
    rows, columns = (list(indices) for indices in zip(*pairs, strict=True))
    health["alignment"] = alignment(embeddings.queries[rows], embeddings.documents[columns]).item()
    if len(embeddings.documents) > 1:
        health["uniformity"] = uniformity(embeddings.documents).item()
    return health


def _top(rankings: Rankings, task: RetrievalTask) -> list[tuple[float, str]]:
    hits = rankings.top(USER_QUERY, len(rankings.documents[USER_QUERY]))
    return [(score, task.corpus[id_]) for id_, score in hits]
