"""The best columns of a score matrix."""

import pytest
import torch

from contrastive.negatives.top import block_rows, top_k


@pytest.mark.parametrize("columns", [1, 5, 63, 1000, 5003])
@pytest.mark.parametrize("k", [1, 3, 40])
def test_the_best_are_found_in_order(columns: int, k: int) -> None:
    k = min(k, columns)
    scores = torch.randn(7, columns, generator=torch.Generator().manual_seed(0))
    values, places = top_k(scores.clone(), k)
    assert torch.equal(values, scores.sort(dim=1, descending=True).values[:, :k])
    assert torch.equal(scores.gather(1, places), values)


def test_ties_stand_in_the_order_of_their_columns() -> None:
    scores = torch.zeros(1, 4000)
    scores[0, 1::2] = 0.5
    scores[0, 7] = 0.5 + 2e-7
    assert top_k(scores, 2000)[1][0].tolist() == list(range(1, 4000, 2))


def test_a_whole_row_can_be_asked_for() -> None:
    assert top_k(torch.tensor([[1.0, 3.0, 2.0]]), 3)[1].tolist() == [[1, 2, 0]]


def test_blocks_keep_to_a_budget() -> None:
    assert block_rows(100_000) == 671
    assert block_rows(0) == block_rows(10) == 2048
    assert block_rows(10**9) == 1
