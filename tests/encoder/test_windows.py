"""Documents that are longer than the model: nothing of them is lost, whatever they are embedded as."""

from pathlib import Path

import pytest
import torch
from conftest import vocabulary
from torch import Tensor
from transformers import BertTokenizer, ByT5Tokenizer

from contrastive.encoder import Encoder
from contrastive.encoder.heads import PooledHead
from contrastive.encoder.tokens import cached_token_ids, cached_windows
from contrastive.similarity import TokenVectors, cosine, max_sim

WORDS = ["python", "developer", "nurse", "engineer", "chef", "data", "the", "job", "years", "hospital", "kitchen"]
LONG = " ".join(WORDS * 2 + WORDS[:3])  # 25 tokens: windows of 10, 10 and 5 where there is room for 12
CHUNKS = [" ".join((WORDS * 3)[start : min(start + 10, 25)]) for start in (0, 10, 20)]


def load(folder: Path, **options: object) -> Encoder:
    return Encoder.from_pretrained(folder, max_length=12, windows=True, **options)  # type: ignore[arg-type]


def read_in_training(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    """The rows of token ids that one step of training reads."""
    rows: list[list[int]] = []

    def note(_module: object, _args: object, given: dict[str, Tensor]) -> None:
        rows.extend(
            ids[mask != 0].tolist() for ids, mask in zip(given["input_ids"], given["attention_mask"], strict=True)
        )

    hook = encoder.backbone.register_forward_pre_hook(note, with_kwargs=True)
    encoder.train()(texts, side="document")
    hook.remove()
    return rows


def test_windows_hold_the_whole_text_each_with_special_tokens_of_its_own() -> None:
    bert = BertTokenizer(vocab=vocabulary())
    texts = [LONG, "chef", "", "a nurse, c++ & zyx " * 9]
    for text, windows in zip(texts, cached_windows(bert, texts, max_length=12, whole=True), strict=True):
        whole = bert(text)["input_ids"]
        assert {(window[0], window[-1]) for window in windows} == {(bert.cls_token_id, bert.sep_token_id)}
        assert [id_ for window in windows for id_ in window[1:-1]] == whole[1:-1]
        assert all(len(window) == 12 for window in windows[:-1])
        (first,) = cached_token_ids(bert, [text], max_length=12)
        assert first.tolist() == windows[0].tolist()


def test_token_vectors_of_a_long_document_are_those_of_its_windows_with_the_prompt_once(
    tiny_model_folder: Path,
) -> None:
    encoder = load(tiny_model_folder, representation="tokens", tokens_per_batch=16)
    documents = encoder.encode(["chef", LONG, "nurse"], side="document")
    expected = encoder.encode(CHUNKS, side="document")
    assert isinstance(documents, TokenVectors)
    assert documents.lengths.tolist() == [3, 12 + 12 + 7, 3]
    torch.testing.assert_close(documents[1:2].vectors, expected.vectors)
    assert encoder.encode([LONG]).lengths.tolist() == [12]  # a query is cut
    torch.testing.assert_close(encoder([LONG], side="document").detach()[0], expected.vectors)
    encoder.document_prompt = "job "
    assert encoder.encode([LONG], side="document").lengths.tolist() == [12 + 12 + 8]


def test_the_best_passage_of_a_long_document_counts(tiny_model_folder: Path) -> None:
    encoder, cutting = load(tiny_model_folder), Encoder.from_pretrained(tiny_model_folder, max_length=12)
    assert encoder.similarity == "max_sim"
    queries, documents = encoder.encode(["chef", LONG]), encoder.encode([LONG, "nurse"], side="document")
    assert (queries.lengths.tolist(), documents.lengths.tolist()) == ([1, 1], [3, 1])
    asked, passages = (cutting.encode(texts, as_numpy=False) for texts in (["chef", LONG], [*CHUNKS, "nurse"]))
    by_passage = cosine(asked, passages)
    expected = torch.stack([by_passage[:, :3].amax(1), by_passage[:, 3]], dim=1)
    torch.testing.assert_close(max_sim(queries.padded(), documents.padded()), expected)


def test_each_part_of_a_query_finds_a_passage_of_its_own(tiny_model_folder: Path) -> None:
    encoder = load(tiny_model_folder, query_parts=True)
    plain = Encoder.from_pretrained(tiny_model_folder, max_length=12)
    query = "python developer, nurse; chef"
    queries, documents = encoder.encode([query, "chef"]), encoder.encode([LONG, "nurse"], side="document")
    assert queries.lengths.tolist() == [4, 1]  # the whole and its parts; what is one part is the whole
    vectors = plain.encode([query, "python developer", "nurse", "chef"], as_numpy=False)
    torch.testing.assert_close(queries[0:1].vectors, vectors)
    passages = plain.encode([*CHUNKS, "nurse"], as_numpy=False)
    best = torch.stack([cosine(vectors, passages)[:, :3].amax(1), cosine(vectors, passages)[:, 3]], dim=1)
    torch.testing.assert_close(max_sim(queries.padded(), documents.padded())[0], best.mean(0))


def test_parts_of_a_query_have_its_prompt_and_are_not_without_number(tiny_model_folder: Path) -> None:
    encoder = load(tiny_model_folder, query_parts=True, query_prompt="job ")
    plain = Encoder.from_pretrained(tiny_model_folder, max_length=12)
    vectors = plain.encode(["job chef, nurse", "job chef", "job nurse"], as_numpy=False)
    torch.testing.assert_close(encoder.encode(["chef, nurse"]).vectors, vectors)
    assert encoder.encode(["chef, " * 400]).lengths.tolist() == [33]


@pytest.mark.parametrize(("which", "read"), [("first", 1), ("random", 1), ("all", 3)])
def test_training_reads_the_windows_it_is_told_to(tiny_model_folder: Path, which: str, read: int) -> None:
    encoder = load(tiny_model_folder, representation="tokens", training_windows=which)
    windows = [window.tolist() for window in cached_windows(encoder.tokenizer, [LONG], max_length=12, whole=True)[0]]
    torch.manual_seed(0)
    draws = [read_in_training(encoder, [LONG, "chef"]) for _ in range(12)]
    assert all(len(rows) == read + 1 for rows in draws)
    seen = [row for rows in draws for row in rows if row in windows]
    assert {tuple(row) for row in seen} == set(map(tuple, windows[:1] if which == "first" else windows))
    torch.manual_seed(0)
    assert [read_in_training(encoder, [LONG, "chef"]) for _ in range(12)] == draws
    assert encoder.eval().encode([LONG], side="document").lengths.tolist() == [31]


@pytest.mark.parametrize("representation", ["pooled", "tokens"])
def test_queries_have_a_length_of_their_own(tiny_model_folder: Path, representation: str) -> None:
    encoder = Encoder.from_pretrained(
        tiny_model_folder, representation=representation, max_length=12, query_length=5, tokens_per_batch=40
    )
    same = ["python developer nurse", "python developer nurse engineer chef"]  # of which 3 words are read
    queries, documents = (embeddings.detach() for embeddings in encoder.embed_sides(same, same))
    torch.testing.assert_close(queries[0], queries[1])
    assert not torch.allclose(documents[0], documents[1])
    torch.testing.assert_close(queries[0], documents[0][: queries.shape[1]], rtol=1e-4, atol=1e-5)


def test_settings_of_windows_are_kept_by_a_folder(tiny_model_folder: Path, tmp_path: Path) -> None:
    encoder = load(tiny_model_folder, query_length=5)
    encoder.save_pretrained(tmp_path)
    assert Encoder.from_pretrained(tmp_path).settings == encoder.settings
    assert Encoder.from_pretrained(tmp_path, windows=False).similarity == "cosine"
    load(tiny_model_folder, query_parts=True).save_pretrained(tmp_path)
    assert Encoder.from_pretrained(tmp_path).head.query_parts


def test_what_cannot_be_is_refused(tiny_model_folder: Path, tiny_encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="expected training_windows to be one of first, random, all, got 'last'"):
        load(tiny_model_folder, training_windows="last")
    with pytest.raises(ValueError, match="expected a fast tokenizer to read documents in windows, got a slow one"):
        Encoder(tiny_encoder.backbone, ByT5Tokenizer(), PooledHead(32, windows=True), max_length=64)
    with pytest.raises(ValueError, match="expected windows=true with query_parts=true"):
        PooledHead(32, query_parts=True)
    with pytest.raises(ValueError, match="expected similarity cosine of documents in windows, got 'dot'"):
        load(tiny_model_folder, similarity="dot")
