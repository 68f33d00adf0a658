"""What every representation in `HEADS` keeps to; a new one is tested here as soon as it has a name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose

from contrastive.encoder import Encoder
from contrastive.encoder.heads import HEADS
from contrastive.similarity import TokenVectors, similarity_of

OPTIONS: dict[str, dict[str, object]] = {
    "pooled": {"normalize": True, "dimension": 20},
    "tokens": {"dimension": 20},
    "lexical": {"query_weights": "learnt", "activation": "log1p_relu"},
}
TEXTS = ["python developer", "the nurse of the hospital, 6 years", "", "chef", "chef"]

pytestmark = pytest.mark.parametrize("name", HEADS)


def scores(encoder: Encoder, texts: list[str], **options: Any) -> torch.Tensor:
    """Scores of texts, as queries and as documents, with each other."""
    queries, documents = (
        each.padded() if isinstance(each, TokenVectors) else each
        for each in (encoder.encode(texts, side=side, as_numpy=False, **options) for side in ("query", "document"))
    )
    return similarity_of(encoder)(queries, documents)


def test_a_text_is_embedded_alike_in_every_batch_and_order(tiny_model_folder: Path, name: str) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, representation=name, tokens_per_batch=16)
    expected = scores(encoder, TEXTS)
    assert expected.shape == (5, 5)
    assert_allclose(scores(encoder, TEXTS[::-1], tokens_per_batch=1000).flip((0, 1)), expected, atol=1e-5)
    encoder.bucketed = False
    plain = encoder(TEXTS)
    assert_allclose(similarity_of(encoder)(plain, plain).detach(), expected, atol=1e-5)
    assert scores(encoder, []).shape == (0, 0)


def test_a_saved_folder_says_its_representation_and_gives_the_same_scores(
    tiny_model_folder: Path, tmp_path: Path, name: str
) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, representation=name, **OPTIONS[name])
    encoder.save_pretrained(tmp_path)
    loaded = Encoder.from_pretrained(tmp_path)
    assert loaded.settings == encoder.settings
    assert loaded.settings["representation"] == name
    assert torch.equal(scores(loaded, TEXTS), scores(encoder, TEXTS))


def test_settings_make_the_head_again(tiny_model_folder: Path, name: str) -> None:
    head = Encoder.from_pretrained(tiny_model_folder, representation=name).head
    assert HEADS[name](32, **head.settings).settings == head.settings
    assert "similarity" in head.settings


def test_a_representation_that_is_not_known_is_refused(tiny_model_folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"expected representation to be one of .*{name}.*, got 'windows'"):
        Encoder.from_pretrained(tiny_model_folder, representation="windows")
    with pytest.raises(TypeError, match="no_such_option"):
        Encoder.from_pretrained(tiny_model_folder, representation=name, no_such_option=1)
