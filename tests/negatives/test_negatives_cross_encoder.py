"""Candidates scored again, by a made-up scorer and by a tiny random sequence classifier."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from contrastive.negatives import (
    BM25,
    CrossEncoder,
    Filters,
    Mined,
    Moment,
    Pair,
    Pool,
    Random,
    load_pair_scorer,
)

DOCUMENTS = {"d0": "nurse", "d1": "nurse and chef", "d2": "nurse or cook", "d3": "nurse bakes", "d4": "clerk"}
RELEVANCE = {"nurse": 0.9, "nurse and chef": 0.2, "nurse or cook": 0.8, "nurse bakes": 0.4, "clerk": 0.7}


class Looked:
    """Scores documents by a table, and remembers what it was asked."""

    def __init__(self, table: Mapping[str, float] = RELEVANCE) -> None:
        self.table, self.asked = table, list[tuple[str, str]]()

    def __call__(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float32]:
        self.asked += zip(queries, documents, strict=True)
        return np.array([self.table[document] for document in documents], np.float32)

    def describe(self) -> Mapping[str, object]:
        return dict(self.table)


def test_candidates_are_ranked_again_and_what_is_called_relevant_is_refused() -> None:
    scorer = Looked()
    pool = Pool(DOCUMENTS, [Pair("q1", "nurse wanted", "d0"), Pair("q2", "nurse wanted", "d4")])
    chosen = Mined(CrossEncoder(BM25(), scorer, batch_size=2), filters=Filters(max_score=0.5))(pool)
    assert chosen[0].ids == ("d3", "d1")
    assert chosen[0].scores == pytest.approx((0.4, 0.2))
    assert chosen[0].ranks == (2, 3)
    assert chosen[0].refused == {"known_positive": 1, "score": 1}
    assert chosen[0].sources == ("cross_encoder",) * 2
    # A positive that is no candidate has a score too, and nothing is scored twice.
    assert [negatives.positive_score for negatives in chosen] == pytest.approx([0.9, 0.7])
    assert sorted(scorer.asked) == sorted({("nurse wanted", text) for text in DOCUMENTS.values()})


def test_as_many_are_scored_as_the_window_has() -> None:
    scorer = Looked()
    pool = Pool(DOCUMENTS, [Pair("q1", "nurse wanted", "d0")])
    Mined(CrossEncoder(BM25(), scorer), filters=Filters(max_rank=2))(pool)
    assert len(scorer.asked) == 2


def test_what_is_not_a_number_comes_last_and_is_refused() -> None:
    scorer = Looked({**RELEVANCE, "nurse and chef": float("nan"), "nurse": float("nan")})
    pool = Pool(DOCUMENTS, [Pair("q1", "nurse wanted", "d0"), Pair("q2", "nurse wanted")])
    chosen = Mined(CrossEncoder(BM25(), scorer))(pool)
    assert chosen[0].ids == ("d2", "d3")
    assert chosen[0].refused == {"known_positive": 1, "not_finite": 1}
    (chosen, _) = Mined(CrossEncoder(BM25(), scorer), filters=Filters(relative_margin=0.1))(pool)
    assert chosen.refused == {"known_positive": 1, "not_finite": 1, "unknown_positive": 2}


def test_scores_of_candidates_without_a_meaning_get_one() -> None:
    (chosen,) = Mined(CrossEncoder(Random(), Looked()), filters=Filters(relative_margin=0.5))(
        Pool(DOCUMENTS, [Pair("q1", "nurse wanted", "d0")])
    )
    assert chosen.ids == ("d3", "d1")


@pytest.fixture(params=[1, 2])
def folder(request: pytest.FixtureRequest, tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A classifier of pairs with so many labels."""
    return save_classifier(request.param, tiny_model_folder, tmp_path / "classifier")


def save_classifier(labels: int, tiny_model_folder: Path, folder: Path) -> Path:
    config = BertConfig.from_pretrained(tiny_model_folder, num_labels=labels, initializer_range=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(folder)
    return folder


def test_a_folder_of_a_sequence_classifier_scores_pairs(folder: Path) -> None:
    scorer = load_pair_scorer(folder, batch_size=2, device="cpu")
    queries = ["nurse", "python developer", "nurse", "chef"]
    documents = ["hospital " * 100, "data", "kitchen job", ""]
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for query, document, score in zip(queries, documents, scorer(queries, documents), strict=True):
        encoded = tokenizer([query], [document], truncation=True, max_length=64, return_tensors="pt")
        logits = model(**encoded).logits[0].detach()
        expected = logits.sigmoid()[0] if len(logits) == 1 else logits.softmax(dim=0)[1]
        assert score == pytest.approx(expected.item(), abs=1e-5)
    assert np.ptp(scorer(queries, documents)) > 0.01
    assert scorer([], []).shape == (0,)


def test_sentence_transformers_gives_the_same_scores(tiny_model_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder as Peer

    folder = save_classifier(1, tiny_model_folder, tmp_path / "classifier")
    pairs = [("nurse", "hospital job"), ("chef", "kitchen")]
    theirs = Peer(str(folder), device="cpu").predict(pairs)
    ours = load_pair_scorer(folder, device="cpu")(*zip(*pairs, strict=True))
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_what_the_scores_depend_on_is_described(folder: Path) -> None:
    first = load_pair_scorer(folder, device="cpu")
    again, shorter = load_pair_scorer(folder, device="cpu"), load_pair_scorer(folder, max_length=8, device="cpu")
    assert first.describe() == again.describe()
    assert first.describe() != shorter.describe()
    other = load_pair_scorer(folder, device="cpu")
    other.tokenizer.add_tokens(["zyx"])
    assert first.describe() != other.describe()
    with torch.no_grad():
        next(again.model.parameters()).add_(1)
    assert first.describe() != again.describe()
    described = [CrossEncoder(source, first).describe(Moment()) for source in (BM25(), Random())]
    assert described[0] != described[1]


def test_code_that_comes_with_a_cross_encoder_is_not_run_and_nobody_is_asked(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_classifier(1, tiny_model_folder, tmp_path / "classifier")
    expected = load_pair_scorer(folder, device="cpu")(["nurse"], ["hospital"])
    own = {"auto_map": {"AutoConfig": "own.C", "AutoModelForSequenceClassification": "own.M", "AutoTokenizer": "own.T"}}
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **own}))
    (folder / "own.py").write_text("raise SystemExit('this must not run')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    assert load_pair_scorer(folder, device="cpu")(["nurse"], ["hospital"]) == pytest.approx(expected)
    config = {**json.loads((folder / "config.json").read_text()), "model_type": "frob"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"'frob' is none .*, and code that comes with a model is never run"):
        load_pair_scorer(folder)


def test_a_cross_encoder_is_read_from_safetensors_alone(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = save_classifier(1, tiny_model_folder, tmp_path / "classifier")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"expected model\.safetensors in .*classifier, found none; other weight"
    ):
        load_pair_scorer(folder)


def test_an_encoder_is_no_cross_encoder(tiny_model_folder: Path) -> None:
    with pytest.raises(ValueError, match="lacks 2 weights of BertForSequenceClassification, the first is classifier"):
        load_pair_scorer(tiny_model_folder)


def test_settings_that_make_no_sense_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size of at least 1, got 0"):
        CrossEncoder(BM25(), Looked(), batch_size=0)
    with pytest.raises(ValueError, match="a cross-encoder with one label or two, got 3"):
        load_pair_scorer(save_classifier(3, tiny_model_folder, tmp_path / "three"))
