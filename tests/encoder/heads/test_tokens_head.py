"""A vector a token: what of it each side has, and what fills queries up."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.encoder import Encoder
from contrastive.encoder.heads import TokensHead

TEXTS = ["python, developer.", "the nurse of the hospital, 6 years", "", "chef"]


def load(folder: Path, **options: object) -> Encoder:
    return Encoder.from_pretrained(folder, representation="tokens", **options)  # type: ignore[arg-type]


def by_hand(encoder: Encoder, text: str, filled: int = 0, *, attend: bool = False) -> tuple[list[int], Tensor]:
    """Token ids and vectors of one text, alone."""
    ids = encoder.tokenizer(text)["input_ids"]
    added = max(0, filled - len(ids))
    mask = torch.tensor([[1] * len(ids) + [int(attend)] * added])
    ids = [*ids, *[encoder.tokenizer.mask_token_id] * added]
    with torch.no_grad():
        hidden = encoder.backbone(input_ids=torch.tensor([ids]), attention_mask=mask).last_hidden_state[0]
        if encoder.head.projection is not None:  # type: ignore[attr-defined]
            hidden = hidden @ encoder.head.projection.weight.T  # type: ignore[attr-defined]
    return ids, normalize(hidden, dim=-1)


@pytest.mark.parametrize("dimension", [None, 7])
def test_texts_have_the_vectors_of_their_tokens(tiny_model_folder: Path, dimension: int | None) -> None:
    encoder = load(tiny_model_folder, dimension=dimension, punctuation=False, left_out=["[CLS]", "the"])
    left_out = encoder.tokenizer.convert_tokens_to_ids(["[CLS]", "the", ",", "."])
    queries, documents = (encoder.encode(TEXTS, side=side) for side in ("query", "document"))  # type: ignore[call-overload]
    for number, text in enumerate(TEXTS):
        ids, vectors = by_hand(encoder, text)
        torch.testing.assert_close(queries[number : number + 1].vectors, vectors)
        kept = [place for place, id_ in enumerate(ids) if id_ not in left_out]
        torch.testing.assert_close(documents[number : number + 1].vectors, vectors[kept])


@pytest.mark.parametrize("attend", [False, True])
def test_short_queries_are_filled_up_and_documents_are_not(tiny_model_folder: Path, attend: bool) -> None:
    encoder = load(tiny_model_folder, query_expansion=9, attend_to_expansion=attend)
    texts = ["chef", "the nurse of the hospital, 6 years, nights, and a kitchen"]
    queries, documents = encoder.embed_sides(texts, texts[:1])
    for number, text in enumerate(texts):
        vectors = by_hand(encoder, text, 9, attend=attend)[1]
        torch.testing.assert_close(queries[number, : len(vectors)].detach(), vectors, atol=1e-5, rtol=1e-5)
        assert not queries[number, len(vectors) :].any()
    torch.testing.assert_close(documents[0].detach(), by_hand(encoder, "chef")[1], atol=1e-5, rtol=1e-5)
    assert load(tiny_model_folder, query_expansion=0).settings["query_expansion"] is None


def test_filling_queries_up_is_refused_where_what_fills_them_weighs_nothing(tiny_model_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"expected query_expansion 0 with query_weights idf, .* got 9"):
        load(tiny_model_folder, query_expansion=9, query_weights="idf")
    assert load(tiny_model_folder, query_expansion=0, query_weights="idf").settings["query_weights"] == "idf"


def test_a_marker_is_one_token(tiny_model_folder: Path) -> None:
    plain = load(tiny_model_folder)
    encoder = load(tiny_model_folder, query_prompt="[MASK] ", document_prompt="[D] ")
    assert encoder.encode(["chef"]).lengths == plain.encode(["chef"]).lengths + 1
    assert encoder.encode(["chef"], side="document").lengths == plain.encode(["chef"]).lengths + 3  # no token: a text


def test_words_that_are_no_tokens_are_named(tiny_model_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = load(tiny_model_folder, left_out=["chef", "plumber"])
    assert "to be left without plumber, which the vocabulary does not have" in caplog.text
    assert encoder.encode(["chef zyx"], side="document").lengths == encoder.encode(["chef zyx"]).lengths - 1


def test_what_cannot_be_is_refused(tiny_model_folder: Path) -> None:
    with pytest.raises(ValueError, match="expected query_expansion from 3 to 64 for this model, got 65"):
        load(tiny_model_folder, query_expansion=65)
    with pytest.raises(ValueError, match="expected query_length from 3 to 64 for this model, got 65"):
        load(tiny_model_folder, query_length=65)
    with pytest.raises(ValueError, match="expected dimension from 1 to 32 for this model, got 33"):
        load(tiny_model_folder, dimension=33)
    with pytest.raises(ValueError, match=r"expected similarity max_sim of .* query_weights None, got 'dot'"):
        load(tiny_model_folder, similarity="dot")


def test_embeddings_are_float32_under_autocast_and_the_projection_gets_its_gradient(tiny_model_folder: Path) -> None:
    encoder = load(tiny_model_folder, dimension=7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = encoder(TEXTS)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=-1)[embeddings.any(-1)], torch.ones(int(embeddings.any(-1).sum())))
    embeddings[:, :, 0].sum().backward()
    assert isinstance(encoder.head, TokensHead)
    assert encoder.head.projection is not None
    assert encoder.head.projection.weight.grad is not None
    same = load(tiny_model_folder, dimension=7).head.projection.weight  # type: ignore[union-attr]
    assert torch.equal(same, encoder.head.projection.weight)
    torch.testing.assert_close(same @ same.T, torch.eye(7))
