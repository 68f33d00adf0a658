import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from numpy.testing import assert_allclose
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from contrastive.encoder import Encoder, embedded_minilm, reading
from contrastive.encoder.adapters import LoRA
from contrastive.encoder.heads import HEADS
from contrastive.encoder.heads.pooling import POOLINGS, Pooling
from contrastive.encoder.micro_batches import default_tokens_per_batch
from contrastive.encoder.two_towers import TwoTowers
from contrastive.similarity import similarity_of

TEXTS = [
    "python developer",
    "the nurse of the hospital in the city, 6 years",
    "",
    "chef",
    "data engineer with python, data and more data, and then some more words until it is long",
    "chef",
    "Job!",
]
WAYS = [("mean", True), ("mean", False), ("cls", True), ("cls", False), ("last", True), ("last", False)]


def backbone_batches(encoder: Encoder) -> list[tuple[int, ...]]:
    """Record the shape [rows, tokens] of every batch that goes through the backbone from now on."""
    shapes: list[tuple[int, ...]] = []

    def record(_module: torch.nn.Module, _args: tuple[()], inputs: dict[str, Tensor]) -> None:
        shapes.append(tuple(inputs["input_ids"].shape))

    encoder.backbone.register_forward_pre_hook(record, with_kwargs=True)
    return shapes


def value_and_gradients(encoder: Encoder) -> tuple[Tensor, dict[str, Tensor]]:
    encoder.zero_grad()
    embeddings = encoder(TEXTS)
    torch.manual_seed(0)
    (embeddings * torch.randn(embeddings.shape)).sum().backward()
    return embeddings.detach(), {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}


# What a forward gives


@pytest.mark.parametrize(("pooling", "normalize_"), WAYS)
def test_equals_the_backbone_one_text_at_a_time(tiny_model_folder: Path, pooling: Pooling, normalize_: bool) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, pooling=pooling, normalize=normalize_).double()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    backbone = AutoModel.from_pretrained(tiny_model_folder).double()
    rows = []
    for text in TEXTS:
        inputs = tokenizer(text, return_tensors="pt")
        pooled = POOLINGS[pooling](backbone(**inputs).last_hidden_state, inputs["attention_mask"])
        rows.append(normalize(pooled, dim=-1) if normalize_ else pooled)
    torch.testing.assert_close(encoder(TEXTS), torch.cat(rows), atol=1e-12, rtol=0)


@pytest.mark.parametrize("tokens_per_batch", [1, 32, 10_000])
def test_bucketed_equals_plain_in_value_and_gradient(tiny_encoder: Encoder, tokens_per_batch: int) -> None:
    tiny_encoder.double()  # so that only a real difference is seen
    tiny_encoder.tokens_per_batch = tokens_per_batch
    bucketed, bucketed_gradients = value_and_gradients(tiny_encoder)
    tiny_encoder.bucketed = False
    plain, plain_gradients = value_and_gradients(tiny_encoder)
    torch.testing.assert_close(bucketed, plain, atol=1e-12, rtol=0)
    assert len(plain_gradients) > 30
    assert bucketed_gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(bucketed_gradients[name], gradient, atol=1e-12, rtol=1e-12)


def test_plain_is_one_batch_as_it_comes(tiny_encoder: Encoder) -> None:
    shapes = backbone_batches(tiny_encoder)
    tiny_encoder.bucketed = False
    tiny_encoder(["chef", "the chef", "chef"])
    assert shapes == [(3, 4)]


def test_forward_cuts_by_the_budget_longest_first(tiny_encoder: Encoder) -> None:
    shapes = backbone_batches(tiny_encoder)
    tiny_encoder.tokens_per_batch = 32
    # 3, 6, 5 and 15 tokens with [CLS] and [SEP]
    tiny_encoder(["chef", "the chef the chef", "the nurse job", "data " * 13])
    assert shapes == [(1, 15), (3, 6)]


def test_distinct_texts_are_encoded_once(tiny_encoder: Encoder) -> None:
    shapes = backbone_batches(tiny_encoder)
    embeddings = tiny_encoder(["chef", "nurse", "chef", "chef"])
    assert shapes == [(2, 3)]
    assert torch.equal(embeddings[[0, 0, 0]], embeddings[[0, 2, 3]])
    assert not torch.allclose(embeddings[0], embeddings[1])


def test_duplicates_share_dropout_unless_told_otherwise(tiny_encoder: Encoder) -> None:
    tiny_encoder.train()
    shared = tiny_encoder(["chef", "nurse", "chef"])
    assert torch.equal(shared[0], shared[2])
    views = tiny_encoder(["chef", "nurse", "chef"], deduplicate=False)
    assert not torch.allclose(views[0], views[2])


def test_deduplicate_false_keeps_the_order(tiny_encoder: Encoder) -> None:
    torch.testing.assert_close(tiny_encoder(TEXTS, deduplicate=False), tiny_encoder(TEXTS), atol=1e-6, rtol=0)


def test_dropout_is_active_in_train_mode_only(tiny_encoder: Encoder) -> None:
    assert not any(module.training for module in tiny_encoder.modules())
    assert torch.equal(tiny_encoder(["chef"]), tiny_encoder(["chef"]))
    tiny_encoder.train()
    assert not torch.allclose(tiny_encoder(["chef"]), tiny_encoder(["chef"]))


def test_does_not_depend_on_the_rest_of_the_batch(tiny_encoder: Encoder) -> None:
    together = tiny_encoder.encode(TEXTS)
    for text, embedding in zip(TEXTS, together, strict=True):
        assert_allclose(tiny_encoder.encode([text])[0], embedding, atol=1e-6)
    assert_allclose(tiny_encoder.encode(TEXTS[::-1])[::-1], together, atol=1e-6)


def test_pads_on_the_right_whatever_the_tokenizer_prefers(tiny_encoder: Encoder) -> None:
    expected = tiny_encoder.encode(TEXTS)
    tiny_encoder.tokenizer.padding_side = "left"
    assert_allclose(tiny_encoder.encode(TEXTS, tokens_per_batch=1000), expected, atol=1e-6)


@pytest.mark.parametrize("bucketed", [True, False])
def test_an_empty_list(tiny_encoder: Encoder, bucketed: bool) -> None:
    tiny_encoder.bucketed = bucketed
    assert tiny_encoder([]).shape == (0, 32)
    assert tiny_encoder.encode([]).shape == (0, 32)


def test_an_empty_text_without_special_tokens(tiny_encoder: Encoder) -> None:
    tiny_encoder.tokenizer = without_special_tokens(tiny_encoder.tokenizer)
    embeddings = tiny_encoder(["", "chef"])
    embeddings.sum().backward()
    assert embeddings.isfinite().all()
    torch.testing.assert_close(tiny_encoder([""]), embeddings[:1], atol=1e-6, rtol=0)
    assert all(p.grad is None or p.grad.isfinite().all() for p in tiny_encoder.parameters())


def without_special_tokens(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    class Bare:
        pad_token_id = None
        init_kwargs: ClassVar[dict[str, Any]] = {}

        def __len__(self) -> int:
            return len(tokenizer)

        def get_vocab(self) -> dict[str, int]:
            return tokenizer.get_vocab()

        def __call__(self, texts: list[str], **options: Any) -> Any:
            return tokenizer(texts, add_special_tokens=False, **options)

    return Bare()  # type: ignore[return-value]


def test_long_texts_are_cut(tiny_encoder: Encoder) -> None:
    shapes = backbone_batches(tiny_encoder)
    embedding = tiny_encoder.encode(["data " * 20_000])
    assert shapes == [(1, 64)]
    assert_allclose(embedding, tiny_encoder.encode(["data " * 62]), atol=1e-6)


def test_half_an_emoji_is_embedded(tiny_encoder: Encoder) -> None:
    assert_allclose(tiny_encoder.encode(["chef \ud83d"]), tiny_encoder.encode(["chef ?"]))


def test_float32_out_under_autocast(tiny_encoder: Encoder) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = tiny_encoder(["chef", "nurse"])
    assert embeddings.dtype == torch.float32
    assert_allclose(embeddings.detach().norm(dim=1), 1.0, atol=1e-6)


def test_counts_tokens(tiny_encoder: Encoder) -> None:
    tiny_encoder.tokens_per_batch = 32
    tiny_encoder(["chef", "the chef the chef", "the nurse job", "data " * 13, "chef"])
    assert tiny_encoder.tokens_seen.real == 3 + 6 + 5 + 15
    assert tiny_encoder.tokens_seen.padded == 3 * 6 + 15
    tiny_encoder(["chef"])
    assert tiny_encoder.tokens_seen.real == 3 + 6 + 5 + 15 + 3


@pytest.mark.parametrize("call", [lambda e: e, lambda e: e.encode], ids=["forward", "encode"])
def test_refuses_what_is_not_text(tiny_encoder: Encoder, call: Callable[[Encoder], Callable[..., Any]]) -> None:
    embed = call(tiny_encoder)
    with pytest.raises(TypeError, match="got int at index 2: 3"):
        embed(["a", "b", 3])
    with pytest.raises(TypeError, match="got one text: 'chef'"):
        embed("chef")
    with pytest.raises(ValueError, match='expected side "query" or "document", got \'passage\''):
        embed(["chef"], side="passage")


# Leading dimensions


@pytest.mark.parametrize("normalize_", [False, True])
@pytest.mark.parametrize("bucketed", [False, True])
def test_keeps_leading_dimensions(tiny_model_folder: Path, normalize_: bool, bucketed: bool) -> None:
    whole = Encoder.from_pretrained(tiny_model_folder)
    cut = Encoder.from_pretrained(tiny_model_folder, dimension=7, normalize=normalize_, bucketed=bucketed)
    expected = whole(TEXTS)[:, :7]
    if normalize_:
        expected = expected / expected.norm(dim=1, keepdim=True)
    assert cut.dimension == 7
    torch.testing.assert_close(cut(TEXTS), expected, atol=1e-6, rtol=0)
    assert_allclose(cut.encode(TEXTS), expected.detach(), atol=1e-6)
    assert cut([]).shape == cut.encode([]).shape == (0, 7)


def test_all_dimensions_are_the_default(tiny_model_folder: Path) -> None:
    whole = Encoder.from_pretrained(tiny_model_folder, normalize=True)
    said = Encoder.from_pretrained(tiny_model_folder, normalize=True, dimension=32)
    assert said.settings == whole.settings
    assert np.array_equal(said.encode(TEXTS), whole.encode(TEXTS))


@pytest.mark.parametrize("dimension", [0, -1, 33])
def test_an_impossible_dimension_is_refused(tiny_model_folder: Path, dimension: int) -> None:
    with pytest.raises(ValueError, match=f"expected dimension from 1 to 32 for this model, got {dimension}"):
        Encoder.from_pretrained(tiny_model_folder, dimension=dimension)


@pytest.mark.parametrize("normalize_", [False, True])
def test_a_saved_folder_gives_the_same_leading_dimensions(
    tiny_model_folder: Path, tmp_path: Path, normalize_: bool
) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = Encoder.from_pretrained(tiny_model_folder, dimension=7, normalize=normalize_, query_prompt="job: ")
    encoder.save_pretrained(tmp_path)
    expected = encoder.encode(TEXTS)
    ours = Encoder.from_pretrained(tmp_path)
    assert ours.settings == encoder.settings
    assert np.array_equal(ours.encode(TEXTS), expected)
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    assert theirs.get_embedding_dimension() == 7
    assert_allclose(theirs.encode_query(TEXTS), expected, atol=1e-6)
    theirs.save_pretrained(str(tmp_path / "again"))
    assert_allclose(Encoder.from_pretrained(tmp_path / "again").encode(TEXTS), expected, atol=1e-6)
    assert Encoder.from_pretrained(tmp_path, dimension=20).encode(TEXTS).shape == (len(TEXTS), 20)


def test_the_settings_are_all_that_decides(tiny_model_folder: Path) -> None:
    settings: dict[str, Any] = {
        "representation": "pooled",
        "pooling": "cls",
        "normalize": True,
        "dimension": 7,
        "query_prompt": "job: ",
        "document_prompt": "data ",
        "max_length": 20,
        "similarity": "dot",
        "windows": False,
        "query_length": 9,
    }
    encoder = Encoder.from_pretrained(tiny_model_folder, **settings)
    assert encoder.settings == settings
    assert np.array_equal(Encoder.from_pretrained(tiny_model_folder, **settings).encode(TEXTS), encoder.encode(TEXTS))


# Prompts


def test_the_side_chooses_the_prompt(tiny_model_folder: Path, tiny_encoder: Encoder) -> None:
    prompted = Encoder.from_pretrained(
        tiny_model_folder, normalize=True, query_prompt="job the ", document_prompt="data "
    )
    assert_allclose(prompted.encode(["chef"]), tiny_encoder.encode(["job the chef"]), atol=1e-6)
    assert_allclose(prompted.encode(["chef"], side="document"), tiny_encoder.encode(["data chef"]), atol=1e-6)
    for side in ("query", "document"):
        embeddings = prompted(["chef", "nurse", "chef"], side=side).detach()
        assert_allclose(embeddings, prompted.encode(["chef", "nurse", "chef"], side=side), atol=1e-6)


# encode


def test_encode_equals_forward_in_order(tiny_encoder: Encoder) -> None:
    embeddings = tiny_encoder.encode(TEXTS)
    assert embeddings.dtype == np.float32
    assert_allclose(embeddings, tiny_encoder(TEXTS).detach(), atol=1e-6)
    assert np.array_equal(tiny_encoder.encode(TEXTS, as_numpy=False).numpy(), embeddings)


def test_encode_in_several_chunks(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tiny_encoder.encode(TEXTS)
    monkeypatch.setattr(reading, "_TEXTS_PER_TOKENIZATION", 2)
    shapes = backbone_batches(tiny_encoder)
    assert_allclose(tiny_encoder.encode(TEXTS, tokens_per_batch=10_000), expected, atol=1e-6)
    assert [rows for rows, _ in shapes] == [2, 2, 2]
    lengths = [length for _, length in shapes]
    assert lengths == sorted(lengths, reverse=True)


def test_encode_gives_float32_whatever_the_weights_are(tiny_encoder: Encoder) -> None:
    expected = tiny_encoder.encode(TEXTS)
    embeddings = tiny_encoder.double().encode(TEXTS)
    assert embeddings.dtype == np.float32
    assert_allclose(embeddings, expected, atol=1e-6)


def test_encode_keeps_to_the_budget_it_is_given(tiny_encoder: Encoder) -> None:
    shapes = backbone_batches(tiny_encoder)
    tiny_encoder.encode(["chef", "nurse", "data", "job"], tokens_per_batch=6)
    tiny_encoder.encode(["chef", "nurse", "data", "job"])
    assert shapes == [(2, 3), (2, 3), (4, 3)]


def test_encode_restores_the_mode_of_every_module(tiny_encoder: Encoder) -> None:
    tiny_encoder.train()
    tiny_encoder.backbone.embeddings.eval()
    before = [module.training for module in tiny_encoder.modules()]
    assert np.array_equal(tiny_encoder.encode(["chef"]), tiny_encoder.encode(["chef"]))
    with pytest.raises(TypeError):
        tiny_encoder.encode(["chef", 1])  # type: ignore[list-item]
    assert [module.training for module in tiny_encoder.modules()] == before


def test_encode_restores_the_mode_after_a_failure(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_encoder.train()
    monkeypatch.setattr(tiny_encoder, "_embed", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny_encoder.encode(["chef"])
    assert all(module.training for module in tiny_encoder.modules())


def test_encode_has_no_gradient_but_may_meet_one(tiny_encoder: Encoder) -> None:
    teacher = tiny_encoder.encode(["chef", "nurse"], as_numpy=False)
    assert not teacher.requires_grad
    assert not teacher.is_inference()
    (tiny_encoder(["chef", "nurse"]) * teacher).sum().backward()


def test_encode_runs_in_inference_mode(tiny_encoder: Encoder) -> None:
    modes: list[bool] = []
    tiny_encoder.backbone.register_forward_pre_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    tiny_encoder.encode(["chef"])
    assert modes == [True]


def test_encode_ignores_autocast_unless_asked(tiny_encoder: Encoder) -> None:
    expected = tiny_encoder.encode(TEXTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(tiny_encoder.encode(TEXTS), expected)
    asked = tiny_encoder.encode(TEXTS, autocast=torch.bfloat16)
    assert asked.dtype == np.float32
    assert 1e-5 < np.abs(asked - expected).max() < 0.1


def test_progress_is_counted_in_texts(
    tiny_encoder: Encoder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contrastive.encoder.encoder.tqdm", partial(tqdm, mininterval=0, miniters=1))  # draw every step
    texts = [f"job {i}" for i in range(23)]
    tiny_encoder.encode(texts)
    assert capsys.readouterr().err == ""
    tiny_encoder.encode(texts, show_progress=True)
    assert "23/23" in capsys.readouterr().err


# Making one


def test_dimension_and_device(tiny_encoder: Encoder) -> None:
    assert tiny_encoder.dimension == 32
    assert tiny_encoder.device == torch.device("cpu")


@pytest.mark.parametrize("max_length", [2, 65])
def test_an_impossible_maximum_length_is_refused(tiny_model_folder: Path, max_length: int) -> None:
    with pytest.raises(ValueError, match=f"expected max_length from 3 to 64 for this model, got {max_length}"):
        Encoder.from_pretrained(tiny_model_folder, max_length=max_length)


def test_maximum_length_counts_special_tokens(tiny_model_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, max_length=5)
    assert_allclose(encoder.encode(["the chef data job job"]), encoder.encode(["the chef data"]), atol=1e-6)


def test_impossible_arguments_are_refused(tiny_model_folder: Path) -> None:
    with pytest.raises(ValueError, match="pooling to be one of mean, cls, last, got 'max'"):
        Encoder.from_pretrained(tiny_model_folder, pooling="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tokens_per_batch of at least 1, got 0"):
        Encoder.from_pretrained(tiny_model_folder, tokens_per_batch=0)


@pytest.fixture
def prompted_folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A folder with its own opinion on everything."""
    encoder = Encoder.from_pretrained(
        tiny_model_folder,
        pooling="cls",
        normalize=True,
        query_prompt="job: ",
        document_prompt="data: ",
        max_length=40,
    )
    encoder.save_pretrained(tmp_path / "prompted")
    return tmp_path / "prompted"


def test_a_folder_brings_its_settings(prompted_folder: Path) -> None:
    encoder = Encoder.from_pretrained(prompted_folder)
    assert (encoder.head.pooling, encoder.normalize, encoder.max_length) == ("cls", True, 40)
    assert (encoder.query_prompt, encoder.document_prompt) == ("job: ", "data: ")


def test_arguments_override_the_folder(prompted_folder: Path) -> None:
    encoder = Encoder.from_pretrained(
        prompted_folder, pooling="last", normalize=False, query_prompt="", document_prompt="x", max_length=50
    )
    assert (encoder.head.pooling, encoder.normalize, encoder.max_length) == ("last", False, 50)
    assert (encoder.query_prompt, encoder.document_prompt) == ("", "x")


def test_lower_casing_is_refused_only_where_it_matters(prompted_folder: Path) -> None:
    (prompted_folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    Encoder.from_pretrained(prompted_folder)
    tokenizer = AutoTokenizer.from_pretrained(prompted_folder)
    cased = type(tokenizer)(vocab=tokenizer.get_vocab(), do_lower_case=False)
    cased.save_pretrained(prompted_folder)
    with pytest.raises(ValueError, match="lower-cases texts before a cased tokenizer"):
        Encoder.from_pretrained(prompted_folder)


# Saving


@pytest.mark.parametrize(("pooling", "normalize_"), WAYS)
def test_a_saved_folder_loads_in_three_ways(
    tiny_model_folder: Path, tmp_path: Path, pooling: Pooling, normalize_: bool
) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = Encoder.from_pretrained(
        tiny_model_folder,
        pooling=pooling,
        normalize=normalize_,
        query_prompt="job: ",
        document_prompt="data: ",
        max_length=20,
    )
    with torch.no_grad():  # what is saved must be these weights and not those it was loaded from
        encoder.backbone.embeddings.word_embeddings.weight.mul_(1.5)
    encoder.save_pretrained(tmp_path)
    queries, documents = encoder.encode(TEXTS), encoder.encode(TEXTS, side="document")
    assert np.abs(queries - documents).max() > 0.01

    ours = Encoder.from_pretrained(tmp_path)
    assert_allclose(ours.encode(TEXTS), queries, atol=1e-5)
    assert_allclose(ours.encode(TEXTS, side="document"), documents, atol=1e-5)

    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    assert (theirs.max_seq_length, theirs.similarity_fn_name) == (20, "cosine")
    assert_allclose(theirs.encode_query(TEXTS), queries, atol=1e-5)
    assert_allclose(theirs.encode_document(TEXTS), documents, atol=1e-5)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer(["job: " + text for text in TEXTS], padding=True, truncation=True, return_tensors="pt")
    hidden = AutoModel.from_pretrained(tmp_path)(**inputs).last_hidden_state
    pooled = POOLINGS[pooling](hidden, inputs["attention_mask"]).detach()
    assert_allclose(normalize(pooled, dim=-1) if normalize_ else pooled, queries, atol=1e-5)


def test_every_saved_file_states_the_same_maximum_length(tmp_path: Path) -> None:
    # As it comes, this model says 128, 256 and 512.
    Encoder.from_pretrained(embedded_minilm(), max_length=200).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == 200
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).truncation["max_length"] == 200
    assert "128" not in (tmp_path / "tokenizer_config.json").read_text()


def test_saving_keeps_the_frozen_pooler(tiny_encoder: Encoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path)
    saved = AutoModel.from_pretrained(tmp_path).pooler.dense.weight
    assert torch.equal(saved, tiny_encoder.backbone.pooler.dense.weight)


def test_reads_what_sentence_transformers_saves(tiny_model_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    transformer = modules.Transformer(str(tiny_model_folder), max_seq_length=10)
    chain = [transformer, modules.Pooling(32, pooling_mode="lasttoken"), modules.Normalize()]
    theirs = SentenceTransformer(modules=chain, prompts={"query": "job: "}, device="cpu")
    theirs.save_pretrained(str(tmp_path))
    ours = Encoder.from_pretrained(tmp_path)
    assert ours.max_length == 10
    assert_allclose(ours.encode(TEXTS), theirs.encode_query(TEXTS), atol=1e-5)
    assert_allclose(ours.encode(TEXTS, side="document"), theirs.encode_document(TEXTS), atol=1e-5)


def test_the_embedded_model_equals_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["python developer", "A nurse for our hospital in Lyon. " * 40, "Pâtissier!"]
    ours = Encoder.from_pretrained(embedded_minilm())
    theirs = SentenceTransformer(embedded_minilm(), device="cpu")
    assert (ours.max_length, ours.head.pooling, ours.normalize) == (256, "mean", True)
    assert_allclose(ours.encode(texts), theirs.encode(texts), atol=1e-5)


# Configuration

ENCODERS = Path(__file__).parents[2] / "configs" / "encoder"


@pytest.mark.parametrize("name", ["minilm", "pretrained"])
def test_configs_name_real_arguments(name: str) -> None:
    config = yaml.safe_load((ENCODERS / f"{name}.yaml").read_text())
    assert config.pop("_target_") == "contrastive.encoder.load_encoder"
    assert config.pop("two_towers") is False
    arguments = inspect.signature(Encoder.from_pretrained).parameters.keys()
    of_head = {name for head in HEADS.values() for name in inspect.signature(head).parameters} - {"width"}
    assert config.keys() == (arguments | of_head) - {"of_head", "bucketed"}  # the reference, not a choice
    assert config["lora"].pop("_target_") == "contrastive.encoder.LoRA"
    assert config["lora"].keys() == inspect.signature(LoRA).parameters.keys()


@pytest.fixture
def configure(tiny_model_folder: Path) -> Callable[..., Encoder | TwoTowers]:
    """Builds the encoder of a command line, on the tiny model."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    def build(*overrides: str, name: str = "pretrained") -> Encoder | TwoTowers:
        choice = [f"+encoder={name}", *([f"encoder.name_or_path={tiny_model_folder}"] if name == "pretrained" else [])]
        with initialize_config_dir(str(ENCODERS.parent), version_base="1.3"):
            encoder: Encoder | TwoTowers = instantiate(compose(overrides=[*choice, *overrides]).encoder)
        return encoder

    return build


def test_the_default_config_makes_an_encoder(configure: Callable[..., Any]) -> None:
    encoder = configure(name="minilm")
    assert (encoder.dimension, encoder.max_length, encoder.normalize) == (384, 256, True)
    plain = Encoder.from_pretrained(embedded_minilm(), max_length=256)
    assert np.array_equal(encoder.encode(TEXTS), plain.encode(TEXTS))
    assert [p.requires_grad for p in encoder.parameters()] == [p.requires_grad for p in plain.parameters()]
    assert not encoder.backbone.is_activation_checkpointing


@pytest.mark.parametrize(
    ("override", "holds"),
    [
        ("encoder.lora.rank=4", lambda e: {n.split(".")[-3] for n, p in e.named_parameters() if p.requires_grad}
         == {"lora_A", "lora_B"}),
        ("encoder.lora=null", lambda e: e.backbone.embeddings.word_embeddings.weight.requires_grad),
        ("encoder.frozen_layers=1", lambda e: not e.backbone.encoder.layer[0].output.dense.weight.requires_grad),
        ("encoder.gradient_checkpointing=true", lambda e: e.backbone.is_activation_checkpointing),
        ("encoder.dimension=7", lambda e: e.encode(["chef"]).shape == (1, 7)),
        ("encoder.two_towers=true", lambda e: isinstance(e, TwoTowers)),
    ],
)  # fmt: skip
def test_each_switch_is_one_override(
    configure: Callable[..., Any], override: str, holds: Callable[[Any], bool]
) -> None:
    assert holds(configure(override))


def test_targets_come_from_the_command_line(configure: Callable[..., Any], tmp_path: Path) -> None:
    encoder = configure("encoder.lora.rank=2", "encoder.lora.target_modules=[key,output.dense]")
    assert {n.split(".lora_")[0].split(".")[-2] for n, p in encoder.named_parameters() if p.requires_grad} == {
        "self",
        "output",
    }
    encoder.save_pretrained(tmp_path)  # with the names as plain text, not as Hydra's lists


def test_a_misspelt_switch_is_refused(configure: Callable[..., Any]) -> None:
    from hydra.errors import ConfigCompositionException

    with pytest.raises(ConfigCompositionException, match=r"encoder\.lora\.rnak"):
        configure("encoder.lora.rnak=4")


@pytest.mark.parametrize("deduplicate", [True, False])
def test_both_sides_together_equal_each_alone(tiny_encoder: Encoder, deduplicate: bool) -> None:
    tiny_encoder.query_prompt, tiny_encoder.document_prompt = "data: ", ""
    queries, documents = ["nurse", "chef", "nurse"], ["the kitchen job", "data: nurse", "hospital years"]
    together = tiny_encoder.embed_sides(queries, documents, deduplicate=deduplicate)
    for embedded, texts, side in zip(together, (queries, documents), ("query", "document"), strict=True):
        alone = tiny_encoder(texts, side=side)
        torch.testing.assert_close(embedded, alone)
    weights = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    gradients = []
    for pair in (together, (tiny_encoder(queries, side="query"), tiny_encoder(documents, side="document"))):
        tiny_encoder.zero_grad()
        (torch.cat(pair) * weights).sum().backward()
        gradients.append([p.grad.clone() for p in tiny_encoder.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_two_views_of_one_text_have_dropout_of_their_own_in_training_only(tiny_encoder: Encoder) -> None:
    tiny_encoder.query_prompt, tiny_encoder.document_prompt = "data ", "data "
    queries = ["the chef", "a nurse", "the chef", "hospital", "engineer"]
    documents = ["the chef", "kitchen", "the chef", "kitchen", "engineer", "the chef", "a nurse", "engineer"]
    views, keys = tiny_encoder.embed_sides(queries, documents)
    torch.testing.assert_close(views[[0, 2, 4]], keys[[0, 2, 4]])
    tiny_encoder.train()
    views, keys = tiny_encoder.embed_sides(queries, documents)
    assert all((view - key).abs().max() > 0.01 for view, key in zip(views[[0, 2, 4]], keys[[0, 2, 4]], strict=True))
    assert torch.equal(views[0], views[2])  # other repetitions are encoded once, also across the sides
    assert torch.equal(keys[0], keys[5])
    assert torch.equal(keys[4], keys[7])
    assert torch.equal(keys[1], keys[3])
    assert torch.equal(views[1], keys[6])
    tiny_encoder.document_prompt = ""
    before = tiny_encoder.tokens_seen.real
    tiny_encoder.embed_sides(["nurse"], ["nurse", "data nurse"])
    assert tiny_encoder.tokens_seen.real - before == 4 + 3  # its pair has another prompt, and the last is the query


def test_micro_batches_are_cut_from_both_sides_together(tiny_encoder: Encoder) -> None:
    tiny_encoder.tokens_per_batch = 100
    batches: list[int] = []
    tiny_encoder.backbone.register_forward_hook(lambda *_: batches.append(1))
    tiny_encoder.embed_sides(["nurse", "chef"], ["the job", "nurse", "data"])
    assert len(batches) == 1
    assert tiny_encoder.tokens_seen.real == 3 + 3 + 4 + 3  # "nurse" is on both sides
    queries, documents = tiny_encoder.embed_sides([], ["data"])
    assert queries.shape == (0, 32)
    assert documents.shape == (1, 32)


def test_a_budget_that_is_not_given_suits_the_device(tiny_model_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder)
    assert encoder._budget == 4096
    assert default_tokens_per_batch(torch.device("cuda")) == 16_384


# Similarity


def test_the_similarity_is_kept_and_read_by_sentence_transformers_too(tiny_model_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    assert Encoder.from_pretrained(tiny_model_folder).similarity == "cosine"
    for name in ("dot", "euclidean", "cosine"):
        encoder = Encoder.from_pretrained(tiny_model_folder, similarity=name)  # type: ignore[arg-type]
        encoder.save_pretrained(tmp_path / name)
        assert Encoder.from_pretrained(tmp_path / name).similarity == name
        theirs = SentenceTransformer(str(tmp_path / name), device="cpu")
        queries, documents = (
            encoder.encode(TEXTS, as_numpy=False),
            encoder.encode(TEXTS, side="document", as_numpy=False),
        )
        ours = similarity_of(encoder)(queries, documents)
        assert_allclose(theirs.similarity(theirs.encode_query(TEXTS), theirs.encode_document(TEXTS)), ours, atol=1e-3)
    assert Encoder.from_pretrained(tmp_path / "dot", similarity="cosine").similarity == "cosine"


def test_a_similarity_that_is_not_known_is_refused_unless_another_is_said(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    Encoder.from_pretrained(tiny_model_folder).save_pretrained(tmp_path)
    path = tmp_path / "config_sentence_transformers.json"
    path.write_text(path.read_text().replace("cosine", "manhattan"))
    with pytest.raises(ValueError, match=r"similarity_fn_name of .* one of cosine.*, got 'manhattan'"):
        Encoder.from_pretrained(tmp_path)
    assert Encoder.from_pretrained(tmp_path, similarity="dot").similarity == "dot"
    with pytest.raises(
        ValueError, match="expected similarity to be one of cosine, dot, euclidean, max_sim, max_dot, got 'l1'"
    ):
        Encoder.from_pretrained(tiny_model_folder, similarity="l1")  # type: ignore[arg-type]
