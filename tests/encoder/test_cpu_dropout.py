"""Dropout on a processor: the shares, the same values forward and backward, and attention as PyTorch defines it."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, BertConfig, BertModel
from transformers.masking_utils import AttentionMaskInterface

from contrastive.encoder import Encoder, cpu_dropout
from contrastive.encoder.cpu_dropout import FastDropout, kept_values, use_fast_dropout

NOTHING = 1e-9
"""A dropout that drops nothing: it is rounded to a multiple of 1 / 65,536."""


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_the_share_that_is_kept_and_the_expectation(dropout: float) -> None:
    kept, scale = kept_values(torch.Size([1000, 1001]), dropout)
    assert kept.double().mean().item() == pytest.approx(1 - dropout, abs=2e-3)
    assert scale == pytest.approx(1 / (1 - dropout), rel=1e-4)
    by_lane = kept.flatten()[:1_000_000].view(-1, 4).double().mean(0)  # the four values of one draw
    torch.testing.assert_close(by_lane, torch.full((4,), 1 - dropout, dtype=torch.double), atol=4e-3, rtol=0)


def test_values_of_one_draw_are_independent() -> None:
    kept, _ = kept_values(torch.Size([400_000]), 0.5)
    lanes = kept.view(-1, 4).double() * 2 - 1
    correlations = (lanes.T @ lanes / len(lanes) - torch.eye(4)).abs()
    assert correlations.max() < 0.015


def test_a_module_drops_the_same_values_forward_and_backward() -> None:
    values = torch.rand(50, 60) + 1
    values.requires_grad_()
    dropped = FastDropout(0.25)(values)
    dropped.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(dropped, values * values.grad)
    assert values.grad.unique().tolist() == pytest.approx([0.0, 4 / 3])


def test_a_module_follows_the_seed_and_leaves_eval_mode_alone() -> None:
    values, module = torch.rand(20, 30), FastDropout(0.5)
    first, second = module(values), module(values)
    torch.manual_seed(0)
    torch.rand(20, 30)
    assert torch.equal(module(values), first)
    assert not torch.equal(first, second)
    assert module.eval()(values) is values


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    module = nn.Module()
    module.is_causal = False  # type: ignore[assignment]
    return cpu_dropout._attention(module, queries, keys, values, mask, dropout)[0].transpose(1, 2)


def heads(dtype: torch.dtype = torch.double) -> list[Tensor]:
    return [torch.randn(2, 3, 5, 4, dtype=dtype, requires_grad=True) for _ in range(3)]


MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2]).view(2, 1, 1, 5)


@pytest.mark.parametrize("mask", [None, MASK, torch.where(MASK, 0.0, -1e4).double()], ids=["none", "bool", "additive"])
def test_attention_without_a_loss_is_pytorchs(mask: Tensor | None) -> None:
    inputs, weights = heads(), torch.randn(2, 3, 5, 4, dtype=torch.double)
    ours, theirs = attend(*inputs, mask, NOTHING), scaled_dot_product_attention(*inputs, attn_mask=mask)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_attention_drops_shares_after_the_softmax() -> None:
    queries, keys, values = heads()
    torch.manual_seed(1)
    ours = attend(queries, keys, values, MASK, 0.4)
    torch.manual_seed(1)
    kept, scale = kept_values(torch.Size([2, 3, 5, 5]), 0.4)
    scores = (queries @ keys.transpose(-1, -2) / 2).masked_fill(~MASK, -torch.inf)
    torch.testing.assert_close(ours, (scores.softmax(-1) * kept * scale) @ values)


def test_the_gradient_of_attention_is_that_of_its_value() -> None:
    def seeded(*inputs: Tensor) -> Tensor:
        torch.manual_seed(2)
        return attend(*inputs, MASK, 0.4)  # type: ignore[misc]

    assert torch.autograd.gradcheck(seeded, heads())


def test_attention_stays_in_bfloat16() -> None:
    inputs = heads(torch.float)
    exact = attend(*inputs, MASK, NOTHING)
    halved = [tensor.bfloat16() for tensor in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = attend(*halved, MASK, NOTHING)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, atol=0.05, rtol=0.05)


def test_causal_attention_and_grouped_heads_are_left_to_transformers() -> None:
    queries, keys, values = (tensor.detach() for tensor in heads())
    module = nn.Module()
    module.is_causal = True  # type: ignore[assignment]
    causal, _ = cpu_dropout._attention(module, queries, keys, values, None, NOTHING)
    expected = scaled_dot_product_attention(queries, keys, values, is_causal=True)
    torch.testing.assert_close(causal.transpose(1, 2), expected)
    module.is_causal = False  # type: ignore[assignment]
    module.num_key_value_groups = 3  # type: ignore[assignment]
    grouped, _ = cpu_dropout._attention(module, queries, keys[:, :1], values[:, :1], None, NOTHING)
    expected = scaled_dot_product_attention(queries, keys[:, :1].expand(-1, 3, -1, -1), values[:, :1].expand_as(values))
    torch.testing.assert_close(grouped.transpose(1, 2), expected)


def test_a_backbone_gets_it_and_does_not_tell(tiny_encoder: Encoder, tmp_path: Path) -> None:
    dropouts = [module for module in tiny_encoder.backbone.modules() if isinstance(module, nn.Dropout)]
    assert dropouts
    assert all(type(module) is FastDropout and not module.training for module in dropouts)
    tiny_encoder.save_pretrained(tmp_path)
    assert "contrastive" not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["hidden_dropout_prob"] == 0.1


def test_it_is_a_switch(tiny_model_folder: Path) -> None:
    backbone = Encoder.from_pretrained(tiny_model_folder, fast_dropout=False).backbone
    assert any(type(module) is nn.Dropout for module in backbone.modules())
    assert not any(isinstance(module, FastDropout) for module in backbone.modules())
    assert backbone.config._attn_implementation == "sdpa"


def test_a_backbone_that_is_sent_brings_its_attention(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pickle.dumps(tiny_encoder.backbone)
    known: dict[str, object] = {}
    for interface in (AttentionInterface, AttentionMaskInterface):
        others = {name: each for name, each in interface._global_mapping.items() if name != cpu_dropout._NAME}
        monkeypatch.setattr(interface, "_global_mapping", others)
        known[interface.__name__] = others
    pickle.loads(sent)
    assert all(cpu_dropout._NAME in others for others in known.values())  # type: ignore[operator]


def test_a_training_encoder_uses_it(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[torch.Size] = []

    def noting(shape: torch.Size, dropout: float) -> tuple[Tensor, float]:
        shapes.append(shape)
        return kept_values(shape, dropout)

    monkeypatch.setattr(cpu_dropout, "kept_values", noting)
    tiny_encoder.train()(["nurse"])
    attention, hidden = torch.Size([1, 2, 3, 3]), torch.Size([1, 3, 32])
    assert shapes == [hidden, *[attention, hidden, hidden] * 2]


def test_an_attention_that_was_chosen_is_kept() -> None:
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    backbone = BertModel._from_config(config, attn_implementation="eager")
    use_fast_dropout(backbone)
    assert backbone.config._attn_implementation == "eager"


def test_what_is_given_out_is_not_shared_memory() -> None:
    inputs = heads()
    first = attend(*inputs, MASK, 0.4)
    copied = first.detach().clone()
    gradients = torch.autograd.grad(first.sum(), inputs)
    kept = [gradient.clone() for gradient in gradients]
    second = attend(*(torch.randn_like(each, requires_grad=True) for each in inputs), None, 0.1)
    second.sum().backward()
    torch.testing.assert_close(first.detach(), copied)
    torch.testing.assert_close(list(gradients), kept)


def test_hidden_dropout_can_be_differentiated_twice() -> None:
    def seeded(values: Tensor) -> Tensor:
        torch.manual_seed(2)
        return (FastDropout(0.4)(values) ** 2).sum()

    assert torch.autograd.gradgradcheck(seeded, torch.randn(3, 5, dtype=torch.double, requires_grad=True))


def test_compiling_a_backbone_takes_pytorchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_dropout, "kept_values", lambda *_: pytest.fail("not to be compiled"))
    module = torch.compile(FastDropout(0.5), backend="eager", fullgraph=True)
    assert set(module(torch.ones(100)).unique().tolist()) == {0.0, 2.0}
    attended = torch.compile(attend, backend="eager")(*heads(), MASK, 0.5)
    assert attended.shape == (2, 3, 5, 4)
