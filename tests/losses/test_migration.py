"""docs/migration.md: both sides of every row are built as they stand there and compared; the examples run.

sentence-transformers and pytorch-metric-learning are the packages. open_clip and lightly do not import without
torchvision, so a few lines of their formulas stand for them here, unless lightly is there;
tests/losses/test_losses_peers_softmax.py holds ours against the file of open_clip too, where it is installed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid, normalize
from transformers import PreTrainedTokenizerFast

from contrastive import losses
from contrastive.masks import as_mask, columns_from, diagonal, same_label

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
TARGETS = torch.tensor([1, 0, 1, 0, 0])
SCALES: dict[str, tuple[float, ...]] = {"ClipLoss": (1 / 0.07,), "SigLipLoss": (10.0, -10.0)}
"""What open_clip passes beside the features: `logit_scale`, `logit_bias`."""
pytestmark = pytest.mark.filterwarnings("ignore")  # those of peers are theirs


class Row(NamedTuple):
    library: str
    there: str
    kind: str
    factor: float
    equal: bool
    here: str


def rows() -> list[Row]:
    """Every row of the tables whose first cell is code."""
    found = []
    for section in re.split(r"^### ", PAGE.split("\n## In a plain")[0], flags=re.MULTILINE)[1:]:
        library, _, text = section.partition("\n")
        for line in re.findall(r"^\| `.*\|$", text, flags=re.MULTILINE):
            there, kind, here, _ = (cell.strip() for cell in line.strip("|").split("|"))
            sign = re.fullmatch(r"(?:(≠) |([\d.]+) times )?`([^`]+)`", here)
            assert sign is not None, f"not a loss: {here}"
            found.append(Row(library, there.strip("`"), kind, float(sign[2] or 1), not sign[1], sign[3]))
    return found


ROWS = rows()


class GivenEmbeddings(nn.Sequential):
    """Stands for a model of sentence-transformers: its embeddings are in the features already."""

    def __init__(self, field: str) -> None:
        super().__init__(nn.Identity())  # what it is made of is looked at
        self.field = field
        vocabulary = WordLevel({"[UNK]": 0}, unk_token="[UNK]")
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary))
        self.max_seq_length = 1

    def get_embedding_dimension(self) -> int:
        return 6

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features[self.field]}


class ClipLoss:
    def __call__(self, first: Tensor, second: Tensor, scale: float) -> Tensor:
        logits, labels = scale * first @ second.T, torch.arange(len(first))
        return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


class SigLipLoss:
    def __call__(self, first: Tensor, second: Tensor, scale: float, bias: float) -> Tensor:
        signs = 2 * torch.eye(len(first), dtype=first.dtype) - 1
        return -logsigmoid(signs * (scale * first @ second.T + bias)).sum() / len(first)


class NTXentOfLightly:
    """All views of the batch against one another; or, with a memory bank, one view against what is in there."""

    def __init__(self, temperature: float, memory_bank_size: tuple[int, int] | None = None) -> None:
        self.temperature, self.has_bank = temperature, memory_bank_size is not None

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        if self.has_bank:
            first, second = normalize(first), normalize(second)
            logits = torch.cat([(first * second).sum(1, keepdim=True), first @ BANK.T], 1) / self.temperature
            return cross_entropy(logits, torch.zeros(len(first), dtype=torch.long))
        views = normalize(torch.cat([first, second]))
        logits = (views @ views.T / self.temperature).masked_fill(torch.eye(len(views), dtype=torch.bool), -torch.inf)
        return cross_entropy(logits, torch.arange(len(views)).roll(len(first)))


class DCLOfLightly:
    """As it is since 1.5.21: one logarithm of the negatives of both views."""

    def __init__(self, temperature: float, sigma: float | None = None) -> None:
        self.temperature, self.sigma = temperature, sigma

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        first, second = normalize(first), normalize(second)
        return (self.of_view(first, second) + self.of_view(second, first)) / 2

    def of_view(self, view: Tensor, other: Tensor) -> Tensor:
        itself = torch.eye(len(view), dtype=torch.bool)
        sides = [(view @ side.T / self.temperature).masked_fill(itself, -torch.inf) for side in (view, other)]
        agreement = (view * other).sum(1)
        weights = 1.0 if self.sigma is None else 2 - len(view) * (agreement.detach() / self.sigma).softmax(0)
        return (torch.cat(sides, 1).logsumexp(1) - weights * agreement / self.temperature).mean()


def namespace(library: str) -> dict[str, Any]:
    """What the code of the first column may name."""
    if library == "sentence-transformers":
        peer = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
        return {**vars(peer), "model": GivenEmbeddings("model"), "guide": GivenEmbeddings("guide")}
    if library == "pytorch-metric-learning":
        pytest.importorskip("pytorch_metric_learning")
        from pytorch_metric_learning import distances, losses, miners, reducers

        return {**vars(distances), **vars(miners), **vars(reducers), **vars(losses)}
    if library == "open_clip":
        return {"ClipLoss": ClipLoss, "SigLipLoss": SigLipLoss}
    try:
        return vars(importlib.import_module("lightly.loss")).copy()
    except ImportError:
        return {"NTXentLoss": NTXentOfLightly, "DCLLoss": DCLOfLightly, "DCLWLoss": DCLOfLightly}


def embeddings(size: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * (torch.randn(size, 6, generator=generator, dtype=torch.float64) + shift)).requires_grad_()


BANK = normalize(embeddings(7, 40).detach())
EARLIER = embeddings(8, 41).detach()
"""What a memory has of batches before this one: of lightly, and of pytorch-metric-learning, with the same labels."""


def inputs_of(row: Row) -> list[list[Tensor]]:
    """The embeddings each row is tried on: with no, one and two hard negatives a query where these may be any."""
    scale = 4.0 if "normalize=False" in row.here else 1.0  # some are farther apart than the margin of 5
    if row.kind in ("labels", "label pairs", "memory"):
        return [[embeddings(8, 0, 1.0, scale)]]  # directions closer than 1.4, beyond which a miner draws nothing
    if row.kind == "features":
        return [[normalize(embeddings(5, seed)).detach().requires_grad_() for seed in (0, 1)]]
    if row.kind in ("views", "scored", "bank"):
        return [[embeddings(5, 0), embeddings(5, 1)]]
    negatives = {"tuples": (0, 1, 2), "taught": (1, 2), "guided": (0, 1)}[row.kind]
    if row.here.startswith("TripletLoss") or 'hardened="hard"' in row.here:
        negatives = (1,)
    return [[embeddings(5, seed, scale=scale) for seed in range(2 + number)] for number in negatives]


def guides_of(columns: tuple[Tensor, ...]) -> list[Tensor]:
    """A guide that finds all texts about as alike as the pairs, so that a small margin matters."""
    return [embeddings(len(column), 20 + number, shift=2.0).detach() for number, column in enumerate(columns)]


def scores_of(columns: tuple[Tensor, ...]) -> Tensor:
    return embeddings(len(columns[0]), 30).detach()[:, : len(columns) - 1]


def here(row: Row) -> Callable[..., Tensor]:
    """Our side of a row as a function of embeddings."""
    loss = eval(row.here, vars(losses).copy())
    same = same_label(LABELS, LABELS) & ~diagonal()
    itself = torch.arange(16) == torch.arange(8)[:, None] + 8
    known = same_label(LABELS, LABELS.repeat(2)) & ~as_mask(itself, 8, 16, itself.device)
    left, right = (~torch.eye(8, dtype=torch.bool)).nonzero(as_tuple=True)
    calls: dict[str, Callable[..., Tensor]] = {
        "tuples": lambda queries, *keys: loss(queries, torch.cat(keys)),
        "views": loss,
        "features": loss,
        "label pairs": lambda x: loss(x[left], x[right], LABELS[left] == LABELS[right]),
        "memory": lambda x: loss(x, torch.cat([EARLIER, x.detach()]), positives=known, exclude=itself),
        "bank": lambda first, second: loss(
            first, torch.cat([second, BANK]), exclude=~diagonal() & ~columns_from(len(first))
        ),
        "labels": lambda x: loss(x, x, positives=same, exclude=diagonal()),
        "scored": lambda left, right: loss(left, right, TARGETS),
        "taught": lambda *columns: loss(columns[0], torch.cat(columns[1:]), teacher_scores=scores_of(columns)),
        "guided": lambda *columns: loss(
            columns[0],
            torch.cat(columns[1:]),
            guide_queries=guides_of(columns)[0],
            guide_keys=torch.cat(guides_of(columns)[1:]),
        ),
    }
    return calls[row.kind]


def there(row: Row) -> Callable[..., Tensor]:
    """The other library's side of a row as a function of embeddings."""
    built = eval(row.there, namespace(row.library))
    if row.library == "sentence-transformers":
        return lambda *columns: of_sentence_transformers(row.kind, built, columns)
    if row.library == "pytorch-metric-learning":
        loss, miner = built if isinstance(built, tuple) else (built, None)
        if row.kind == "memory":
            return lambda x: after_a_batch(loss, x)
        if row.kind == "views":
            return lambda *views: loss(torch.cat(views), torch.arange(len(views[0])).repeat(2))
        return lambda x: loss(x, LABELS, None if miner is None else miner(x, LABELS))
    if row.library == "open_clip":
        scale = SCALES[type(built).__name__]
        if row.kind == "features":
            return lambda first, second: built(first, second, *scale)
        return lambda first, second: built(normalize(first), normalize(second), *scale)
    if hasattr(built, "memory_bank") and row.kind == "bank":
        built.memory_bank.bank = BANK
    return built  # type: ignore[no-any-return]


def after_a_batch(loss: Any, x: Tensor) -> Tensor:
    """What a loss with a memory says of a batch after another one."""
    loss.reset_queue()
    loss.double()(EARLIER, LABELS)
    value: Tensor = loss(x, LABELS)
    return value


def of_sentence_transformers(kind: str, loss: Any, columns: tuple[Tensor, ...]) -> Tensor:
    if type(loss).__name__.startswith("Cached"):
        return loss.calculate_loss([list(column.split(2)) for column in columns], None)  # type: ignore[no-any-return]
    labels = {"labels": LABELS, "scored": TARGETS, "taught": scores_of(columns) if kind == "taught" else None}.get(kind)
    guides = guides_of(columns) if kind == "guided" else [None] * len(columns)
    features = [{"model": column, "guide": guide} for column, guide in zip(columns, guides, strict=True)]
    value: Tensor = loss(features, labels)
    return value


def test_every_library_and_class_is_there() -> None:
    assert {row.library for row in ROWS} == {"sentence-transformers", "pytorch-metric-learning", "open_clip", "lightly"}
    lines = re.findall(r"^\| .*`.*\|$", PAGE.partition("### ")[2], flags=re.MULTILINE)
    assert len(ROWS) == len(lines)
    ours = {name for name in losses.__all__ if name.endswith("Loss")}
    assert ours - {name for row in ROWS for name in re.findall(r"\w+Loss", row.here)} == {
        "DebiasedContrastiveLoss",
        "HardWeightedLoss",
    }, "which no other library has"


@pytest.mark.parametrize("row", [row for row in ROWS if row.equal], ids=lambda row: f"{row.library}: {row.there}")
def test_both_sides_of_a_row_are_equal(row: Row) -> None:
    for inputs in inputs_of(row):
        value, expected = row.factor * here(row)(*inputs), there(row)(*inputs).double()
        assert value > 1e-3
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
        gradients = [torch.autograd.grad(loss, inputs) for loss in (value, expected)]
        for mine, its in zip(*gradients, strict=True):
            assert mine.any()
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("row", [row for row in ROWS if not row.equal], ids=lambda row: f"{row.library}: {row.there}")
def test_a_row_that_is_not_equal_differs_as_its_remark_says(row: Row) -> None:
    def hardened_in_all_directions(queries: Tensor, keys: Tensor) -> Tensor:
        queries, keys = normalize(queries), normalize(keys)
        itself = torch.eye(len(queries), dtype=torch.bool)
        forth, own = queries @ keys.T, queries @ queries.T
        weights = [9 * scores.detach().masked_fill(itself, 0) for scores in (forth, own)]
        logits = [20 * forth + weights[0], (20 * own + weights[1]).masked_fill(itself, -torch.inf)]
        return cross_entropy(torch.cat(logits, 1), torch.arange(len(queries)))

    def squared_and_halved(x: Tensor) -> Tensor:
        distances = [(normalize(x)[i] - normalize(x)[j]).norm() for i in range(8) for j in range(8) if i != j]
        alike = [bool(LABELS[i] == LABELS[j]) for i in range(8) for j in range(8) if i != j]
        terms = [d**2 if same else (1 - d).clamp(min=0) ** 2 for d, same in zip(distances, alike, strict=True)]
        return torch.stack(terms).mean() / 2

    explained: list[tuple[str, Callable[..., Tensor]]] = [
        ("MultipleNegativesRankingLoss(model, directions=", hardened_in_all_directions),
        ("ContrastiveLoss()", squared_and_halved),
        (
            "TripletMarginLoss(margin=1.0, reducer=MeanReducer()), DistanceWeightedMiner()",
            lambda x: torch.stack([there(row)(x) for _ in range(400)]).mean(),
        ),
    ]
    torch.manual_seed(0)
    inputs = inputs_of(row)[0]
    value = here(row)(*inputs)
    assert (value - there(row)(*inputs)).abs() > 0.01
    tolerance = 0.02 if "Miner" in row.there else 1e-6  # draws
    (ours,) = (formula for start, formula in explained if row.there.startswith(start))
    torch.testing.assert_close(value, ours(*inputs), rtol=tolerance, atol=0)


def test_the_formula_of_another_contrastive_loss_is_the_one_the_remark_tells() -> None:
    (row,) = (row for row in ROWS if row.kind == "label pairs")
    (x,) = inputs_of(row)[0]
    distances = (normalize(x)[:, None] - normalize(x)[None]).norm(dim=2)
    same = LABELS[:, None] == LABELS
    near, far = distances[same & ~torch.eye(8, dtype=torch.bool)], (1 - distances[~same]).clamp(min=0)
    torch.testing.assert_close(there(row)(x), near[near > 0].mean() + far[far > 0].mean(), rtol=1e-6, atol=0)


def test_what_a_miner_repeats_is_counted_there_as_often() -> None:
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.losses import NTXentLoss
    from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices

    x = embeddings(8, 0)
    anchors, positives, others, negatives = get_all_pairs_indices(LABELS)
    again = negatives < 3
    pairs = anchors, positives, torch.cat([others, others[again]]), torch.cat([negatives, negatives[again]])
    ours = losses.NTXentLoss(0.5, symmetric=False, same_side=False)
    call: dict[str, Any] = {"positives": same_label(LABELS, LABELS) & ~diagonal(), "exclude": diagonal()}
    once, twice = NTXentLoss(0.5)(x, LABELS), NTXentLoss(0.5)(x, LABELS, pairs)
    assert twice - once > 0.01
    torch.testing.assert_close(ours(x, x, **call), once, rtol=1e-6, atol=0)
    weights = torch.where(torch.arange(8) < 3, 2.0, 1.0)
    torch.testing.assert_close(ours(x, x, **call, key_weights=weights), twice, rtol=1e-6, atol=0)


@pytest.mark.parametrize("example", EXAMPLES, ids=["plain loop", "sentence-transformers", "lightning"])
def test_examples_lower_the_loss(
    example: str, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    real = 'NAME, LEARNING_RATE = "sentence-transformers/all-MiniLM-L6-v2", 2e-5\n'
    tiny = f"NAME, LEARNING_RATE = {str(tiny_model_folder)!r}, 3e-3\n"
    assert real in example
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example.replace(real, tiny), "docs/migration.md", "exec"), names)
    history = names["history"]
    assert len(history) == 20
    assert sum(history[-3:]) < 0.8 * sum(history[:3])
