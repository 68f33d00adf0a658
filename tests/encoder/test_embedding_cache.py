"""The cache of embeddings: never computed twice, never mixed up, never half there."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from contrastive.contracts import Side
from contrastive.encoder import Encoder, TwoTowers
from contrastive.encoder.embedding_cache import EmbeddingCache, default_folder, embedding_key, embeddings_of

TEXTS = ["data engineer", "nurse", "chef in a kitchen", "nurse", "", "the job \ud83d 👩‍⚕️"]


class Counting:
    """Embeds a text as its length and its number of vowels, and remembers what it was asked."""

    def __init__(self, before: Callable[[int], object] = abs) -> None:
        self.settings = {"max_length": 8}
        self.dimension = 2
        self.calls: list[list[str]] = []
        self.before = before

    def state_dict(self) -> dict[str, Tensor]:
        return {"weight": torch.ones(3)}

    def __call__(self, texts: Sequence[str], *, side: Side) -> Tensor:
        raise NotImplementedError

    def encode(self, texts: Sequence[str], **options: object) -> Tensor:
        self.options = options
        self.before(len(self.calls))
        self.calls.append(list(texts))
        return torch.tensor([[len(text), sum(text.count(v) for v in "aeiou")] for text in texts], dtype=torch.float64)


def expected(texts: Sequence[str]) -> np.ndarray:
    return Counting().encode(texts).float().numpy()


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def test_embeddings_equal_those_of_the_encoder_and_are_computed_once(tiny_encoder: Encoder, tmp_path: Path) -> None:
    plain = tiny_encoder.encode(TEXTS, side="document")
    for _ in range(2):
        kept = EmbeddingCache(tmp_path).embed(tiny_encoder, TEXTS, side="document")
        assert kept.dtype == np.float32
        np.testing.assert_array_equal(kept, plain)
        tiny_encoder.encode = None  # type: ignore[assignment]  # the second time comes without it


@pytest.mark.parametrize("part_size", [1, 2, 3, 100])
def test_parts_leave_one_file_that_is_memory_mapped(part_size: int, tmp_path: Path) -> None:
    encoder = Counting()
    first = EmbeddingCache(tmp_path, part_size=part_size).embed(encoder, TEXTS, side="document")
    assert [text for call in encoder.calls for text in call] == list(dict.fromkeys(TEXTS))
    assert all(len(call) <= part_size for call in encoder.calls)
    assert files(tmp_path) == [".npy"]
    again = EmbeddingCache(tmp_path).embed(Counting(before=pytest.fail), TEXTS, side="document")
    assert isinstance(again, np.memmap)
    assert again.dtype == first.dtype == np.float32
    np.testing.assert_array_equal(first, expected(TEXTS))
    np.testing.assert_array_equal(again, expected(TEXTS))


def test_what_is_read_may_be_changed_without_changing_the_file(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.embed(Counting(), TEXTS, side="query")
    read = cache.embed(Counting(), TEXTS, side="query")
    torch.from_numpy(read).zero_()  # would warn, hence fail, if it were read-only
    np.testing.assert_array_equal(cache.embed(Counting(), TEXTS, side="query"), expected(TEXTS))


def test_an_interrupted_encoding_goes_on_where_it_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def interrupt(call: int) -> None:
        if call == 2:
            raise KeyboardInterrupt

    texts = [f"text {'a' * i}" for i in range(10)]
    cache = EmbeddingCache(tmp_path, part_size=3)
    with pytest.raises(KeyboardInterrupt):
        cache.embed(Counting(before=interrupt), texts, side="document")
    resumed = Counting()
    with caplog.at_level(logging.INFO):
        embeddings = cache.embed(resumed, texts, side="document")
    assert resumed.calls == [texts[6:9], texts[9:]]
    assert "6 of them had been embedded before an interruption" in caplog.text
    assert "10 documents embedded in 0 s and cached" in caplog.text
    np.testing.assert_array_equal(embeddings, expected(texts))
    assert files(tmp_path) == [".npy"]


def test_other_parts_are_not_taken_for_these(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def interrupt(call: int) -> None:
        if call == 1:
            raise KeyboardInterrupt

    texts = [f"text {'a' * i}" for i in range(10)]
    with pytest.raises(KeyboardInterrupt):
        EmbeddingCache(tmp_path, part_size=4).embed(Counting(before=interrupt), texts, side="document")
    embeddings = EmbeddingCache(tmp_path, part_size=5).embed(Counting(), texts, side="document")
    np.testing.assert_array_equal(embeddings, expected(texts))
    assert "damaged" not in caplog.text
    assert files(tmp_path) == [".npy"]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[:0], id="empty"),
        pytest.param(lambda content: content[:40], id="cut in the header"),
        pytest.param(lambda content: content[:-1], id="one byte short"),
        pytest.param(lambda content: b"PK" + content[2:], id="not numpy's"),
        pytest.param(lambda content: content.replace(b"'fortran_order'", b"(fortran_order'"), id="header is no Python"),
        pytest.param(lambda content: content.replace(b"<f4", b"<i4"), id="other numbers"),
        pytest.param(lambda content: content.replace(b"(6, 2)", b"(3, 4)"), id="other shape"),
        pytest.param(lambda content: content[:128] + bytes(48) + content[176:], id="numbers of zero"),
        pytest.param(lambda content: content[:128] + bytes(48), id="without a checksum"),
    ],
)
def test_a_damaged_file_is_computed_again(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.embed(Counting(), TEXTS, side="document")
    (file,) = tmp_path.iterdir()
    intact = file.read_bytes()
    file.write_bytes(damage(intact))
    assert file.read_bytes() != intact
    np.testing.assert_array_equal(cache.embed(Counting(), TEXTS, side="document"), expected(TEXTS))
    assert f"{file} is damaged and is computed again" in caplog.text
    assert file.read_bytes() == intact


def test_embeddings_have_a_limit(tmp_path: Path) -> None:
    for text in "ab":
        EmbeddingCache(tmp_path, max_bytes=200).embed(Counting(), [text], side="query")
    assert [file.stem for file in tmp_path.iterdir()] == [embedding_key(Counting(), ["b"], side="query")]


def test_the_key_does_not_depend_on_the_order_of_settings_or_weights() -> None:
    left, right = Counting(), Counting()
    left.settings, right.settings = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    weights = {"v": torch.ones(2), "w": torch.zeros(1)}
    left.state_dict = lambda: weights  # type: ignore[method-assign]
    right.state_dict = lambda: dict(reversed(weights.items()))  # type: ignore[method-assign]
    assert embedding_key(left, TEXTS, side="query") == embedding_key(right, TEXTS, side="query")


def test_the_key_tells_apart_whatever_changes_an_embedding(tiny_model_folder: Path) -> None:
    def key(texts: Sequence[str] = ("nurse", "chef"), side: Side = "document", **settings: object) -> str:
        return embedding_key(Encoder.from_pretrained(tiny_model_folder, **settings), texts, side=side)  # type: ignore[arg-type]

    changed = Encoder.from_pretrained(tiny_model_folder)
    with torch.no_grad():
        next(changed.parameters())[0, 0] += 1e-6
    half = Encoder.from_pretrained(tiny_model_folder).to(torch.bfloat16)
    unpadded = Encoder.from_pretrained(tiny_model_folder)
    unpadded.padding = False
    keys = [
        key(),
        key(side="query"),
        key(["nurse"]),
        key(["chef", "nurse"]),
        key(["nursec", "hef"]),
        key(["nurse", "chef", ""]),
        key(pooling="cls"),
        key(normalize=True),
        key(max_length=16),
        key(query_prompt="q: "),
        key(document_prompt="q: "),
        embedding_key(changed, ["nurse", "chef"], side="document"),
        embedding_key(half, ["nurse", "chef"], side="document"),
        embedding_key(unpadded, ["nurse", "chef"], side="document"),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == key(tokens_per_batch=32, bucketed=False)


def test_the_same_weights_with_another_tokenizer_have_other_embeddings(tiny_model_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_model_folder, tmp_path / "model")
    rules = json.loads((other / "tokenizer.json").read_text())
    ids = rules["model"]["vocab"]
    ids["nurse"], ids["chef"] = ids["chef"], ids["nurse"]
    (other / "tokenizer.json").write_text(json.dumps(rules))
    cache = EmbeddingCache(tmp_path / "cache")
    for folder in (tiny_model_folder, other):
        encoder = Encoder.from_pretrained(folder)
        kept = cache.embed(encoder, ["nurse"], side="document")
        np.testing.assert_array_equal(kept, encoder.encode(["nurse"], side="document"))
    assert len(files(cache.folder)) == 2


def test_each_of_two_towers_has_its_tokenizer(tiny_model_folder: Path) -> None:
    keys = []
    for changed in (None, "query", "document"):
        towers = TwoTowers(*(Encoder.from_pretrained(tiny_model_folder) for _ in range(2)))
        if changed:
            getattr(towers, changed).tokenizer.add_tokens(["zyx"])
        keys.append(embedding_key(towers, ["nurse"], side="document"))
    assert len(set(keys)) == 3


def test_a_model_that_was_used_and_saved_has_the_key_it_had(tiny_encoder: Encoder, tmp_path: Path) -> None:
    before = embedding_key(tiny_encoder, ["nurse"], side="document")
    tiny_encoder.encode(TEXTS)  # tells the tokenizer where to cut
    tiny_encoder.save_pretrained(tmp_path)
    assert embedding_key(Encoder.from_pretrained(tmp_path), ["nurse"], side="document") == before


@pytest.mark.parametrize(
    "change",
    [
        lambda encoder: setattr(encoder, "dimension", 3),
        lambda encoder: setattr(encoder, "settings", {"max_length": 8, "towers": {"query": "cls"}}),
        lambda encoder: setattr(encoder, "state_dict", lambda: {"other": torch.ones(3)}),
        lambda encoder: setattr(encoder, "state_dict", lambda: {"weight": torch.ones(3, 1)}),
        lambda encoder: setattr(encoder, "state_dict", lambda: {"weight": torch.ones(3), "bias": torch.tensor(0)}),
        lambda encoder: setattr(
            encoder, "state_dict", lambda: {"weight": torch.ones(3).view(torch.int32)}
        ),  # the same bytes
    ],
    ids=["dimension", "nested settings", "name", "shape", "more weights", "type of number"],
)
def test_the_key_depends_on_all_an_encoder_says_of_itself(change: Callable[[Counting], None]) -> None:
    encoder = Counting()
    before = embedding_key(encoder, ["nurse"], side="query")
    change(encoder)
    assert embedding_key(encoder, ["nurse"], side="query") != before


@pytest.mark.parametrize("shown", [False, True])
def test_progress_is_shown_over_all_parts(shown: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = Counting(before=lambda _: time.sleep(0.11))  # a bar is drawn ten times a second at most
    EmbeddingCache(tmp_path, part_size=2).embed(encoder, TEXTS, side="document", show_progress=shown)
    assert ("4/5" in capsys.readouterr().err) == shown
    assert encoder.options == {"side": "document", "show_progress": shown, "as_numpy": False}


def test_one_part_leaves_progress_to_the_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    EmbeddingCache(tmp_path).embed(Counting(), TEXTS, side="query", show_progress=True)
    assert capsys.readouterr().err == ""


def test_no_texts_have_no_file(tmp_path: Path) -> None:
    assert EmbeddingCache(tmp_path / "none").embed(Counting(), [], side="query").shape == (0, 2)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "folder", ["file", pytest.param("/proc/self", marks=pytest.mark.skipif("not sys.platform.startswith('linux')"))]
)
def test_a_folder_that_cannot_be_written_is_done_without(
    folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = EmbeddingCache(tmp_path / folder, part_size=2)
    for side in ("query", "document"):
        np.testing.assert_array_equal(cache.embed(Counting(), TEXTS, side=side), expected(TEXTS))
    said = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert len(said) == 1
    assert str(tmp_path / folder) in said[0]


def test_what_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    encoder = Counting()
    encoder.encode = lambda texts, **_: torch.full((len(texts), 2), torch.nan)  # type: ignore[method-assign]
    assert np.isnan(EmbeddingCache(tmp_path).embed(encoder, TEXTS, side="query")).all()
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("texts", "message"), [("nurse", "got one text: 'nurse'"), (["a", 3], "got int at index 1: 3")]
)
def test_texts_are_checked(texts: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        EmbeddingCache(tmp_path).embed(Counting(), texts, side="query")  # type: ignore[arg-type]


def test_parts_have_a_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected part_size of at least 1, got 0"):
        EmbeddingCache(tmp_path, part_size=0)


def test_the_default_folder_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "contrastive" / "embeddings"


def test_how_embeddings_are_compared_does_not_decide_them() -> None:
    left, right = Counting(), Counting()
    left.settings, right.settings = {"a": 1, "similarity": "dot"}, {"a": 1, "similarity": "cosine"}
    assert embedding_key(left, ["x"], side="query") == embedding_key(right, ["x"], side="query")
    left.settings, right.settings = {"a": 1, "query.similarity": "dot"}, {"a": 1}
    assert embedding_key(left, ["x"], side="query") == embedding_key(right, ["x"], side="query")


@pytest.fixture
def tokens(tiny_model_folder: Path) -> Encoder:
    return Encoder.from_pretrained(tiny_model_folder, representation="tokens")


@pytest.mark.parametrize("part_size", [1, 32, 4096])
def test_token_vectors_are_the_same_with_and_without_a_cache(
    part_size: int, tokens: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in ("query", "document"):
        plain = embeddings_of(tokens, TEXTS, side=side)
        encoded = tokens.encode(TEXTS, side=side, as_numpy=False)
        assert plain.vectors.dtype == (torch.float16 if side == "document" else torch.float32)
        assert torch.equal(plain.offsets, encoded.offsets)
        torch.testing.assert_close(plain.vectors.float(), encoded.vectors, atol=1e-3, rtol=0)
        for _ in range(2):
            cache = EmbeddingCache(tmp_path, part_size=part_size)
            kept = embeddings_of(tokens, TEXTS, side=side, cache=cache)
            assert kept.vectors.dtype == plain.vectors.dtype
            assert torch.equal(kept.offsets, plain.offsets)
            torch.testing.assert_close(kept.vectors, plain.vectors, atol=1e-3 if part_size < 4096 else 0, rtol=0)
            with monkeypatch.context() as patch:
                patch.setattr(tokens, "encode", None)  # it is read again without it
                again = cache.embed(tokens, TEXTS, side=side)
            assert torch.equal(again.vectors, kept.vectors)
    assert files(tmp_path) == [".npy", ".npy"]


def test_damaged_token_vectors_are_computed_again(
    tokens: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = EmbeddingCache(tmp_path)
    expected_ = cache.embed(tokens, TEXTS, side="document")
    (file,) = tmp_path.iterdir()
    intact = file.read_bytes()
    for place in (200, len(intact) - 20, len(intact) - 2):  # in the vectors, their numbers, the checksum
        file.write_bytes(intact[:place] + bytes([intact[place] ^ 1]) + intact[place + 1 :])
        found = cache.embed(tokens, TEXTS, side="document")
        assert torch.equal(found.vectors, expected_.vectors)
        assert "is damaged and is computed again" in caplog.text
        caplog.clear()
    assert file.read_bytes() == intact


def test_no_texts_have_no_token_vectors(tokens: Encoder, tmp_path: Path) -> None:
    for cache in (None, EmbeddingCache(tmp_path)):
        assert len(embeddings_of(tokens, [], side="document", cache=cache)) == 0
