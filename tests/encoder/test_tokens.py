"""Token ids that are made once: the same as ever, shared by equal tokenizers, and never mixed up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import vocabulary
from transformers import BertTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase

from contrastive.encoder import Encoder, tokens
from contrastive.encoder.tokens import Row, cached_token_ids, fingerprint

_windows = tokens._windows
TEXTS = ["data engineer", "nurse", "", "a nurse 👩‍⚕️ \ud83d", "nurse"]


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_kept", {})
    monkeypatch.setattr(tokens, "_room", 1000)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The texts that were really tokenised."""
    texts: list[str] = []

    def noting(tokenizer: PreTrainedTokenizerBase, given: list[str], *args: Any, **options: Any) -> list[list[Row]]:
        texts.extend(given)
        return _windows(tokenizer, given, *args, **options)

    monkeypatch.setattr(tokens, "_windows", noting)
    return texts  # type: ignore[return-value]


def tokenizer(**options: object) -> PreTrainedTokenizerBase:
    return BertTokenizer(vocab=vocabulary(), model_max_length=64, **options)


def token_rows(bert: PreTrainedTokenizerBase, texts: list[str], *, max_length: int) -> list[Row]:
    """Tokenise texts without being noted."""
    return [windows[0] for windows in _windows(bert, texts, max_length, ())]


def lists(arrays: list[np.ndarray]) -> list[list[int]]:
    return [array.tolist() for array in arrays]


def test_the_ids_are_those_of_the_tokenizer_and_made_once(made: list[str]) -> None:
    bert = tokenizer()
    for _ in range(2):
        assert lists(cached_token_ids(bert, TEXTS, max_length=8)) == lists(token_rows(bert, TEXTS, max_length=8))
    assert made == TEXTS[:4]


def test_equal_tokenizers_share_and_different_ones_do_not(made: list[str]) -> None:
    for bert in (tokenizer(), tokenizer()):
        cached_token_ids(bert, ["Nurse"], max_length=8)
    assert len(made) == 1
    cased = tokenizer(do_lower_case=False)
    assert lists(cached_token_ids(cased, ["Nurse"], max_length=8)) == lists(token_rows(cased, ["Nurse"], max_length=8))
    assert len(made) == 2


def test_lengths_are_kept_apart() -> None:
    bert = tokenizer()
    assert [len(cached_token_ids(bert, ["the data job"], max_length=n)[0]) for n in (3, 5, 4)] == [3, 5, 4]


def test_added_tokens_are_seen() -> None:
    bert = tokenizer()
    before = lists(cached_token_ids(bert, ["zyx job"], max_length=8))
    bert.add_tokens(["zyx"])
    after = lists(cached_token_ids(bert, ["zyx job"], max_length=8))
    assert after == lists(token_rows(bert, ["zyx job"], max_length=8)) != before


def test_how_a_tokenizer_was_last_called_is_no_rule_of_it() -> None:
    called = tokenizer()
    called(TEXTS[:1], truncation=True, max_length=7, padding=True)
    assert fingerprint(called) == fingerprint(tokenizer()) != fingerprint(tokenizer(do_lower_case=False))


def test_tokenizers_in_plain_python_have_fingerprints_too() -> None:
    plain = [ByT5Tokenizer(**rules) for rules in ({}, {}, {"extra_ids": 1}, {"do_lower_case": True})]
    first, same, *others = map(fingerprint, plain)
    assert first == same
    assert len({first, *others}) == 3


def test_what_does_not_fit_is_made_each_time(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_room", 6)
    bert = tokenizer()
    for _ in range(2):
        assert lists(cached_token_ids(bert, ["the data job", "chef"], max_length=8)) == lists(
            token_rows(bert, ["the data job", "chef"], max_length=8)
        )
    assert made == ["the data job", "chef", "chef"]
    assert tokens._room == 1


def test_an_encoder_tokenises_a_text_once(tiny_model_folder: Path, made: list[str]) -> None:
    for _ in range(2):
        encoder = Encoder.from_pretrained(tiny_model_folder, document_prompt="job: ", check=False)
        encoder(["nurse"], side="document")
        encoder.encode(["nurse", "chef"], side="document")
    assert made == ["job: nurse", "job: chef"]
