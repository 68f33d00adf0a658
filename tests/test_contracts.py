"""The contracts as users meet them: a signature that every loss has, and keys laid out so that `cat` is right."""

from __future__ import annotations

import inspect

import pytest
import torch
from all_losses import CLASSES, ROSTER

from contrastive import losses
from contrastive.contracts import RankingLoss, Similarity
from contrastive.similarity import cosine, dot, euclidean

MODULES = [kind for name, kind in CLASSES.items() if name != "MatryoshkaLoss"]
PAIRS = {kind: kind.function for kind in MODULES if "left" in inspect.signature(kind.forward).parameters}
RANKING = {kind: kind.function for kind in MODULES if kind not in PAIRS}
BATCH = list(inspect.signature(RankingLoss.__call__).parameters)[1:]
every_pair_of_both = pytest.mark.parametrize(
    ("module", "function"), [*RANKING.items(), *PAIRS.items()], ids=lambda each: each.__name__
)


def named(function) -> dict[str, inspect.Parameter]:
    """What a function takes by name, the shared options of the softmax losses included."""
    parameters = inspect.signature(function).parameters
    shared = dict.fromkeys(losses.SoftmaxOptions.__annotations__) if "options" in parameters else {}
    return {**shared, **parameters}


@pytest.mark.parametrize("module", RANKING, ids=lambda module: module.__name__)
def test_modules_have_the_call_of_the_protocol(module) -> None:
    parameters = inspect.signature(module.forward).parameters
    missing = {"positives"} if module is losses.GISTLoss else set()  # a query has one positive there
    assert set(BATCH) - set(parameters) == missing
    assert list(parameters)[1:3] == ["queries", "keys"]
    needed = {
        name for name, each in parameters.items() if each.default is each.empty and each.kind is each.KEYWORD_ONLY
    }
    assert needed <= {"guide_queries", "guide_keys", "teacher_scores"}


@pytest.mark.parametrize("function", RANKING.values(), ids=lambda function: function.__name__)
def test_functions_take_that_and_their_options_by_name(function) -> None:
    assert set(BATCH) <= set(named(function))
    positional = [name for name, each in named(function).items() if each and each.kind is each.POSITIONAL_OR_KEYWORD]
    assert positional == ["queries", "keys"]


@every_pair_of_both
def test_modules_take_the_options_of_their_function_and_its_defaults(module, function) -> None:
    """A default that drifts apart from the function's would be a second owner of one fact."""
    options = named(function)
    for name, parameter in inspect.signature(module).parameters.items():
        if name in ("learnable_temperature", "temperature_bounds", "learnable_bias", "options"):
            continue
        own = options[name]
        if own is not None:  # a shared option has its default where it is read
            assert parameter.default == own.default or parameter.default == getattr(own.default, "name", None), name


def test_every_public_name_is_exported() -> None:
    pairs = {**RANKING, **PAIRS}
    names = {thing.__name__ for thing in (*pairs, *pairs.values())}
    assert set(losses.__all__) == names | {"MatryoshkaLoss", "SoftmaxOptions"}
    assert ROSTER.keys() == CLASSES.keys()


def test_similarities_fit_the_protocol() -> None:
    parameters = list(inspect.signature(Similarity.__call__).parameters)
    for similarity in (cosine, dot, euclidean):
        assert list(inspect.signature(type(similarity).__call__).parameters) == parameters


def test_concatenated_negatives_belong_to_their_queries() -> None:
    """cat([positives, negatives_1, negatives_2]) needs no owners: query i is held against its own two."""
    queries, positives, first, second = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0)).unbind()
    value = losses.info_nce(queries, torch.cat([positives, first, second]), others_negatives=False, reduction="none")
    for i in range(3):
        others = [j for j in range(3) if j != i]
        keys = torch.stack([positives[i], *positives[others], first[i], second[i]])
        torch.testing.assert_close(value[i], losses.info_nce(queries[i : i + 1], keys))
