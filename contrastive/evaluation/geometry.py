"""Numbers read off the embeddings themselves: triplet accuracy, alignment and uniformity.

None of them replaces ranking the corpus: they say how a space looks, and not whether the right document comes first.
Alignment and uniformity are about directions alone, on the unit sphere, also where an encoder's similarity is another.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import torch
from torch import Tensor

from contrastive.contracts import Similarity
from contrastive.data import RetrievalTask
from contrastive.evaluation.rankings import Rankings
from contrastive.evaluation.retrieval import TaskEmbeddings, self_answers
from contrastive.similarity import score_texts, unit


def triplet_accuracy(
    embeddings: TaskEmbeddings,
    task: RetrievalTask,
    negatives: Mapping[str, str],
    *,
    similarity: Similarity | None = None,
) -> float:
    """Return the share of triplets (query, relevant document, negative) whose relevant document is closer.

    A weak metric, kept since many report it: against random negatives it is near 1 for any sensible encoder, and even
    against hard ones it asks for the better of two documents where retrieval asks for the best of the corpus. A tie is
    not a success.

    Args:
        embeddings: Of the task.
        task: Gives the relevant documents; each with its query's negative makes a triplet.
        negatives: Id of one negative by query id, from `random_negatives` or `hard_negatives`; others are left out.
        similarity: Maps [Q, D] and [K, D] to scores [Q, K], higher is closer; None takes that of the embeddings.

    Returns:
        A share from 0 to 1, higher is better.

    Raises:
        ValueError: If there is no triplet.
    """
    row = {query_id: index for index, query_id in enumerate(embeddings.query_ids)}
    column = {document_id: index for index, document_id in enumerate(embeddings.document_ids)}
    correct: list[bool] = []
    similarity = embeddings.similarity if similarity is None else similarity
    for query_id, negative in negatives.items():
        columns = [column[document_id] for document_id in (negative, *_relevant(task, query_id))]
        place = row[query_id]
        scores = score_texts(similarity, embeddings.queries[place : place + 1], embeddings.documents[columns])[0]
        correct += (scores[1:] > scores[0]).tolist()
    if not correct:
        raise ValueError("expected at least one query with a relevant document and a negative, got none")
    return sum(correct) / len(correct)


def random_negatives(task: RetrievalTask, *, seed: int = 0) -> dict[str, str]:
    """Draw for each query a document of the corpus that is not relevant to it; a query without any is left out."""
    rng = random.Random(seed)
    negatives = {}
    documents = sorted(task.corpus)
    not_itself = self_answers(task)
    for query_id in sorted(task.queries):
        refused = _relevant(task, query_id) | not_itself.get(query_id, set())
        if len(refused) < len(documents):
            while (document_id := rng.choice(documents)) in refused:
                pass
            negatives[query_id] = document_id
    return negatives


def hard_negatives(task: RetrievalTask, rankings: Rankings) -> dict[str, str]:
    """Take for each query the best document that is not judged relevant, for instance of `bm25_rankings`.

    It may be relevant all the same where judgements are incomplete. A query that has none is left out.
    """
    negatives = {}
    for query_id, documents in rankings.documents.items():
        relevant = _relevant(task, query_id)
        hardest = next((document_id for document_id in documents if document_id not in relevant), None)
        if hardest is not None:
            negatives[query_id] = hardest
    return negatives


def alignment(left: Tensor, right: Tensor, *, alpha: float = 2.0) -> Tensor:
    """Return how far apart positive pairs are on the unit sphere; lower is better.

        mean_i |u_i - v_i|^alpha

    Wang and Isola (2020), "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere", https://arxiv.org/abs/2005.10242, section 4.1.1, the loss L_align.

    Args:
        left: Embeddings [B, D]; scaled to length 1 here.
        right: Embeddings of their positives, [B, D].
        alpha: Power of the distance.

    Raises:
        ValueError: If the embeddings are not of the same shape [B, D] with B of at least 1.
    """
    if left.ndim != 2 or left.shape != right.shape or len(left) == 0:
        raise ValueError(f"expected two [B, D] of the same shape, got {list(left.shape)} and {list(right.shape)}")
    distances: Tensor = torch.linalg.vector_norm(unit(left.double()) - unit(right.double()), dim=1)
    return torch.mean(distances**alpha)


def uniformity(embeddings: Tensor, *, sharpness: float = 2.0, block_size: int = 2048) -> Tensor:
    """Return how unevenly embeddings are spread over the unit sphere; lower is better.

        log mean_{i != j} exp(-sharpness |u_i - u_j|^2)

    Wang and Isola (2020), https://arxiv.org/abs/2005.10242, section 4.1.2, the loss L_uniform (t is our sharpness). As
    in their code the pairs are those of different rows. In float64, as a log-sum-exp: nothing underflows.

    Args:
        embeddings: Embeddings [B, D]; scaled to length 1 here.
        sharpness: Of the Gaussian potential.
        block_size: Rows compared with all others at a time; bounds the memory.

    Raises:
        ValueError: If there are fewer than two embeddings.
    """
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(f"expected at least two embeddings [B, D], got {list(embeddings.shape)}")
    vectors = unit(embeddings.double())
    sums = []
    for start in range(0, len(vectors), block_size):
        rows = vectors[start : start + block_size]
        potentials = 2 * sharpness * (rows @ vectors.T - 1)  # |u - v|^2 = 2 - 2 uv on the sphere
        potentials.diagonal(start).fill_(-math.inf)
        sums.append(potentials.flatten().logsumexp(0))
    return torch.stack(sums).logsumexp(0) - math.log(len(vectors) * (len(vectors) - 1))


def _relevant(task: RetrievalTask, query_id: str) -> set[str]:
    return {document_id for document_id, grade in task.qrels.get(query_id, {}).items() if grade > 0}
