"""The softmax family beside sentence-transformers (ST), pytorch-metric-learning (PML), open_clip and lightly.

First where they are right and we are equal, gradients included; then one test for each place where they are not, with
their number beside ours. open_clip's losses are read from its file, as the package does not import without torchvision;
lightly, which needs it too, stands here as the few lines of its formula.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from contrastive.losses import (
    decoupled_contrastive,
    gist,
    info_nce,
    multiple_negatives_ranking,
    nt_xent,
    siglip,
    sup_con,
)
from contrastive.masks import diagonal, same_label, same_text

LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
OURS = {
    "query_to_doc": "query_to_key",
    "query_to_query": "query_to_query",
    "doc_to_query": "key_to_query",
    "doc_to_doc": "key_to_key",
}


@pytest.fixture(scope="module")
def st() -> Any:
    return pytest.importorskip("sentence_transformers.sentence_transformer.losses")


@pytest.fixture(scope="module")
def pml() -> Any:
    return pytest.importorskip("pytorch_metric_learning.losses")


@pytest.fixture(scope="module")
def open_clip_loss() -> Any:
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        pytest.skip("open_clip is not installed")
    spec = importlib.util.spec_from_file_location(
        "open_clip_loss", Path(package.submodule_search_locations[0]) / "loss.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def warnings_of_peers_are_theirs() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def gist_of_st(st: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[..., Tensor]]:
    """Its GIST without models: what would embed gives the embeddings that are there, of model and guide."""
    import sys

    module = sys.modules[st.GISTEmbedLoss.__module__]

    def build(guides: list[Tensor], **options: Any) -> Callable[..., Tensor]:
        loss = st.GISTEmbedLoss.__new__(st.GISTEmbedLoss)
        nn.Module.__init__(loss)
        settings = {
            "temperature": 0.05,
            "margin": 0.0,
            "margin_strategy": "absolute",
            "contrast_anchors": True,
            "contrast_positives": True,
            "gather_across_devices": False,
            "must_retokenize": False,
            "similarity_fct": nn.CosineSimilarity(dim=-1),
            "cross_entropy_loss": nn.CrossEntropyLoss(),
            "model": "model",
            "guide": "guide",
        }
        for name, value in (settings | options).items():
            setattr(loss, name, value)

        def forward(*embeddings: Tensor) -> Tensor:
            columns = {"model": list(embeddings), "guide": guides}
            monkeypatch.setattr(module, "embed_columns", lambda which, _features: columns[which])
            value: Tensor = loss.forward([{} for _ in embeddings], None)
            return value

        return forward

    return build


def embeddings(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


def assert_equal(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    value, expected = ours(*inputs), theirs(*inputs)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
    gradients = [torch.autograd.grad(loss, inputs) for loss in (value, expected)]
    for mine, its in zip(*gradients, strict=True):
        assert mine.any()
        torch.testing.assert_close(mine, its, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("negatives", [0, 2])
@pytest.mark.parametrize(
    ("directions", "partition"),
    [
        (("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"), "joint"),
        (("query_to_doc", "doc_to_query"), "joint"),
        (("query_to_doc", "query_to_query"), "joint"),
        (("query_to_doc", "doc_to_doc"), "joint"),
        (("query_to_doc", "doc_to_query"), "per_direction"),
    ],
)
def test_directions_and_partitions_of_st(st: Any, directions: tuple[str, ...], partition: str, negatives: int) -> None:
    loss = st.MultipleNegativesRankingLoss(None, directions=directions, partition_mode=partition)
    options = {"directions": [OURS[direction] for direction in directions], "partition": partition}
    assert_equal(
        lambda queries, *keys: multiple_negatives_ranking(queries, torch.cat(keys), **options),
        lambda *columns: loss.compute_loss_from_embeddings(list(columns), None),
        *(embeddings(4, seed) for seed in range(2 + negatives)),
    )


@pytest.mark.parametrize(
    ("mode", "hardened", "directions"),
    [
        ("in_batch_negatives", "in_batch", ("query_to_doc",)),
        ("hard_negatives", "hard", ("query_to_doc",)),
        ("hard_negatives", "hard", tuple(OURS)),
        ("all_negatives", "all", ("query_to_doc",)),
    ],
)
def test_hardness_of_st(st: Any, mode: str, hardened: str, directions: tuple[str, ...]) -> None:
    """The weights of LLaVE and EmbeddingGemma. Of other directions it weighs nothing; with "all" we do."""
    loss = st.MultipleNegativesRankingLoss(None, directions=directions, hardness_mode=mode, hardness_strength=5.0)
    options = {"directions": [OURS[direction] for direction in directions], "hardness": 5.0, "hardened": hardened}
    assert_equal(
        lambda queries, *keys: multiple_negatives_ranking(queries, torch.cat(keys), **options),
        lambda *columns: loss.compute_loss_from_embeddings(list(columns), None),
        *(embeddings(4, seed) for seed in range(4)),
    )


@pytest.mark.parametrize("negatives", [0, 1])
@pytest.mark.parametrize("strategy", ["absolute", "relative"])
@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize(("queries_too", "positives_too"), [(True, True), (False, True), (True, False)])
def test_gist_of_st(
    gist_of_st: Any, negatives: int, strategy: str, margin: float, queries_too: bool, positives_too: bool
) -> None:
    columns = [embeddings(5, seed) for seed in range(2 + negatives)]
    guides = [embeddings(5, 10 + seed).detach() for seed in range(2 + negatives)]
    guides[1] = guides[1] + guides[0]
    theirs = gist_of_st(
        guides,
        margin=margin,
        margin_strategy=strategy,
        contrast_anchors=queries_too,
        contrast_positives=positives_too,
    )
    ours = partial(
        gist,
        guide_queries=guides[0],
        guide_keys=torch.cat(guides[1:]),
        margin=margin,
        relative_margin=strategy == "relative",
        contrast_queries=queries_too,
        contrast_positives=positives_too,
    )
    assert_equal(lambda queries, *keys: ours(queries, torch.cat(keys)), theirs, *columns)


def test_supervised_contrastive_of_pml(pml: Any) -> None:
    same = same_label(LABELS, LABELS) & ~diagonal()
    assert_equal(
        lambda x: sup_con(x, x, positives=same, exclude=diagonal()),
        lambda x: pml.SupConLoss(temperature=0.1)(x, LABELS),
        embeddings(8),
    )


def test_nt_xent_of_pml_by_labels(pml: Any) -> None:
    """The mean over positive pairs, where the pairs of one query differ in number from those of another."""
    same = same_label(LABELS, LABELS) & ~diagonal()
    assert_equal(
        lambda x: nt_xent(x, x, positives=same, exclude=diagonal(), temperature=0.2),
        lambda x: pml.NTXentLoss(temperature=0.2)(x, LABELS),
        embeddings(8),
    )


def test_nt_xent_of_pml_and_lightly_over_two_views(pml: Any) -> None:
    first, second = embeddings(4), embeddings(4, 1)
    ours = partial(nt_xent, temperature=0.2)
    assert_equal(
        ours,
        lambda a, b: pml.NTXentLoss(temperature=0.2)(torch.cat([a, b]), torch.arange(4).repeat(2)),
        first,
        second,
    )

    def lightly(a: Tensor, b: Tensor) -> Tensor:
        views = unit(torch.cat([a, b]))
        logits = (views @ views.T / 0.2).masked_fill(torch.eye(8, dtype=torch.bool), -torch.inf)
        return nn.functional.cross_entropy(logits, torch.arange(8).roll(4))

    assert_equal(ours, lightly, first, second)


def test_clip_loss_of_open_clip(open_clip_loss: Any) -> None:
    loss = open_clip_loss.ClipLoss()
    assert_equal(
        partial(info_nce, temperature=0.07, symmetric=True),
        lambda a, b: loss(unit(a), unit(b), 1 / 0.07),
        embeddings(5),
        embeddings(5, 1),
    )


def test_siglip_loss_of_open_clip(open_clip_loss: Any) -> None:
    loss = open_clip_loss.SigLipLoss()
    assert_equal(
        lambda a, b, bias: siglip(a, b, temperature=0.2, bias=bias),
        lambda a, b, bias: loss(unit(a), unit(b), 1 / 0.2, bias),
        embeddings(5),
        embeddings(5, 1),
        torch.tensor(-3.0, dtype=torch.float64, requires_grad=True),
    )


def decoupled_sides(a: Tensor, b: Tensor, temperature: float, sigma: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """The three terms of lightly's DCL, of one view: positive, own side, other side, each [N]."""
    itself = torch.eye(len(a), dtype=torch.bool)
    a, b = unit(a), unit(b)
    own, other = a @ a.T / temperature, a @ b.T / temperature
    weights = 1 if sigma is None else 2 - len(a) * ((a * b).sum(1).detach() / sigma).softmax(0)
    return -weights * other.diag(), own.masked_fill(itself, -torch.inf), other.masked_fill(itself, -torch.inf)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_decoupled_of_lightly_across_the_views(sigma: float | None) -> None:
    def lightly(a: Tensor, b: Tensor) -> Tensor:
        positive, _, other = decoupled_sides(a, b, 0.1, sigma)
        return (positive + other.logsumexp(1)).mean()

    ours = partial(decoupled_contrastive, temperature=0.1, sigma=sigma)
    assert_equal(ours, lightly, embeddings(4), embeddings(4, 1))


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_lightly_adds_two_logarithms_where_the_decoupled_paper_has_one(sigma: float | None) -> None:
    """Eq. 6 sums over both views inside one logarithm; lightly takes a logarithm of each, so a view counts twice."""

    def both(a: Tensor, b: Tensor, paper: bool) -> Tensor:
        positive, own, other = decoupled_sides(a, b, 0.1, sigma)
        together = torch.cat([own, other], 1).logsumexp(1) if paper else own.logsumexp(1) + other.logsumexp(1)
        return (positive + together).mean()

    ours = partial(decoupled_contrastive, temperature=0.1, sigma=sigma, symmetric=True, same_side=True)
    first, second = embeddings(4), embeddings(4, 1)
    assert_equal(ours, lambda a, b: (both(a, b, True) + both(b, a, True)) / 2, first, second)
    lightly = (both(first, second, False) + both(second, first, False)) / 2
    assert (lightly - ours(first, second)).abs() > 1


@pytest.mark.parametrize("temperature", [0.01, 0.005])
def test_hopeless_pair_keeps_its_full_gradient_where_pml_loses_it(pml: Any, temperature: float) -> None:
    """PML exponentiates, divides, adds the least float and takes the logarithm: exp(-200) is 0 in float32."""
    keys = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    labels = torch.arange(2)
    gradients = {}
    for name, loss in {
        "ours": lambda queries: nt_xent(queries, keys, temperature=temperature, symmetric=False, same_side=False),
        "theirs": lambda queries: pml.NTXentLoss(temperature=temperature)(
            queries, labels, ref_emb=keys, ref_labels=labels
        ),
    }.items():
        queries = torch.tensor([[1.0, 0.02], [-1.0, 0.02]], requires_grad=True)
        (gradients[name],) = torch.autograd.grad(loss(queries), queries)
    torch.testing.assert_close(gradients["ours"][:, 1].abs(), torch.full((2,), 0.02 / temperature), rtol=1e-2, atol=0)
    assert gradients["theirs"].eq(0).all()


def test_identical_texts_are_not_negatives_of_one_another_where_st_keeps_them(st: Any) -> None:
    texts = ["a nurse", "A  nurse", "a cook"]
    queries = embeddings(3).detach()
    documents = embeddings(3, 1).detach()
    documents[1] = documents[0]
    documents.requires_grad_()
    exclude = same_text(texts, texts)
    ours = info_nce(queries, documents, exclude=exclude, reduction="none")
    torch.testing.assert_close(ours[0], info_nce(queries[:1], documents[[0, 2]]))
    (gradient,) = torch.autograd.grad(ours[0], documents)
    assert gradient[1].eq(0).all()
    theirs = st.MultipleNegativesRankingLoss(None).compute_loss_from_embeddings([queries, documents], None)
    torch.testing.assert_close(theirs, info_nce(queries, documents))  # each the other's negative
    assert theirs > ours.mean() + 0.1


@pytest.mark.parametrize("loss", [sup_con, nt_xent, info_nce], ids=lambda loss: loss.__name__)
def test_batch_of_one_class_gives_0(loss: Callable[..., Tensor]) -> None:
    x = embeddings(6)
    one = torch.zeros(6, dtype=torch.long)
    value = loss(x, x, positives=same_label(one, one) & ~diagonal(), exclude=diagonal())
    assert value == 0
    assert torch.autograd.grad(value, x)[0].eq(0).all()


def test_query_of_a_class_that_fills_the_batch_is_trained_on_by_pml(pml: Any) -> None:
    """Against references of its class alone an anchor has no negative; PML still pulls its positives apart."""
    x, references = embeddings(2), embeddings(5, 1)
    labels, of_references = torch.tensor([0, 1]), torch.tensor([0, 0, 0, 1, 1])
    seen = same_label(labels, of_references)
    exclude = torch.zeros(2, 5, dtype=torch.bool)
    exclude[0, 3:] = True  # the first anchor sees its own class only
    ours = sup_con(x, references, positives=seen, exclude=exclude, reduction="none")
    assert ours[0] == 0
    alone = pml.SupConLoss(temperature=0.1)._compute_loss(
        torch.nn.functional.cosine_similarity(x[:, None], references[None], dim=-1),
        seen(torch.arange(2), torch.arange(5)).double(),
        (~seen(torch.arange(2), torch.arange(5)) & ~exclude).double(),
    )["loss"]["losses"]
    assert alone[0] > 0
    torch.testing.assert_close(ours[1], alone[1])


def test_gist_with_guide_similarity_1_where_st_keeps_the_query_as_its_own_negative(gist_of_st: Any) -> None:
    """A query that is its document word for word: `>` does not mask its own similarity of 1; we mask by place."""
    guides = [torch.eye(3, 6, dtype=torch.float64)] * 2
    found = unit(embeddings(3)).detach()  # every query is as close to its document as can be
    ours = gist(found, found, guide_queries=guides[0], guide_keys=guides[1])
    theirs = gist_of_st(guides)(found, found)
    directions = ("query_to_key", "query_to_query", "key_to_key")
    torch.testing.assert_close(ours, multiple_negatives_ranking(found, found, directions=directions))
    # In theirs the query and its document stand among the negatives too, as close as the positive: never below log 3.
    assert theirs > torch.tensor(3.0).log()
    assert ours < 0.3


def test_gist_leaves_out_a_duplicate_of_the_positive_where_st_keeps_it(gist_of_st: Any) -> None:
    guides = [embeddings(3, 5).detach(), embeddings(3, 6).detach()]
    guides[1][0] = guides[0][0]
    guides[1][1] = guides[1][0]  # documents 0 and 1 are one text
    queries, documents = embeddings(3).detach(), embeddings(3, 1).detach().requires_grad_()
    settings = {"contrast_queries": False, "contrast_positives": False}
    ours = gist(queries, documents, guide_queries=guides[0], guide_keys=guides[1], reduction="none", **settings)
    assert torch.autograd.grad(ours[0], documents)[0][1].eq(0).all()
    theirs = gist_of_st(guides, contrast_anchors=False, contrast_positives=False)(queries, documents)
    scores = torch.nn.functional.cosine_similarity(guides[0][:, None], guides[1], dim=-1)
    above = scores > scores.diag()[:, None] + 1e-9
    torch.testing.assert_close(theirs, info_nce(queries, documents, exclude=above))
    assert not above[0, 1]
    assert info_nce(queries, documents, exclude=above, reduction="none")[0] > ours[0] + 1e-3


class LargestTensor(TorchDispatchMode):
    """Watches how many elements the largest tensor has."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_memory_grows_with_the_square_of_the_pairs_where_that_of_pml_grows_with_the_cube(pml: Any) -> None:
    largest: dict[str, list[int]] = {"ours": [], "theirs": []}
    for pairs in (8, 16):
        first, second = embeddings(pairs), embeddings(pairs, 1)
        with LargestTensor() as watch:
            nt_xent(first, second)
        largest["ours"].append(watch.elements)
        with LargestTensor() as watch:
            pml.NTXentLoss()(torch.cat([first, second]), torch.arange(pairs).repeat(2))
        largest["theirs"].append(watch.elements)
    assert largest["ours"][1] <= 4 * largest["ours"][0] <= 4 * (2 * 8) ** 2
    assert largest["theirs"][1] > 7 * largest["theirs"][0]
