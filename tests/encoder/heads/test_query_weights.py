"""What tokens of a query weigh: by loops, in a saved folder, in a corpus' scores."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import vocabulary
from torch import Tensor

from contrastive.encoder import Encoder, load_encoder
from contrastive.encoder.heads.query_weights import WEIGHTS, idf_weights, shares, word_weights
from contrastive.similarity import max_dot, score_texts, similarity_of

CORPUS = ["python developer, the kitchen", "nurse of the hospital", "python engineer", "the chef"]
QUERIES = ["the python, developer", "nurse"]


def load(folder: Path, **options: Any) -> Encoder:
    return Encoder.from_pretrained(folder, representation="tokens", **options)


def vectors_of(encoder: Encoder, texts: list[str], side: str = "query") -> list[Tensor]:
    found = encoder.encode(texts, side=side)  # type: ignore[call-overload]
    return [found[place : place + 1].vectors for place in range(len(texts))]


def test_shares_are_weights_over_their_sum_and_equal_where_none_weighs() -> None:
    weights = torch.tensor([[1.0, 3.0, 4.0], [0.0, 0.0, 5.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    present = torch.tensor([[True, True, False], [True, True, False], [True, True, True], [False, False, False]])
    expected = [[0.25, 0.75, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    torch.testing.assert_close(shares(weights, present), torch.tensor(expected))


def test_idf_is_that_of_bm25_counted_by_a_loop() -> None:
    documents = [[0, 1, 1, 2], [1], [1, 2], []]
    weights = idf_weights(map(torch.tensor, ([*each] for each in documents if each)), 4, 5)
    for token in range(5):
        found = sum(token in document for document in documents)
        assert weights[token].item() == pytest.approx(math.sqrt(math.log(1 + (4 - found + 0.5) / (found + 0.5))))


def test_words_weigh_one_and_punctuation_and_special_tokens_nothing(tiny_model_folder: Path) -> None:
    tokenizer = load(tiny_model_folder).tokenizer
    weights, number = word_weights(tokenizer), vocabulary()
    assert weights[[number[word] for word in ("python", "a", "7", "[UNK]")]].tolist() == [1] * 4
    assert not weights[[number[word] for word in (",", ".", "#", "[CLS]", "[SEP]", "[MASK]", "[PAD]")]].any()


def test_a_query_is_the_vectors_of_its_words_and_their_lengths_are_its_shares(tiny_model_folder: Path) -> None:
    plain, encoder = load(tiny_model_folder), load(tiny_model_folder, query_weights="words")
    assert similarity_of(encoder) is max_dot
    (whole, _), (words, alone) = vectors_of(plain, QUERIES), vectors_of(encoder, QUERIES)
    torch.testing.assert_close(words, whole[[1, 2, 4]] / 3)  # of [CLS] the python , developer [SEP]
    assert alone.norm().item() == pytest.approx(1)
    marks = vectors_of(encoder, [", ."])[0]  # nothing weighs anything: all the same
    torch.testing.assert_close(marks, vectors_of(plain, [", ."])[0] / 4)
    for theirs, ours in zip(
        vectors_of(plain, CORPUS, "document"), vectors_of(encoder, CORPUS, "document"), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("windows", [False, True])
def test_idf_is_of_the_tokens_that_are_read_of_a_corpus(tiny_model_folder: Path, windows: bool) -> None:
    encoder = load(tiny_model_folder, query_weights="idf", windows=windows, max_length=8)
    words = encoder.head.weights.clone()  # type: ignore[union-attr]
    corpus = [*CORPUS, "nurse " * 9 + "chef"]  # whose last word comes after the eighth token
    encoder.weigh_queries(corpus)
    number, weights = vocabulary(), encoder.head.weights  # type: ignore[union-attr]
    found = {"python": 2, "nurse": 2, "the": 3, "job": 0, "chef": 1 + windows}
    for word, count in found.items():
        assert weights[number[word]].item() == pytest.approx(math.sqrt(math.log(1 + (5.5 - count) / (count + 0.5))))
    assert not weights[words == 0].any()
    lengths = vectors_of(encoder, ["the python"])[0].norm(dim=1)
    assert (lengths[0] / lengths[1]).item() == pytest.approx(
        (weights[number["the"]] / weights[number["python"]]).item()
    )


def test_an_encoder_is_weighed_once_and_keeps_its_weights_in_its_folder(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    encoder = load(tiny_model_folder, query_weights="idf")
    assert not encoder.head.is_weighed
    encoder.weigh_queries(CORPUS)
    assert encoder.head.is_weighed
    expected = vectors_of(encoder, QUERIES)
    encoder.weigh_queries(["chef chef"])
    encoder.save_pretrained(tmp_path)
    loaded = Encoder.from_pretrained(tmp_path)
    assert loaded.settings == encoder.settings
    loaded.weigh_queries(["chef"])
    for model in (encoder, loaded):
        for ours, first in zip(vectors_of(model, QUERIES), expected, strict=True):
            torch.testing.assert_close(ours, first, rtol=0, atol=0)
    again = load(tiny_model_folder, query_weights="idf")
    again.load_state_dict(encoder.state_dict())  # as a checkpoint does
    assert again.head.is_weighed


def test_a_folder_of_words_can_be_weighed_and_a_weighed_one_read_plainly(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    load(tiny_model_folder, query_weights="words").save_pretrained(tmp_path)
    encoder = Encoder.from_pretrained(tmp_path, query_weights="idf")
    assert not encoder.head.is_weighed
    load(tiny_model_folder).save_pretrained(tmp_path)  # over the same folder
    assert not (tmp_path / WEIGHTS).exists()
    assert Encoder.from_pretrained(tmp_path).similarity == "max_sim"


def test_two_towers_weigh_the_queries(tiny_model_folder: Path, tmp_path: Path) -> None:
    towers = load_encoder(tiny_model_folder, two_towers=True, representation="tokens", query_weights="idf")
    towers.weigh_queries(CORPUS)
    towers.save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path)
    for side in ("query", "document"):
        for ours, first in zip(*(vectors_of(each, CORPUS, side) for each in (loaded, towers)), strict=True):  # type: ignore[arg-type]
            torch.testing.assert_close(ours, first)


def test_scores_of_a_corpus_are_those_of_a_batch_and_of_loops(tiny_model_folder: Path) -> None:
    encoder = load(tiny_model_folder, query_weights="idf", punctuation=False)
    encoder.weigh_queries(CORPUS)
    expected = [
        [
            sum((token @ document.T).max().item() for token in query)
            for document in vectors_of(encoder, CORPUS, "document")
        ]
        for query in vectors_of(encoder, QUERIES)
    ]
    queries, documents = (
        encoder.encode(texts, side=side) for texts, side in ((QUERIES, "query"), (CORPUS, "document"))
    )  # type: ignore[call-overload]
    torch.testing.assert_close(score_texts(max_dot, queries, documents), torch.tensor(expected))
    torch.testing.assert_close(max_dot(queries.padded(), documents.padded()), torch.tensor(expected))


def test_what_cannot_be_is_refused(tiny_model_folder: Path) -> None:
    with pytest.raises(ValueError, match="expected query_weights null, words or idf, got 'learnt'"):
        load(tiny_model_folder, query_weights="learnt")
    with pytest.raises(
        ValueError, match="expected similarity max_dot of token vectors with query_weights idf, got 'max_s"
    ):
        load(tiny_model_folder, query_weights="idf", similarity="max_sim")
    with pytest.raises(
        ValueError, match="expected similarity max_sim of token vectors with query_weights None, got 'max_d"
    ):
        load(tiny_model_folder, similarity="max_dot")
