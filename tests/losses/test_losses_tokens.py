"""What the battery does not reach with vectors of tokens: pairs, teachers, guides, blocks, refusals."""

from __future__ import annotations

from typing import Any

import all_losses
import oracles_pairs
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contrastive import losses
from contrastive.losses.core import blocks

QUERIES, DOCUMENTS, QUERY_TOKENS, DOCUMENT_TOKENS = 4, 12, 3, 5


def embeddings(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random vectors; of every second text the last token is absent."""
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    vectors[::2, -1] = 0
    return vectors.to(dtype).requires_grad_()


def sides(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Queries and keys with different numbers of tokens."""
    queries, keys = (
        embeddings(rows, tokens, 6, seed=tokens, dtype=dtype)
        for rows, tokens in ((QUERIES, QUERY_TOKENS), (DOCUMENTS, DOCUMENT_TOKENS))
    )
    return queries, keys


def assert_same(value: Tensor, expected: Tensor, *of: Tensor, **tolerance: float) -> None:
    """Value and gradients."""
    tolerance = tolerance or {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(value, expected, check_dtype=False, **tolerance)
    found, wanted = (torch.autograd.grad(each.sum(), of, materialize_grads=True) for each in (value, expected))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("contrastive", {"distance": "max_sim", "margin": 1.5}),
        ("contrastive", {"distance": "max_sim", "margin": 1.5, "reduction": "none"}),
        ("online_contrastive", {"distance": "max_sim", "margin": 1.5}),
        ("cosent", {"similarity": "max_sim", "temperature": 0.3}),
    ],
    ids=str,
)
def test_losses_of_pairs_equal_their_formula(name: str, options: dict[str, Any]) -> None:
    left, right = embeddings(7, 3, 5), embeddings(7, 4, 5, seed=1)
    targets = [0.9, 0.2, 0.2, 0.7, 0.9, 0.0, 0.55]
    value = getattr(losses, name)(left, right, torch.tensor(targets, dtype=torch.float64), **options)
    assert_same(value, getattr(oracles_pairs, name)(left, right, targets, **options), left, right)


@pytest.mark.parametrize("name", ["margin_mse", "distill_kl"])
@pytest.mark.parametrize("own", [True, False], ids=["own candidates", "all"])
def test_losses_of_teachers_equal_their_formula(name: str, own: bool) -> None:
    queries, keys = sides()
    taught = torch.randn(QUERIES, 3 if own else DOCUMENTS, generator=torch.Generator().manual_seed(1)).double()
    options = {"similarity": "max_sim", "temperature": 0.3}
    value = getattr(losses, name)(queries, keys, teacher_scores=taught, **options)
    positives = {(i, i) for i in range(QUERIES)}
    expected = getattr(oracles_pairs, name)(
        queries, keys, teacher_scores=taught.tolist(), positives=positives, **options
    )
    assert_same(value, expected, queries, keys)


@pytest.mark.parametrize(("name", "options"), all_losses.OF_TOKENS, ids=str)
def test_one_token_a_text_is_a_cosine(name: str, options: dict[str, Any]) -> None:
    """A loss of single vectors and one of tokens are the same loss."""
    inner_name, inner = all_losses.innermost(name, options)
    plain = {key: value for key, value in inner.items() if value != "max_sim"}
    plain |= {"similarity": "cosine"} if "similarity" in inner else {}
    plain = {**options, "loss": (inner_name, plain)} if "loss" in options else plain
    queries, keys = (side.detach() for side in (torch.randn(4, 6).double(), torch.randn(12, 6).double()))
    given = given_to(name, options, queries, keys)
    single = all_losses.make(name, plain).double()
    tokens = all_losses.make(name, options).double()
    keys = keys[:4] if "targets" in given else keys
    wide = {key: value[:, None] for key, value in given.items() if key.startswith("guide")}
    wide = wide if inner.get("guide_similarity") == "max_sim" else {}
    torch.testing.assert_close(
        tokens(queries[:, None], keys[:, None], **{**given, **wide}), single(queries, keys, **given)
    )


def given_to(name: str, options: dict[str, Any], queries: Tensor, keys: Tensor) -> dict[str, Tensor]:
    """What a loss cannot do without."""
    name, _ = all_losses.innermost(name, options)
    if name in all_losses.OF_PAIRS:
        return {"targets": torch.tensor([1.0, 0.0, 1.0, 0.0])}
    if name in ("MarginMSELoss", "DistillKLLoss"):
        return {"teacher_scores": torch.arange(12.0).view(4, 3)}
    return {"guide_queries": queries[..., :4], "guide_keys": keys[..., :4]} if name == "GISTLoss" else {}


def test_a_guide_of_one_vector_a_text_judges_a_loss_of_tokens() -> None:
    queries, keys = sides()
    guides = [
        torch.randn(len(side), 4, generator=torch.Generator().manual_seed(2)).double() for side in (queries, keys)
    ]
    options = {"similarity": "max_sim", "temperature": 0.3}
    pooled = losses.gist(queries, keys, guide_queries=guides[0], guide_keys=guides[1], **options)
    tokens = [guide[:, None] for guide in guides]
    by_tokens = {"guide_queries": tokens[0], "guide_keys": tokens[1], "guide_similarity": "max_sim"}
    assert_same(losses.gist(queries, keys, **by_tokens, **options), pooled, queries, keys)
    with pytest.raises(ValueError, match=r"guide_queries \[4, T, G\], got \[4, 4\]"):
        losses.gist(queries, keys, **{**by_tokens, "guide_queries": guides[0]}, **options)


@pytest.mark.parametrize("tiled", [True, False, None])
@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"hardness": 3.0}, {"reduction": "none"}], ids=str)
def test_blocks_change_nothing(tiled: bool | None, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys = sides()
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    given = {"similarity": "max_sim", "temperature": temperature, "weights": torch.tensor([1.0, 0.0, 2.0, 0.5])}
    expected = losses.info_nce(queries, keys, tiled=False, **given, **options)
    wanted = torch.autograd.grad(expected.sum(), (queries, keys, temperature))
    for name in ("BLOCK_SCORES", "LEAST_ROWS", "MOST_ROWS"):
        monkeypatch.setattr(blocks, name, 3)
    value = losses.info_nce(queries, keys, tiled=tiled, **given, **options)
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(torch.autograd.grad(value.sum(), (queries, keys, temperature)), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, Tensor):
                self.largest = max(self.largest, each.untyped_storage().nbytes() // each.element_size())
        return made


@pytest.mark.parametrize(
    ("name", "options"), [each for each in all_losses.OF_TOKENS if each[0] != "MatryoshkaLoss"], ids=str
)
def test_no_product_of_all_tokens_is_ever_made(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 queries of 8 tokens and 96 keys of 32: 786,432 products, and nothing larger than the keys' vectors."""
    module = __import__("sys").modules["contrastive.similarity.max_sim"]
    monkeypatch.setattr(module, "_BLOCK", 2**14)
    generator, width = torch.Generator().manual_seed(0), 16
    queries, keys = (torch.randn(rows, tokens, width, generator=generator) for rows, tokens in ((32, 8), (96, 32)))
    inner, _ = all_losses.innermost(name, options)
    given: dict[str, Tensor] = {}
    if inner in all_losses.OF_PAIRS:
        keys, given = keys[:32], {"targets": torch.arange(32) % 2}
    elif inner in ("MarginMSELoss", "DistillKLLoss"):
        given = {"teacher_scores": torch.randn(32, 3, generator=generator)}
    elif inner == "GISTLoss":
        of_tokens = options.get("guide_similarity") == "max_sim"
        given = {
            name: side.detach()[..., :4] if of_tokens else side.detach()[:, 0]
            for name, side in (("guide_queries", queries), ("guide_keys", keys))
        }
    with Largest() as made:
        all_losses.make(name, options)(queries.requires_grad_(), keys.requires_grad_(), **given).sum().backward()
    of_own_side = 32 * 32 * 96 if options.get("same_side") or inner in ("GISTLoss", "NTXentLoss") else 0
    assert made.largest <= max(96 * 32 * width, of_own_side)


@pytest.mark.parametrize(("name", "options"), all_losses.OF_TOKENS, ids=str)
def test_half_precision_under_autocast_gives_float32(name: str, options: dict[str, Any]) -> None:
    queries, keys = sides(torch.bfloat16)
    exact = [side.detach().float().requires_grad_() for side in (queries, keys)]
    given = given_to(name, options, exact[0].detach()[:, 0], exact[1].detach()[:, 0])
    if all_losses.innermost(name, options)[1].get("guide_similarity") == "max_sim":
        given = {"guide_queries": exact[0].detach(), "guide_keys": exact[1].detach()}
    number = 4 if "targets" in given else 12
    loss = all_losses.make(name, options)
    expected = loss(exact[0], exact[1][:number], **given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(queries, keys[:number], **given)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    ours = torch.autograd.grad(value, (queries, keys))
    for half, whole in zip(ours, torch.autograd.grad(expected, exact), strict=True):
        torch.testing.assert_close(half.float(), whole, rtol=2**-6, atol=1e-4)  # Matryoshka adds up two


def test_what_is_not_about_tokens_is_refused_when_the_loss_is_made() -> None:
    with pytest.raises(ValueError, match="one vector a text on a sphere, got 'max_sim'"):
        losses.TripletLoss("max_sim", mining="distance_weighted")
    with pytest.raises(TypeError, match="similarity"):
        losses.AnglELoss(similarity="max_sim")
    queries, keys = sides()
    with pytest.raises(ValueError, match=r"expected left and right \[B, D\]"):
        losses.angle(queries, keys[:4], torch.ones(4))
    with pytest.raises(ValueError, match=r"expected left and right \[B, Tl, D\] and \[B, Tr, D\]"):
        losses.cosent(queries[:, 0], keys[:4, 0], torch.ones(4), similarity="max_sim")
    with pytest.raises(ValueError, match=r"queries \[Q, Tq, D\] and keys \[K, Tk, D\]"):
        losses.info_nce(queries[:, 0], keys[:, 0], similarity="max_sim")
