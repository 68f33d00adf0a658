"""The sources of negatives, from texts to what is chosen."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from contrastive.data import Record
from contrastive.encoder import Encoder
from contrastive.encoder.embedding_cache import EmbeddingCache
from contrastive.negatives import (
    BM25,
    CandidateSource,
    ChosenNegatives,
    Dense,
    Filters,
    Mined,
    Moment,
    Pair,
    Pool,
    Random,
    in_batch,
)
from contrastive.negatives.summary import Summary, summarise, suspected_false
from contrastive.similarity import TokenVectors, max_sim

DOCUMENTS = {
    "d1": "python developer",
    "d2": "python engineer years",
    "d3": "nurse hospital",
    "d4": "chef kitchen",
    "d5": "data engineer job",
    "d6": "python python",
}


class Compass:
    """Embeds a text as the direction said in it, in degrees."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, texts: Sequence[str], *, side: Any) -> Tensor:
        raise NotImplementedError

    def encode(self, texts: Sequence[str], *, side: Any, show_progress: bool, as_numpy: Any) -> Tensor:  # noqa: ARG002
        self.calls.append(side)
        angles = torch.tensor([float(text) for text in texts], dtype=torch.float64).deg2rad()
        return 3 * torch.stack([angles.cos(), angles.sin()], dim=1)


def compass_pool(*angles: float, **pair: Any) -> Pool:
    """A query to the north whose positive is the first of some directions."""
    return Pool({f"d{place}": str(angle) for place, angle in enumerate(angles)}, [Pair("q", "0", "d0", **pair)])


def test_bm25_takes_what_shares_a_word() -> None:
    pool = Pool(DOCUMENTS, [Pair("q1", "python", "d1"), Pair("q2", "abacus", "d3"), Pair("q3", "engineer", "d5")])
    chosen = Mined(BM25())(pool)
    assert [negatives.ids for negatives in chosen] == [("d6", "d2"), (), ("d2",)]
    assert all(score > 0 for negatives in chosen for score in negatives.scores)
    assert chosen[0].positive_score > 0
    assert chosen[1].positive_score == 0
    assert chosen[2].sources == ("bm25",)


def test_dense_takes_what_is_close_by_cosine() -> None:
    pool = compass_pool(20, 10, 30, 90, -15)
    (chosen,) = Mined(Dense(Compass()), count=3)(pool)
    assert chosen.ids == ("d1", "d4", "d2")
    assert chosen.ranks == (0, 1, 3)
    expected = torch.tensor([10.0, 15, 30]).deg2rad().cos().tolist()
    assert chosen.scores == pytest.approx(expected)
    assert chosen.positive_score == pytest.approx(torch.tensor(20.0).deg2rad().cos().item())
    (chosen,) = Mined(Dense(Compass()), filters=Filters(relative_margin=0.05))(pool)
    assert chosen.ids == ("d2", "d3")
    assert chosen.refused == {"known_positive": 1, "relative_margin": 2}


class Compasses(Compass):
    """Embeds a text as the directions said in it."""

    similarity = "max_sim"
    device = torch.device("cpu")

    def encode(self, texts: Sequence[str], **options: Any) -> Any:
        words = [text.split() for text in texts]
        vectors = super().encode([word for of_text in words for word in of_text], **options).float()
        return TokenVectors.of_lengths(vectors, torch.tensor([len(of_text) for of_text in words]))


def test_dense_takes_what_is_close_by_max_sim_with_and_without_a_first_stage() -> None:
    generator = torch.Generator().manual_seed(0)

    def directions(texts: int) -> list[str]:
        return [
            " ".join(map(str, torch.randint(360, (1 + place % 4,), generator=generator).tolist()))
            for place in range(texts)
        ]

    documents, asked = directions(30), directions(6)
    pairs = [Pair(f"q{place}", text, f"d{place:02}") for place, text in enumerate(asked)]
    pool = Pool({f"d{place:02}": text for place, text in enumerate(documents)}, pairs)
    queries, keys = (
        Compasses().encode(texts, side="", show_progress=False, as_numpy=False) for texts in (asked, documents)
    )
    expected = max_sim(queries.padded(), keys.padded())
    everything = list(Mined(Dense(Compasses()), count=5)(pool))
    of_all_candidates = list(Mined(Dense(Compasses(), exact_products=0, candidates=30), count=5)(pool))
    of_few = list(Mined(Dense(Compasses(), exact_products=0, candidates=8), count=5)(pool))
    for place, exact in enumerate(everything):
        scores = expected[place].clone()
        assert exact.positive_score == pytest.approx(scores[place].item(), abs=1e-3)
        scores[place] = -torch.inf
        assert exact.scores == pytest.approx(scores.sort(descending=True).values[:5].tolist(), abs=1e-3)
        assert of_all_candidates[place].ids == exact.ids
        assert of_few[place].positive_score == pytest.approx(exact.positive_score, abs=1e-6)
        found = [scores[int(id_[1:])].item() for id_ in of_few[place].ids]
        assert of_few[place].scores == pytest.approx(found, abs=1e-3)
        assert len(found) == 5
    exact, few = (
        np.concatenate([block.documents for block in Dense(Compasses(), **options)(pool, 3, Moment())])
        for options in ({}, {"exact_products": 0, "candidates": 3})
    )
    assert exact.shape == few.shape
    assert (exact != few).any()  # what is not looked at is missed


def test_a_first_stage_has_its_bounds() -> None:
    with pytest.raises(ValueError, match="got -1 and 100"):
        Dense(exact_products=-1)


class OnALine(Compass):
    """Embeds a number as itself, which makes 7 close to 8 by distance and to nothing so much as to 100 by product."""

    def encode(self, texts: Sequence[str], *, side: Any, show_progress: bool, as_numpy: Any) -> Tensor:  # noqa: ARG002
        return torch.tensor([[float(text)] for text in texts], dtype=torch.float64)


@pytest.mark.parametrize(
    ("similarity", "ids", "scores", "positive_score"),
    [("dot", ("d2", "d1"), (20.0, 16.0), 14.0), ("euclidean", ("d1", "d3"), (-6.0, -7.0), -5.0)],
)
def test_dense_takes_what_is_close_by_the_similarity_of_the_encoder(
    similarity: str, ids: tuple[str, ...], scores: tuple[float, ...], positive_score: float
) -> None:
    encoder = OnALine()
    encoder.similarity = similarity  # type: ignore[attr-defined]
    pool = Pool({"d0": "7", "d1": "8", "d2": "10", "d3": "-5"}, [Pair("q", "2", "d0")])
    (chosen,) = Mined(Dense(encoder), count=2)(pool)
    assert chosen.ids == ids
    assert chosen.scores == pytest.approx(scores)
    assert chosen.positive_score == pytest.approx(positive_score)
    # So much of the positive's score below it; of a distance, farther away: above 7.5.
    (chosen,) = Mined(Dense(encoder), filters=Filters(relative_margin=0.5))(pool)
    assert chosen.ids == (("d3",) if similarity == "dot" else ("d2",))


def test_dense_uses_the_encoder_of_the_moment_unless_it_has_its_own() -> None:
    own, other = Compass(), Compass()
    Mined(Dense(own))(compass_pool(1, 2), Moment(other))
    assert (own.calls, other.calls) == (["query", "document"], [])
    Mined(Dense())(compass_pool(1, 2), Moment(other))
    assert other.calls == ["query", "document"]
    with pytest.raises(ValueError, match="expected an encoder to find negatives with"):
        Mined(Dense())(compass_pool(1, 2))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, tiny_encoder: Encoder) -> None:
    records = [Record(f"python {place % 5}", f"developer {place}", (), f"q{place}", f"d{place}") for place in range(12)]
    pool = Pool.of_records(records)
    for source in (Random(), BM25(), Dense(tiny_encoder)):
        whole = Mined(source)(pool)
        with monkeypatch.context() as patched:
            for module in ("bm25", "dense"):
                patched.setattr(f"contrastive.negatives.{module}.block_rows", lambda *_, **__: 2)
            patched.setattr("contrastive.negatives.random._ROWS", 2)
            cut = Mined(source)(pool)
        assert [(c.ids, c.ranks, c.refused) for c in cut] == [(c.ids, c.ranks, c.refused) for c in whole]
        for one, other in zip(cut, whole, strict=True):
            assert one.scores == pytest.approx(other.scores, abs=1e-6)
            assert one.positive_score == pytest.approx(other.positive_score, abs=1e-6, nan_ok=True)


def test_random_is_a_function_of_seed_query_and_refresh() -> None:
    records = [Record(f"query {place}", f"text {place}", (), f"q{place}", f"d{place:02}") for place in range(60)]

    def ids(source: Random, items: list[Record], moment: Moment = Moment()) -> dict[str, tuple[str, ...]]:  # noqa: B008
        pool = Pool.of_records(items)
        return {p.query_id: c.ids for p, c in zip(pool.pairs, Mined(source)(pool, moment), strict=True)}

    first = ids(Random(), records)
    assert all(len(chosen) == 4 for chosen in first.values())
    assert len(set(first.values())) > 50
    assert first == ids(Random(), records[::-1])
    assert first != ids(Random(1), records)
    assert first != ids(Random(), records, Moment(refresh=1))
    pool = Pool({record.positive_id: record.positive for record in records}, [Pair("q7", "query 7", "d07")])
    assert Mined(Random())(pool)[0].ids == first["q7"]


def test_random_is_not_judged_by_its_scores() -> None:
    (chosen,) = Mined(Random(), filters=Filters(relative_margin=0.05, min_score=1.0))(compass_pool(1, 2, 3))
    assert sorted(chosen.ids) == ["d1", "d2"]
    assert chosen.positive_score != chosen.positive_score


@pytest.mark.parametrize("source", [Random(), BM25(), Dense(Compass())])
def test_odd_pools_have_an_outcome(source: CandidateSource) -> None:
    one = Pool({"d0": "0"}, [Pair("q", "0", "d0")])
    assert Mined(source)(one)[0].ids == ()
    assert Mined(source)(Pool({"d0": "0"}, [])) == []
    unanswered = Pool({"d0": "10", "d1": "20"}, [Pair("q", "15" if source.name == "dense" else "10 20")])
    (chosen,) = Mined(source)(unanswered)
    assert sorted(chosen.ids) == ["d0", "d1"]
    assert chosen.positive_score != chosen.positive_score
    (chosen,) = Mined(source, filters=Filters(absolute_margin=0.0))(unanswered)
    assert (chosen.refused == {"unknown_positive": 2}) == (source.name != "random")


def test_embeddings_that_are_no_numbers_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    pool = compass_pool(20, 10, float("inf"), 30)
    (chosen,) = Mined(Dense(Compass()))(pool)
    assert chosen.ids == ("d1", "d3")
    assert chosen.refused == {"known_positive": 1, "not_finite": 1}
    assert "1 of 4 document embeddings are not finite" in caplog.text
    (chosen,) = Mined(Dense(Compass()), filters=Filters(max_rank=2))(compass_pool(20, float("nan"), float("nan"), 10))
    assert chosen.ids == ("d3",)  # they take no one's place
    (chosen,) = Mined(Dense(Compass()))(Pool({"d0": "1", "d1": "2"}, [Pair("q", "nan", "d0")]))
    assert chosen.refused == {"known_positive": 1, "not_finite": 1}


def test_embeddings_are_kept_in_a_cache(tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(DOCUMENTS, [Pair("q1", "python", "d1")])
    plain = Mined(Dense(tiny_encoder))(pool)
    moment = Moment(cache=EmbeddingCache(tmp_path))
    assert Mined(Dense(tiny_encoder))(pool, moment)[0].ids == plain[0].ids
    monkeypatch.setattr(Encoder, "encode", None)
    assert Mined(Dense(tiny_encoder))(pool, moment)[0].ids == plain[0].ids
    with pytest.raises(ValueError, match=r"encoder that says what its embeddings depend on, .* got Compass"):
        Mined(Dense(Compass()))(compass_pool(1, 2), moment)


def test_in_batch_is_no_strategy() -> None:
    assert in_batch() is None


def test_summary_counts_what_came_of_it() -> None:
    pool = Pool(DOCUMENTS, [Pair("q1", "python", "d1"), Pair("q2", "abacus", "d3"), Pair("q3", "engineer", "d5")])
    chosen = Mined(BM25())(pool)
    scores = [score for negatives in chosen for score in negatives.scores]
    positives = [negatives.positive_score for negatives in chosen]
    assert summarise(chosen) == Summary(
        pairs=3,
        negatives=3,
        short=2,
        without=1,
        refused={"known_positive": 2},
        sources={"bm25": 3},
        score=pytest.approx(sum(scores) / 3),
        positive_score=pytest.approx(sum(positives) / 3),
        rank=pytest.approx(sum(rank for negatives in chosen for rank in negatives.ranks) / 3),
    )
    nothing = summarise([ChosenNegatives((), (), (), {})])
    assert nothing.numbers() == {"negatives/count": 0}
    assert summarise([]).pairs == 0
    grades = {"q1": {"d2": 1, "d6": 0}, "q2": {"d1": 1}}
    assert suspected_false(pool, chosen, grades) == (1, 2)


def test_near_duplicates_of_graded_positives_are_never_chosen() -> None:
    text = "python developer wanted who likes data and works for years in the job at the hospital kitchen"
    records = [
        Record("python data", "nurse", (), "q1", "d1", grades={"d2": 1}),
        Record("chef", text, (), "q2", "d2"),
        Record("cook", f"{text} too", (), "q3", "d3"),
        Record("bake", "python", (), "q4", "d4"),
    ]
    chosen = Mined(BM25())(Pool.of_records(records))[0]
    assert chosen.ids == ("d4",)
    assert chosen.refused == {"known_positive": 1, "near_duplicate": 1}


def test_importing_the_losses_loads_nothing_of_this() -> None:
    code = "import sys, contrastive.losses; print('contrastive.negatives' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


Describe = Callable[[Moment], Any]


def test_what_a_strategy_depends_on_is_described(tiny_encoder: Encoder) -> None:
    moment = Moment(tiny_encoder)
    strategies = [
        Mined(Random()),
        Mined(Random(1)),
        Mined(BM25()),
        Mined(BM25(), count=2),
        Mined(BM25(), filters=Filters(max_rank=3)),
        Mined(Dense()),
    ]
    described = [repr(strategy.describe(moment)) for strategy in strategies]
    assert len(set(described)) == len(described)
    assert repr(Mined(BM25()).describe(Moment())) == described[2]  # needs no encoder
    with torch.no_grad():
        next(tiny_encoder.parameters()).add_(1)
    assert repr(Mined(Dense()).describe(moment)) != described[-1]
    assert repr(Mined(Random()).describe(replace(moment, refresh=1))) != described[0]
