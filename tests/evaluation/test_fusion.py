"""Mixtures of systems: scores as loops, what changes nothing, weights that gain and weights that do not."""

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from contrastive.data import RetrievalTask
from contrastive.evaluation import Rankings, evaluate_rankings, fusion
from contrastive.evaluation.fusion import fit_hybrid, fuse

DOCUMENTS = [f"d{i}" for i in range(30)]


def system(seed: int, task: RetrievalTask | None = None, *, signal: float = 0.0, found: int = 25) -> Rankings:
    """Rank a part of the documents by chance, and by what is relevant as far as there is a `signal`."""
    rng = random.Random(seed)
    documents, scores = {}, {}
    for i in range(40):
        grades = {} if task is None else task.qrels[f"q{i}"]
        drawn = {id_: round(rng.random() + signal * grades.get(id_, 0), 3) for id_ in rng.sample(DOCUMENTS, found)}
        ordered = sorted(drawn, key=lambda id_: (-drawn[id_], id_))
        documents[f"q{i}"], scores[f"q{i}"] = ordered, [drawn[id_] for id_ in ordered]
    return Rankings(documents, scores)


@pytest.fixture(scope="module")
def task() -> RetrievalTask:
    rng = random.Random(0)
    qrels = {f"q{i}": {id_: rng.choice([0, 1, 2]) for id_ in rng.sample(DOCUMENTS, 5)} | {"d0": 1} for i in range(40)}
    queries = {query: query for query in qrels}
    return RetrievalTask("small-dev", queries, {id_: id_ for id_ in DOCUMENTS}, qrels)


def by_loops(systems: list[Rankings], weights: list[float], query: str) -> list[tuple[str, float]]:
    """Mix one query's scores document by document."""
    mixed: dict[str, float] = {}
    for of_system, weight in zip(systems, weights, strict=True):
        ranked = dict(of_system.top(query, 1000))
        if weight == 0 or not ranked:
            continue
        low, high = min(ranked.values()), max(ranked.values())
        for id_, score in ranked.items():
            share = 1.0 if high == low else (score - low) / (high - low)
            mixed[id_] = mixed.get(id_, 0.0) + weight * share
    return sorted(((id_, round(score, 6)) for id_, score in mixed.items()), key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("weights", [[0.25, 0.75], [0.5, 0.5], [0.1, 0.2, 0.7], [0.5, 0.0, 0.5]])
def test_scores_and_order_are_those_of_loops(weights: list[float]) -> None:
    systems = [system(seed, found=found) for seed, found in zip((1, 2, 3), (25, 12, 3), strict=False)][: len(weights)]
    mixed = fuse(
        {str(i): ranked for i, ranked in enumerate(systems)}, {str(i): weight for i, weight in enumerate(weights)}
    )
    for query in mixed.documents:
        expected = by_loops(systems, weights, query)
        assert list(mixed.documents[query]) == [id_ for id_, _ in expected]
        assert mixed.scores[query] == pytest.approx([score for _, score in expected], abs=1.1e-6)


def test_a_system_with_all_the_weight_is_returned_as_it_is() -> None:
    words, vectors = system(1, found=8), system(2)
    systems = {"words": words, "vectors": vectors}
    assert fuse(systems, {"words": 1.0, "vectors": 0.0}) == words
    assert fuse(systems, {"words": 0.0, "vectors": 1.0}) == vectors
    cut = fuse(systems, {"vectors": 1.0}, depth=4)
    assert cut.top("q3", 9) == vectors.top("q3", 4)
    assert fuse(systems, {"words": 0.5, "vectors": 0.5}, depth=4).top("q3", 9) == fuse(
        systems, {"words": 0.5, "vectors": 0.5}
    ).top("q3", 4)


def test_neither_unit_nor_offset_of_scores_matters(task: RetrievalTask) -> None:
    words, vectors = system(1, task, signal=0.2, found=12), system(2, task, signal=0.2)
    moved = replace(vectors, scores={query: [40 * score - 7 for score in of] for query, of in vectors.scores.items()})
    half = {"words": 0.5, "vectors": 0.5}
    first, second = (fuse({"words": words, "vectors": of}, half) for of in (vectors, moved))
    assert first.documents == second.documents
    assert (
        fit_hybrid({"words": words, "vectors": vectors}, task).weights
        == fit_hybrid({"words": words, "vectors": moved}, task).weights
    )


def test_what_a_system_did_not_find_has_nothing_from_it() -> None:
    words = Rankings({"q": ["a"], "empty": []}, {"q": [3.0], "empty": []})
    vectors = Rankings({"q": ["b", "a", "c"], "empty": ["c", "b"]}, {"q": [0.9, 0.5, 0.1], "empty": [0.2, 0.2]})
    mixed = fuse({"words": words, "vectors": vectors}, {"words": 0.5, "vectors": 0.5})
    assert mixed.top("q", 9) == [("a", 0.75), ("b", 0.5), ("c", 0.0)]
    assert mixed.top("empty", 9) == [("b", 0.5), ("c", 0.5)]  # a tie, by id
    nothing = fuse({"words": words, "other": words}, {"words": 0.5, "other": 0.5})
    assert nothing.top("empty", 9) == []


def ndcg(rankings: Rankings, task: RetrievalTask) -> float:
    """Mean nDCG@10 by loops."""
    values = []
    for query, grades in task.qrels.items():
        ideal = sorted(grades.values(), reverse=True)[:10]
        most = sum(grade / math.log2(place) for place, grade in enumerate(ideal, start=2))
        found = [grades.get(id_, 0) for id_, _ in rankings.top(query, 10)]
        values.append(sum(grade / math.log2(place) for place, grade in enumerate(found, start=2)) / most)
    return sum(values) / len(values)


@pytest.mark.parametrize("count", [2, 3])
def test_the_fit_is_the_best_of_all_weights_judged_one_by_one(count: int, task: RetrievalTask) -> None:
    parts = {name: system(seed, task, signal=0.4, found=30) for seed, name in enumerate("abc"[:count])}
    hybrid = fit_hybrid(parts, task)
    found = ndcg(fuse(parts, hybrid.tried), task)
    assert found == pytest.approx(evaluate_rankings(fuse(parts, hybrid.tried), task).means["ndcg@10"])
    for steps in itertools.product(range(0, 21, 1 if count == 2 else 4), repeat=count):
        if sum(steps) == 20:
            weights = {name: step / 20 for name, step in zip(parts, steps, strict=True)}
            assert ndcg(fuse(parts, weights), task) <= found + 1e-6, weights
    assert hybrid.weights == hybrid.tried
    assert hybrid.gain.low > 0
    assert "nDCG@10 over " in str(hybrid)
    assert str(hybrid).endswith("on the 40 queries of small-dev, cross-fitted")
    assert (hybrid.task, hybrid.queries) == ("small-dev", 40)
    assert fit_hybrid(parts, task) == hybrid


def test_the_gain_is_of_queries_that_the_weights_were_not_fitted_on(
    task: RetrievalTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "_CUTS", 1)
    parts = {"a": system(1, task, signal=0.3), "b": system(2, task, signal=0.3)}
    judged = sorted(task.qrels)
    folds = torch.randperm(40, generator=torch.Generator().manual_seed(0)) % 5
    gains = []
    for fold in range(5):
        inside = {judged[place]: task.qrels[judged[place]] for place in (folds == fold).nonzero()[:, 0].tolist()}
        rest = {query: grades for query, grades in task.qrels.items() if query not in inside}
        weights = fit_hybrid(parts, replace(task, qrels=rest)).tried
        scores, alone = (
            evaluate_rankings(ranked, replace(task, qrels=inside), resamples=1).values("ndcg@10")
            for ranked in (fuse(parts, weights), parts[fit_hybrid(parts, task).best_part])
        )
        gains += [score - other for score, other in zip(scores, alone, strict=True)]
    assert fit_hybrid(parts, task).gain.mean == pytest.approx(sum(gains) / 40, abs=1e-6)


def test_a_useless_system_has_no_weight_and_the_hybrid_says_that_it_is_the_other(task: RetrievalTask) -> None:
    parts = {"words": system(1, task, signal=2.0, found=30), "noise": system(2)}
    hybrid = fit_hybrid(parts, task)
    assert hybrid.weights == {"words": 1.0, "noise": 0.0}
    assert hybrid.best_part == "words"
    assert fuse(parts, hybrid.weights) == parts["words"]
    assert str(hybrid) == "words alone: no mixture is better on the 40 queries of small-dev"


def test_a_gain_that_may_be_luck_is_called_so_and_a_loss_is_not_taken(task: RetrievalTask) -> None:
    few = replace(task, qrels={query: task.qrels[query] for query in ("q0", "q1", "q2")})
    parts = {"a": system(0, task, signal=0.4, found=30), "b": system(1, task, signal=0.4, found=30)}
    sure = fit_hybrid(parts, task)
    assert sure.gain.low > 0
    assert sure.weights == sure.tried
    assert "luck" not in str(sure)
    hybrids = [
        fit_hybrid({"a": system(seed, task, signal=0.4, found=30), "b": parts["b"]}, few) for seed in range(2, 12)
    ]
    for hybrid in hybrids:
        mixed = max(hybrid.weights.values()) < 1
        assert mixed == (hybrid.gain.mean > 0)
        assert ("which may be luck" in str(hybrid)) == (mixed and hybrid.gain.low <= 0)
    assert len({max(hybrid.weights.values()) < 1 for hybrid in hybrids}) == 2  # both happened
    one = fit_hybrid(parts, replace(task, qrels={"q0": task.qrels["q0"]}))
    assert (one.gain.mean, one.weights[one.best_part]) == (0.0, 1.0)


def test_the_same_system_twice_gains_nothing(task: RetrievalTask) -> None:
    words = system(1, task, signal=0.5)
    hybrid = fit_hybrid({"first": words, "second": words}, task)
    assert (hybrid.best_part, hybrid.weights) == ("first", {"first": 1.0, "second": 0.0})
    assert hybrid.gain.mean == 0


def test_a_document_that_only_a_system_without_weight_ranked_is_not_found(task: RetrievalTask) -> None:
    relevant = replace(task, qrels={query: {"d1": 1} for query in task.queries})
    nothing = Rankings({query: ["d9"] for query in task.queries}, {query: [1.0] for query in task.queries})
    behind = Rankings({query: ["d5", "d1"] for query in task.queries}, {query: [1.0, 0.5] for query in task.queries})
    hybrid = fit_hybrid({"nothing": nothing, "behind": behind}, relevant)
    assert hybrid.best_part == "behind"


@pytest.mark.parametrize(
    "weights", [{"words": 1.0, "other": 0.0}, {"words": 0.5, "vectors": 0.6}, {"words": -0.5, "vectors": 1.5}, {}]
)
def test_weights_that_are_none_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected weights of words, vectors, from 0 to 1 and 1 in all, got"):
        fuse({"words": system(1), "vectors": system(2)}, weights)


def test_what_cannot_be_fitted_is_refused(task: RetrievalTask) -> None:
    with pytest.raises(ValueError, match="expected two systems and a query with a relevant document, got 1 and 40"):
        fit_hybrid({"words": system(1)}, task)
    nothing: Any = replace(task, qrels={"q0": {"d1": 0}})
    with pytest.raises(ValueError, match="expected two systems and a query with a relevant document, got 2 and 0"):
        fit_hybrid({"words": system(1), "vectors": system(2)}, nothing)
