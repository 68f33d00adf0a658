"""contrastive/MIGRATION.md: both sides of every row are built as they stand there and compared; the examples run.

sentence-transformers and pytorch-metric-learning are the packages. open_clip and lightly do not import without
torchvision, so a few lines of their formulas stand for them here; tests/test_losses_peers_softmax.py holds ours against
the file of open_clip too, where it is installed.
"""

from __future__ import annotations

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
from contrastive.masks import diagonal, same_label

PAGE = (Path(__file__).parents[1] / "contrastive" / "MIGRATION.md").read_text(encoding="utf-8")
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
    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        views = normalize(torch.cat([first, second]))
        logits = (views @ views.T / self.temperature).masked_fill(torch.eye(len(views), dtype=torch.bool), -torch.inf)
        return cross_entropy(logits, torch.arange(len(views)).roll(len(first)))


class DCLOfLightly:
    """Both views, each with a logarithm of its own; or, as the paper has it, with one for the two."""

    def __init__(self, temperature: float, sigma: float | None = None, one_logarithm: bool = False) -> None:
        self.temperature, self.sigma, self.one_logarithm = temperature, sigma, one_logarithm

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        first, second = normalize(first), normalize(second)
        return (self.of_view(first, second) + self.of_view(second, first)) / 2

    def of_view(self, view: Tensor, other: Tensor) -> Tensor:
        itself = torch.eye(len(view), dtype=torch.bool)
        sides = [(view @ side.T / self.temperature).masked_fill(itself, -torch.inf) for side in (view, other)]
        agreement = (view * other).sum(1)
        weights = 1.0 if self.sigma is None else 2 - len(view) * (agreement.detach() / self.sigma).softmax(0)
        negatives = torch.cat(sides, 1).logsumexp(1) if self.one_logarithm else sum(s.logsumexp(1) for s in sides)
        return (negatives - weights * agreement / self.temperature).mean()


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
    return {"NTXentLoss": NTXentOfLightly, "DCLLoss": DCLOfLightly, "DCLWLoss": DCLOfLightly}


def embeddings(size: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * (torch.randn(size, 6, generator=generator, dtype=torch.float64) + shift)).requires_grad_()


def inputs_of(row: Row) -> list[list[Tensor]]:
    """The embeddings each row is tried on: with no, one and two hard negatives a query where these may be any."""
    scale = 4.0 if "normalize=False" in row.here else 1.0  # some are farther apart than the margin of 5
    if row.kind == "labels":
        return [[embeddings(8, 0, 1.0, scale)]]  # directions closer than 1.4, beyond which a miner draws nothing
    if row.kind in ("views", "scored"):
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
    calls: dict[str, Callable[..., Tensor]] = {
        "tuples": lambda queries, *keys: loss(queries, torch.cat(keys)),
        "views": loss,
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
        if row.kind == "views":
            return lambda *views: loss(torch.cat(views), torch.arange(len(views[0])).repeat(2))
        return lambda x: loss(x, LABELS, None if miner is None else miner(x, LABELS))
    if row.library == "open_clip":
        scale = SCALES[type(built).__name__]
        return lambda first, second: built(normalize(first), normalize(second), *scale)
    return built  # type: ignore[no-any-return]


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
    explained: dict[str, Callable[..., Tensor]] = {
        "DCLLoss(temperature=0.1)": DCLOfLightly(0.1, one_logarithm=True),
        "DCLWLoss(temperature=0.1, sigma=0.5)": DCLOfLightly(0.1, 0.5, one_logarithm=True),
        "TripletMarginLoss(margin=1.0, reducer=MeanReducer()), DistanceWeightedMiner()": lambda x: torch.stack(
            [there(row)(x) for _ in range(400)]
        ).mean(),
    }
    torch.manual_seed(0)
    (inputs,) = inputs_of(row)
    value = here(row)(*inputs)
    assert (value - there(row)(*inputs)).abs() > 0.01
    tolerance = 0.02 if "Miner" in row.there else 1e-6  # draws
    torch.testing.assert_close(value, explained[row.there](*inputs), rtol=tolerance, atol=0)


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
    exec(compile(example.replace(real, tiny), "MIGRATION.md", "exec"), names)
    history = names["history"]
    assert len(history) == 20
    assert sum(history[-3:]) < 0.8 * sum(history[:3])
