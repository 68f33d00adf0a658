"""Judge one system on one task: rankings, metrics, and the postings it finds for one query of the user's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from contrastive.data import RetrievalTask
from contrastive.encoder.embedding_cache import EmbeddingCache, KeyedEncoder
from contrastive.evaluation import (
    Rankings,
    TaskEmbeddings,
    alignment,
    embed,
    evaluate_rankings,
    hard_negatives,
    random_negatives,
    rank_embedded,
    retrieve,
    self_answers,
    triplet_accuracy,
    uniformity,
)
from contrastive.evaluation.fusion import DEPTH
from contrastive.evaluation.spelling import Spelling
from contrastive.masks import normalise_text
from contrastive.similarity import TermWeights, mean_vectors, score_text_pairs, similarity_of
from contrastive.statistics import paired_difference
from experiments.evaluate.baselines import USER_QUERY, bm25_once
from experiments.results.judgement import Judgement

log = logging.getLogger(__name__)

_SPREAD = 10_000
"""Documents that uniformity is of, at most: it compares each with each."""


def judge_bm25(
    task: RetrievalTask, user_query: str, num_top: int = 3, *, spelling: bool = False, cache: Path | None = None
) -> Judgement:
    """Judge BM25 on a task; its rankings are read from the folder `cache` if they are there.

    Without `spelling` it is judged first, and says how many queries of the task are documents of its own corpus.
    """
    if not spelling and (own := self_answers(task)):
        documents = sum(map(len, own.values()))
        log.info(
            "%s: %d documents are not ranked for a query, of %d, that is their text", task.name, documents, len(own)
        )
    ranked = bm25_once(task, user_query, cache, spelling=spelling)
    rankings = _of_task(ranked, task)
    top, grades = texts_of_top(ranked, task, num_top), grades_of_top(ranked, task, user_query, num_top)
    return Judgement(rankings, evaluate_rankings(rankings, task), top, grades, asked=ranked)


def judge_encoder(
    encoder: KeyedEncoder,
    task: RetrievalTask,
    bm25: Rankings,
    user_query: str,
    num_top: int = 3,
    *,
    show_progress: bool = True,
    cache: EmbeddingCache | None = None,
) -> Judgement:
    """Judge an encoder on a task, embedding its corpus at most once; `bm25` supplies the hard negatives."""
    embeddings = embed(encoder, task, show_progress=show_progress, cache=cache)
    rankings = rank_embedded(embeddings, task)
    asked = retrieve(
        encoder.encode([user_query], side="query", show_progress=False, as_numpy=False),
        embeddings.documents,
        [USER_QUERY],
        embeddings.document_ids,
        depth=DEPTH,
        similarity=embeddings.similarity,
    )
    right = put_right(encoder, embeddings, task, rankings, {USER_QUERY: user_query})
    negatives = {"random": random_negatives(task), "bm25_hard": hard_negatives(task, bm25)}
    return Judgement(
        rankings,
        evaluate_rankings(rankings, task),
        texts_of_top(asked, task, num_top),
        grades_of_top(asked, task, user_query, num_top),
        embedding_health(embeddings, task, negatives),
        similarities(embeddings, task, negatives),
        similarity_of(encoder).name,
        asked,
        (_of_task(right, task), right if USER_QUERY in right.documents else asked),
    )


def put_right(
    encoder: KeyedEncoder,
    embeddings: TaskEmbeddings,
    task: RetrievalTask,
    rankings: Rankings,
    further: Mapping[str, str] | None = None,
) -> Rankings:
    """Return an encoder's rankings of queries whose unknown words are put right by those of the corpus.

    Args:
        encoder: What the embeddings are from.
        embeddings: Of the task.
        task: Its queries and corpus.
        rankings: Of the queries as they are, which those without such words keep.
        further: Text of further queries by id; of these only such as have such words are ranked.
    """
    spelling, queries = Spelling.of(task.corpus.values()), {**task.queries, **(further or {})}
    fixed = {id_: right for id_, text in queries.items() if (right := spelling.put_right_text(text)) != text}
    if not fixed:
        return rankings
    found = retrieve(
        encoder.encode(list(fixed.values()), side="query", show_progress=False, as_numpy=False),
        embeddings.documents,
        list(fixed),
        embeddings.document_ids,
        depth=DEPTH,
        similarity=embeddings.similarity,
        exclude=self_answers(task),
    )
    return Rankings({**rankings.documents, **found.documents}, {**rankings.scores, **found.scores})


def embedding_health(
    embeddings: TaskEmbeddings, task: RetrievalTask, negatives: Mapping[str, Mapping[str, str]]
) -> dict[str, float]:
    """Return triplet accuracies (share, higher is better), alignment and uniformity (lower is better).

    Accuracies are by the encoder's similarity; alignment and uniformity are of directions alone, whatever that is, and
    of several vectors a text about their mean. Of more than 10,000 documents uniformity is that of as many, evenly
    chosen. An accuracy that no triplet supports is left out: every document may be
    relevant, or BM25 may find nothing.

    Args:
        embeddings: Of the task.
        task: Says what is relevant.
        negatives: By kind, the id of one negative by query id.
    """
    health = {
        f"triplet_accuracy/{kind}": triplet_accuracy(embeddings, task, chosen)
        for kind, chosen in negatives.items()
        if any(task.qrels.get(query_id) for query_id in chosen)
    }
    rows, columns = _places(embeddings, _relevant_pairs(task))
    queries, documents = mean_vectors(embeddings.queries), embeddings.documents
    documents = documents if isinstance(documents, TermWeights) else mean_vectors(documents)
    health["alignment"] = alignment(queries[rows], mean_vectors(documents[columns]).to(queries.device)).item()
    if len(documents) > 1:
        some = documents[:: -(-len(documents) // _SPREAD)]
        health["uniformity"] = uniformity(mean_vectors(some)).item()
    return health


def similarities(
    embeddings: TaskEmbeddings, task: RetrievalTask, negatives: Mapping[str, Mapping[str, str]]
) -> dict[str, list[float]]:
    """Return the scores of all relevant pairs, and of each query with its negative of each kind, by their similarity.

    Args:
        embeddings: Of the task.
        task: Says what is relevant.
        negatives: By kind, the id of one negative by query id.
    """
    pairs = {"relevant": _relevant_pairs(task), **{kind: list(chosen.items()) for kind, chosen in negatives.items()}}
    scores = {}
    for kind, chosen in pairs.items():
        rows, columns = _places(embeddings, chosen)
        scores[kind] = score_text_pairs(
            embeddings.similarity, embeddings.queries, embeddings.documents, rows, columns
        ).tolist()
    return scores


def gain(before: Judgement, after: Judgement) -> dict[str, dict[str, float]]:
    """Return the paired difference after - before of each metric over the same queries, with interval and p-value."""
    per_query = after.results.per_query, before.results.per_query
    gains = {}
    for metric in before.results.intervals:
        first, second = ([scores[query][metric] for query in before.results.per_query] for scores in per_query)
        gains[metric] = asdict(paired_difference(first, second))
    return gains


def grades_of_top(rankings: Rankings, task: RetrievalTask, user_query: str, num_top: int) -> list[int] | None:
    """Return the grades of the best documents for the user's query, if a query of the task is the same text."""
    key = normalise_text(user_query)
    for query_id, text in task.queries.items():
        if query_id in task.qrels and normalise_text(text) == key:
            return [task.qrels[query_id].get(id_, 0) for id_, _ in rankings.top(USER_QUERY, num_top)]
    return None


def texts_of_top(rankings: Rankings, task: RetrievalTask, num_top: int) -> list[tuple[float, str]]:
    """Return the best documents for the user's query, as (score, text)."""
    return [(score, task.corpus[id_]) for id_, score in rankings.top(USER_QUERY, num_top)]


def _of_task(ranked: Rankings, task: RetrievalTask) -> Rankings:
    """Return rankings of the task's queries alone, without the user's."""
    return Rankings(*({query: values[query] for query in task.queries} for values in (ranked.documents, ranked.scores)))


def _relevant_pairs(task: RetrievalTask) -> list[tuple[str, str]]:
    return [(query, id_) for query, grades in task.qrels.items() for id_, grade in grades.items() if grade > 0]


def _places(embeddings: TaskEmbeddings, pairs: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """Return the row of each pair's query and the row of its document."""
    row = {id_: index for index, id_ in enumerate(embeddings.query_ids)}
    column = {id_: index for index, id_ in enumerate(embeddings.document_ids)}
    return [row[query] for query, _ in pairs], [column[id_] for _, id_ in pairs]
