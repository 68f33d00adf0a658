"""What loading finds out about a model by trying it: padding, unused weights, token types, ids, and what is saved."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    ConvBertConfig,
    EsmConfig,
    FNetConfig,
    GPT2Config,
    LlamaConfig,
    LongformerConfig,
    LukeConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    ReformerConfig,
    XLNetConfig,
    YosoConfig,
)

from contrastive.encoder import Encoder
from contrastive.encoder.adapters import LoRA
from contrastive.encoder.heads.pooling import POOLINGS, Pooling
from contrastive.encoder.micro_batches import micro_batches
from contrastive.encoder.trial import freeze_unused, stands_padding
from contrastive.encoder.two_towers import TwoTowers, load_encoder

WORDS = (
    "<pad>",
    "<unk>",
    "<s>",
    "</s>",
    "<mask>",
    "a",
    "the",
    "text",
    "first",
    "one",
    "is",
    "to",
    "be",
    "baker",
    "oven",
)
TEXTS = ("baker", "the baker is to be the first one to be a baker", "", "the oven of the baker", "the baker is one")
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 42,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}
LEFT = {"padding_side": "left"}


def xlnet() -> PreTrainedConfig:
    return XLNetConfig(vocab_size=len(WORDS), d_model=16, n_layer=2, n_head=2, d_inner=24, initializer_range=0.4)


def gpt2() -> PreTrainedConfig:
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 42, "initializer_range": 0.4}
    return GPT2Config(vocab_size=len(WORDS), bos_token_id=2, eos_token_id=3, **size)


def llama() -> PreTrainedConfig:
    return LlamaConfig(bos_token_id=2, eos_token_id=3, **SIZES)


def reformer() -> PreTrainedConfig:
    """Attention by random hashes, other ones in every pass."""
    size = {"hidden_size": 16, "num_attention_heads": 2, "attention_head_size": 8, "feed_forward_size": 24}
    hashes = {"lsh_attn_chunk_length": 4, "num_buckets": 2, "num_hashes": 1, "hash_seed": None}
    positions = {"axial_pos_embds": False, "max_position_embeddings": 44}
    return ReformerConfig(
        vocab_size=len(WORDS), attn_layers=["lsh"] * 4, initializer_range=0.9, **size, **hashes, **positions
    )


def save(
    config: PreTrainedConfig, folder: Path, template: str = "<s> $A </s>", pad: bool = True, **options: Any
) -> Path:
    """Write a folder of a random model that knows fifteen words."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 2), ("</s>", 3)])
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", **({"pad_token": "<pad>"} if pad else {})}
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=40, **special, **options).save_pretrained(folder)
    return folder


def alone(folder: Path, texts: Sequence[str], pooling: Pooling) -> Tensor:
    """Embed each text by itself with transformers, given all that its tokenizer gives."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt")
        rows.append(POOLINGS[pooling](model(**inputs).last_hidden_state, inputs["attention_mask"]).detach())
    return torch.cat(rows)


# Padding


@pytest.mark.parametrize(
    "config",
    [lambda: ConvBertConfig(embedding_size=16, **SIZES), lambda: FNetConfig(**SIZES)],
    ids=["convbert", "fnet"],
)
@pytest.mark.parametrize("bucketed", [True, False])
def test_what_padding_changes_goes_without(
    config: Callable[[], PreTrainedConfig], bucketed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save(config(), tmp_path)
    encoder = Encoder.from_pretrained(folder, bucketed=bucketed)
    assert not encoder.padding
    assert "mixes padding into texts" in caplog.text
    expected = alone(folder, TEXTS, "mean")
    torch.testing.assert_close(encoder(TEXTS).detach(), expected, atol=1e-5, rtol=0)
    assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    queries, documents = encoder.embed_sides(TEXTS[:2], TEXTS[2:])
    torch.testing.assert_close(torch.cat([queries, documents]).detach(), expected, atol=1e-5, rtol=0)
    padded = Encoder.from_pretrained(folder, check=False)
    assert (padded(TEXTS) - expected).abs().max() > 0.01  # or this test shows nothing


@pytest.mark.parametrize(
    "config", [lambda: BertConfig(**SIZES), llama, gpt2, xlnet], ids=["bert", "llama", "gpt2", "xl"]
)
def test_what_the_mask_hides_is_padded(
    config: Callable[[], PreTrainedConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Encoder.from_pretrained(save(config(), tmp_path)).padding
    assert caplog.records == []


def test_a_low_maximum_length_hides_nothing(tmp_path: Path) -> None:
    folder = save(FNetConfig(**SIZES), tmp_path)
    assert [Encoder.from_pretrained(folder, max_length=n).padding for n in (3, 4)] == [False, False]


def test_micro_batches_of_one_length() -> None:
    lengths = [4, 2, 4, 3, 4, 4]
    assert micro_batches(lengths, 12, padding=False) in ([[0, 2, 4], [5], [3], [1]], [[0], [2, 4, 5], [3], [1]])
    assert micro_batches([7, 7, 1], 3, padding=False) == [[0], [1], [2]]


def test_a_model_that_chance_changes_is_refused(tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="expected a model that embeds a text alike every time"):
        Encoder.from_pretrained(save(reformer(), tmp_path))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_that_cannot_embed_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(BertConfig(**SIZES), tmp_path)
    monkeypatch.setattr(Encoder, "_embed", lambda *_: torch.ones(2, 3) @ torch.ones(2, 3))
    with pytest.raises(ValueError, match="expected a model that embeds two short texts, BertModel raises RuntimeError"):
        Encoder.from_pretrained(folder)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    folder = save(BertConfig(**SIZES), tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="expected a model whose embeddings are finite, got 32 not"):
        Encoder.from_pretrained(folder)


@pytest.mark.parametrize(("error", "stands"), [(1e-6, True), (1e-3, False), (float("nan"), False)])
def test_the_tolerance_is_a_share_of_the_length(error: float, stands: bool) -> None:
    alone = {0: torch.tensor([[0.0, 1000.0]]), 1: torch.tensor([[1e-3, 0.0]])}
    together = torch.cat([*alone.values()]) * (1 + torch.tensor([[0.0], [error]]))

    def embed(rows: Sequence[Any]) -> Tensor:
        return torch.cat([alone[int(row)] for row in rows])

    assert stands_padding(embed, together, [0, 1]) is stands  # type: ignore[list-item]


# What a trial leaves as it was


def test_a_trial_leaves_no_trace(tmp_path: Path) -> None:
    folder = save(YosoConfig(use_expectation=True, **SIZES), tmp_path)
    state = torch.random.get_rng_state()
    with torch.no_grad():
        encoder = Encoder.from_pretrained(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(weight.grad is None for weight in encoder.parameters())
    assert (encoder.tokens_seen.real, encoder.tokens_seen.padded) == (0, 0)
    assert not any(module.training for module in encoder.modules())


# Weights that take no part


def frozen(encoder: torch.nn.Module) -> list[str]:
    return [name for name, weight in encoder.named_parameters() if not weight.requires_grad]


@pytest.mark.parametrize(
    ("config", "unused"),
    [
        (lambda: BertConfig(**SIZES), ("pooler.",)),
        (xlnet, ("mask_emb", "seg_embed", "r_s_bias")),  # it gets no token types here
        (lambda: LongformerConfig(attention_window=4, **{**SIZES, "pad_token_id": 1}), ("pooler.", "_global.")),
        (lambda: EsmConfig(mask_token_id=4, position_embedding_type="rotary", **SIZES), ("pooler.", "contact_head.")),
        (lambda: LukeConfig(entity_vocab_size=5, entity_emb_size=8, **SIZES), ("pooler.", "entity_", "2e", "e2")),
    ],
    ids=["bert", "xlnet", "longformer", "esm", "luke"],
)
def test_weights_that_take_no_part_are_frozen_and_the_others_trained(
    config: Callable[[], PreTrainedConfig], unused: Sequence[str], tmp_path: Path
) -> None:
    encoder = Encoder.from_pretrained(save(config(), tmp_path)).train()
    names = frozen(encoder.backbone)
    assert names
    assert all(any(part in name for part in unused) for name in names)
    encoder(TEXTS).sum().backward()  # as DDP needs it: every other one gets a gradient
    assert [name for name, weight in encoder.backbone.named_parameters() if weight.grad is None] == names
    assert not set(names) & set(frozen(Encoder.from_pretrained(tmp_path, check=False).backbone))


def test_what_is_frozen_by_choice_stays_so_and_adapters_find_the_rest(tmp_path: Path) -> None:
    folder = save(BertConfig(**SIZES), tmp_path)
    names = frozen(Encoder.from_pretrained(folder, frozen_layers=1, gradient_checkpointing=True).backbone)
    assert {name.split(".")[0] for name in names} == {"embeddings", "encoder", "pooler"}
    assert not any(".layer.1." in name for name in names)
    adapted = Encoder.from_pretrained(folder, lora=LoRA(rank=2, target_modules="all-linear"), frozen_layers=1).train()
    adapters = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert adapters
    assert all("lora_" in name and ".layer.1." in name for name in adapters)
    adapted(TEXTS).sum().backward()
    assert all(weight.grad is not None for weight in adapted.parameters() if weight.requires_grad)


def test_both_towers_are_tried(tmp_path: Path) -> None:
    towers = load_encoder(save(FNetConfig(**SIZES), tmp_path / "one"), two_towers=True)
    towers.save_pretrained(tmp_path / "two")
    for each in (towers, load_encoder(tmp_path / "two")):
        assert isinstance(each, TwoTowers)
        assert not each.query.padding
        assert not each.document.padding
        assert len(frozen(each)) == 4


def test_experts_that_were_not_chosen_are_not_frozen() -> None:
    model = torch.nn.ModuleDict({"experts": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)})
    used = torch.nn.Linear(2, 2)
    model["used"] = used
    assert freeze_unused(model, used(torch.ones(1, 2))) == ["head.weight", "head.bias"]


# What the tokenizer gives


def test_token_types_reach_the_model(tmp_path: Path) -> None:
    names = ["input_ids", "token_type_ids", "attention_mask"]
    folder = save(xlnet(), tmp_path, "$A:0 </s>:0 <s>:2", model_input_names=names, **LEFT)
    encoder = Encoder.from_pretrained(folder, tokens_per_batch=30)
    given: list[Mapping[str, Tensor]] = []
    encoder.backbone.register_forward_pre_hook(lambda _module, _args, inputs: given.append(inputs), with_kwargs=True)
    expected = alone(folder, TEXTS, "mean")
    assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    assert {tuple(inputs) for inputs in given} == {("input_ids", "attention_mask", "token_type_ids")}
    for inputs in given:
        assert inputs["token_type_ids"].shape == inputs["input_ids"].shape
        assert torch.equal(inputs["token_type_ids"] == 2, inputs["input_ids"] == WORDS.index("<s>"))
    assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)  # from the cache of tokens
    adapted = Encoder.from_pretrained(folder, lora=LoRA(rank=2))
    assert_allclose(adapted.encode(TEXTS), expected, atol=1e-5)
    without = Encoder.from_pretrained(save(xlnet(), tmp_path / "without", "$A:0 </s>:0 <s>:2"))
    assert abs(without.encode(TEXTS) - expected.numpy()).max() > 1e-3


def test_token_types_of_zero_are_given_too(tmp_path: Path) -> None:
    # GPT-2 adds an embedding of each token type, also of 0.
    folder = save(gpt2(), tmp_path, "$A </s>", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    assert_allclose(Encoder.from_pretrained(folder).encode(TEXTS), alone(folder, TEXTS, "mean"), atol=1e-5)


@pytest.mark.parametrize("added", [["<new>"], ["<new>", "<newer>"]])
def test_a_token_beyond_the_table_is_refused_at_once(added: list[str], tmp_path: Path) -> None:
    folder = save(BertConfig(**SIZES), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(added)
    tokenizer.save_pretrained(folder)
    message = (
        rf"token ids below 15, the rows of the embedding table of {folder}, got {len(added)} beyond, the first is 15"
    )
    with pytest.raises(ValueError, match=message):
        Encoder.from_pretrained(folder)


# What is saved


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("config", [gpt2, llama, xlnet], ids=["gpt2", "llama", "xlnet"])
def test_a_saved_folder_embeds_the_same_in_sentence_transformers(
    config: Callable[[], PreTrainedConfig], pad: bool, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = save(config(), tmp_path / "given", "$A </s>", pad=pad, **LEFT)
    encoder = Encoder.from_pretrained(folder, pooling="last")
    encoder.tokenizer.padding_side = "left"  # whatever happens to it
    encoder.save_pretrained(tmp_path / "saved")
    expected = alone(folder, TEXTS, "last")
    assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    theirs = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert_allclose(theirs.encode(list(TEXTS)), expected, atol=1e-5)
    assert_allclose(Encoder.from_pretrained(tmp_path / "saved").encode(TEXTS), expected, atol=1e-5)
    written = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert (written["padding_side"], written["pad_token"]) == ("right", "<pad>" if pad else "</s>")


def test_no_ordinary_token_becomes_the_one_for_padding(tmp_path: Path) -> None:
    folder = save(BertConfig(**SIZES), tmp_path, pad=False)
    path = folder / "tokenizer_config.json"
    kept = {name: value for name, value in json.loads(path.read_text()).items() if not name.endswith("_token")}
    path.write_text(json.dumps(kept))
    assert Encoder.from_pretrained(folder).tokenizer.pad_token is None


def test_nothing_is_said_of_an_ordinary_model(tiny_model_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "contrastive")
    Encoder.from_pretrained(tiny_model_folder)
    assert caplog.messages == []
