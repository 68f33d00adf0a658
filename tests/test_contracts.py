"""The contracts as users meet them: a signature that every loss has, and keys laid out so that `cat` is right."""

from __future__ import annotations

import inspect

import pytest
import torch

from contrastive import losses
from contrastive.contracts import RankingLoss, Similarity
from contrastive.similarity import cosine, dot, euclidean

MODULES = [losses.InfoNCELoss, losses.MultipleNegativesRankingLoss, losses.TripletLoss]
FUNCTIONS = [losses.info_nce, losses.multiple_negatives_ranking, losses.triplet]
CALL = inspect.signature(RankingLoss.__call__).parameters


@pytest.mark.parametrize("loss", [module.forward for module in MODULES], ids=lambda loss: loss.__qualname__)
def test_modules_have_the_call_of_the_protocol(loss) -> None:
    assert list(inspect.signature(loss).parameters) == list(CALL)


@pytest.mark.parametrize("loss", FUNCTIONS, ids=lambda loss: loss.__name__)
def test_functions_take_that_and_their_options_by_name(loss) -> None:
    parameters = inspect.signature(loss).parameters
    assert set(CALL) - {"self"} < set(parameters)
    assert [name for name, p in parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY] == [
        "queries",
        "keys",
    ]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_modules_take_the_options_of_their_function_and_its_defaults(module) -> None:
    """A default that drifts apart from the function's would be a second owner of one fact."""
    function = FUNCTIONS[MODULES.index(module)]
    options = inspect.signature(function).parameters
    for name, parameter in list(inspect.signature(module.__init__).parameters.items())[1:]:
        if name not in ("learnable_temperature", "temperature_bounds"):
            default = parameter.default
            assert default == options[name].default or default == getattr(options[name].default, "name", None), name


def test_every_public_name_is_exported() -> None:
    assert set(losses.__all__) == {thing.__name__ for thing in MODULES + FUNCTIONS}


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
