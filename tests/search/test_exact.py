"""The exact engine: the ranking of evaluation, whatever was added, replaced, removed and filtered."""

from __future__ import annotations

import random

import pytest
import torch

from contrastive.evaluation import retrieve
from contrastive.search import ExactEngine, Filter
from contrastive.search.contracts import Metadata
from contrastive.similarity import Embeddings, ProductSimilarity, TokenVectors, cosine, dot, euclidean, max_dot, max_sim

PLACES = ("Bonn", "Ulm", "Köln")


def embeddings(similarity: ProductSimilarity, count: int, seed: int) -> Embeddings:
    """Return random embeddings of which some are equal, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    if similarity in (max_sim, max_dot):
        lengths = torch.randint(0, 4, (count,), generator=generator)
        return TokenVectors.of_lengths(torch.randn(int(lengths.sum()), 5, generator=generator).round(), lengths)
    return torch.randn(count, 5, generator=generator).round() * 3


@pytest.mark.parametrize("similarity", [cosine, dot, euclidean, max_sim, max_dot], ids=str)
def test_it_ranks_as_evaluation_whatever_was_added_replaced_and_removed(similarity: ProductSimilarity) -> None:
    made = embeddings(similarity, 60, seed=0)
    ids = [f"d{number}" for number in range(60)]
    random.Random(0).shuffle(ids)
    places: list[Metadata] = [{"place": PLACES[number % 3]} for number in range(60)]
    engine = ExactEngine(similarity)
    engine.add(ids[:30], made[:30], places[:30])
    engine.add([ids[3], ids[20]], made[-2:], [{}, {}])  # other ones, which are replaced below
    engine.add([*ids[30:], ids[3], ids[20]], made[[*range(30, 60), 3, 20]], [*places[30:], places[3], places[20]])
    engine.remove(ids[10:15])
    assert engine.count() == 55
    kept = [*range(10), *range(15, 60)]
    queries = embeddings(similarity, 7, seed=1)
    for filters, rows in (((), kept), ([Filter("place", "=", "ulm")], [row for row in kept if row % 3 == 1])):
        names, those = [f"q{row}" for row in range(7)], [ids[row] for row in rows]
        expected = retrieve(queries, made[rows], names, those, depth=9, similarity=similarity)
        found = engine.search(queries, 9, filters)
        assert found == [expected.top(name, 9) for name in names]
    assert engine.search(queries, 9, [Filter("place", "=", "Trier")]) == [[]] * 7


def test_ids_and_rows_are_in_one_order() -> None:
    engine = ExactEngine(cosine)
    engine.add(["b", "a"], torch.eye(2), [{"n": 1.0}, {"n": 2.0}])
    engine.add(["b", "c"], torch.eye(2), [{"n": 3.0}, {}])
    assert engine.ids == ["a", "b", "c"]
    assert engine.rows([Filter("n", ">", 2.0)]).tolist() == [False, True, False]
    engine.close()
    assert engine.count() == 0


def test_what_cannot_be_added_removed_or_searched_is_refused() -> None:
    engine = ExactEngine(cosine)
    engine.add(["a"], torch.eye(1), [{}])
    with pytest.raises(ValueError, match="expected an embedding and metadata of each id, got 1 and 1 of 2"):
        engine.add(["b", "c"], torch.eye(1), [{}])
    with pytest.raises(ValueError, match="expected document ids that differ, got 'b' twice"):
        engine.add(["b", "b"], torch.eye(2), [{}, {}])
    with pytest.raises(KeyError, match="expected ids of the index to remove, got 'x'"):
        engine.remove(["a", "x"])
    with pytest.raises(ValueError, match="expected k of at least 1, got 0"):
        engine.search(torch.eye(1), 0)
    assert engine.search(torch.eye(1), 3) == [[("a", 1.0)]]
