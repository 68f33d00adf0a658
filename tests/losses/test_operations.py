"""How much a loss asks of a device: operations and passes over the scores, counted where they are dispatched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.loss_operations import Operations, cases, count

SIZE, WIDTH = 32, 8


@pytest.mark.parametrize(
    ("name", "operations", "passes"),
    [
        ("one way", 60, 9),
        ("one way, ids, weights, learnt temperature", 73, 11.5),
        ("both ways", 112, 18),
        ("both ways, ids, weights, learnt temperature", 134, 23.25),
        ("one way, several positives", 89, 27.25),
    ],
)
def test_no_more_operations_and_passes_than_counted(name: str, operations: int, passes: float) -> None:
    """Change the numbers where that is meant: each operation is a launch on a GPU, each pass binds there."""
    found = count(cases(SIZE, WIDTH)[name], SIZE)
    assert found.started.total() <= operations
    assert found.passes <= passes
    assert found.products == 3


def passes_of(operation: str, scores: Tensor) -> float:
    selected, row = torch.zeros(SIZE, SIZE, dtype=torch.bool), torch.ones(SIZE, 1)
    with Operations(SIZE * SIZE) as found:
        {
            "read and write": lambda: scores.exp_(),
            "read": lambda: scores.amax(1),
            "read two, write": lambda: torch.addcmul(scores, scores, row),
            "read bool, read and write": lambda: scores.masked_fill_(selected, 0),
            "write": lambda: torch.mm(row, row.T, out=scores),
            "broadcast": lambda: scores.copy_(row.expand(SIZE, SIZE)),
            "a place a row": lambda: scores.scatter_(1, torch.zeros(SIZE, 1, dtype=torch.long), 0),
            "view": lambda: scores.T.expand(SIZE, SIZE)[:1],
        }[operation]()
    return found.passes


@pytest.mark.parametrize(
    ("operation", "passes"),
    [
        ("read and write", 2),
        ("read", 1),
        ("read two, write", 3),
        ("read bool, read and write", 2.25),
        ("write", 1),
        ("broadcast", 1),
        ("a place a row", 0),
        ("view", 0),
    ],
)
def test_passes_are_what_an_operation_reads_and_writes(operation: str, passes: float) -> None:
    assert passes_of(operation, torch.ones(SIZE, SIZE)) == passes
