"""Frozen layers and gradient checkpointing, on tiny models of many architectures."""

import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMConfig,
)
from transformers.utils import logging as transformers_logging

from contrastive.encoder import Encoder
from contrastive.encoder.adapters import LoRA
from contrastive.encoder.backbone import block_lists, checkpoint_activations, freeze_layers

BLOCKS = 3
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 3, "sep_token_id": 4}
CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertConfig(**SIZES),
    "roberta": lambda: RobertaConfig(**SIZES),
    "mpnet": lambda: MPNetConfig(**SIZES),
    "electra": lambda: ElectraConfig(embedding_size=16, **SIZES),
    "deberta": lambda: DebertaV2Config(relative_attention=True, **SIZES),
    "distilbert": lambda: DistilBertConfig(vocab_size=99, dim=32, n_layers=BLOCKS, n_heads=2, hidden_dim=48),
    "modernbert": lambda: ModernBertConfig(attention_dropout=0.1, mlp_dropout=0.1, **SIZES, **IDS),
    "xlm": lambda: XLMConfig(n_words=99, emb_dim=32, n_layers=BLOCKS, n_heads=2),
    "llama": lambda: LlamaConfig(attention_dropout=0.1, **SIZES),
    "gpt2": lambda: GPT2Config(vocab_size=99, n_embd=32, n_layer=BLOCKS, n_head=2, bos_token_id=1, eos_token_id=1),
}
# What lies outside the blocks and stays trainable: what comes after them.
AFTER_THE_BLOCKS = {
    "modernbert": {"final_norm.weight"},
    "llama": {"norm.weight"},
    "gpt2": {"ln_f.weight", "ln_f.bias"},
    "bert": {"pooler.dense.weight", "pooler.dense.bias"},
    "roberta": {"pooler.dense.weight", "pooler.dense.bias"},
    "mpnet": {"pooler.dense.weight", "pooler.dense.bias"},
}
TEXTS = ["python developer", "the nurse of the hospital, 6 years", "", "chef"]


def make(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModel.from_config(CONFIGS[name]())


def trainable(backbone: nn.Module) -> set[str]:
    return {name for name, weight in backbone.named_parameters() if weight.requires_grad}


# Frozen layers


@pytest.mark.parametrize("frozen", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_freezes_the_embeddings_and_the_first_blocks(name: str, frozen: int) -> None:
    backbone = make(name)
    freeze_layers(backbone, frozen)
    lists = block_lists(backbone)
    blocks_left = {
        weight
        for weight, _ in backbone.named_parameters()
        for list_ in lists
        for block in range(frozen, BLOCKS)
        if weight.startswith(f"{list_}.{block}.")
    }
    assert len(blocks_left) >= (BLOCKS - frozen) * 6
    assert trainable(backbone) == blocks_left | AFTER_THE_BLOCKS.get(name, set())


def test_finds_the_blocks_by_structure() -> None:
    found = {name: list(block_lists(make(name))) for name in CONFIGS}
    assert found["bert"] == ["encoder.layer"]
    assert found["distilbert"] == ["transformer.layer"]
    assert found["gpt2"] == ["h"]
    assert found["xlm"] == ["attentions", "layer_norm1", "ffns", "layer_norm2"]


def test_a_list_inside_a_block_is_no_list_of_blocks() -> None:
    backbone = make("bert")
    for block in backbone.encoder.layer:
        block.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(BLOCKS))
    assert list(block_lists(backbone)) == ["encoder.layer"]


def test_an_embedding_inside_a_block_belongs_to_it() -> None:
    backbone = make("bert")
    for block in backbone.encoder.layer:
        block.bias = nn.Embedding(2, 2)
    freeze_layers(backbone, 1)
    assert [block.bias.weight.requires_grad for block in backbone.encoder.layer] == [False, True, True]


def test_no_frozen_layers_freeze_nothing(tiny_model_folder: Path) -> None:
    backbone = make("bert")
    before = trainable(backbone)
    freeze_layers(backbone, 0)
    assert trainable(backbone) == before
    freeze_layers(AutoModel.from_config(AlbertConfig(embedding_size=16, **SIZES)), 0)  # its blocks cannot be found
    assert "backbone.embeddings.word_embeddings.weight" in trainable(Encoder.from_pretrained(tiny_model_folder))


def test_only_what_is_not_frozen_gets_a_gradient(tiny_model_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, frozen_layers=1)
    encoder(TEXTS).sum().backward()
    with_gradient = {name for name, weight in encoder.named_parameters() if weight.grad is not None}
    assert len(with_gradient) == 16
    assert all(name.startswith("backbone.encoder.layer.1.") for name in with_gradient)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_backward_pass_stops_at_frozen_layers(tiny_model_folder: Path, gradient_checkpointing: bool) -> None:
    encoder = Encoder.from_pretrained(
        tiny_model_folder, frozen_layers=1, gradient_checkpointing=gradient_checkpointing
    ).train()
    needs_gradient: list[bool] = []
    for block in encoder.backbone.encoder.layer:
        block.register_forward_hook(lambda _module, _inputs, output: needs_gradient.append(output.requires_grad))
    encoder(["chef"]).sum()
    assert needs_gradient == [False, True]


@pytest.mark.parametrize("frozen", [-1, 3])
def test_an_impossible_number_of_layers_says_how_many_there_are(tiny_model_folder: Path, frozen: int) -> None:
    with pytest.raises(ValueError, match=f"frozen_layers from 0 to 2, the blocks of BertModel, got {frozen}"):
        Encoder.from_pretrained(tiny_model_folder, frozen_layers=frozen)


def test_freezing_everything_is_refused(tiny_model_folder: Path) -> None:
    with pytest.raises(ValueError, match="frozen_layers=2 of 2 blocks leaves nothing of BertModel to train"):
        Encoder.from_pretrained(tiny_model_folder, frozen_layers=2)


def test_a_model_without_a_list_of_blocks_is_refused() -> None:
    albert = AutoModel.from_config(AlbertConfig(embedding_size=16, **SIZES))  # runs one block several times
    with pytest.raises(ValueError, match="frozen_layers 0, got 1: AlbertModel has no list of its transformer blocks"):
        freeze_layers(albert, 1)


# Gradient checkpointing


def gradients(backbone: nn.Module) -> dict[str, Tensor]:
    """Gradients of a step in train mode, dropout and all."""
    torch.manual_seed(2)
    input_ids, attention_mask = torch.randint(5, 99, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    attention_mask[0, 5:] = 0
    hidden = backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    (hidden * torch.randn(hidden.shape)).sum().backward()
    return {name: weight.grad for name, weight in backbone.named_parameters() if weight.grad is not None}


@pytest.fixture
def transformers_messages() -> Iterator[list[str]]:
    """What transformers logs, and would print."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    transformers_logging.add_handler(handler)
    transformers_logging.warning_once.cache_clear()  # it says a thing once a process
    yield messages
    transformers_logging.remove_handler(handler)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("mpnet", "xlm")])
def test_gradients_are_the_same(name: str, transformers_messages: list[str]) -> None:
    plain = make(name).train()
    checkpointed = copy.deepcopy(plain)
    checkpoint_activations(checkpointed)
    expected, got = gradients(plain), gradients(checkpointed)
    assert len(expected) >= 20
    assert expected.keys() == got.keys()
    for weight, gradient in expected.items():
        # The recomputed products may round otherwise; an element near zero shows it in full.
        torch.testing.assert_close(got[weight], gradient, atol=1e-5 * float(gradient.abs().max()), rtol=1e-5)
    assert transformers_messages == []


@pytest.mark.parametrize("frozen_layers", [0, 1])
@pytest.mark.parametrize("rank", [0, 4])
def test_gradients_are_the_same_with_adapters_and_frozen_layers(
    tiny_model_folder: Path, rank: int, frozen_layers: int, transformers_messages: list[str]
) -> None:
    found = []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = Encoder.from_pretrained(
            tiny_model_folder,
            lora=LoRA(rank=rank, dropout=0.2),
            frozen_layers=frozen_layers,
            gradient_checkpointing=gradient_checkpointing,
        ).train()
        for name, weight in encoder.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight)
        found.append(gradients(encoder.backbone))
    expected, got = found
    assert expected.keys() == got.keys() == {n.removeprefix("backbone.") for n in trainable(encoder)}
    for name, gradient in expected.items():
        assert gradient.any()
        torch.testing.assert_close(got[name], gradient, atol=1e-6, rtol=1e-6)
    assert transformers_messages == []


@pytest.mark.parametrize("rank", [0, 4])
def test_blocks_run_again_in_the_backward_pass_of_training(tiny_model_folder: Path, rank: int) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, gradient_checkpointing=True, lora=LoRA(rank=rank))
    runs: list[str] = []
    for name, module in encoder.named_modules():
        if name.endswith("attention.self"):
            module.register_forward_hook(lambda *_, name=name: runs.append(name))
    encoder(["chef"]).sum().backward()
    assert len(runs) == 2
    encoder.train()
    encoder(["chef"]).sum().backward()
    assert len(runs) == 2 + 4
    encoder.encode(["chef"])
    assert len(runs) == 2 + 4 + 2


def test_a_checkpointed_encoder_is_copied_and_saved(tiny_model_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, gradient_checkpointing=True)
    copied = copy.deepcopy(encoder).train()
    copied(TEXTS).sum().backward()
    assert all(weight.grad is None for weight in encoder.parameters())
    copied.save_pretrained(tmp_path)
    assert (Encoder.from_pretrained(tmp_path).encode(TEXTS) == encoder.encode(TEXTS)).all()


@pytest.mark.parametrize("name", ["mpnet", "xlm"])
def test_a_model_that_cannot_checkpoint_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="Model cannot checkpoint its activations; turn gradient_checkpointing off"):
        checkpoint_activations(make(name))
