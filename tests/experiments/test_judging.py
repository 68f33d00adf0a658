"""Judging one system: what is read off the embeddings beside the ranking."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats

from contrastive.data import RetrievalTask
from contrastive.encoder import Encoder
from contrastive.evaluation import Hybrid, Rankings, TaskEmbeddings, evaluate_rankings
from contrastive.similarity import similarity_of
from contrastive.statistics import Difference
from experiments.evaluate.baselines import USER_QUERY
from experiments.evaluate.hybrids import judge_hybrid
from experiments.evaluate.judging import Judgement, embedding_health, gain, judge_bm25, judge_encoder, similarities

TASK = RetrievalTask(
    "test",
    {"q": "python", "r": "nursing"},
    {"a": "python developer", "b": "chef", "c": "nursing home"},
    {"q": {"a": 2, "b": 0}, "r": {"c": 1}},
)
NORTH, EAST = [0.0, 1.0], [1.0, 0.0]


def test_alignment_is_over_relevant_pairs_and_uniformity_over_documents() -> None:
    queries, documents = torch.tensor([NORTH, EAST]), torch.tensor([NORTH, EAST, NORTH])
    embeddings = TaskEmbeddings(("q", "r"), queries, ("a", "b", "c"), documents)
    health = embedding_health(embeddings, TASK, {"bm25_hard": {"q": "b"}})
    assert health["alignment"] == pytest.approx((0 + 2) / 2)  # q stands on a; r and c are at right angles
    assert health["uniformity"] == pytest.approx(math.log((1 + 2 * math.exp(-4)) / 3))
    assert health["triplet_accuracy/bm25_hard"] == 1  # q is closer to a than to b; r has no negative


def test_the_users_query_is_answered_from_the_corpus() -> None:
    judgement = judge_bm25(TASK, "a nursing job", num_top=2)
    assert [text for _, text in judgement.top] == ["nursing home"]
    assert set(judgement.summary()) == {"metrics", "embedding_health"}


def test_each_run_says_which_queries_are_documents_of_the_corpus(caplog: pytest.LogCaptureFixture) -> None:
    task = replace(TASK, corpus={**TASK.corpus, "d": "Python ", "e": "python"})
    with caplog.at_level(logging.INFO, logger="experiments"):
        judge_bm25(TASK, "chef")
        for _ in ("a job of a sweep", "the next in the same process"):
            judge_bm25(task, "chef")
            judge_bm25(task, "chef", spelling=True)
    assert caplog.messages == ["test: 2 documents are not ranked for a query, of 1, that is their text"] * 2


def test_a_hybrid_is_judged_by_its_parts_and_answers_the_users_query() -> None:
    words = judge_bm25(TASK, "a nursing job", spelling=True)
    ranked = {"q": ["b", "a"], "r": ["c", "b"], USER_QUERY: ["b", "c"]}
    scores = {query: [0.9, 0.8] for query in ranked}
    encoder = replace(words, put_right=(Rankings(ranked, scores), Rankings(ranked, scores)))
    hybrid = Hybrid({"BM25+spelling": 0.4, "encoder": 0.6}, {}, "encoder", Difference(0, 0, 0, 1), "dev", 3)
    judgement = judge_hybrid(hybrid, words, encoder, TASK, "a nursing job", num_top=2)
    assert judgement.rankings.top("q", 3) == [("b", 0.6), ("a", 0.4)]
    assert judgement.top == [(0.6, "chef"), (0.4, "nursing home")]
    assert judgement.summary()["embedding_health"] == {}
    with pytest.raises(ValueError, match="expected judgements of parts that rank the user's query"):
        judge_hybrid(hybrid, words, replace(encoder, put_right=None), TASK, "a nursing job")


def test_unknown_words_are_put_right_with_spelling_alone() -> None:
    task = replace(TASK, queries={"q": "pyhton", "r": "nursing"})
    plain, right = (judge_bm25(task, "nursng", spelling=spelling) for spelling in (False, True))
    assert [len(judgement.top) for judgement in (plain, right)] == [0, 1]
    assert [judgement.results.means["ndcg@10"] for judgement in (plain, right)] == [0.5, 1]
    assert right.rankings.scores["r"] == plain.rankings.scores["r"]


@pytest.mark.parametrize(("asked", "grades"), [(" Python  CHEF", [0, 2]), ("python chef now", None)])
def test_a_users_query_that_the_task_has_is_graded(asked: str, grades: list[int] | None, tiny_encoder: Encoder) -> None:
    queries = {"first": "nursing", "second": "python chef"}
    task = replace(TASK, queries=queries, qrels={"first": {"b": 1}, "second": {"a": 2}})
    lexical = judge_bm25(task, asked, num_top=2)
    assert [text for _, text in lexical.top] == ["chef", "python developer"]
    assert lexical.top_grades == grades
    assert lexical.summary().get("top_grades") == grades
    neural = judge_encoder(tiny_encoder, task, lexical.rankings, asked, num_top=3, show_progress=False)
    expected = [2 if text == "python developer" else 0 for _, text in neural.top]
    assert neural.top_grades == (grades and expected)


def test_similarities_are_the_cosines_of_relevant_pairs_and_of_negatives() -> None:
    queries, documents = torch.tensor([NORTH, EAST]) * 3, torch.tensor([NORTH, EAST, [1.0, 1.0]])
    embeddings = TaskEmbeddings(("q", "r"), queries, ("a", "b", "c"), documents)
    cosines = similarities(embeddings, TASK, {"random": {"q": "b", "r": "b"}, "bm25_hard": {}})
    assert cosines == {
        "relevant": pytest.approx([1.0, math.sqrt(0.5)]),
        "random": pytest.approx([0.0, 1.0]),
        "bm25_hard": [],
    }


def test_an_encoder_is_judged_by_its_own_similarity(tiny_model_folder: Path) -> None:
    """Rankings, the user's query, triplet accuracy and the scores of pairs."""
    bm25 = judge_bm25(TASK, "chef")
    for name in ("dot", "euclidean"):
        encoder = Encoder.from_pretrained(tiny_model_folder, similarity=name)  # type: ignore[arg-type]
        judgement = judge_encoder(encoder, TASK, bm25.rankings, "chef", show_progress=False)
        compare = similarity_of(encoder)
        documents = encoder.encode(list(TASK.corpus.values()), side="document", as_numpy=False)
        found = compare(encoder.encode([TASK.queries["q"], "chef"], as_numpy=False), documents)
        expected = dict(zip(TASK.corpus, found[0].tolist(), strict=True))
        assert dict(judgement.rankings.top("q", 9)) == pytest.approx(expected, abs=1e-4)
        assert [score for score, _ in judgement.top] == pytest.approx(sorted(found[1].tolist(), reverse=True), abs=1e-4)
        assert judgement.similarities["relevant"][0] == pytest.approx(expected["a"], abs=1e-4)
        assert judgement.similarity == name


def test_an_encoder_is_judged_on_the_embeddings_it_gave_once(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = tiny_encoder.encode
    monkeypatch.setattr(
        tiny_encoder, "encode", lambda texts, **options: (encoded.append(len(texts)), encode(texts, **options))[1]
    )
    bm25 = judge_bm25(TASK, "chef")
    judgement = judge_encoder(tiny_encoder, TASK, bm25.rankings, "chef", show_progress=False)
    assert sorted(encoded) == [1, 2, 3]  # the user's query, the task's, the corpus
    assert {kind: len(values) for kind, values in judgement.similarities.items()} == {
        "relevant": 2,
        "random": 2,
        "bm25_hard": 0,  # BM25 finds nothing but what is relevant
    }
    assert "triplet_accuracy/bm25_hard" not in judgement.embedding_health
    assert bm25.similarities == {}


def test_the_gain_is_paired_by_query_and_not_by_order() -> None:
    before = Rankings({"q": ["b", "a"], "r": ["c"]}, {"q": [2, 1], "r": [1]})
    after = Rankings({"q": ["a"], "r": ["a", "b", "c"]}, {"q": [1], "r": [3, 2, 1]})
    judgements = [Judgement(rankings, evaluate_rankings(rankings, TASK), []) for rankings in (before, after)]
    reordered = dict(reversed(judgements[1].results.per_query.items()))
    object.__setattr__(judgements[1].results, "per_query", reordered)
    change = gain(*judgements)
    assert set(change) == set(judgements[0].results.intervals)
    # Reciprocal ranks: q from 1/2 to 1, r from 1 to 1/3.
    mean = (1 / 2 - 2 / 3) / 2
    widened = math.sqrt(2) * stats.t.ppf(0.975, 1) / stats.norm.ppf(0.975)  # for the spread of two queries
    assert change["mrr@10"]["mean"] == pytest.approx(mean)
    assert change["mrr@10"]["low"] == pytest.approx(mean + (-2 / 3 - mean) * widened)
    assert change["mrr@10"]["high"] == pytest.approx(mean + (1 / 2 - mean) * widened)
    assert change["mrr@10"]["p_value"] == pytest.approx(1)


def test_an_encoder_is_asked_with_unknown_words_put_right_too(tiny_encoder: Encoder) -> None:
    def judge(task: RetrievalTask, query: str) -> Judgement:
        return judge_encoder(tiny_encoder, task, judge_bm25(task, query).rankings, query, show_progress=False)

    right = judge(replace(TASK, queries={"q": "nusring", "r": "nursing"}), "nusring home")
    assert right.put_right is not None
    queries, user = right.put_right
    assert queries.scores["q"] == pytest.approx(right.rankings.scores["r"], abs=1e-5)
    assert queries.scores["r"] == right.rankings.scores["r"]
    assert queries.scores["q"] != pytest.approx(right.rankings.scores["q"], abs=1e-5)  # as it was asked
    assert set(queries.documents) == {"q", "r"}  # the user's query is no query of the task
    known = judge(TASK, "nursing home")
    assert known.asked is not None
    assert user.scores[USER_QUERY] == pytest.approx(known.asked.scores[USER_QUERY], abs=1e-5)
    assert known.put_right == (known.rankings, known.asked)
