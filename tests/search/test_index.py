"""An index in memory: filters, systems and metadata; rankings and passages are tested with the program."""

from __future__ import annotations

import pytest

from contrastive.encoder import Encoder
from contrastive.search import SearchIndex, parse_filter

DOCUMENTS = {"a": "Nurse\nhospital", "b": "Nurse\nkitchen", "c": "Chef\nkitchen years", "d": "Nurse\ndata"}
METADATA = {"a": {"Job Place": "Bonn", "remote": True}, "b": {"Job Place": "Ulm"}, "c": {"Job Place": "Bonn"}}


@pytest.mark.parametrize("system", ["encoder", "bm25", "hybrid"])
def test_with_filters_it_is_the_ranking_of_what_passes(system: str, tiny_encoder: Encoder) -> None:
    weights = {"BM25+spelling": 0.5, "encoder": 0.5}
    index = SearchIndex(tiny_encoder, DOCUMENTS, metadata=METADATA, weights=weights)
    hits = index.search(["nurse"], filters=[parse_filter("job_place=bonn")], system=system)[0]  # type: ignore[arg-type]
    assert [hit.id for hit in hits] == (["a"] if system == "bm25" else ["a", "c"])
    assert hits[0].metadata == METADATA["a"]
    if system == "hybrid":
        assert [hit.score for hit in hits] == [1.0, 0.0]  # on the scale of what passes
    assert index.search(["nurse"], filters=[parse_filter("remote=true"), parse_filter("job_place=ulm")]) == [[]]
    with pytest.raises(ValueError, match=r"expected a column .*, got 'plcae'\. There are 'Job Place', 'remote'"):
        index.search(["nurse"], filters=[parse_filter("plcae=Bonn")])


def test_a_search_may_name_its_system(tiny_encoder: Encoder) -> None:
    weights = {"BM25+spelling": 0.5, "encoder": 0.5}
    mixed, plain = (SearchIndex(tiny_encoder, DOCUMENTS, weights=each) for each in (weights, None))
    assert mixed.search(["nusre"], system="encoder") == plain.search(["nusre"])
    assert mixed.search(["nusre"]) == mixed.search(["nusre"], system="hybrid")
    by_words = SearchIndex(tiny_encoder, DOCUMENTS, weights={"BM25+spelling": 1.0}).search(["nusre"])
    assert mixed.search(["nusre"], system="bm25") == plain.search(["nusre"], system="bm25") == by_words
    assert len(by_words[0]) == 3
    assert [mixed.asked("nusre", system) for system in ("encoder", "bm25", None)] == ["nusre", "nurse", "nurse"]
    with pytest.raises(ValueError, match='expected an index made with the weights of a hybrid for system "hybrid"'):
        plain.search(["nurse"], system="hybrid")
    with pytest.raises(ValueError, match="expected a system of hybrid, bm25, encoder, got 'bm26'"):
        plain.search(["nurse"], system="bm26")  # type: ignore[arg-type]


def test_columns_say_what_there_is_to_filter_by(tiny_encoder: Encoder) -> None:
    index = SearchIndex(tiny_encoder, DOCUMENTS, metadata=METADATA)
    assert index.postings.columns == {"Job Place": [("Bonn", 2), ("Ulm", 1)], "remote": [(True, 1)]}
    with pytest.raises(ValueError, match="expected metadata of the documents, got some of 'x'"):
        SearchIndex(tiny_encoder, DOCUMENTS, metadata={"x": {}})
