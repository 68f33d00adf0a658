"""The pass in float32 leaves out nothing that the exact ranking has, whatever the vectors are."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from contrastive.evaluation import retrieve
from contrastive.search import ExactEngine, Filter
from contrastive.search.engines import first_pass, snapshot
from contrastive.search.engines.first_pass import lengths_of
from contrastive.search.engines.together import Together
from contrastive.similarity import ProductSimilarity, cosine, dot, euclidean

WIDTH = 24


def plain(generator: torch.Generator) -> Tensor:
    return torch.randn(400, WIDTH, generator=generator)


def duplicates(generator: torch.Generator) -> Tensor:
    return plain(generator)[torch.randint(0, 30, (400,), generator=generator)]


def nearly_tied(generator: torch.Generator) -> Tensor:
    """Return vectors around one, as far from each other as scores are that float32 cannot tell apart."""
    near = 1e-8 * 10 ** (2 * torch.rand(400, 1, generator=generator))
    return (plain(generator)[:1].double() + near * plain(generator).double()).float()


def lined_up(generator: torch.Generator) -> Tensor:
    """Return vectors whose scores are a step of rounding apart, or less."""
    turned = torch.eye(WIDTH)[:1] + 1e-6 * torch.arange(400)[:, None] * torch.eye(WIDTH)[1:2]
    return turned[torch.randperm(400, generator=generator)] @ torch.linalg.qr(plain(generator)[:WIDTH])[0]


def with_zeros(generator: torch.Generator) -> Tensor:
    return plain(generator) * (torch.rand(400, 1, generator=generator) < 0.7)


def far_away(generator: torch.Generator) -> Tensor:
    """Return vectors close to each other and far from 0."""
    return plain(generator) * 1e-3 + 1000


def of_all_lengths(generator: torch.Generator) -> Tensor:
    return plain(generator) * 10 ** torch.randint(-3, 4, (400, 1), generator=generator)


def tiny(generator: torch.Generator) -> Tensor:
    return plain(generator) * 1e-21


def one_of_them_tiny(generator: torch.Generator) -> Tensor:
    return torch.cat([plain(generator)[:-1], tiny(generator)[:1]])


def halves(generator: torch.Generator) -> Tensor:
    return plain(generator).half()


def doubles(generator: torch.Generator) -> Tensor:
    return plain(generator).double() * (1 + 1e-9)


KINDS = [
    plain,
    duplicates,
    nearly_tied,
    lined_up,
    with_zeros,
    far_away,
    of_all_lengths,
    tiny,
    one_of_them_tiny,
    halves,
    doubles,
]


def shuffled(count: int) -> list[str]:
    ids = [f"d{number}" for number in range(count)]
    random.Random(0).shuffle(ids)
    return ids


def asked_of(made: Tensor, generator: torch.Generator) -> Tensor:
    """Return queries: documents, what is between two of them, zeros, and others."""
    some = made[torch.randint(0, len(made), (6,), generator=generator)].float()
    return torch.cat([some, (some[:3] + some[3:]) / 2, torch.randn(3, WIDTH, generator=generator), some[:1] * 0])


def expected(queries: Tensor, made: Tensor, ids: Sequence[str], k: int, similarity: ProductSimilarity) -> object:
    names = [f"q{row}" for row in range(len(queries))]
    found = retrieve(queries, made, names, ids, depth=k, similarity=similarity)
    return [found.top(name, k) for name in names]


@pytest.mark.parametrize("similarity", [cosine, dot, euclidean], ids=str)
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_it_ranks_as_evaluation_whatever_the_vectors(
    make: object, similarity: ProductSimilarity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_pass, "_ROWS", 64)
    monkeypatch.setattr(first_pass, "_GROUP", 4)
    monkeypatch.setattr(first_pass, "_TOGETHER", 400)
    monkeypatch.setattr(first_pass, "_ROWS_OF_ONE", 16)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        made = make(generator)  # type: ignore[operator]
        ids, queries = shuffled(len(made)), asked_of(made, generator)
        engine = ExactEngine(similarity)
        places = [{"place": "Ulm" if row % 3 else "Bonn"} for row in range(len(made))]
        for start in range(0, len(made), 150):
            part = slice(start, start + 150)
            engine.add(ids[part], made[part], places[part])
        for k in (1, 7, 45):
            assert engine.search(queries, k) == expected(queries, made, ids, k, similarity)
        engine.remove(ids[100:120])
        kept = [row for row in range(len(made)) if not 100 <= row < 120]
        for filters in ((), [Filter("place", "=", "Ulm")]):
            rows = [row for row in kept if not filters or row % 3]
            those = [ids[row] for row in rows]
            for query in torch.split(queries, 1):
                assert engine.search(query, 7, filters) == expected(query, made[rows], those, 7, similarity)


def test_few_are_scored_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []
    score = snapshot.score_texts
    monkeypatch.setattr(
        snapshot, "score_texts", lambda kind, queries, keys: scored.append(len(keys)) or score(kind, queries, keys)
    )
    made = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    for similarity in (cosine, dot, euclidean):
        engine = ExactEngine(similarity)
        engine.add(shuffled(2000), made, [{}] * 2000)
        engine.search(made[:5], 10)
        assert 50 <= sum(scored) < 150
        scored.clear()
        monkeypatch.setattr(snapshot, "products_are_float32", lambda: False)  # as a program may have it
        engine.search(made[:1], 10)
        assert sum(scored) == 2000
        scored.clear()
        monkeypatch.undo()
        monkeypatch.setattr(
            snapshot, "score_texts", lambda kind, queries, keys: scored.append(len(keys)) or score(kind, queries, keys)
        )


def test_what_is_not_finite_is_refused() -> None:
    engine = ExactEngine(cosine)
    engine.add(shuffled(100), torch.ones(100, 2), [{}] * 100)
    with pytest.raises(ValueError, match="expected finite scores"):
        engine.search(torch.tensor([[math.nan, 1.0]]), 3)
    engine.add(["bad"], torch.tensor([[math.inf, 1.0]]), [{}])
    with pytest.raises(ValueError, match="expected finite scores"):
        engine.search(torch.ones(1, 2), 3)
    engine.remove(["bad"])
    assert len(engine.search(torch.ones(1, 2), 3)[0]) == 3


def test_a_length_out_of_bounds_is_none() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0], [1e30, 1.0], [math.nan, 1.0]])
    assert lengths_of(vectors).tolist() == [5.0, 0.0, math.inf, math.inf, math.inf]
    assert lengths_of(vectors[:0]).tolist() == []


def test_threads_are_answered_together_and_each_with_its_own() -> None:
    asked, first = [], threading.Event()

    def answer(rows: Tensor) -> Tensor:
        asked.append(len(rows))
        if len(asked) == 1:
            assert first.wait(10)  # until the others are there
        if bool((rows < 0).any()):
            raise ValueError("expected rows of at least 0")
        return 2 * rows

    together = Together(answer, most=4)
    found: dict[int, float | str] = {}

    def ask(number: int) -> None:
        try:
            found[number] = float(together(torch.tensor([[float(number)]])))
        except ValueError as error:
            found[number] = str(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(7)]
    threads[0].start()
    while not asked:
        pass
    for thread in threads[1:]:
        thread.start()
    while len(together._waiting) < 6:
        pass
    first.set()
    for thread in threads:
        thread.join()
    assert found == {number: 2.0 * number for number in range(7)}
    assert asked == [1, 4, 2]
    ask(-1)
    assert found[-1] == "expected rows of at least 0"
    ask(3)
    assert found[3] == 6.0
