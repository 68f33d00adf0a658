"""What is known of one system on one task, however it was judged."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from contrastive.evaluation import Rankings, Results


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of one system on one task.

    Attributes:
        rankings: The ranking of every query.
        results: Metrics per query and their means.
        top: Best documents for the user's query, as (score, text).
        top_grades: The grade of each of them, 0 for not relevant; None if the user's query is none of the task's.
        embedding_health: Numbers about the embeddings themselves: the weak triplet accuracies, alignment, uniformity.
        similarities: Scores of the pairs (query, document) of each kind, in no order; see `judging.similarities`.
        similarity: What those are: the name of the encoder's similarity.
        asked: The ranking of the user's query, as deep as the others; None where no other system needs it.
        put_right: Both rankings of an encoder that is asked with unknown words put right, as the hybrid asks it.
    """

    rankings: Rankings
    results: Results
    top: list[tuple[float, str]]
    top_grades: list[int] | None = None
    embedding_health: dict[str, float] = field(default_factory=dict)
    similarities: dict[str, list[float]] = field(default_factory=dict)
    similarity: str = "cosine"
    asked: Rankings | None = None
    put_right: tuple[Rankings, Rankings] | None = None

    def summary(self) -> dict[str, Any]:
        """Return means, 95 % intervals, health and, if known, the grades of `top`, as plain values for a JSON file."""
        metrics = {name: asdict(interval) for name, interval in self.results.intervals.items()}
        graded = {} if self.top_grades is None else {"top_grades": self.top_grades}
        return {"metrics": metrics, "embedding_health": self.embedding_health, **graded}
