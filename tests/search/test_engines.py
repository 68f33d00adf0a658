"""What holds of every engine: the ranking of evaluation, whatever was added, replaced, removed and filtered."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from contrastive.evaluation import retrieve
from contrastive.search import Engine, ExactEngine, Filter
from contrastive.search.contracts import Metadata, Value
from contrastive.search.engines.lance import LanceEngine
from contrastive.similarity import (
    Embeddings,
    ProductSimilarity,
    TermWeights,
    TokenVectors,
    cosine,
    dot,
    euclidean,
    max_dot,
    max_sim,
)

PLACES = ("Bonn", "Ulm", "Köln")
Make = Callable[[ProductSimilarity], Engine]


@pytest.fixture(params=["exact", "lancedb"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    if request.param == "exact":
        return ExactEngine
    pytest.importorskip("lancedb")
    return lambda similarity: LanceEngine(str(tmp_path / "lance"), similarity)


def embeddings(similarity: ProductSimilarity, count: int, seed: int, fewest: int = 0) -> Embeddings:
    """Return random embeddings of which some are equal, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    if similarity in (max_sim, max_dot):
        lengths = torch.randint(fewest, 4, (count,), generator=generator)
        return TokenVectors.of_lengths(torch.randn(int(lengths.sum()), 5, generator=generator).round(), lengths)
    return torch.randn(count, 5, generator=generator).round() * 3


@pytest.mark.parametrize("similarity", [cosine, dot, euclidean, max_sim, max_dot], ids=str)
def test_it_ranks_as_evaluation_whatever_was_added_replaced_and_removed(
    make: Make, similarity: ProductSimilarity
) -> None:
    made = embeddings(similarity, 60, seed=0)
    ids = [f"d'{number}" for number in range(60)]
    random.Random(0).shuffle(ids)
    places: list[Metadata] = [{"place": PLACES[number % 3]} for number in range(60)]
    engine = make(similarity)
    engine.add(ids[:30], made[:30], places[:30])
    engine.add([ids[3], ids[20]], made[-2:], [{}, {}])  # other ones, which are replaced below
    engine.add([*ids[30:], ids[3], ids[20]], made[[*range(30, 60), 3, 20]], [*places[30:], places[3], places[20]])
    engine.remove(ids[10:15])
    assert engine.count() == 55
    kept = [*range(10), *range(15, 60)]
    queries = embeddings(similarity, 7, seed=1, fewest=1)
    for filters, rows in (((), kept), ([Filter("place", "=", "ulm")], [row for row in kept if row % 3 == 1])):
        names, those = [f"q{row}" for row in range(7)], [ids[row] for row in rows]
        expected = retrieve(queries, made[rows], names, those, depth=9, similarity=similarity)
        for name, found in zip(names, engine.search(queries, 9, filters), strict=True):
            assert [id_ for id_, _ in found] == expected.documents[name]
            assert [score for _, score in found] == pytest.approx(expected.scores[name], abs=1e-6, rel=1e-5)  # rounded
    assert [len(found) for found in engine.search(queries, 99)] == [55] * 7
    assert engine.search(queries, 9, [Filter("place", "=", "Trier")]) == [[]] * 7
    engine.close()


VALUES: tuple[Value | None, ...] = (
    "Bonn",
    "new  YORK",
    "it's",
    "50000",
    7.5,
    7,
    True,
    "true",
    "",
    "é",
    None,
    "inf",
    1e400,
)


@pytest.mark.parametrize("operator", ["=", "!=", "<", "<=", ">", ">=", "~"])
def test_a_filter_means_the_same_to_each(make: Make, operator: str) -> None:
    engine = make(dot)
    metadata: list[Metadata] = [{} if value is None else {"a b`'.": value} for value in VALUES]
    ids = [f"{number:02}" for number in range(len(VALUES))]
    engine.add(ids, torch.ones(len(VALUES), 2), metadata)
    for wanted in ("bonn", "New York", "it's", 50000.0, 7.0, True, "o", "5", 1e400, "inf", "", "no\\n%_'"):
        filters = [Filter("a b`'.", operator, wanted)]  # type: ignore[arg-type]
        expected = [id_ for id_, row in zip(ids, metadata, strict=True) if filters[0].keeps(row)]
        assert [id_ for id_, _ in engine.search(torch.ones(1, 2), 99, filters)[0]] == expected, wanted
    missing = engine.search(torch.ones(1, 2), 99, [Filter("else", operator, "x")])[0]  # type: ignore[arg-type]
    assert len(missing) == (len(VALUES) if operator == "!=" else 0)


def test_what_cannot_be_added_removed_or_searched_is_refused(make: Make) -> None:
    engine = make(cosine)
    assert (engine.count(), engine.search(torch.eye(1), 3)) == (0, [[]])
    engine.add(["a"], torch.eye(1), [{}])
    with pytest.raises(ValueError, match="expected an embedding and metadata of each id, got 1 and 1 of 2"):
        engine.add(["b", "c"], torch.eye(1), [{}])
    with pytest.raises(ValueError, match="expected document ids that differ, got 'b' twice"):
        engine.add(["b", "b"], torch.eye(2)[:, :1], [{}, {}])
    with pytest.raises(KeyError, match="expected ids of the index to remove, got 'x'"):
        engine.remove(["a", "x"])
    with pytest.raises(ValueError, match="expected k of at least 1, got 0"):
        engine.search(torch.eye(1), 0)
    assert engine.search(torch.eye(1), 3) == [[("a", 1.0)]]


def test_many_ties_are_those_with_the_smallest_ids(make: Make) -> None:
    engine = make(dot)
    engine.add([f"{number:03}" for number in reversed(range(100))], torch.ones(100, 2), [{}] * 100)
    assert [id_ for id_, _ in engine.search(torch.ones(1, 2), 2)[0]] == ["000", "001"]


def lance(folder: Path, similarity: ProductSimilarity = dot) -> LanceEngine:
    pytest.importorskip("lancedb")
    return LanceEngine(str(folder), similarity)


def test_a_table_is_there_for_others_and_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    writer = lance(tmp_path)
    writer.add(["a"], torch.eye(2)[:1], [{}])
    reader = lance(tmp_path)
    writer.add(["b"], torch.eye(2)[1:], [{"place": "Ulm"}])
    assert reader.search(torch.eye(2)[1:], 1, [Filter("place", "~", "ul")]) == [[("b", 1.0)]]
    with pytest.raises(ValueError, match=r"expected embeddings of width 2, as the table at .* has, got 3"):
        reader.search(torch.eye(3), 1)
    with pytest.raises(ValueError, match=r"expected a table of embeddings for max_sim at .*, got columns \['id'"):
        lance(tmp_path, max_sim)
    with pytest.raises(ValueError, match=r"at most 8192 numbers, got 9000: LanceDB has no sparse vectors"):
        lance(tmp_path / "other").add(["a"], torch.ones(1, 9000), [{}])
    with pytest.raises(ValueError, match=r"expected vectors, got weights of terms: LanceDB has no sparse vectors"):
        lance(tmp_path / "other").add(["a"], TermWeights.of(torch.ones(1, 3)), [{}])


def test_a_damaged_table_says_where_it_is(tmp_path: Path) -> None:
    lance(tmp_path).add(["a"], torch.eye(2)[:1], [{}])
    for manifest in (tmp_path / "postings.lance" / "_versions").iterdir():
        manifest.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"expected a table of LanceDB at .*, got one that cannot be read"):
        lance(tmp_path)


@pytest.mark.parametrize("similarity", [cosine, dot, euclidean, max_sim, max_dot], ids=str)
def test_with_links_it_finds_most_and_scores_stay_exact(
    similarity: ProductSimilarity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = lance(tmp_path, similarity)
    from lancedb.query import LanceVectorQueryBuilder

    generator = torch.Generator().manual_seed(0)
    vectors: Embeddings = torch.randn(600, 8, generator=generator)
    if similarity in (max_sim, max_dot):
        lengths = torch.randint(0, 4, (600,), generator=generator)
        lengths[:20] = 2
        vectors = TokenVectors.of_lengths(torch.randn(int(lengths.sum()), 32, generator=generator), lengths)
    ids = [f"{number:03}" for number in range(600)]
    engine.add(ids, vectors, [{}] * 600)
    engine.link()
    assert engine.linked
    expected = retrieve(vectors[:20], vectors, ids[:20], ids, depth=10, similarity=similarity)
    found = engine.search(vectors[:20], 10)
    shared = [
        len({id_ for id_, _ in ours} & set(expected.documents[name])) for name, ours in zip(ids, found, strict=False)
    ]
    assert sum(shared) >= (0.6 if isinstance(vectors, TokenVectors) else 0.9) * 200  # noise is the hardest to link
    assert (sum(shared) < 200) == isinstance(vectors, TokenVectors)  # the links are used
    passed_by = []
    pass_by = LanceVectorQueryBuilder.bypass_vector_index
    monkeypatch.setattr(
        LanceVectorQueryBuilder, "bypass_vector_index", lambda query: passed_by.append(query) or pass_by(query)
    )
    assert engine.recall(vectors[:20]) == pytest.approx(sum(shared) / 200)
    assert len(passed_by) >= 20
    for name, ours in zip(ids, found, strict=False):
        scores = dict(zip(expected.documents[name], expected.scores[name], strict=True))
        assert {id_: pytest.approx(scores[id_], abs=1e-5, rel=1e-5) for id_ in scores if id_ in dict(ours)} == {
            id_: score for id_, score in ours if id_ in scores
        }


def test_without_lancedb_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'contrastive-losses\[engine\]'"):
        LanceEngine(str(tmp_path), dot)
