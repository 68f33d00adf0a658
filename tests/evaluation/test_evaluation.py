from __future__ import annotations

import csv
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import ir_measures
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contrastive.data import RetrievalTask
from contrastive.evaluation import (
    METRICS,
    Rankings,
    TaskEmbeddings,
    alignment,
    bm25_rankings,
    embed,
    evaluate_rankings,
    hard_negatives,
    random_negatives,
    rank,
    rank_embedded,
    retrieve,
    self_answers,
    triplet_accuracy,
    uniformity,
)
from contrastive.evaluation.ties import TieBreaker, best_first
from contrastive.negatives.top import top_k
from contrastive.similarity import ProductSimilarity, dot, euclidean


def make_task(qrels: Mapping[str, Mapping[str, int]], num_documents: int = 12) -> RetrievalTask:
    corpus = {f"d{i:02}": f"document {i}" for i in range(num_documents)}
    return RetrievalTask("dev", {query_id: f"query {query_id}" for query_id in qrels}, corpus, qrels)


def make_rankings(documents: Mapping[str, Sequence[str]]) -> Rankings:
    return Rankings(documents, {query_id: [-float(i) for i in range(len(ids))] for query_id, ids in documents.items()})


# --- metrics against the definitions written as loops


def loop_metric(name: str, ranking: Sequence[str], grades: Mapping[str, int]) -> float:
    metric, _, cutoff = name.partition("@")
    gains = [max(grades.get(document, 0), 0) for document in ranking]
    ideal = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
    k = int(cutoff) if cutoff else len(ranking) + len(ideal)
    hits = 0
    total = 0.0
    for place, gain in enumerate(gains[:k], 1):
        hits += gain > 0
        if metric == "mrr" and gain > 0:
            return 1 / place
        if metric == "map" and gain > 0:
            total += hits / place / len(ideal)
        if metric == "ndcg":
            total += gain / math.log2(place + 1)
    if metric == "ndcg":
        return total / sum(grade / math.log2(place + 1) for place, grade in enumerate(ideal[:k], 1))
    return {"recall": hits / len(ideal), "precision": hits / k}.get(metric, total)


DOCUMENTS = [f"d{i:02}" for i in range(12)]
judged = st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 3), min_size=1).filter(
    lambda g: max(g.values()) > 0
)
ranked = st.lists(st.sampled_from(DOCUMENTS), unique=True)


@settings(max_examples=60)
@given(st.lists(st.tuples(judged, ranked), min_size=1, max_size=3))
def test_metrics_equal_their_definitions(queries: list[tuple[dict[str, int], list[str]]]) -> None:
    task = make_task({f"q{i}": grades for i, (grades, _) in enumerate(queries)})
    rankings = make_rankings({f"q{i}": ids for i, (_, ids) in enumerate(queries)})
    metrics = ("ndcg@3", "ndcg", "mrr@2", "mrr", "recall@5", "map", "map@4", "precision@3", *METRICS)
    results = evaluate_rankings(rankings, task, metrics=metrics, resamples=10)
    for query_id, grades in task.qrels.items():
        for metric in metrics:
            expected = loop_metric(metric, rankings.documents[query_id], grades)
            assert results.per_query[query_id][metric] == pytest.approx(expected), metric
    for metric in metrics:
        mean = sum(row[metric] for row in results.per_query.values()) / len(queries)
        assert results.means[metric] == pytest.approx(mean)
        assert results.intervals[metric].low <= mean + 1e-12
        assert results.intervals[metric].high >= mean - 1e-12


def test_intervals_of_few_queries_stay_within_the_range_of_a_metric() -> None:
    task = make_task({f"q{i}": {"d00": 1} for i in range(4)})
    for found, limit in ((3, "high"), (1, "low")):
        answers = {f"q{i}": ["d00"] if i < found else ["d01"] for i in range(4)}
        interval = evaluate_rankings(make_rankings(answers), task).intervals["ndcg@10"]
        assert getattr(interval, limit) == (limit == "high")


def test_metrics_of_a_ranking_worked_out_by_hand() -> None:
    task = make_task({"q": {"d00": 2, "d01": 1, "d02": 1}})
    row = evaluate_rankings(make_rankings({"q": ["d05", "d01", "d00"]}), task).per_query["q"]
    assert row["ndcg@10"] == pytest.approx((1 / math.log2(3) + 2 / 2) / (2 + 1 / math.log2(3) + 1 / 2))
    assert row["mrr@10"] == pytest.approx(1 / 2)
    assert row["recall@10"] == row["recall@100"] == pytest.approx(2 / 3)
    assert row["map"] == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert row["precision@10"] == pytest.approx(0.2)


def test_the_order_counts_and_not_the_scores() -> None:
    task = make_task({"q": {"d01": 1}})
    tied = Rankings({"q": ["d00", "d01", "d02"]}, {"q": [0.5, 0.5, 0.5]})
    assert evaluate_rankings(tied, task).means["mrr@10"] == 0.5


def test_queries_without_an_answer_are_left_out_and_without_a_ranking_score_0() -> None:
    task = make_task({"a": {"d00": 1}, "b": {"d00": 0}, "c": {"d01": 1}, "d": {"d01": -1}})
    results = evaluate_rankings(make_rankings({"a": ["d00"], "b": ["d00"]}), task)
    assert list(results.per_query) == ["a", "c"]
    assert results.num_unjudged == 2
    assert results.values("mrr@10") == [1.0, 0.0]
    assert results.means["mrr@10"] == 0.5


def test_results_are_written_a_row_a_query(tmp_path: Path) -> None:
    task = make_task({"a": {"d00": 1}, "c": {"d01": 1}})
    evaluate_rankings(make_rankings({"a": ["d02", "d00"]}), task, metrics=("mrr@10", "map")).write_csv(
        tmp_path / "q.csv"
    )
    rows = list(csv.reader((tmp_path / "q.csv").read_text().splitlines()))
    assert rows == [["query_id", "mrr@10", "map"], ["a", "0.5", "0.5"], ["c", "0.0", "0.0"]]


@pytest.mark.parametrize("metric", ["accuracy", "ndcg@0", "recall", "precision", "ndcg@ten", "nDCG@10"])
def test_unknown_metrics_are_refused(metric: str) -> None:
    with pytest.raises(ValueError, match=f"expected one of ndcg, .* got '{metric}'"):
        evaluate_rankings(make_rankings({}), make_task({"q": {"d00": 1}}), metrics=[metric])


@pytest.mark.parametrize(
    ("qrels", "documents", "message"),
    [
        ({"q": {"d99": 1}}, [], "document 'd99', judged for 'q', is not in the corpus"),
        ({"q": {"d00": 1}}, ["d99"], "'q': document 'd99' of the ranking is not in the corpus"),
        ({"q": {"d00": 1}}, ["d00", "d00"], "'q': expected each document once"),
        ({"q": {"d00": 0}}, [], "expected a query with a relevant document, got none among 1"),
    ],
)
def test_evaluation_refuses(qrels: Mapping[str, Mapping[str, int]], documents: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_rankings(make_rankings({"q": documents}), make_task(qrels))


def test_judgements_of_unknown_queries_are_refused() -> None:
    task = RetrievalTask("dev", {}, {"d": "text"}, {"q": {"d": 1}})
    with pytest.raises(ValueError, match="expected judgements of the task's own queries, got 'q'"):
        evaluate_rankings(make_rankings({}), task)


# --- retrieval against loops


def loop_retrieve(scores: Sequence[Sequence[float]], ids: Sequence[str], depth: int) -> list[list[str]]:
    return [
        [ids[i] for i in sorted(range(len(ids)), key=lambda i, row=row: (-round(row[i] * 1e6), ids[i]))[:depth]]  # type: ignore[misc]
        for row in scores
    ]


@settings(max_examples=60)
@given(st.data())
def test_ties_are_broken_by_id_whatever_the_blocks_and_the_order(data: st.DataObject) -> None:
    num_documents = data.draw(st.integers(1, 15))
    values = st.lists(st.integers(-2, 2).map(float), min_size=2, max_size=2)
    documents = torch.tensor(data.draw(st.lists(values, min_size=num_documents, max_size=num_documents)))
    queries = torch.tensor(data.draw(st.lists(values, min_size=1, max_size=4)))
    depth, block_size = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 16))
    order = data.draw(st.permutations(range(num_documents)))
    ids = [f"d{i}" for i in range(num_documents)]  # "d10" < "d2": the order of strings
    query_ids = [f"q{i}" for i in range(len(queries))]
    found = retrieve(
        queries,
        documents[order],
        query_ids,
        [ids[i] for i in order],
        depth=depth,
        similarity=dot,
        block_size=block_size,
    )
    expected = loop_retrieve((queries.double() @ documents.double().T).tolist(), ids, depth)
    assert list(found.documents.values()) == expected
    for query, query_id in zip(queries, query_ids, strict=True):
        for document_id, score in found.top(query_id, depth):
            assert score == pytest.approx(float(query @ documents[ids.index(document_id)]), abs=1e-6)


def test_float32_embeddings_rank_the_same_in_blocks_of_any_size() -> None:
    torch.manual_seed(0)
    base = torch.randn(150, 64)
    documents = torch.cat([base, base + 1e-8 * torch.randn(150, 64)])
    ids = [f"d{i:03}" for i in range(300)]
    queries = torch.randn(7, 64)
    names = list("abcdefg")
    whole = retrieve(queries, documents, names, ids, depth=300)
    for block_size in (1, 17, 299):
        assert retrieve(queries, documents, names, ids, depth=300, block_size=block_size) == whole
    order = torch.randperm(300).tolist()
    assert retrieve(queries, documents[order], names, [ids[i] for i in order], depth=300) == whole


def test_scores_closer_than_the_rounding_are_ties() -> None:
    documents = torch.tensor([[0.5], [0.5000001], [0.50001]])
    found = retrieve(torch.tensor([[1.0]]), documents, ["q"], ["a", "b", "c"], depth=3, similarity=dot)
    assert found.documents == {"q": ["c", "a", "b"]}
    assert found.scores == {"q": [0.50001, 0.5, 0.5]}


def test_whoever_ranks_breaks_ties_alike() -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (5, 60), generator=random) / 4 + torch.randint(-4, 4, (5, 60), generator=random) * 1e-7
    order, ids = torch.randperm(60, generator=random), [f"{place:02}" for place in range(60)]
    ties = TieBreaker([ids[place] for place in order])
    retrieved = [ties.unpack(row.sort(descending=True).values)[0] for row in ties.pack(scores[:, order])]
    sorted_ = order.expand(5, -1).gather(1, best_first(scores[:, order], order.expand(5, -1)))
    assert retrieved == [[ids[place] for place in row] for row in sorted_]
    assert torch.equal(sorted_, top_k(scores, 60)[1])


def test_what_has_no_score_comes_last() -> None:
    scores = torch.tensor([[math.nan, 0.1, -math.inf, 0.2]])
    assert best_first(scores, torch.arange(4)[None]).tolist() == [[3, 1, 2, 0]]


def test_distances_rank_the_nearest_first() -> None:
    documents = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])
    found = retrieve(torch.zeros(1, 2), documents, ["q"], ["a", "b", "c"], depth=2, similarity=euclidean)
    assert found.documents == {"q": ["c", "b"]}
    assert found.scores["q"] == pytest.approx([0, -1], abs=1e-5)


@pytest.mark.parametrize("block_size", [1, 2, 10])
def test_excluded_documents_are_not_returned(block_size: int) -> None:
    documents = torch.tensor([[3.0], [2.0], [1.0], [0.0]])
    found = retrieve(
        torch.ones(3, 1),
        documents,
        ["p", "q", "r"],
        list("abcd"),
        depth=2,
        similarity=dot,
        block_size=block_size,
        exclude={"q": {"a", "c", "unknown"}, "r": set("abcd")},
    )
    assert found.documents == {"p": ["a", "b"], "q": ["b", "d"], "r": []}


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e15])
def test_scores_that_cannot_be_ordered_are_refused(value: float) -> None:
    sides = torch.ones(1, 1), torch.tensor([[0.0], [value]])
    with pytest.raises(ValueError, match="expected finite scores"):
        retrieve(*sides, ["q"], ["a", "b"], depth=1, similarity=lambda queries, keys: queries @ keys.T)
    if not math.isfinite(value):
        with pytest.raises(ValueError, match="expected finite scores"):
            retrieve(*sides, ["q"], ["a", "b"], depth=1, similarity=dot)


@pytest.mark.parametrize("similarity", [dot, euclidean], ids=repr)
@pytest.mark.parametrize("scale", [1e-7, 1e7])
def test_what_is_a_tie_is_measured_by_the_size_of_the_scores(similarity: ProductSimilarity, scale: float) -> None:
    """A millionth of them: neither all that is tiny, nor nothing where one part in a billion is noise."""
    documents = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0 + 1e-9], [1.0, 2.001]], dtype=torch.float64)
    queries = torch.tensor([[1.0, 0.9]], dtype=torch.float64)
    found, expected = (
        retrieve(factor * queries, factor * documents, ["q"], list("dcba"), depth=4, similarity=similarity)
        for factor in (scale, 1.0)
    )
    assert found.documents == expected.documents
    assert found.documents["q"].index("b") < found.documents["q"].index("d"), "which are a tie"
    factor = scale**2 if similarity is dot else scale
    assert found.scores["q"] == pytest.approx([factor * score for score in expected.scores["q"]], rel=1e-5)


def test_the_similarity_of_the_encoder_ranks_unless_another_is_given() -> None:
    task = RetrievalTask("dev", {"q": "12"}, {"a": "1", "b": "123456", "c": "123"}, {"q": {"b": 1}})
    encoder = LengthEncoder()
    found = []
    for name in ("cosine", "dot", "euclidean"):
        encoder.similarity = name  # type: ignore[attr-defined]
        found.append(rank(encoder, task).documents["q"])
        embeddings = embed(encoder, task)
        assert rank_embedded(embeddings, task).documents["q"] == found[-1]
        assert triplet_accuracy(embeddings, task, {"q": "c"}) == float(found[-1].index("b") < found[-1].index("c"))
    assert found == [["c", "b", "a"], ["b", "c", "a"], ["a", "c", "b"]]


def test_retrieval_refuses_ids_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"expected documents \[2, D\], one a given id, got \[3, 1\]"):
        retrieve(torch.ones(1, 1), torch.ones(3, 1), ["q"], ["a", "b"], depth=1)
    with pytest.raises(ValueError, match="expected document ids that differ, got 'a' twice"):
        retrieve(torch.ones(1, 1), torch.ones(3, 1), ["q"], ["a", "b", "a"], depth=1)
    with pytest.raises(ValueError, match="expected query ids that differ"):
        retrieve(torch.ones(2, 1), torch.ones(1, 1), ["q", "q"], ["a"], depth=1)
    with pytest.raises(ValueError, match="depth and block_size of at least 1, got 0 and 2048"):
        retrieve(torch.ones(1, 1), torch.ones(1, 1), ["q"], ["a"], depth=0)


def test_a_query_is_not_its_own_answer_unless_judged_so() -> None:
    corpus = {"q1": "Eins\nONE", "d2": "TWO ", "d3": "three", "d4": "two"}
    queries = {"q1": "one", "q2": "two", "q3": "three"}
    task = RetrievalTask("own texts", queries, corpus, {"q2": {"d4": 1, "d2": 0}, "q3": {"d3": 1}})
    assert self_answers(task) == {"q1": {"q1"}, "q2": {"d2"}}
    embeddings = TaskEmbeddings(tuple(queries), torch.ones(3, 2), tuple(corpus), torch.ones(4, 2))
    ranked = rank_embedded(embeddings, task, depth=10).documents
    assert ranked == {"q1": ["d2", "d3", "d4"], "q2": ["d3", "d4", "q1"], "q3": ["d2", "d3", "d4", "q1"]}


def test_a_document_of_the_query_s_id_and_another_text_is_ranked() -> None:
    corpus = {"1": "python wanted", "2": "chef wanted", "3": "Chef\npython"}
    queries = {"1": "python", "2": "chef"}
    task = RetrievalTask("numbered", queries, corpus, {"1": {"2": 1}, "2": {"2": 1}})
    assert self_answers(task) == {}
    embeddings = TaskEmbeddings(tuple(queries), torch.ones(2, 2), tuple(corpus), torch.ones(3, 2))
    assert rank_embedded(embeddings, task).documents == {"1": ["1", "2", "3"], "2": ["1", "2", "3"]}
    assert bm25_rankings(task).documents["1"] == ["1", "3"]


class LengthEncoder:
    """Embeds a text as its length, and keeps count."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def encode(self, texts: Sequence[str], *, side: str, show_progress: bool, as_numpy: bool) -> Tensor:
        assert not show_progress
        assert not as_numpy
        self.calls.append((side, len(texts)))
        return torch.tensor([[float(len(text)), 1.0] for text in texts])


def test_ranking_with_an_encoder_encodes_each_side_once() -> None:
    task = RetrievalTask("dev", {"q": "12"}, {"a": "1", "b": "123456", "c": "123"}, {"q": {"c": 1}})
    encoder = LengthEncoder()
    assert rank(encoder, task, depth=2).documents == {"q": ["c", "b"]}
    assert encoder.calls == [("query", 1), ("document", 3)]
    assert rank_embedded(embed(encoder, task), task, similarity=dot).documents == {"q": ["b", "c", "a"]}


# --- run files


@given(st.lists(st.floats(-100, 100).map(lambda x: round(x, 6)), min_size=1, max_size=30), st.booleans())
def test_run_files_decrease_strictly_in_single_precision(scores: list[float], tied: bool) -> None:
    scores = [scores[0]] * len(scores) if tied else sorted(scores, reverse=True)
    rankings = Rankings({"q": [f"d{i}" for i in range(len(scores))]}, {"q": scores})
    written = _written_scores(rankings)
    single = torch.tensor(written, dtype=torch.float32)
    assert bool((single[1:] < single[:-1]).all())
    assert written == pytest.approx(scores, abs=1e-3)


def _written_scores(rankings: Rankings) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        rankings.write_trec(Path(folder) / "run", tag="x")
        return list(Rankings.read_trec(Path(folder) / "run").scores["q"])


def test_run_files_are_read_by_others_and_by_us(tmp_path: Path) -> None:
    rankings = Rankings({"q1": ["b", "a", "c"], "q2": ["c"]}, {"q1": [0.5, 0.5, 0.5], "q2": [1.0]})
    rankings.write_trec(tmp_path / "run.trec", tag="ours")
    assert (tmp_path / "run.trec").read_text().splitlines()[0] == "q1 Q0 b 1 0.5 ours"
    assert Rankings.read_trec(tmp_path / "run.trec").documents == rankings.documents
    run = ir_measures.read_trec_run(str(tmp_path / "run.trec"))  # type: ignore[no-untyped-call]
    qrels = {"q1": {"a": 1}, "q2": {"c": 1}}
    assert ir_measures.calc_aggregate([ir_measures.RR], qrels, run)[ir_measures.RR] == 0.75


@pytest.mark.parametrize(("document", "tag"), [("a b", "tag"), ("a", "my tag"), ("", "tag")])
def test_run_files_refuse_whitespace(tmp_path: Path, document: str, tag: str) -> None:
    with pytest.raises(ValueError, match="ids and a tag without whitespace"):
        Rankings({"q": [document]}, {"q": [1.0]}).write_trec(tmp_path / "run", tag=tag)


# --- BM25


def lexical_task(corpus: Mapping[str, str], *queries: str) -> RetrievalTask:
    return RetrievalTask("dev", {f"q{i}": query for i, query in enumerate(queries)}, corpus, {})


def test_bm25_ranks_shared_words_and_drops_the_rest(capfd: pytest.CaptureFixture[str]) -> None:
    corpus = {"b": "python developer", "a": "Python developer!", "c": "python python python", "d": "the chef"}
    task = lexical_task(corpus, "developer python", "unheard-of", "the", "", "chef")
    rankings = bm25_rankings(task, depth=100)
    assert rankings.documents == {"q0": ["a", "b", "c"], "q1": [], "q2": [], "q3": [], "q4": ["d"]}
    assert rankings.scores["q0"][0] == rankings.scores["q0"][1] > rankings.scores["q0"][2] > 0
    assert bm25_rankings(task, depth=1).documents["q0"] == ["a"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("weights", [{}, {"k1": 1.5, "b": 0.6}, {"k1": 0.0}], ids=str)
def test_bm25_scores_are_those_of_the_formula(weights: dict[str, float]) -> None:
    texts = {"a": "red green", "b": "red red blue", "c": "yellow"}
    (scores,) = bm25_rankings(lexical_task(texts, "red"), **weights).scores.values()
    k1, b = weights.get("k1", 0.4), weights.get("b", 0.75)
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = [idf * n / (n + k1 * (1 - b + b * length / 2)) for n, length in ((2, 3), (1, 2))]
    assert scores == pytest.approx(expected, abs=1e-5)


def test_bm25_does_not_return_the_query_itself() -> None:
    corpus = {"a": "red green", "b": "red blue", "q0": "red yellow"}
    assert bm25_rankings(lexical_task(corpus, "red", "Red  blue")).documents == {
        "q0": ["a", "b", "q0"],  # an id is no text
        "q1": ["a", "q0"],
    }


def test_bm25_leaves_a_gpu_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts JAX where that is installed, which would take three quarters of a GPU's memory."""
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    bm25_rankings(lexical_task({"a": "red"}, "red"))
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_bm25_does_not_depend_on_the_order_of_the_corpus() -> None:
    corpus = {f"d{i}": f"word{i % 3} word{i % 5} other" for i in range(20)}
    reverse = dict(reversed(corpus.items()))
    queries = ("word1 word2", "other word4")
    assert bm25_rankings(lexical_task(corpus, *queries)) == bm25_rankings(lexical_task(reverse, *queries))


def test_bm25_of_a_corpus_without_words() -> None:
    assert bm25_rankings(lexical_task({"a": "the", "b": ""}, "python", "")).documents == {"q0": [], "q1": []}


# --- numbers of the space


def triplet_task() -> tuple[RetrievalTask, TaskEmbeddings]:
    task = make_task({"q": {"d00": 1, "d01": 2, "d02": 0}, "r": {"d01": 1}}, num_documents=4)
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    documents = torch.tensor([[1.0, 0.1], [0.1, 1.0], [1.0, 1.0], [1.0, 1.0]])
    return task, TaskEmbeddings(("q", "r"), queries, tuple(task.corpus), documents)


def test_triplet_accuracy_counts_positives_that_are_closer() -> None:
    task, embeddings = triplet_task()
    assert triplet_accuracy(embeddings, task, {"q": "d02", "r": "d02"}) == pytest.approx(2 / 3)
    assert triplet_accuracy(embeddings, task, {"r": "d01"}) == 0.0  # a tie
    with pytest.raises(ValueError, match="expected at least one query with a relevant document"):
        triplet_accuracy(embeddings, task, {})


def test_random_negatives_are_seeded_and_never_relevant() -> None:
    task, _ = triplet_task()
    draws = [random_negatives(task, seed=seed) for seed in range(30)]
    assert draws[0] == random_negatives(task, seed=0)
    assert {draw["q"] for draw in draws} == {"d02", "d03"}
    assert {draw["r"] for draw in draws} == {"d00", "d02", "d03"}
    everything = make_task({"q": {"d00": 1}}, num_documents=1)
    assert random_negatives(everything) == {}


def test_hard_negatives_are_the_best_that_are_not_relevant() -> None:
    task, _ = triplet_task()
    rankings = make_rankings({"q": ["d01", "d00", "d03", "d02"], "r": ["d01"]})
    assert hard_negatives(task, rankings) == {"q": "d03"}


def test_alignment_and_uniformity_equal_their_definitions() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(9, 4), torch.randn(9, 4)
    u, v = (torch.nn.functional.normalize(x.double(), dim=1) for x in (left, right))
    for alpha in (1.0, 2.0):
        expected = sum(float((u[i] - v[i]).norm()) ** alpha for i in range(9)) / 9
        assert alignment(left, right, alpha=alpha).item() == pytest.approx(expected)
    pairs = [math.exp(-3 * float((u[i] - u[j]).norm()) ** 2) for i in range(9) for j in range(9) if i != j]
    for block_size in (1, 4, 100):
        value = uniformity(left, sharpness=3.0, block_size=block_size).item()
        assert value == pytest.approx(math.log(sum(pairs) / len(pairs)))


def test_uniformity_does_not_underflow_and_tells_collapse_from_spread() -> None:
    opposite = torch.tensor([[1.0], [-1.0]])
    assert uniformity(opposite, sharpness=1000.0).item() == pytest.approx(-4000)
    assert uniformity(torch.ones(5, 3)).item() == pytest.approx(0)
    assert uniformity(torch.eye(5)).item() == pytest.approx(-4)


def test_geometry_refuses_shapes() -> None:
    with pytest.raises(ValueError, match=r"same shape, got \[2, 3\] and \[2, 4\]"):
        alignment(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"at least two embeddings \[B, D\], got \[1, 3\]"):
        uniformity(torch.ones(1, 3))
