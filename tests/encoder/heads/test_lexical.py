from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import vocabulary
from safetensors.torch import load_file, save_file
from torch import Tensor

from contrastive.encoder import Encoder, LoRA
from contrastive.encoder.heads.lexical import LexicalHead
from contrastive.encoder.language_head import Undecoded

TEXTS = ["python developer", "the nurse of the hospital, 6 years", "chef", "python python developer"]


@pytest.fixture(scope="module")
def masked_folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT with a masked-language head. Do not write to it."""
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("masked") / "tiny"
    shutil.copytree(tiny_model_folder, folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForMaskedLM(BertConfig.from_pretrained(tiny_model_folder))
        model.cls.predictions.bias.data.normal_()
    model.save_pretrained(folder)
    return folder


def lexical(folder: Path, **options: Any) -> Encoder:
    return Encoder.from_pretrained(folder, representation="lexical", tokens_per_batch=32, **options)


def by_loops(folder: Path, texts: list[str]) -> Tensor:
    """The formula, from the logits of transformers' own model."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        rows.append(torch.stack([torch.log1p(token.relu()) for token in logits]).max(0).values)
    return torch.stack(rows)


def test_equals_the_formula_over_the_logits_of_the_masked_language_head(masked_folder: Path) -> None:
    encoder, expected = lexical(masked_folder), by_loops(masked_folder, TEXTS)
    embeddings = encoder(TEXTS)
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5)
    assert embeddings.dtype == torch.float32
    assert (expected > 0).any()
    assert (expected == 0).any()
    twice = lexical(masked_folder, activation="log1p_relu")(TEXTS)
    torch.testing.assert_close(twice, expected.log1p(), rtol=1e-4, atol=1e-5)


def test_the_gradient_reaches_the_head_the_table_and_the_bias(masked_folder: Path) -> None:
    encoder = lexical(masked_folder)
    encoder(TEXTS, side="document").sum().backward()
    own = {name: weight.grad for name, weight in encoder.backbone.named_parameters() if weight.requires_grad}
    assert all(gradient is not None and gradient.any() for name, gradient in own.items() if "key.bias" not in name)
    assert {"cls.predictions.bias", "cls.predictions.transform.dense.weight"} <= own.keys()


def test_without_a_masked_language_head_the_table_decodes_and_few_terms_are_active(tiny_model_folder: Path) -> None:
    encoder = lexical(tiny_model_folder)
    table = encoder.backbone.get_input_embeddings().weight
    assert encoder.head.decoder.weight is table
    ids = encoder.tokenizer("chef", return_tensors="pt")
    logits = (encoder.backbone(**ids).last_hidden_state[0] @ table.T).max(0).values + encoder.head.decoder.bias
    torch.testing.assert_close(encoder(["chef"])[0], logits.relu().log1p(), rtol=1e-4, atol=1e-5)
    long = "a text of several words, not one of which the vocabulary has whole"
    assert 0 < (encoder([long]) > 0).sum() < 0.1 * encoder.dimension
    assert "head.decoder.bias" in dict(encoder.named_parameters())


def test_a_checkpoint_with_a_masked_language_head_still_opens_as_pooled(masked_folder: Path) -> None:
    encoder = Encoder.from_pretrained(masked_folder)
    assert encoder.dimension == 32
    assert not any(isinstance(module, Undecoded) for module in encoder.modules())


def test_learnt_queries_are_their_terms_and_never_reach_the_model(
    masked_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = lexical(masked_folder, query_weights="learnt")
    ids = vocabulary()
    with torch.no_grad():
        encoder.head.weights[ids["python"]] = 2.5
        encoder.head.weights[ids["chef"]] = -1
    queries, documents = encoder.embed_sides(TEXTS, TEXTS)
    torch.testing.assert_close(documents, by_loops(masked_folder, TEXTS), rtol=1e-4, atol=1e-5)
    expected = torch.zeros(len(ids))
    expected[ids["python"]], expected[ids["developer"]] = 2.5, 1
    assert torch.equal(queries[0], expected)
    assert torch.equal(queries[3], expected)
    assert not queries[2].any()
    (queries @ documents.T).sum().backward()
    gradient = encoder.head.weights.grad
    assert gradient[ids["developer"]] != 0
    assert not gradient[encoder.tokenizer.all_special_ids].any()
    monkeypatch.setattr(type(encoder.backbone), "forward", lambda *_, **__: pytest.fail("reads a query"))
    assert torch.equal(encoder(TEXTS), queries)


def test_long_documents_weigh_a_term_as_the_window_where_it_weighs_most(masked_folder: Path) -> None:
    encoder = lexical(masked_folder, windows=True, max_length=6)
    words = ["python", "developer", "nurse", "engineer", "chef", "data"]
    windows = [" ".join(words[:4]), " ".join(words[4:])]
    expected = torch.maximum(*encoder.encode(windows, side="document", as_numpy=False))
    texts = [windows[1], " ".join(words), windows[0]]
    torch.testing.assert_close(encoder.encode(texts, side="document", as_numpy=False)[1], expected)
    encoder.training_windows = "all"
    trained = encoder.train()(texts, side="document")
    assert trained.shape == (3, encoder.dimension)
    trained.sum().backward()


def test_an_adapter_trains_and_is_saved(masked_folder: Path, tmp_path: Path) -> None:
    encoder = lexical(masked_folder, lora=LoRA(rank=2))
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            weight.data.normal_()
    encoder.save_pretrained(tmp_path)
    for folder in (tmp_path, tmp_path / "adapter"):
        loaded = Encoder.from_pretrained(folder)
        torch.testing.assert_close(loaded(TEXTS), encoder(TEXTS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"query_weights": "learnt"}, {"activation": "log1p_relu"}], ids=str)
@pytest.mark.parametrize("has_head", [True, False], ids=["masked-language head", "tied"])
def test_a_saved_folder_gives_sparse_encoder_the_same_scores(
    masked_folder: Path, tiny_model_folder: Path, tmp_path: Path, has_head: bool, options: dict[str, Any]
) -> None:
    from sentence_transformers import SparseEncoder

    encoder = lexical(masked_folder if has_head else tiny_model_folder, **options)
    if encoder.head.weights is not None:
        encoder.head.weights.data += 0.1 * torch.arange(encoder.dimension) * (encoder.head.weights.data > 0)
    if not has_head:
        encoder.head.decoder.bias.data += 1  # more terms than a hundredth of 150
    encoder.save_pretrained(tmp_path)
    queries, documents = (encoder.encode(TEXTS, side=side, as_numpy=False) for side in ("query", "document"))
    theirs = SparseEncoder(str(tmp_path), device="cpu")
    of_queries = theirs.encode_query(TEXTS, convert_to_sparse_tensor=False)
    of_documents = theirs.encode_document(TEXTS, convert_to_sparse_tensor=False)
    torch.testing.assert_close(of_queries, queries, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of_documents, documents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs.similarity(of_queries, of_documents), queries @ documents.T, rtol=1e-4, atol=1e-4)
    loaded = Encoder.from_pretrained(tmp_path)
    assert loaded.settings == encoder.settings
    torch.testing.assert_close(loaded.encode(TEXTS, as_numpy=False), queries)
    torch.testing.assert_close(loaded.encode(TEXTS, side="document", as_numpy=False), documents)


@pytest.mark.parametrize("routed", [False, True], ids=["one way", "queries without the model"])
def test_a_folder_of_sparse_encoder_gives_the_same_scores(masked_folder: Path, tmp_path: Path, routed: bool) -> None:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import (
        Router,
        SparseStaticEmbedding,
        SpladePooling,
        Transformer,
    )

    theirs = SparseEncoder(str(masked_folder), device="cpu")
    if routed:
        chain = [Transformer(str(masked_folder), transformer_task="fill-mask"), SpladePooling()]
        queries = SparseStaticEmbedding(tokenizer=theirs.tokenizer, weight=torch.rand(len(vocabulary())))
        theirs = SparseEncoder(modules=[Router.for_query_document([queries], chain)], device="cpu")
    theirs.save_pretrained(str(tmp_path))
    encoder = Encoder.from_pretrained(tmp_path)
    assert encoder.representation == "lexical"
    assert encoder.similarity == "dot"
    for side, embed in (("query", theirs.encode_query), ("document", theirs.encode_document)):
        expected = embed(TEXTS, convert_to_sparse_tensor=False)
        torch.testing.assert_close(encoder.encode(TEXTS, side=side, as_numpy=False), expected, rtol=1e-4, atol=1e-4)


def test_what_a_folder_asks_for_and_is_not_implemented_is_refused(masked_folder: Path, tmp_path: Path) -> None:
    lexical(masked_folder).save_pretrained(tmp_path)
    path = tmp_path / "1_SpladePooling/config.json"
    path.write_text(json.dumps({"pooling_strategy": "sum"}))
    with pytest.raises(ValueError, match="pools by 'sum', which is not supported; supported is max"):
        Encoder.from_pretrained(tmp_path)
    path.write_text("{}")
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"transformer_task": "feature-extraction"}))
    with pytest.raises(ValueError, match=r"sets transformer_task to 'feature-extraction', .*its head takes fill-mask"):
        Encoder.from_pretrained(tmp_path)
    lexical(masked_folder, query_weights="learnt").save_pretrained(tmp_path)
    router = json.loads((tmp_path / "router_config.json").read_text())
    router["structure"]["query"] = ["1_SpladePooling"]
    (tmp_path / "router_config.json").write_text(json.dumps(router))
    with pytest.raises(ValueError, match=r"routes queries through .*supported is SparseStaticEmbedding"):
        Encoder.from_pretrained(tmp_path)


def test_a_decoder_that_is_not_the_table_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    lexical(tiny_model_folder).save_pretrained(tmp_path)
    path = tmp_path / "1_Dense/model.safetensors"
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    with pytest.raises(ValueError, match="1_Dense decodes by other vectors than the model has for its tokens"):
        Encoder.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "1_Dense/config.json").read_text())
    (tmp_path / "1_Dense/config.json").write_text(json.dumps({**config, "bias": False}))
    with pytest.raises(ValueError, match="supported is only one that decodes the vectors of tokens"):
        Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "tanh"}, "expected activation to be one of relu, log1p_relu, got 'tanh'"),
        ({"query_weights": "idf"}, "expected query_weights to be one of encoder, learnt, got 'idf'"),
        ({"similarity": "max_sim"}, "expected dot, cosine or euclidean similarity"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LexicalHead(8, **options)
