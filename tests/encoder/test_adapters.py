"""LoRA adapters: what they train, and that every way of saving and loading them gives the same embeddings."""

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
)

from contrastive.encoder import Encoder
from contrastive.encoder.adapters import LoRA, add_adapters, merged
from contrastive.encoder.heads.pooling import POOLINGS
from contrastive.losses import InfoNCELoss
from contrastive.training.optimization import LinearDecayAdamW

TEXTS = ["python developer", "the nurse of the hospital, 6 years", "", "chef"]
SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def is_adapter(name: str) -> bool:
    return ".lora_" in name


def as_if_trained(encoder: Encoder) -> Encoder:
    """Move the adapters away from zero, where they start."""
    torch.manual_seed(1)
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.5)
    return encoder


@pytest.fixture
def adapted(tiny_model_folder: Path) -> Encoder:
    """An encoder with settings of its own and adapters that are not zero."""
    encoder = Encoder.from_pretrained(
        tiny_model_folder,
        pooling="cls",
        normalize=True,
        dimension=20,
        query_prompt="job: ",
        max_length=40,
        lora=LoRA(rank=4),
    )
    return as_if_trained(encoder)


# Training


@pytest.mark.parametrize(("targets", "per_block"), [(None, 2), (["key", "query", "value"], 3), ("all-linear", 6)])
def test_only_the_adapters_are_trained(tiny_model_folder: Path, targets: Any, per_block: int) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, lora=LoRA(rank=4, target_modules=targets))
    as_if_trained(encoder)(TEXTS).sum().backward()
    with_gradient = [name for name, weight in encoder.named_parameters() if weight.grad is not None]
    assert all(is_adapter(name) for name in with_gradient)
    assert len(with_gradient) == 2 * 2 * per_block  # A and B, two blocks; none for the pooler, which is not used
    assert all(weight.grad.any() for weight in encoder.parameters() if weight.grad is not None)
    assert len(with_gradient) == sum(weight.requires_grad for weight in encoder.parameters())


def test_adapters_start_as_no_change(tiny_model_folder: Path, tiny_encoder: Encoder) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, normalize=True, lora=LoRA(rank=4))
    assert np.array_equal(encoder.encode(TEXTS, tokens_per_batch=32), tiny_encoder.encode(TEXTS))


def test_rank_alpha_and_dropout_reach_the_adapters(tiny_model_folder: Path) -> None:
    encoder = as_if_trained(Encoder.from_pretrained(tiny_model_folder, lora=LoRA(rank=4, alpha=6.0, dropout=0.25)))
    layer: Any = encoder.get_submodule("backbone.base_model.model.encoder.layer.0.attention.self.query")
    assert layer.lora_A.default.weight.shape == (4, 32)
    assert layer.lora_dropout.default.p == 0.25
    update = 6 / 4 * layer.lora_B.default.weight @ layer.lora_A.default.weight
    hidden = torch.randn(3, 32)
    torch.testing.assert_close(layer(hidden) - layer.base_layer(hidden), hidden @ update.T)


@pytest.mark.parametrize("lora", [None, LoRA(rank=0)])
def test_without_a_rank_the_weights_are_trained(tiny_model_folder: Path, lora: LoRA | None) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, lora=lora)
    assert isinstance(encoder.backbone, BertModel)
    assert encoder.backbone.embeddings.word_embeddings.weight.requires_grad


def test_the_optimiser_is_given_the_adapters(adapted: Encoder) -> None:
    optimizer, _ = LinearDecayAdamW()(adapted, InfoNCELoss(), 10)
    given = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert given == {id(weight) for name, weight in adapted.named_parameters() if is_adapter(name)}


def test_frozen_layers_get_no_adapters(tiny_model_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(
        tiny_model_folder, frozen_layers=1, lora=LoRA(rank=4, target_modules="all-linear")
    )
    assert {name.split("layer.")[1][0] for name, _ in encoder.named_parameters() if is_adapter(name)} == {"1"}
    as_if_trained(encoder).save_pretrained(tmp_path)
    before, after = load_file(tiny_model_folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("encoder.layer.1.") for name in changed)


def test_freezing_all_layers_leaves_nothing_to_adapt(tiny_model_folder: Path) -> None:
    with pytest.raises(ValueError, match="frozen_layers=2 of 2 blocks leaves nothing of BertModel to train"):
        Encoder.from_pretrained(tiny_model_folder, frozen_layers=2, lora=LoRA())


@pytest.mark.parametrize(
    ("make", "adapted_layers"),
    [
        (lambda: BertModel(BertConfig(**SIZES)), {"query", "value"}),
        (
            lambda: DistilBertModel(DistilBertConfig(vocab_size=99, dim=32, n_layers=2, n_heads=2, hidden_dim=48)),
            {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"},
        ),
        (lambda: MPNetModel(MPNetConfig(**SIZES)), {"q", "k", "v", "o", "dense"}),
        (lambda: GPT2Model(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=2)), {"c_attn"}),
    ],
    ids=["bert", "distilbert", "mpnet", "gpt2"],
)
def test_without_targets_peft_chooses_or_all_linear(
    make: Callable[[], PreTrainedModel], adapted_layers: set[str]
) -> None:
    backbone = make()
    getattr(backbone, "pooler", nn.Identity()).requires_grad_(False)
    names = [name for name, _ in add_adapters(backbone, LoRA(rank=2)).named_parameters() if is_adapter(name)]
    assert {name.split(".lora_")[0].split(".")[-1] for name in names} == adapted_layers
    assert not any("pooler" in name for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": -1}, "LoRA rank of at least 0, got -1"),
        ({"alpha": 0}, "LoRA alpha > 0, got 0"),
        ({"dropout": 1}, "LoRA dropout of at least 0 and below 1, got 1"),
        ({"dropout": -0.1}, "LoRA dropout of at least 0 and below 1, got -0.1"),
    ],
)
def test_impossible_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRA(**arguments)


def test_targets_that_do_not_exist_are_refused(tiny_model_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no layer of BertModel to adapt with LoRA\(.*'q_proj'"):
        Encoder.from_pretrained(tiny_model_folder, lora=LoRA(target_modules=["q_proj"]))


# Saving and loading


def test_a_saved_folder_is_a_plain_model_for_all_three(adapted: Encoder, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    adapted.save_pretrained(tmp_path)
    expected = adapted.encode(TEXTS)
    assert_allclose(Encoder.from_pretrained(tmp_path).encode(TEXTS), expected, atol=1e-6)
    assert_allclose(SentenceTransformer(str(tmp_path), device="cpu").encode_query(TEXTS), expected, atol=1e-6)

    tokenizer, backbone = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    inputs = tokenizer(["job: " + text for text in TEXTS], padding=True, return_tensors="pt")
    pooled = POOLINGS["cls"](backbone(**inputs).last_hidden_state, inputs["attention_mask"])[:, :20]
    assert_allclose(nn.functional.normalize(pooled, dim=-1).detach(), expected, atol=1e-6)
    assert not any(is_adapter(name) for name in load_file(tmp_path / "model.safetensors"))


def test_saving_leaves_the_encoder_as_it_is(adapted: Encoder, tmp_path: Path) -> None:
    before = copy.deepcopy(adapted.state_dict())
    trainable = [weight.requires_grad for weight in adapted.parameters()]
    adapted.save_pretrained(tmp_path)
    assert before.keys() == adapted.state_dict().keys()
    assert all(torch.equal(weight, before[name]) for name, weight in adapted.state_dict().items())
    assert trainable == [weight.requires_grad for weight in adapted.parameters()]
    adapted(TEXTS).sum().backward()
    assert all(weight.grad is not None for name, weight in adapted.named_parameters() if is_adapter(name))


def test_a_plain_encoder_is_saved_without_a_copy(tiny_encoder: Encoder, tmp_path: Path) -> None:
    assert merged(tiny_encoder.backbone) is tiny_encoder.backbone
    tiny_encoder.save_pretrained(tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_the_adapter_alone_is_the_same_model(adapted: Encoder, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    adapted.save_pretrained(tmp_path)
    whole, alone = Encoder.from_pretrained(tmp_path), Encoder.from_pretrained(tmp_path / "adapter")
    assert alone.settings == whole.settings
    assert alone.tokenizer.model_max_length == 40  # of the adapter's own tokenizer; that of the base says 64
    assert np.array_equal(alone.encode(TEXTS), whole.encode(TEXTS))
    trainable = [{name for name, weight in e.named_parameters() if weight.requires_grad} for e in (alone, whole)]
    assert trainable[0] == trainable[1]
    theirs = SentenceTransformer(str(tmp_path / "adapter"), device="cpu")
    assert_allclose(theirs.encode_query(TEXTS), whole.encode(TEXTS), atol=1e-6)
    files = {path.name for path in (tmp_path / "adapter").iterdir() if path.is_file()}
    assert {"adapter_config.json", "adapter_model.safetensors"} < files
    assert not {"README.md", "config.json", "model.safetensors"} & files


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own, see encoder.adapters
def test_peft_reads_the_adapter(adapted: Encoder, tiny_model_folder: Path, tmp_path: Path) -> None:
    from peft import PeftConfig, PeftModel

    adapted.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path / "adapter").base_model_name_or_path == str(tiny_model_folder.resolve())
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_model_folder), tmp_path / "adapter")
    inputs = {"input_ids": torch.tensor([[2, 7, 8, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    torch.testing.assert_close(
        theirs(**inputs).last_hidden_state, adapted.backbone(**inputs).last_hidden_state, atol=1e-6, rtol=0
    )


@pytest.fixture
def peft_folder(adapted: Encoder, tmp_path: Path) -> Path:
    """A folder as peft writes it: no settings, no tokenizer."""
    adapted.save_pretrained(tmp_path / "saved")
    folder = tmp_path / "peft"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "saved/adapter" / name, folder)
    return folder


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_an_adapter_without_settings_has_those_of_its_base(peft_folder: Path, adapted: Encoder, tmp_path: Path) -> None:
    base = tmp_path / "base"
    Encoder.from_pretrained(
        json.loads((peft_folder / "adapter_config.json").read_text())["base_model_name_or_path"],
        pooling="cls",
        normalize=True,
        dimension=20,
        query_prompt="job: ",
        max_length=40,
    ).save_pretrained(base)
    edit_config(peft_folder, base_model_name_or_path=str(base))
    encoder = Encoder.from_pretrained(peft_folder)
    assert encoder.settings == adapted.settings
    assert_allclose(encoder.encode(TEXTS), adapted.encode(TEXTS), atol=1e-6)


def test_new_adapters_on_a_model_with_merged_ones(adapted: Encoder, tmp_path: Path) -> None:
    adapted.save_pretrained(tmp_path / "first")
    second = as_if_trained(Encoder.from_pretrained(tmp_path / "first/adapter", lora=LoRA(rank=2)))
    assert np.abs(second.encode(TEXTS) - adapted.encode(TEXTS)).max() > 0.01
    second.save_pretrained(tmp_path / "second")
    assert_allclose(Encoder.from_pretrained(tmp_path / "second/adapter").encode(TEXTS), second.encode(TEXTS), atol=1e-6)


def test_a_base_that_is_gone_is_named(peft_folder: Path, tmp_path: Path) -> None:
    edit_config(peft_folder, base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(
        FileNotFoundError, match=rf"adapter in .*peft needs its base model: .* no folder {tmp_path}/gone"
    ):
        Encoder.from_pretrained(peft_folder)
    edit_config(peft_folder, base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"adapter_config.json to name the base model of the adapter, it names none"):
        Encoder.from_pretrained(peft_folder)


@pytest.mark.parametrize("content", ["null", "[1]", "[" * 100_000], ids=["null", "list", "deep"])
def test_a_description_of_another_shape_is_one_line(peft_folder: Path, content: str) -> None:
    (peft_folder / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError, match=f"^expected {peft_folder}/adapter_config.json to hold an object, got [^\n]*$"):
        Encoder.from_pretrained(peft_folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "this"}, "names a module of Python to import, which is never"),
        ({"r": {"a": 1}}, "does not fit BertModel"),
        ({"runtime_config": 3}, "to describe a LoRA adapter: "),
        ({"base_model_name_or_path": ["a"]}, "to name the base model of the adapter, it names none"),
    ],
)
def test_a_description_that_cannot_be_is_refused(peft_folder: Path, values: dict[str, Any], message: str) -> None:
    edit_config(peft_folder, **values)
    with pytest.raises(ValueError, match=message):
        Encoder.from_pretrained(peft_folder)
    assert "this" not in sys.modules


def test_an_adapter_on_itself_is_refused(peft_folder: Path) -> None:
    edit_config(peft_folder, base_model_name_or_path=str(peft_folder))
    with pytest.raises(ValueError, match="to name a base that is no adapter on itself"):
        Encoder.from_pretrained(peft_folder)


def test_damaged_weights_of_an_adapter_are_one_line(peft_folder: Path) -> None:
    (peft_folder / "adapter_model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors to hold weights in safetensors"):
        Encoder.from_pretrained(peft_folder)


def test_only_safetensors_of_lora_are_read(peft_folder: Path) -> None:
    edit_config(peft_folder, peft_type="IA3")
    with pytest.raises(ValueError, match=r"expected a LoRA adapter in .*peft, got peft_type 'IA3'"):
        Encoder.from_pretrained(peft_folder)
    (peft_folder / "adapter_model.safetensors").rename(peft_folder / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match=r"expected adapter_model.safetensors in .*peft, found none"):
        Encoder.from_pretrained(peft_folder)


def drop_one(weights: dict[str, Tensor]) -> None:
    weights.pop("base_model.model.encoder.layer.0.attention.self.query.lora_A.weight")


def narrow(weights: dict[str, Tensor]) -> None:
    name = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"
    weights[name] = weights[name][:, :16].contiguous()


def add_one(weights: dict[str, Tensor]) -> None:
    weights["base_model.model.encoder.layer.0.attention.self.key.lora_A.weight"] = torch.zeros(4, 32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_one, r"query.lora_A.weight of shape \(4, 32\), got None"),
        (narrow, r"query.lora_A.weight of shape \(4, 32\), got \(4, 16\)"),
        (add_one, r"key.lora_A.weight of shape None, got \(4, 32\)"),
    ],
)
def test_an_adapter_of_another_base_is_refused(
    peft_folder: Path, damage: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    weights = load_file(peft_folder / "adapter_model.safetensors")
    damage(weights)
    save_file(weights, peft_folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=rf"adapter in .*peft does not fit its base, .*tiny: expected .*{message}"):
        Encoder.from_pretrained(peft_folder)


def test_an_adapter_for_other_layers_is_refused(peft_folder: Path) -> None:
    edit_config(peft_folder, target_modules=["q_proj"])
    with pytest.raises(ValueError, match=r"adapter in .*peft does not fit BertModel: No modules were targeted"):
        Encoder.from_pretrained(peft_folder)


# State


def test_a_checkpoint_restores_the_adapters(adapted: Encoder, tiny_model_folder: Path, tmp_path: Path) -> None:
    torch.save(adapted.state_dict(), tmp_path / "checkpoint")
    restored = Encoder.from_pretrained(
        tiny_model_folder,
        **adapted.settings,
        lora=LoRA(rank=4),  # type: ignore[arg-type]
    )
    restored.load_state_dict(torch.load(tmp_path / "checkpoint", weights_only=True))
    assert np.array_equal(restored.encode(TEXTS), adapted.encode(TEXTS))


def test_a_deep_copy_is_independent(adapted: Encoder) -> None:
    expected = adapted.encode(TEXTS)
    copied = copy.deepcopy(adapted)
    assert np.array_equal(copied.encode(TEXTS), expected)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.mul_(1.5)
    assert np.array_equal(adapted.encode(TEXTS), expected)
    assert not np.allclose(copied.encode(TEXTS), expected)
